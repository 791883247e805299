//! What a file of the catalog must be, told with the line and the column of what is not so.

use std::fmt;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Family, NONE, Place, Release};
use crate::{init, package};

/// Something wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// What is wrong, and what would be right.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.what)
    }
}

impl Fault {
    fn at(text: &str, span: Option<Range<usize>>, what: String) -> Self {
        let before = &text[..span.map_or(0, |span| span.start).min(text.len())];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Self { line, column, what }
    }
}

/// Reads a file of the catalog.
///
/// # Errors
/// All its faults, in the order of the file: first of its form, and if there are none, of what it says.
pub fn check(text: &str) -> Result<Family, Vec<Fault>> {
    let of_form = |error: toml::de::Error| {
        let what = error.message().replace('\n', ", ");
        vec![Fault::at(text, error.span(), what)]
    };
    let family: Family = toml::from_str(text).map_err(of_form)?;
    let mut found = Vec::new();
    of_family(&family, &mut found);
    if found.is_empty() {
        return Ok(family);
    }
    // Only now it matters where things stand.
    let table = DeTable::parse(text).map_err(of_form)?;
    let mut faults: Vec<Fault> = found
        .into_iter()
        .map(|(path, what)| Fault::at(text, locate(table.get_ref(), &path), what))
        .collect();
    faults.sort_by_key(|fault| (fault.line, fault.column));
    Err(faults)
}

/// A step from a value to one in it.
#[derive(Debug, Clone, Copy)]
enum Key<'a> {
    Name(&'a str),
    Index(usize),
}

use Key::{Index, Name};

/// What is wrong, and where.
type Found<'a> = Vec<(Vec<Key<'a>>, String)>;

/// The place of the deepest value on the path that there is.
fn locate(table: &DeTable<'_>, path: &[Key<'_>]) -> Option<Range<usize>> {
    let (Name(first), rest) = path.split_first().map(|(first, rest)| (*first, rest))? else {
        return None;
    };
    let mut at: &Spanned<DeValue<'_>> = table.get(first)?;
    for key in rest {
        let below = match (key, at.get_ref()) {
            (Name(name), DeValue::Table(table)) => table.get(*name),
            (Index(index), DeValue::Array(array)) => array.get(*index),
            _ => None,
        };
        match below {
            Some(below) => at = below,
            None => break,
        }
    }
    Some(at.span())
}

fn of_family<'a>(family: &'a Family, found: &mut Found<'a>) {
    if !is_word(&family.name) {
        let what = format!("family = {:?} is no ID as in os-release(5)", family.name);
        found.push((vec![Name("family")], what));
    }
    if !family.signed_by.is_empty() && !family.signed_by.starts_with('/') {
        found.push((vec![Name("signed-by")], "signed-by is no absolute path".into()));
    }
    of_managers(&family.package_manager, &family.init, &[], found);
    for init in family.bootable.keys().filter(|name| init::by_name(name).is_none()) {
        found.push((vec![Name("bootable"), Name(init)], unknown_init(init)));
    }
    for (index, release) in family.releases.iter().enumerate() {
        of_release(family, release, index, found);
    }
    if family.releases.is_empty() {
        found.push((vec![Name("family")], "it has no [[release]]".into()));
    }
}

fn of_managers<'a>(package: &'a str, init: &'a str, before: &[Key<'a>], found: &mut Found<'a>) {
    let here = |name| [before, &[Name(name)]].concat();
    let known = |name: &str| package::PACKAGE_MANAGERS.iter().any(|kind| kind.name() == name);
    if !package.is_empty() && package != NONE && !known(package) {
        let names: Vec<&str> = package::PACKAGE_MANAGERS.iter().map(|kind| kind.name()).collect();
        let what =
            format!("no package manager is called {package:?}: known are {}", names.join(", "));
        found.push((here("package-manager"), what));
    }
    if !init.is_empty() && init != NONE && init::by_name(init).is_none() {
        found.push((here("init"), unknown_init(init)));
    }
}

fn unknown_init(name: &str) -> String {
    let known: Vec<&str> = init::INITS.iter().map(|init| init.name()).collect();
    format!("no init is called {name:?}: known are {}", known.join(", "))
}

