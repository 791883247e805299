//! `kola-denylist.yaml`: tests that are known to be broken, and until when that is put up with.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
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
    /// The day from which it is tried again: `2024-05-01`.
    snooze: Option<String>,
    /// It is run, and its failure only told.
    #[serde(default)]
    warn: bool,
    #[serde(default)]
    arches: Vec<String>,
    #[serde(default)]
    platforms: Vec<String>,
    // Which stream of a distribution or which version of it an image is of, no tag of ours says.
    #[serde(default)]
    streams: Vec<String>,
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
        Ok(Self(serde_json::from_value(value).with_context(what)?))
    }

    pub(super) fn apply(&self, tests: &mut [Test]) {
        let today = today();
        for entry in self.0.iter().filter(|entry| entry.is_of_here(&today)) {
            let named = |test: &&mut Test| globs::matches(&entry.pattern, &test.name);
            for test in tests.iter_mut().filter(named) {
                let tracker = match &entry.tracker[..] {
                    "" => String::new(),
                    tracker => format!(": {tracker}"),
                };
                if entry.warn {
                    test.may_fail = Some(format!("on the denylist with a warning{tracker}"));
                } else {
                    test.skip = Some(format!("on the denylist{tracker}"));
                }
            }
        }
    }
}

impl Entry {
    fn is_of_here(&self, today: &str) -> bool {
        let has =
            |list: &[String], word: &str| list.is_empty() || list.iter().any(|own| own == word);
        // Dates of this form sort as their days do.
        let asleep = self.snooze.as_deref().is_none_or(|day| today < day);
        let anywhere = self.streams.is_empty() && self.osversion.is_empty();
        asleep
            && anywhere
            && has(&self.arches, std::env::consts::ARCH)
            && has(&self.platforms, PLATFORM)
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
    fn a_snooze_ends() {
        let entry =
            |yaml: &str| -> Entry { serde_json::from_value(yaml::parse(yaml).unwrap()).unwrap() };
        let snoozed = entry("pattern: x\nsnooze: 2024-05-01");
        assert!(snoozed.is_of_here("2024-04-30") && !snoozed.is_of_here("2024-05-01"));
        assert!(entry("pattern: x").is_of_here("2024-05-01"));
        assert!(!entry("pattern: x\narches: [s390x]").is_of_here("2024-05-01"));
        assert!(!entry("pattern: x\nplatforms: [aws]").is_of_here("2024-05-01"));
    }
}
