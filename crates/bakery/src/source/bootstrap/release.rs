//! Release files: what a suite consists of, with digests (apt-secure(8), the Debian
//! wiki's RepositoryFormat).

use std::collections::HashMap;

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use super::{date, deb822};

/// The parts of a Release file that are of use here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Release {
    /// Such as `stable`.
    pub suite: Option<String>,
    /// Such as `bookworm`.
    pub codename: Option<String>,
    /// Seconds since the epoch.
    pub date: u64,
    /// Seconds since the epoch.
    pub valid_until: Option<u64>,
    /// Files can also be fetched by the name of their digest.
    pub by_hash: bool,
    /// Architectures in Debian's words.
    pub architectures: Vec<String>,
    /// Components.
    pub components: Vec<String>,
    files: HashMap<String, Listed>,
}

/// A file that a Release vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Lower-case hex.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
}

/// How long before its own date a Release may be seen, for clocks that are slow: seconds.
const CLOCK_TOLERANCE: u64 = 86_400;

impl Release {
    /// The file at a path relative to the Release's own directory.
    pub fn file(&self, path: &str) -> Option<&Listed> {
        self.files.get(path)
    }

    /// Checks that the Release is what was asked for, where that has a name, and is of use at a time.
    ///
    /// # Errors
    /// It is another suite's, or expired (where that is to be checked), or from the future.
    pub fn check(&self, suite: Option<&str>, now: u64, check_valid_until: bool) -> Result<()> {
        let names: Vec<&str> =
            [&self.codename, &self.suite].into_iter().flatten().map(String::as_str).collect();
        let known = if names.is_empty() { "no named suite".into() } else { names.join(" or ") };
        ensure!(
            suite.is_none_or(|suite| names.contains(&suite)),
            "the Release is for {known}, not for {}",
            suite.unwrap_or_default()
        );
        let suite = suite.unwrap_or(&known);
        ensure!(
            self.date <= now.saturating_add(CLOCK_TOLERANCE),
            "the Release of {suite} is dated {} hours in the future: is the clock right?",
            (self.date - now) / 3600
        );
        if let Some(until) = self.valid_until
            && until < now
            && check_valid_until
        {
            bail!(
                "the Release of {suite} expired {} ago; use a mirror that is kept up to date, or set \
                 check-valid-until = false in the configuration if an old snapshot is what you want",
                span(now - until)
            );
        }
        Ok(())
    }
}

/// Reads the text of a Release file.
///
/// # Errors
/// Says which field or line is wrong.
pub fn parse(text: &[u8]) -> Result<Release> {
    let text = std::str::from_utf8(text).context("reading a Release file as UTF-8")?;
    let stanzas = deb822::parse(text).context("reading a Release file")?;
    let [stanza] = &stanzas[..] else {
        bail!("a Release file has one stanza, not {}", stanzas.len());
    };
    let date_of = |name: &str| -> Result<Option<u64>> {
        let parse =
            |v| date::parse(v).ok_or_else(|| anyhow!("the Release's {name} {v:?} is no date"));
        stanza.get(name).map(parse).transpose()
    };
    let list = |name: &str| -> Vec<String> {
        stanza.get(name).into_iter().flat_map(str::split_whitespace).map(String::from).collect()
    };
    Ok(Release {
        suite: stanza.get("Suite").map(String::from),
        codename: stanza.get("Codename").map(String::from),
        date: date_of("Date")?.context("the Release has no Date")?,
        valid_until: date_of("Valid-Until")?,
        by_hash: stanza.get("Acquire-By-Hash").is_some_and(|v| v.eq_ignore_ascii_case("yes")),
        architectures: list("Architectures"),
        components: list("Components"),
        files: parse_files(stanza.get("SHA256").context("the Release lists no SHA256 digests")?)?,
    })
}

