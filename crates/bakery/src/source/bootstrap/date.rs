//! The dates of Release files: RFC 5322 with a numeric or named zone, always UTC
//! (the Debian wiki's RepositoryFormat, "Date, Valid-Until").

/// Seconds since the epoch; `None` for anything that is no date from 1970 on.
pub fn parse(text: &str) -> Option<u64> {
    let text = text.split_once(',').map_or(text, |(_, rest)| rest);
    let words: Vec<&str> = text.split_whitespace().collect();
    let [day, month, year, time, zone] = words[..] else { return None };
    if !matches!(zone, "UTC" | "GMT" | "Z" | "+0000" | "-0000") {
        return None;
    }
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let (day, year) = (number(day, 1, 31)?, number(year, 1970, 9999)?);
    let clock: Vec<&str> = time.split(':').collect();
    let [hour, minute, second] = clock[..] else { return None };
    let (hour, minute, second) =
        (number(hour, 0, 23)?, number(minute, 0, 59)?, number(second, 0, 60)?);
    Some(days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second)
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

fn number(text: &str, low: u64, high: u64) -> Option<u64> {
    let digits = (1..=4).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let value = digits.then(|| text.parse().ok())??;
    (low..=high).contains(&value).then_some(value)
}

/// Days since the epoch of a day of the Gregorian calendar, counted in years that
/// begin in March, so that the leap day is a year's last.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leaps = year / 4 - year / 100 + year / 400;
    let before_epoch = 719_468;
    year * 365 + leaps + (month * 153 + 2) / 5 + day - 1 - before_epoch
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn dates_become_seconds() {
        for (text, seconds) in [
            ("Thu, 01 Jan 1970 00:00:00 UTC", 0),
            ("Sat, 09 Aug 2025 09:16:30 UTC", 1_754_730_990),
            ("Thu, 29 Feb 2024 23:59:59 UTC", 1_709_251_199),
            ("Fri, 01 Mar 2024 00:00:00 +0000", 1_709_251_200),
            ("1 Mar 2100 0:00:00 GMT", 4_107_542_400),
        ] {
            assert_eq!(parse(text), Some(seconds), "{text}");
        }
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in [
            "",
            "x",
            "Sat, 09 Aug 2025",
            "Sat, 09 Aug 2025 09:16:30 CEST",
            "Sat, 32 Aug 2025 09:16:30 UTC",
            "Sat, 09 aug 2025 09:16:30 UTC",
            "Sat, 09 Aug 1969 09:16:30 UTC",
            "9 Aug 2025 24:00:00 UTC",
            "9 Aug 99999999999999999999 24:00:00 UTC",
            "+9 Aug 2025 09:16:30 UTC",
            "9 Aug 2025 09:16 UTC",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
