//! `/etc/fstab` of a root (fstab(5)).

/// What is mounted where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) what: String,
    /// Components, without `/` at either end.
    pub(super) place: Vec<u8>,
    /// Of btrfs, which part of it.
    pub(super) subvolume: Option<String>,
    /// Whether the system starts without it.
    pub(super) optional: bool,
}

/// The lines that say what is mounted from a disk when the system starts.
pub(super) fn lines(text: &[u8]) -> Vec<Line> {
    text.split(|&b| b == b'\n').filter_map(line).collect()
}

fn line(line: &[u8]) -> Option<Line> {
    let mut fields = line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
    let (what, place) = (unescaped(fields.next()?), unescaped(fields.next()?));
    let kind = fields.next()?;
    let options = fields.next().unwrap_or(b"defaults");
    let has = |wanted: &[u8]| options.split(|&b| b == b',').any(|option| option == wanted);
    let of_a_disk = what.starts_with(b"/dev/") || what.contains(&b'=');
    if !of_a_disk || what.starts_with(b"#") || kind == b"swap" || has(b"bind") || has(b"noauto") {
        return None;
    }
    let what = String::from_utf8(what).ok()?.replace('"', "");
    let mut clean = Vec::new();
    for component in place.strip_prefix(b"/")?.split(|&b| b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return None,
            component => clean.push(component),
        }
    }
    let mut options = options.split(|&b| b == b',');
    let subvolume = options.find_map(|option| option.strip_prefix(b"subvol="));
    let subvolume =
        subvolume.map(|name| String::from_utf8_lossy(name).trim_matches('/').to_owned());
    Some(Line { what, place: clean.join(&b'/'), subvolume, optional: has(b"nofail") })
}

/// `\040` is a space.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let number = |digits: &[u8]| {
            let digits = std::str::from_utf8(digits).ok().filter(|_| *first == b'\\')?;
            u8::from_str_radix(digits, 8).ok()
        };
        match after.split_at_checked(3).and_then(|(digits, after)| Some((number(digits)?, after))) {
            Some((byte, after)) => {
                out.push(byte);
                rest = after;
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_a_disk() {
        let text = b"# /etc/fstab\nUUID=1-2 / ext4 errors=remount-ro 0 1\nproc /proc proc defaults\n\
            /dev/vda15\t/boot//efi/ vfat umask=0077,nofail\nLABEL=swap none swap sw\n/x /y none bind\n\
            UUID=\"a\" /my\\040home btrfs rw,subvol=/@home\n/dev/sdb1 /mnt auto noauto\n/dev/sdc1 /../etc ext4\nx";
        let line = |what: &str, place: &str, subvolume: Option<&str>, optional| Line {
            what: what.into(),
            place: place.into(),
            subvolume: subvolume.map(Into::into),
            optional,
        };
        let expected = [
            line("UUID=1-2", "", None, false),
            line("/dev/vda15", "boot/efi", None, true),
            line("UUID=a", "my home", Some("@home"), false),
        ];
        assert_eq!(lines(text), expected);
    }
}