fn parse_files(value: &str) -> Result<HashMap<String, Listed>> {
    let mut files = HashMap::new();
    for line in value.lines().filter(|line| !line.trim().is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let fail = || anyhow!("the Release's line {:?} is no digest, size and path", shorten(line));
        let [sha256, size, path] = words[..] else { return Err(fail()) };
        ensure!(is_sha256(sha256), fail());
        let size = size.parse().map_err(|_| fail())?;
        files.insert(path.to_owned(), Listed { sha256: sha256.to_owned(), size });
    }
    Ok(files)
}

/// Whether a text is a SHA-256 digest in lower-case hex.
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn shorten(line: &str) -> String {
    line.chars().take(120).collect()
}

fn span(seconds: u64) -> String {
    match seconds {
        0..7_200 => format!("{} minutes", seconds / 60),
        7_200..172_800 => format!("{} hours", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(extra: &str) -> String {
        format!(
            "Suite: stable\nCodename: bookworm\nDate: Sat, 09 Aug 2025 09:16:30 UTC\n\
             Acquire-By-Hash: yes\nArchitectures: all amd64\nComponents: main contrib\n{extra}\
             SHA256:\n {} 12 main/binary-amd64/Packages\n {} 7 main/binary-amd64/Packages.xz\n",
            "a".repeat(64),
            "b".repeat(64)
        )
    }

    const DATE: u64 = 1_754_730_990;

    #[test]
    fn a_release_is_read() {
        let release =
            parse(text("Valid-Until: Sat, 16 Aug 2025 09:16:30 UTC\n").as_bytes()).unwrap();
        assert_eq!(release.codename.as_deref(), Some("bookworm"));
        assert_eq!(release.date, DATE);
        assert_eq!(release.valid_until, Some(DATE + 7 * 86_400));
        assert!(release.by_hash);
        assert_eq!(release.components, ["main", "contrib"]);
        assert_eq!(release.architectures, ["all", "amd64"]);
        let file = release.file("main/binary-amd64/Packages.xz").unwrap();
        assert_eq!((file.size, file.sha256.as_str()), (7, "b".repeat(64).as_str()));
        assert_eq!(release.file("main/binary-amd64/Packages.gz"), None);
    }

    #[test]
    fn suite_and_dates_are_checked() {
        let release =
            parse(text("Valid-Until: Sat, 16 Aug 2025 09:16:30 UTC\n").as_bytes()).unwrap();
        release.check(Some("bookworm"), DATE + 1, true).unwrap();
        release.check(Some("stable"), DATE - 3_600, true).unwrap();
        let says = |suite, now, part: &str| {
            let error = release.check(Some(suite), now, true).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        says("trixie", DATE, "for bookworm or stable, not for trixie");
        says("bookworm", DATE - 2 * 86_400, "48 hours in the future");
        says("bookworm", DATE + 8 * 86_400, "expired 24 hours ago");
        release.check(Some("bookworm"), DATE + 8 * 86_400, false).unwrap();
        let forever = parse(text("").as_bytes()).unwrap();
        forever.check(Some("bookworm"), u64::MAX, true).unwrap();
    }

    #[test]
    fn mistakes_are_told() {
        let good = text("");
        for (from, to, part) in [
            ("Date:", "Daet:", "no Date"),
            ("UTC", "CET", "no date"),
            ("SHA256:", "SHA1:", "no SHA256"),
            (" 12 ", " twelve ", "no digest, size and path"),
            (" 12 ", " 12 13 ", "no digest, size and path"),
            ("aaaa", "AAAA", "no digest, size and path"),
            ("Codename: bookworm\n", "Codename: bookworm\n\nX: y\n", "one stanza"),
            ("Codename: ", "Codename ", "line 2"),
        ] {
            let error = format!("{:#}", parse(good.replacen(from, to, 1).as_bytes()).unwrap_err());
            assert!(error.contains(part), "{from} → {to}: {error}");
        }
        assert!(parse(b"\xff").is_err());
        assert!(parse(b"").is_err());
    }
}
