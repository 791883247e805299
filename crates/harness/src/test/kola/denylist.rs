//! `kola-denylist.yaml`: tests that are known to be broken, and until when that is put up with.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::super::{Test, globs};
use super::metadata::PLATFORM;
use super::yaml;

#[derive(Debug, Default)]
pub(super) struct Denylist(Vec<Entry>);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    pattern: String,
    #[serde(default)]
    tracker: String,
    /// The last day on which it is not tried: `2024-05-01`.
    snooze: Option<String>,
    /// It is run, and its failure only told.
    #[serde(default)]
    warn: bool,
    #[serde(default)]
    arches: Vec<String>,
    #[serde(default)]
    platforms: Vec<String>,
    #[serde(default)]
    streams: Vec<String>,
    // Which of Red Hat's versions an image is of, nothing here says.
    #[serde(default)]
    osversion: Vec<String>,
    #[serde(default, rename = "skip_base_checks")]
    _skip_base_checks: bool,
}

impl Denylist {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let what = || format!("{} is wrong", path.display());
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let value = yaml::parse(&text).with_context(what)?;
        if value.is_null() {
            return Ok(Self::default());
        }
        let list: Vec<Entry> = serde_json::from_value(value).with_context(what)?;
        list.iter().try_for_each(Entry::check).with_context(what)?;
        Ok(Self(list))
    }

    /// Marks the tests that entries are about; `stream` is what the image is of, where that is known.
    pub(super) fn apply<'a>(
        &self,
        tests: impl Iterator<Item = &'a mut Test>,
        stream: Option<&str>,
    ) {
        let today = today();
        for test in tests {
            let of_test = |entry: &&Entry| globs::matches(&entry.pattern, &test.name);
            for entry in self.0.iter().filter(of_test) {
                let tracker = match &entry.tracker[..] {
                    "" => String::new(),
                    tracker => format!(": {tracker}"),
                };
                match entry.denies(&today, stream) {
                    Some(Denied::Skipped) => test.skip = Some(format!("on the denylist{tracker}")),
                    Some(Denied::Warned) => {
                        test.may_fail = Some(format!("on the denylist with a warning{tracker}"));
                    }
                    None => {}
                }
            }
        }
    }
}

/// What becomes of a test that is on the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Denied {
    /// It is not run.
    Skipped,
    /// It is run, and its failure only told.
    Warned,
}

impl Entry {
    /// Until the end of its snooze a test is not run, with a warning or without; after it, `warn` alone counts
    /// (coreos-assembler, `mantle/kola/harness.go`, `ParseDenyListYaml`).
    fn denies(&self, today: &str, stream: Option<&str>) -> Option<Denied> {
        let has =
            |list: &[String], word: &str| list.is_empty() || list.iter().any(|own| own == word);
        let is_here = self.osversion.is_empty()
            && has(&self.arches, architecture())
            && has(&self.platforms, PLATFORM)
            && has(&self.streams, stream.unwrap_or_default());
        // Dates of this form sort as their days do.
        let snoozes = self.snooze.as_deref().map(|day| today <= day);
        match (is_here, snoozes, self.warn) {
            (false, ..) | (true, Some(false), false) => None,
            (true, Some(true), _) | (true, None, false) => Some(Denied::Skipped),
            (true, Some(false) | None, true) => Some(Denied::Warned),
        }
    }

    fn check(&self) -> Result<()> {
        let Some(day) = &self.snooze else { return Ok(()) };
        let shape =
            |(at, b): (usize, u8)| if at == 4 || at == 7 { b == b'-' } else { b.is_ascii_digit() };
        ensure!(
            day.len() == 10 && day.bytes().enumerate().all(shape),
            "{}: the snooze {day:?} is no day such as 2024-05-01",
            self.pattern
        );
        Ok(())
    }
}

/// This processor in kola's words, which are RPM's.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// `2024-05-01`, in UTC.
fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    date(seconds / 86_400)
}

/// Of days since 1970 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`).
fn date(days: u64) -> String {
    let z = days + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        for (days, expected) in
            [(0, "1970-01-01"), (59, "1970-03-01"), (11_016, "2000-02-29"), (19_844, "2024-05-01")]
        {
            assert_eq!(date(days), expected);
        }
    }

    #[test]
    fn entries_are_for_their_days_and_systems() {
        let denies = |yaml: &str, today: &str, stream: Option<&str>| {
            let entry: Entry = serde_json::from_value(yaml::parse(yaml).unwrap()).unwrap();
            entry.check().unwrap();
            entry.denies(today, stream)
        };
        let (skipped, warned) = (Some(Denied::Skipped), Some(Denied::Warned));
        for (yaml, today, stream, expected) in [
            ("pattern: x", "2024-05-01", None, skipped),
            ("pattern: x\nwarn: true", "2024-05-01", None, warned),
            ("pattern: x\nsnooze: 2024-05-01", "2024-05-01", None, skipped),
            ("pattern: x\nsnooze: 2024-05-01", "2024-05-02", None, None),
            ("pattern: x\nsnooze: 2024-05-01\nwarn: true", "2024-04-30", None, skipped),
            ("pattern: x\nsnooze: 2024-05-01\nwarn: true", "2024-05-02", None, warned),
            ("pattern: x\narches: [s390x]", "2024-05-01", None, None),
            ("pattern: x\nplatforms: [aws]", "2024-05-01", None, None),
            ("pattern: x\nplatforms: [aws, qemu]", "2024-05-01", None, skipped),
            ("pattern: x\nstreams: [rawhide]", "2024-05-01", None, None),
            ("pattern: x\nstreams: [rawhide]", "2024-05-01", Some("stable"), None),
            ("pattern: x\nstreams: [rawhide, stable]", "2024-05-01", Some("stable"), skipped),
            ("pattern: x\nosversion: [c9s]", "2024-05-01", None, None),
        ] {
            assert_eq!(denies(yaml, today, stream), expected, "{yaml:?} on {today} of {stream:?}");
        }
    }

    #[test]
    fn what_is_wrong_in_a_list_is_named() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("list.yaml");
        for (text, part) in [
            ("- pattern: x\n  snooze: May 2024\n", "\"May 2024\" is no day"),
            ("- pattern: x\n  until: 1\n", "`until`"),
            ("- tracker: x\n", "`pattern`"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = format!("{:#}", Denylist::read(&path).unwrap_err());
            assert!(error.contains(part) && error.contains("list.yaml"), "{error}");
        }
        std::fs::write(&path, "# nothing\n").unwrap();
        assert!(Denylist::read(&path).unwrap().0.is_empty());
    }
}
