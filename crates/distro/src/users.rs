//! passwd(5) and group(5): the names behind a system's ids.

use spec::image::{Group, User};

/// The user database.
pub const PASSWD: &str = "/etc/passwd";
/// The group database.
pub const GROUP: &str = "/etc/group";

/// Bytes of a file that are looked at: four times what [`MAX_LINES`] ordinary lines need.
pub const MAX_BYTES: usize = 4 << 20;

/// Lines of a file that are looked at.
const MAX_LINES: usize = 16 << 10;

/// Members that are kept of all groups together: each costs ten times its line's bytes in memory.
const MAX_MEMBERS: usize = 64 << 10;

/// Reads `/etc/passwd`: `name:password:uid:gid:gecos:home:shell`, in the order of the file.
///
/// Of several lines for one name the first counts, as for getpwnam(3). Lines that are
/// no user's are passed over: comments, NIS's `+` and `-`, ids that are no numbers.
pub fn parse_passwd(text: &[u8]) -> Vec<User> {
    lines(text)
        .filter_map(|line| {
            let mut fields = line.split(|&b| b == b':');
            let name = name(fields.next()?)?;
            let _password = fields.next()?;
            let uid = id(fields.next()?)?;
            let gid = id(fields.next()?)?;
            // Real names are often in the encodings of the last century.
            let _real_name = fields.next()?;
            let home = word(fields.next()?)?.to_owned();
            Some(User { name, uid, gid, home })
        })
        .collect()
}

/// Reads `/etc/group`: `name:password:gid:member,member`, in the order of the file.
///
/// Lines that are no group's are passed over, and so are members that are no names.
pub fn parse_group(text: &[u8]) -> Vec<Group> {
    let mut left = MAX_MEMBERS;
    lines(text)
        .filter_map(|line| {
            let mut fields = line.split(|&b| b == b':');
            let group = name(fields.next()?)?;
            let _password = fields.next()?;
            let gid = id(fields.next()?)?;
            let members = fields.next()?.split(|&b| b == b',').filter_map(name);
            let members: Vec<String> = members.take(left).collect();
            left -= members.len();
            Some(Group { name: group, gid, members })
        })
        .collect()
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let text = &text[..text.len().min(MAX_BYTES)];
    text.split(|&b| b == b'\n').take(MAX_LINES)
}

/// A user's or group's name. Debian's useradd(8) allows nearly everything up to 32 bytes,
/// directory services allow more; LOGIN_NAME_MAX of `<limits.h>` is 256.
fn name(field: &[u8]) -> Option<String> {
    let name = word(field)?;
    let good = !name.is_empty() && name.len() < 256 && !name.starts_with(['#', '+', '-']);
    (good && !name.contains([' ', '/'])).then(|| name.to_owned())
}

fn word(field: &[u8]) -> Option<&str> {
    std::str::from_utf8(field).ok().filter(|text| !text.contains(char::is_control))
}

/// An id. The greatest number means "leave as it is" to setresuid(2), so that it is nobody's.
fn id(field: &[u8]) -> Option<u32> {
    if !field.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(field).ok()?.parse().ok().filter(|&id| id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, uid: u32, gid: u32, home: &str) -> User {
        User { name: name.into(), uid, gid, home: home.into() }
    }

    fn group(name: &str, gid: u32, members: &[&str]) -> Group {
        Group { name: name.into(), gid, members: members.iter().map(|&m| m.into()).collect() }
    }

    #[test]
    fn users_of_a_real_file() {
        let text = b"root:x:0:0:root:/root:/bin/bash\n\
            _apt:x:42:65534::/nonexistent:/usr/sbin/nologin\n\
            j.doe@corp$:x:4294967294:7:J\xf6rg,,,:/home/j doe:\n\
            short:x:5:6::/";
        assert_eq!(
            parse_passwd(text),
            [
                user("root", 0, 0, "/root"),
                user("_apt", 42, 65534, "/nonexistent"),
                user("j.doe@corp$", 4_294_967_294, 7, "/home/j doe"),
                user("short", 5, 6, "/"),
            ]
        );
    }

    #[test]
    fn groups_of_a_real_file() {
        let text = b"root:x:0:\nsudo:x:27:ann,bob\nodd:*:99:,ann,,b d,\xff,c\x1bd,bob,\n";
        assert_eq!(
            parse_group(text),
            [
                group("root", 0, &[]),
                group("sudo", 27, &["ann", "bob"]),
                group("odd", 99, &["ann", "bob"]),
            ]
        );
    }

    #[test]
    fn garbage_lines_are_passed_over() {
        for line in [
            "",
            ":",
            "# a comment:x:1:1::/:",
            "+::::::",
            "+@netgroup:x:1:1::/:",
            "-mallory:x:1:1::/:",
            ":x:1:1::/:",
            "a",
            "a:x:1:1:",
            "a:x::1::/:",
            "a:x:+1:1::/:",
            "a:x:-1:1::/:",
            "a:x:0x1:1::/:",
            "a:x: 1:1::/:",
            "a:x:4294967295:1::/:",
            "a:x:1:4294967295::/:",
            "a:x:99999999999999999999:1::/:",
            "a b:x:1:1::/:",
            "a/b:x:1:1::/:",
            "a\x1b[0m:x:1:1::/:",
            "a:x:1:1::/\x07:",
        ] {
            let text = format!("{line}\nlast:x:1:1::/:\n");
            assert_eq!(parse_passwd(text.as_bytes()), [user("last", 1, 1, "/")], "{line:?}");
        }
        assert!(parse_passwd(b"\xff:x:1:1::/:").is_empty());
        assert!(parse_group(b"a:x:1\na:x:b:c\n:x:1:a\n#a:x:1:\n").is_empty());
    }

    #[test]
    fn a_hostile_file_stays_small() {
        let many: String = (0..100_000).map(|n| format!("u{n}:x:{n}:{n}::/:\n")).collect();
        assert_eq!(parse_passwd(many.as_bytes()).len(), MAX_LINES);
        let long = format!("{}:x:1:1::/:", "a".repeat(5 << 20));
        assert!(parse_passwd(long.as_bytes()).is_empty());
        let members = format!("g:x:1:{}", "m,".repeat(5 << 20));
        let groups = parse_group(format!("a:x:1:x\n{members}").as_bytes());
        assert_eq!(
            groups.iter().map(|g| g.members.len()).collect::<Vec<_>>(),
            [1, MAX_MEMBERS - 1]
        );
        assert!(parse_passwd(&vec![b':'; 5 << 20]).is_empty());
        assert!(parse_group(&vec![b'\n'; 5 << 20]).is_empty());
    }
}
