//! Package indices: deb822 stanzas by the ten thousand (the Debian wiki's
//! RepositoryFormat, "Packages"). A first pass notes where the stanzas are and what is
//! needed to choose among them; the rest is read only of those that are looked at.

use std::fmt;

use memchr::{memchr, memmem};

use super::{relation, release, version};

/// One stanza of an index. Borrows from the index's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    stanza: &'a [u8],
    /// Package name.
    pub name: &'a str,
    /// Its version.
    pub version: &'a str,
    /// The architecture in Debian's words, or `all`.
    pub architecture: &'a str,
    /// `Essential: yes`.
    pub essential: bool,
    /// Policy 2.5.
    pub priority: Priority,
    /// The `Provides` field.
    pub provides: Option<&'a str>,
}

/// Policy 2.5, most important first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are the policy's")]
pub enum Priority {
    Required,
    Important,
    Standard,
    Optional,
    Extra,
}

/// Why an index cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Byte offset of the stanza.
    pub offset: usize,
    /// What is wrong with it.
    pub why: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the stanza at byte {}: {}", self.offset, self.why)
    }
}

impl std::error::Error for Error {}

/// What is needed to fetch a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Download<'a> {
    /// Path below the archive's root.
    pub filename: &'a str,
    /// Bytes.
    pub size: u64,
    /// Lower-case hex.
    pub sha256: &'a str,
}

/// Reads an index.
///
/// # Errors
/// Names the first stanza that lacks a name, a version or an architecture, or whose are
/// none.
pub fn parse(text: &[u8]) -> Result<Vec<Entry<'_>>, Error> {
    // A stanza is seldom shorter; a hostile text can only make the vector grow as it is read.
    let mut entries = Vec::with_capacity((text.len() / 700).min(100_000));
    let mut start = 0;
    let gap = memmem::Finder::new(b"\n\n");
    while start < text.len() {
        let end = gap.find(&text[start..]).map_or(text.len(), |at| start + at);
        let stanza = &text[start..end];
        if !stanza.iter().all(|b| matches!(b, b'\n' | b'\r' | b' ')) {
            entries.push(entry(stanza).map_err(|why| Error { offset: start, why })?);
        }
        start = end + 1;
    }
    Ok(entries)
}

impl<'a> Entry<'a> {
    /// A field's value, with the lines that continue it; `None` also where it is no UTF-8.
    pub fn field(&self, name: &str) -> Option<&'a str> {
        let mut at = 0;
        while at < self.stanza.len() {
            let end = line_end(self.stanza, at);
            let line = &self.stanza[at..end];
            if line.len() > name.len()
                && line[name.len()] == b':'
                && line[..name.len()].eq_ignore_ascii_case(name.as_bytes())
            {
                let mut end = end;
                while matches!(self.stanza.get(end + 1), Some(b' ' | b'\t')) {
                    end = line_end(self.stanza, end + 1);
                }
                return std::str::from_utf8(&self.stanza[at + name.len() + 1..end])
                    .ok()
                    .map(str::trim);
            }
            at = end + 1;
        }
        None
    }

    /// Where the package is and how it is recognised.
    ///
    /// # Errors
    /// A field is missing or is none.
    pub fn download(&self) -> Result<Download<'a>, String> {
        let fail = |field: &str| format!("the index has no usable {field} for {}", self.name);
        let filename =
            self.field("Filename").filter(|f| is_path(f)).ok_or_else(|| fail("Filename"))?;
        let size = self.field("Size").and_then(|s| s.parse().ok()).ok_or_else(|| fail("Size"))?;
        let sha256 =
            self.field("SHA256").filter(|s| release::is_sha256(s)).ok_or_else(|| fail("SHA256"))?;
        Ok(Download { filename, size, sha256 })
    }
}

fn line_end(text: &[u8], start: usize) -> usize {
    memchr(b'\n', &text[start..]).map_or(text.len(), |at| start + at)
}

fn entry(stanza: &[u8]) -> Result<Entry<'_>, String> {
    let (mut name, mut version, mut architecture, mut provides) = (None, None, None, None);
    let (mut essential, mut priority) = (false, Priority::Optional);
    let mut at = 0;
    while at < stanza.len() {
        let end = line_end(stanza, at);
        let line = &stanza[at..end];
        at = end + 1;
        // Of the thirty fields of a stanza six matter; their first letters tell most others apart.
        match line.first() {
            Some(b'P') => {
                if let Some(value) = value_of(line, "Package") {
                    name = Some(value);
                } else if let Some(value) = value_of(line, "Provides") {
                    provides = Some(value);
                } else if let Some(value) = value_of(line, "Priority") {
                    priority = priority_of(value);
                }
            }
            Some(b'V') => version = value_of(line, "Version").or(version),
            Some(b'A') => architecture = value_of(line, "Architecture").or(architecture),
            Some(b'E') => essential |= value_of(line, "Essential") == Some("yes"),
            _ => {}
        }
    }
    let name =
        name.filter(|name| relation::is_package_name(name)).ok_or("it has no valid Package")?;
    let version = version
        .filter(|version| version::is_valid(version))
        .ok_or_else(|| format!("{name} has no valid Version"))?;
    let architecture = architecture
        .filter(|word| is_architecture(word))
        .ok_or_else(|| format!("{name} has no valid Architecture"))?;
    Ok(Entry { stanza, name, version, architecture, essential, priority, provides })
}

