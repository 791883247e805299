//! Relationships between packages: Debian Policy 7.1.

use std::cmp::Ordering;
use std::fmt;

use super::version;

/// One package that a relationship names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Relation<'a> {
    /// Package name.
    pub name: &'a str,
    /// What follows a colon: `any`, `native` or an architecture.
    pub qualifier: Option<&'a str>,
    /// The versions it is confined to.
    pub constraint: Option<Constraint<'a>>,
}

/// The versions that a relation is confined to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Constraint<'a> {
    /// How a version must compare.
    pub operator: Operator,
    /// With what.
    pub version: &'a str,
}

/// Policy 7.1's version relations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operator {
    /// `<<`
    Earlier,
    /// `<=`
    EarlierEqual,
    /// `=`
    Equal,
    /// `>=`
    LaterEqual,
    /// `>>`
    Later,
}

impl Constraint<'_> {
    /// Whether a version is among those allowed.
    pub fn allows(&self, version: &str) -> bool {
        let order = version::compare(version, self.version);
        match self.operator {
            Operator::Earlier => order == Ordering::Less,
            Operator::EarlierEqual => order != Ordering::Greater,
            Operator::Equal => order == Ordering::Equal,
            Operator::LaterEqual => order != Ordering::Less,
            Operator::Later => order == Ordering::Greater,
        }
    }
}

impl fmt::Display for Constraint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operator = match self.operator {
            Operator::Earlier => "<<",
            Operator::EarlierEqual => "<=",
            Operator::Equal => "=",
            Operator::LaterEqual => ">=",
            Operator::Later => ">>",
        };
        write!(f, "({operator} {})", self.version)
    }
}

impl fmt::Display for Relation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        if let Some(qualifier) = self.qualifier {
            write!(f, ":{qualifier}")?;
        }
        match &self.constraint {
            Some(constraint) => write!(f, " {constraint}"),
            None => Ok(()),
        }
    }
}

/// A relationship field that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The part that is wrong, shortened.
    pub part: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no package relationship", self.part)
    }
}

impl std::error::Error for Error {}

/// Reads a field: what must all hold, and of each the alternatives in their order.
///
/// # Errors
/// Quotes the first part that is wrong.
pub fn parse(field: &str) -> Result<Vec<Vec<Relation<'_>>>, Error> {
    let clauses = field.split(',').map(str::trim).filter(|clause| !clause.is_empty());
    clauses.map(|clause| clause.split('|').map(parse_one).collect()).collect()
}

/// Whether a text may be a package's name (Policy 5.6.1).
pub fn is_package_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b);
    (2..=128).contains(&name.len())
        && name.as_bytes()[0].is_ascii_alphanumeric()
        && name.bytes().all(allowed)
}

fn parse_one(text: &str) -> Result<Relation<'_>, Error> {
    let text = text.trim();
    let fail = || Error { part: text.chars().take(80).collect() };
    let (name, constraint) = match text.split_once('(') {
        None => (text, None),
        Some((name, rest)) => {
            let inner = rest.trim_end().strip_suffix(')').ok_or_else(fail)?.trim();
            (name.trim_end(), Some(parse_constraint(inner).ok_or_else(fail)?))
        }
    };
    let (name, qualifier) = match name.split_once(':') {
        Some((name, qualifier)) => (name, Some(qualifier)),
        None => (name, None),
    };
    let good_qualifier = |word: &str| {
        !word.is_empty()
            && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if !is_package_name(name) || !qualifier.is_none_or(good_qualifier) {
        return Err(fail());
    }
    Ok(Relation { name, qualifier, constraint })
}

fn parse_constraint(text: &str) -> Option<Constraint<'_>> {
    // The single `<` and `>` are the obsolete spellings of `<=` and `>=` (deb-control(5)).
    let (operator, rest) = [
        ("<<", Operator::Earlier),
        ("<=", Operator::EarlierEqual),
        (">=", Operator::LaterEqual),
        (">>", Operator::Later),
        ("=", Operator::Equal),
        ("<", Operator::EarlierEqual),
        (">", Operator::LaterEqual),
    ]
    .into_iter()
    .find_map(|(sign, operator)| Some((operator, text.strip_prefix(sign)?)))?;
    let version = rest.trim();
    version::is_valid(version).then_some(Constraint { operator, version })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read() {
        let field = "libc6 (>= 2.36), python3:any, aa | bb (<<1:2) |cc,\n dd ( = 1 ) ,";
        let shown: Vec<String> = parse(field)
            .unwrap()
            .iter()
            .map(|c| c.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | "))
            .collect();
        assert_eq!(shown, ["libc6 (>= 2.36)", "python3:any", "aa | bb (<< 1:2) | cc", "dd (= 1)"]);
        assert_eq!(parse("").unwrap(), Vec::<Vec<Relation<'_>>>::new());
    }

    #[test]
    fn mistakes_are_quoted() {
        for field in [
            "aa (>= 1",
            "aa (1)",
            "aa (>= )",
            "aa (>= 1 2)",
            "a",
            "Aa",
            "a/b",
            "aa || bb",
            "aa:",
            "aa: any",
            "-aa",
            "aa bb",
        ] {
            assert!(parse(field).is_err(), "{field}");
        }
        let long = "(".repeat(1 << 20);
        assert!(parse(&long).unwrap_err().to_string().len() < 200);
    }

    #[test]
    fn constraints_compare_as_debian_does() {
        for (field, version, allowed) in [
            ("aa (>= 1.0)", "1.0", true),
            ("aa (>= 1.0)", "1.0~", false),
            ("aa (>> 1.0)", "1.0", false),
            ("aa (>> 1.0)", "1:0", true),
            ("aa (<< 1.0)", "1.0~rc1", true),
            ("aa (<= 1.0)", "1.0", true),
            ("aa (< 1.0)", "1.0", true),
            ("aa (= 1.0)", "1.0-0", true),
            ("aa (= 1.0)", "1.0-1", false),
        ] {
            let constraint = parse(field).unwrap()[0][0].constraint.unwrap();
            assert_eq!(constraint.allows(version), allowed, "{field} and {version}");
        }
    }
}
