//! Debian's version numbers and their order: deb-version(7), Debian Policy 5.6.12.

use std::cmp::Ordering;

/// The order of two versions. Every text has a place in it, well-formed or not.
pub fn compare(left: &str, right: &str) -> Ordering {
    let (left_epoch, left_upstream, left_revision) = split(left);
    let (right_epoch, right_upstream, right_revision) = split(right);
    compare_number(left_epoch.as_bytes(), right_epoch.as_bytes())
        .then_with(|| compare_part(left_upstream.as_bytes(), right_upstream.as_bytes()))
        .then_with(|| compare_part(left_revision.as_bytes(), right_revision.as_bytes()))
}

/// Whether a text may be a version: bounded, and only of the characters that
/// deb-version(7) allows.
pub fn is_valid(version: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b".+-~:".contains(&b);
    !version.is_empty() && version.len() <= 256 && version.bytes().all(allowed)
}

/// Epoch, upstream version and revision. A missing revision equals `0`, which compares
/// as the empty text does.
fn split(version: &str) -> (&str, &str, &str) {
    let (epoch, rest) = version.split_once(':').unwrap_or(("", version));
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
    (epoch, upstream, revision)
}

/// dpkg's `verrevcmp` (lib/dpkg/version.c): runs of non-digits and of digits in turn.
fn compare_part(mut left: &[u8], mut right: &[u8]) -> Ordering {
    while !left.is_empty() || !right.is_empty() {
        let (left_text, left_rest) = split_run(left, |b| !b.is_ascii_digit());
        let (right_text, right_rest) = split_run(right, |b| !b.is_ascii_digit());
        let (left_number, left_rest) = split_run(left_rest, |b| b.is_ascii_digit());
        let (right_number, right_rest) = split_run(right_rest, |b| b.is_ascii_digit());
        let order = compare_text(left_text, right_text)
            .then_with(|| compare_number(left_number, right_number));
        if order.is_ne() {
            return order;
        }
        (left, right) = (left_rest, right_rest);
    }
    Ordering::Equal
}

fn split_run(text: &[u8], belongs: impl Fn(u8) -> bool) -> (&[u8], &[u8]) {
    let end = text.iter().position(|&b| !belongs(b)).unwrap_or(text.len());
    text.split_at(end)
}

/// Letters before all else, `~` before everything, even the end.
fn compare_text(left: &[u8], right: &[u8]) -> Ordering {
    let weight = |b: Option<&u8>| match b {
        None => 0,
        Some(b'~') => -1,
        Some(b) if b.is_ascii_alphabetic() => i32::from(*b),
        Some(b) => i32::from(*b) + 256,
    };
    (0..left.len().max(right.len()))
        .map(|at| weight(left.get(at)).cmp(&weight(right.get(at))))
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
}

/// Digits of any length, as a number.
fn compare_number(left: &[u8], right: &[u8]) -> Ordering {
    let strip = |text: &[u8]| text.iter().position(|&b| b != b'0').unwrap_or(text.len());
    let (left, right) = (&left[strip(left)..], &right[strip(right)..]);
    left.len().cmp(&right.len()).then_with(|| left.cmp(right))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_dpkgs() {
        // Ascending; each differs from its neighbours.
        let ascending = [
            "~~",
            "~~a",
            "~",
            "0",
            "0.0~",
            "0.0",
            "0.0a",
            "0.0+",
            "0.0.0",
            "1.0~rc1-1",
            "1.0~rc1-1.1",
            "1.0~rc2",
            "1.0~~rc3-x",
            "1.0",
            "1.0-0a",
            "1.0-1~bpo11+1",
            "1.0-1",
            "1.0-1+b1",
            "1.0-1+deb12u1",
            "1.0-1.1",
            "1.0-1ubuntu1",
            "1.0-2",
            "1.0-9",
            "1.0-10",
            "1.0a-1",
            "1.0+dfsg-1",
            "1.0.1-1",
            "1.2",
            "1.10",
            "1.10a",
            "1.10ab",
            "2",
            "10",
            "99999999999999999999999998",
            "99999999999999999999999999",
            "1:0",
            "1:0.1",
            "2:0~",
            "2:0",
            "10:0",
        ];
        let mut sorted = ascending;
        sorted.sort_by(|a, b| compare(a, b));
        // `1.0-1ubuntu1` sorts after `1.0-1` and before `1.0-1+b1`: letters come first.
        for pair in sorted.windows(2) {
            assert_eq!(compare(pair[0], pair[1]), Ordering::Less, "{pair:?}");
            assert_eq!(compare(pair[1], pair[0]), Ordering::Greater, "{pair:?}");
        }
    }

    #[test]
    fn single_comparisons() {
        for (left, order, right) in [
            ("1.0", "=", "1.0-0"),
            ("1.0", "=", "0:1.0"),
            ("1.00", "=", "1.0"),
            ("001", "=", "1"),
            ("1.0-", "=", "1.0"),
            ("1.0-1ubuntu1", "<", "1.0-1+b1"),
            ("1.0~rc1", "<", "1.0"),
            ("1.0~", "<", "1.0~a"),
            ("1.2-3-4", ">", "1.2-3"),
            ("7.6p2-4", ">", "7.6-0"),
            ("1.0.3-3", ">", "1.0-1"),
            ("0:0-0-0", ">", "0-0"),
            ("1:1.2.13.dfsg-1", ">", "2.0"),
            ("252.39-1~deb12u1", "<", "252.39-1"),
            ("2.36-9+deb12u14", ">", "2.36-9+deb12u9"),
            ("", "<", "a"),
            ("", "=", "0"),
        ] {
            let expected = match order {
                "<" => Ordering::Less,
                ">" => Ordering::Greater,
                _ => Ordering::Equal,
            };
            assert_eq!(compare(left, right), expected, "{left} {order} {right}");
            assert_eq!(compare(right, left), expected.reverse(), "{right} and {left}");
        }
    }

    #[test]
    fn only_allowed_characters() {
        for good in ["1", "1:2.3~rc1+dfsg-4.1", "2024a-0"] {
            assert!(is_valid(good), "{good}");
        }
        for bad in ["", "1 2", "1/2", "1_2", "ä", "1\n2", &"1".repeat(300)] {
            assert!(!is_valid(bad), "{bad}");
        }
    }
}