fn of_release<'a>(family: &'a Family, release: &'a Release, index: usize, found: &mut Found<'a>) {
    let before = [Name("release"), Index(index)];
    let here = |path: &[Key<'a>]| [&before, path].concat();
    for (number, name) in release.names().enumerate() {
        let path = if number == 0 {
            here(&[Name("label")])
        } else {
            here(&[Name("aliases"), Index(number - 1)])
        };
        if !is_label(name) {
            let what = format!(
                "{name:?} is no label: lower-case letters, digits and dots with a dash between"
            );
            found.push((path, what));
        } else if is_taken(family, index, number, name) {
            found.push((path, format!("{name:?} is there twice")));
        }
    }
    if let Some(day) = release.end_of_life.as_deref().filter(|day| !is_day(day)) {
        found.push((here(&[Name("end-of-life")]), format!("{day:?} is no day such as 2028-06-30")));
    }
    if let Some(archive) = release.archive.as_deref().filter(|archive| !is_address(archive)) {
        found.push((
            here(&[Name("archive")]),
            format!("{archive:?} is no https:// or http:// address"),
        ));
    }
    let managers = (&release.package_manager, &release.init);
    let text = |of: &'a Option<String>| of.as_deref().unwrap_or_default();
    of_managers(text(managers.0), text(managers.1), &before, found);
    if let Some(bootstrap) = &release.bootstrap {
        let here = |name| here(&[Name("bootstrap"), Name(name)]);
        if !is_word(&bootstrap.suite) {
            found.push((here("suite"), "the suite has no name".into()));
        }
        if bootstrap.components.is_empty()
            || !bootstrap.components.iter().all(|c| is_word(c.as_str()))
        {
            found.push((here("components"), "there are no usable components".into()));
        }
    }
    for (number, place) in release.from.iter().enumerate() {
        of_place(place, &here(&[Name("from"), Index(number)]), found);
    }
    if release.bootstrap.is_none() && release.from.is_empty() {
        found.push((here(&[]), format!("{:?} has neither bootstrap nor from", release.label)));
    }
}

/// Whether the name stands before it in the file.
fn is_taken(family: &Family, index: usize, number: usize, name: &str) -> bool {
    let before = family.releases[..index].iter().flat_map(Release::names);
    before.chain(family.releases[index].names().take(number)).any(|known| known == name)
}

fn of_place<'a>(place: &'a Place, before: &[Key<'a>], found: &mut Found<'a>) {
    let mut fault = |name, what: String| found.push(([before, &[Name(name)]].concat(), what));
    let kinds = [&place.registry, &place.tarball, &place.disk].into_iter().flatten().count();
    if kinds != 1 {
        fault("", "a place is exactly one of registry, tarball and disk".into());
    }
    if let Some(name) = &place.registry {
        let parsed = spec::reference::Reference::parse(&format!("docker://{name}"), |_| false);
        let has_host = name.split_once('/').is_some_and(|(host, _)| host.contains(['.', ':']));
        match parsed {
            Err(error) => fault("registry", error.to_string()),
            Ok(_) if !has_host => {
                fault("registry", format!("{name:?} does not begin with a registry's host name"));
            }
            Ok(_) => {}
        }
    }
    for (name, address) in
        [("disk", &place.disk), ("checksum", &place.checksum), ("signature", &place.signature)]
    {
        if let Some(address) = address.as_deref().filter(|address| !is_address(address)) {
            fault(name, format!("{address:?} is no https:// or http:// address"));
        }
    }
    if let Some(tarball) = &place.tarball {
        let remote = is_address(tarball);
        if !remote && tarball.contains("://") {
            fault("tarball", format!("{tarball:?} is neither an https:// address nor a path"));
        }
        let trusted = place.sha256.is_some()
            || place.checksum.as_deref().is_some_and(|c| c.starts_with("https://"));
        if remote && !trusted {
            fault(
                "tarball",
                "what comes over a network needs a sha256, or a checksum by https".into(),
            );
        }
    }
    let hex = |text: &&str| {
        text.len() != 64 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    if let Some(sum) = place.sha256.as_deref().filter(hex) {
        fault("sha256", format!("{sum:?} is not 64 lower-case hex digits"));
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.contains(char::is_whitespace)
}

/// The dash keeps it apart from a registry's short names.
fn is_label(text: &str) -> bool {
    let good =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b'_');
    text.len() <= 64
        && text.bytes().all(good)
        && text.trim_matches(['-', '.', '_']) == text
        && text.contains('-')
}

fn is_address(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let host = rest.and_then(|rest| rest.split('/').next()).unwrap_or_default();
    !host.is_empty() && text.len() < 1024 && text.bytes().all(|b| b.is_ascii_graphic())
}

fn is_day(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let [year, month, day] = parts[..] else { return false };
    let within = |text: &str, length: usize, low: u32, high: u32| {
        text.len() == length && text.parse().is_ok_and(|n: u32| (low..=high).contains(&n))
    };
    within(year, 4, 1993, 2999) && within(month, 2, 1, 12) && within(day, 2, 1, 31)
}
