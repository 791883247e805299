//! apt's sources in both styles: sources.list(5).

use super::deb822;

/// What is of use here of one source.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Source {
    /// Where the archive is.
    pub uris: Vec<String>,
    /// Its suites.
    pub suites: Vec<String>,
    /// Their components.
    pub components: Vec<String>,
    /// The keys that must have signed it.
    pub signed_by: Option<SignedBy>,
    /// Whether an expired Release is refused; apt's default is that it is.
    pub check_valid_until: Option<bool>,
}

/// The value of `Signed-By`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignedBy {
    /// Absolute paths of keyrings, or fingerprints of keys in the usual ones.
    Names(Vec<String>),
    /// An armoured keyring.
    Embedded(String),
}

/// Reads the one-line style. Lines that are not understood are passed over, as are those
/// that are not for binary packages.
pub fn parse_one_line(text: &str) -> Vec<Source> {
    text.lines().filter_map(one_line).collect()
}

/// Reads the deb822 style.
///
/// # Errors
/// The text is no deb822.
pub fn parse_deb822(text: &str) -> Result<Vec<Source>, deb822::Error> {
    Ok(deb822::parse(text)?.iter().filter_map(stanza).collect())
}

fn one_line(line: &str) -> Option<Source> {
    let line = line.split('#').next().unwrap_or_default().trim();
    let rest = line.strip_prefix("deb")?;
    let rest = rest.starts_with([' ', '\t', '[']).then(|| rest.trim_start())?;
    let (options, rest) = match rest.strip_prefix('[') {
        Some(inner) => inner.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace().map(String::from);
    let mut source = Source {
        uris: vec![words.next().filter(|uri| !uri.starts_with("cdrom:"))?],
        suites: vec![words.next()?],
        components: words.collect(),
        ..Source::default()
    };
    for option in options.split_whitespace() {
        match option.split_once('=') {
            Some(("signed-by", value)) => {
                source.signed_by =
                    Some(SignedBy::Names(value.split(',').map(String::from).collect()));
            }
            Some(("check-valid-until", value)) => source.check_valid_until = boolean(value),
            _ => {}
        }
    }
    Some(source)
}

fn stanza(stanza: &deb822::Stanza<'_>) -> Option<Source> {
    let list = |name: &str| -> Vec<String> {
        stanza.get(name).into_iter().flat_map(deb822::words).map(String::from).collect()
    };
    if !list("Types").iter().any(|word| word == "deb")
        || stanza.get("Enabled").and_then(boolean) == Some(false)
    {
        return None;
    }
    let source = Source {
        uris: list("URIs"),
        suites: list("Suites"),
        components: list("Components"),
        signed_by: stanza.get("Signed-By").map(signed_by),
        check_valid_until: stanza.get("Check-Valid-Until").and_then(boolean),
    };
    (!source.uris.is_empty() && !source.suites.is_empty()).then_some(source)
}

fn signed_by(value: &str) -> SignedBy {
    if !value.contains("-----BEGIN") {
        return SignedBy::Names(deb822::words(value).map(String::from).collect());
    }
    // An empty line stands there as a dot (deb822(5)).
    let lines = value.lines().map(str::trim).map(|line| if line == "." { "" } else { line });
    SignedBy::Embedded(lines.flat_map(|line| [line, "\n"]).collect())
}

/// apt's `StringToBool`.
fn boolean(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "yes" | "true" | "with" | "on" | "enable" | "1" => Some(true),
        "no" | "false" | "without" | "off" | "disable" | "0" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn the_one_line_style() {
        let text = "# comment\n\
            deb http://deb.example.org/debian bookworm main contrib # more\n\
            deb-src http://deb.example.org/debian bookworm main\n\
            deb [ arch=amd64 signed-by=/a.gpg,/b.gpg check-valid-until=no ] https://x.example.org/d  sid\tmain\n\
            deb [arch=amd64]file:/srv/debian trixie main\n\
            deb cdrom:[Debian GNU/Linux 12]/ bookworm main\n\
            deb http://only.example.org\n\
            debian http://deb.example.org/debian bookworm main\n\
            deb [ http://deb.example.org/debian bookworm main\n";
        let sources = parse_one_line(text);
        assert_eq!(sources.len(), 3);
        assert_eq!(sources[0].uris, ["http://deb.example.org/debian"]);
        assert_eq!(sources[0].suites, ["bookworm"]);
        assert_eq!(sources[0].components, ["main", "contrib"]);
        assert_eq!(sources[0].signed_by, None);
        assert_eq!(sources[1].signed_by, Some(SignedBy::Names(strings(&["/a.gpg", "/b.gpg"]))));
        assert_eq!(sources[1].check_valid_until, Some(false));
        assert_eq!(sources[1].components, ["main"]);
        assert_eq!(sources[2].uris, ["file:/srv/debian"]);
    }

    #[test]
    fn the_deb822_style() {
        let text = "Types: deb deb-src\nURIs: http://deb.example.org/debian\n# why\nSuites: bookworm\n bookworm-updates\n\
            Components: main\nSigned-By: /usr/share/keyrings/x.gpg\n\n\
            Types: deb\nEnabled: no\nURIs: http://off.example.org\nSuites: x\n\n\
            Types: deb-src\nURIs: http://src.example.org\nSuites: x\n\n\
            types: deb\nuris: http://key.example.org\nsuites: x\nCheck-Valid-Until: false\nsigned-by:\n \
            -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n -----END PGP PUBLIC KEY BLOCK-----\n";
        let sources = parse_deb822(text).unwrap();
        assert_eq!(sources.len(), 2);
        assert_eq!(sources[0].suites, ["bookworm", "bookworm-updates"]);
        assert_eq!(
            sources[0].signed_by,
            Some(SignedBy::Names(strings(&["/usr/share/keyrings/x.gpg"])))
        );
        assert_eq!(sources[1].check_valid_until, Some(false));
        let Some(SignedBy::Embedded(key)) = &sources[1].signed_by else { panic!("no key") };
        assert!(key.contains("BLOCK-----\n\nabc\n-----END"), "{key:?}");
        assert!(parse_deb822("no field").is_err());
    }
}
