//! Numbers with units, as docker writes them.

use spec::request::Ulimit;

/// `512m`, `2g`, `1.5GiB`, `1048576`: bytes, in powers of 1024 (docker's `go-units`).
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let exponent = match &lower[digits.len()..] {
        "" | "b" => 0,
        "k" | "kb" | "ki" | "kib" => 1,
        "m" | "mb" | "mi" | "mib" => 2,
        "g" | "gb" | "gi" | "gib" => 3,
        "t" | "tb" | "ti" | "tib" => 4,
        other => return Err(format!("unknown unit {other:?}: b, k, m, g or t")),
    };
    let factor = 1024f64.powi(exponent);
    match digits.parse::<f64>() {
        Ok(number) if number >= 0.0 && number * factor < 9e18 => Ok((number * factor) as u64),
        _ => Err(format!("{text:?} is no size: a number and b, k, m, g or t")),
    }
}

/// `1.5` processors, in thousandths.
pub(super) fn milli_cpus(text: &str) -> Result<u64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.001..1e6).contains(&number) => Ok((number * 1000.0).round() as u64),
        _ => Err(format!("{text:?} is no number of processors, such as 0.5 or 2")),
    }
}

/// Docker's smallest `--memory`.
const LEAST_MEMORY: u64 = 6 * 1024 * 1024;

/// A `--memory` limit.
pub(super) fn memory(text: &str) -> Result<u64, String> {
    match bytes(text)? {
        few if few < LEAST_MEMORY => Err("the smallest memory limit is 6m".into()),
        enough => Ok(enough),
    }
}

/// `nofile=1024[:2048]`; `-1` and `unlimited` are no limit.
pub(super) fn ulimit(text: &str) -> Result<Ulimit, String> {
    let (name, values) =
        text.split_once('=').ok_or_else(|| format!("{text:?} is no limit: NAME=SOFT[:HARD]"))?;
    let name = name.to_ascii_lowercase();
    if sys::rlimits::resource(&name).is_none() {
        return Err(format!("unknown limit {name:?}; getrlimit(2) lists them, such as nofile"));
    }
    let number = |value: &str| match value {
        "-1" | "unlimited" => Ok(u64::MAX),
        _ => value.parse().map_err(|_| format!("{value:?} is no number")),
    };
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    Ok(Ulimit { name, soft: number(soft)?, hard: number(hard)? })
}

/// Bytes for people: `117 MB`, in powers of 1000, as docker prints sizes.
pub(super) fn show_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut number = bytes as f64;
    let mut unit = 0;
    while number >= 999.5 && unit + 1 < UNITS.len() {
        number /= 1000.0;
        unit += 1;
    }
    match number {
        _ if unit == 0 => format!("{bytes} B"),
        n if n < 9.995 => format!("{n:.2} {}", UNITS[unit]),
        n if n < 99.95 => format!("{n:.1} {}", UNITS[unit]),
        n => format!("{n:.0} {}", UNITS[unit]),
    }
}

/// A time for people: `3 days ago`.
pub(super) fn show_age(seconds: u64) -> String {
    let (number, unit) = match seconds {
        s if s < 60 => (s, "second"),
        s if s < 3600 => (s / 60, "minute"),
        s if s < 2 * 86_400 => (s / 3600, "hour"),
        s if s < 14 * 86_400 => (s / 86_400, "day"),
        s if s < 60 * 86_400 => (s / (7 * 86_400), "week"),
        s if s < 730 * 86_400 => (s / (30 * 86_400), "month"),
        s => (s / (365 * 86_400), "year"),
    };
    format!("{number} {unit}{} ago", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, wanted) in [
            ("0", 0),
            ("10b", 10),
            ("1k", 1024),
            ("1.5KiB", 1536),
            ("2G", 2 << 30),
            ("1tb", 1 << 40),
        ] {
            assert_eq!(bytes(text), Ok(wanted), "{text}");
        }
        for bad in ["", "m", "-1", "1x", "nan", "inf", "1e30", "99999999t"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        assert!(memory("1m").is_err());
        assert_eq!(memory("6m"), Ok(6 << 20));
    }

    #[test]
    fn processors() {
        assert_eq!(milli_cpus("0.5"), Ok(500));
        assert_eq!(milli_cpus("2"), Ok(2000));
        for bad in ["0", "-1", "x", "", "inf", "nan"] {
            assert!(milli_cpus(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn limits() {
        let limit = |soft, hard| Ulimit { name: "nofile".into(), soft, hard };
        assert_eq!(ulimit("nofile=10"), Ok(limit(10, 10)));
        assert_eq!(ulimit("NOFILE=10:-1"), Ok(limit(10, u64::MAX)));
        assert!(ulimit("nofile").is_err() && ulimit("x=1").is_err() && ulimit("nofile=a").is_err());
    }

    #[test]
    fn for_people() {
        let shown: Vec<String> = [0, 999, 1000, 117_000_000, 1_234_567_890].map(show_bytes).into();
        assert_eq!(shown, ["0 B", "999 B", "1.00 kB", "117 MB", "1.23 GB"]);
        let shown: Vec<String> = [1, 59, 60, 7200, 90_000, 1_000_000].map(show_age).into();
        assert_eq!(
            shown,
            [
                "1 second ago",
                "59 seconds ago",
                "1 minute ago",
                "2 hours ago",
                "25 hours ago",
                "11 days ago"
            ]
        );
    }
}