fn value_of<'a>(line: &'a [u8], name: &str) -> Option<&'a str> {
    let rest = line.strip_prefix(name.as_bytes())?.strip_prefix(b":")?;
    std::str::from_utf8(rest).ok().map(str::trim)
}

fn priority_of(word: &str) -> Priority {
    match word {
        "required" => Priority::Required,
        "important" => Priority::Important,
        "standard" => Priority::Standard,
        "extra" => Priority::Extra,
        _ => Priority::Optional,
    }
}

/// deb-control(5) and dpkg's `pkg_arch_name_is_illegal`.
pub fn is_architecture(word: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=64).contains(&word.len()) && word.as_bytes()[0] != b'-' && word.bytes().all(allowed)
}

/// A relative path of plain characters that stays below where it starts.
fn is_path(path: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"+-._~/%:=@,".contains(&b);
    path.len() <= 1024
        && path.bytes().all(allowed)
        && path.split('/').all(|component| !matches!(component, "" | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "Package: base-files\nVersion: 12.4\nEssential: yes\nPriority: required\n\
        Architecture: amd64\nProvides: base\nPre-Depends: awk\nDepends: libc6 (>= 2.3.4),\n libcrypt1\n\
        Description: x\nFilename: pool/main/b/base-files/base-files_12.4_amd64.deb\nSize: 70776\n\
        SHA256: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n\n\
        Package: libc6\nVersion: 2.36-9+deb12u14\nArchitecture: amd64\n";

    #[test]
    fn stanzas_are_found_and_read() {
        let entries = parse(TWO.as_bytes()).unwrap();
        assert_eq!(entries.len(), 2);
        let base = &entries[0];
        assert_eq!((base.name, base.version, base.architecture), ("base-files", "12.4", "amd64"));
        assert!(base.essential);
        assert_eq!(base.priority, Priority::Required);
        assert_eq!(base.provides, Some("base"));
        assert_eq!(base.field("depends"), Some("libc6 (>= 2.3.4),\n libcrypt1"));
        assert_eq!(base.field("Pre-Depends"), Some("awk"));
        assert_eq!(base.field("Conflicts"), None);
        let download = base.download().unwrap();
        assert_eq!(download.size, 70776);
        assert_eq!(download.filename, "pool/main/b/base-files/base-files_12.4_amd64.deb");
        assert!(!entries[1].essential);
        assert_eq!(entries[1].priority, Priority::Optional);
        assert!(entries[1].download().unwrap_err().contains("Filename for libc6"));
        assert_eq!(parse(b"").unwrap(), []);
        assert_eq!(parse(b"\n\n\n").unwrap(), []);
    }

    #[test]
    fn mistakes_name_their_stanza() {
        for (text, offset, part) in [
            ("Version: 1\nArchitecture: all\n", 0, "Package"),
            ("Package: ../x\nVersion: 1\nArchitecture: all\n", 0, "Package"),
            ("Package: aa\nArchitecture: all\n", 0, "aa has no valid Version"),
            ("Package: aa\nVersion: 1 2\nArchitecture: all\n", 0, "Version"),
            ("Package: aa\nVersion: 1\nArchitecture: ../x\n", 0, "Architecture"),
            ("Package: aa\nVersion: 1\nArchitecture: all\n\nPackage: bb\n", 41, "bb"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.offset, offset, "{text:?}");
            assert!(error.to_string().contains(part), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_path_stays_below() {
        for bad in ["../x", "a/../../x", "/etc/x", "a//b", "", "a b", "a?b", "a#b"] {
            let text = TWO.replace("pool/main/b/base-files/base-files_12.4_amd64.deb", bad);
            assert!(parse(text.as_bytes()).unwrap()[0].download().is_err(), "{bad}");
        }
        for (from, to) in
            [("70776", "-1"), ("70776", "99999999999999999999"), ("SHA256: a", "SHA256: A")]
        {
            let text = TWO.replace(from, to);
            assert!(parse(text.as_bytes()).unwrap()[0].download().is_err(), "{to}");
        }
    }
}
