//! Who a `user[:group]` text is, by the image's own user and group files.

use spec::image::Facts;

use crate::PlanError;

/// A resolved user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
    pub(crate) name: Option<String>,
}

/// Resolves as docker does: an empty text is root; a number needs no entry; a
/// group that is named replaces the supplementary ones.
pub(crate) fn resolve(text: &str, facts: &Facts) -> Result<Identity, PlanError> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number = number(user, "user")?;
    let entry = facts
        .users
        .iter()
        .find(|u| u.name == user)
        .or_else(|| number.and_then(|uid| facts.users.iter().find(|u| u.uid == uid)));
    let uid = match (entry, number) {
        (Some(entry), _) => entry.uid,
        (None, Some(uid)) => uid,
        (None, None) => {
            return Err(PlanError::new(format!("the image has no user {user:?}"))
                .hint("its /etc/passwd has no such name; a number needs no entry"));
        }
    };
    let name = entry.map(|e| e.name.clone());
    let (gid, groups) = match group.filter(|g| !g.is_empty()) {
        Some(group) => (resolve_group(group, facts)?, Vec::new()),
        None => {
            let gid = entry.map_or(0, |e| e.gid);
            (gid, supplementary(name.as_deref(), gid, facts))
        }
    };
    let home = entry.map(|e| e.home.clone()).filter(|h| h.starts_with('/'));
    let home = home.unwrap_or_else(|| if uid == 0 { "/root".into() } else { "/".into() });
    Ok(Identity { uid, gid, groups, home, name })
}

fn resolve_group(group: &str, facts: &Facts) -> Result<u32, PlanError> {
    if let Some(entry) = facts.groups.iter().find(|g| g.name == group) {
        return Ok(entry.gid);
    }
    number(group, "group")?.ok_or_else(|| {
        PlanError::new(format!("the image has no group {group:?}"))
            .hint("its /etc/group has no such name; a number needs no entry")
    })
}

fn supplementary(name: Option<&str>, gid: u32, facts: &Facts) -> Vec<u32> {
    let Some(name) = name else { return Vec::new() };
    let mut groups: Vec<u32> = facts
        .groups
        .iter()
        .filter(|g| g.gid != gid && g.members.iter().any(|m| m == name))
        .map(|g| g.gid)
        .collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// Ids end below 2^32 - 1, which setuid(2) takes for "unchanged".
fn number(text: &str, what: &str) -> Result<Option<u32>, PlanError> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse() {
        Ok(u32::MAX) | Err(_) => {
            Err(PlanError::new(format!("the {what} id {text} is out of range")))
        }
        Ok(number) => Ok(Some(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spec::image::{Group, User};

    fn facts() -> Facts {
        let user = |name: &str, uid, gid, home: &str| User {
            name: name.into(),
            uid,
            gid,
            home: home.into(),
        };
        let group = |name: &str, gid, members: &[&str]| Group {
            name: name.into(),
            gid,
            members: members.iter().map(|m| (*m).into()).collect(),
        };
        Facts {
            users: vec![
                user("root", 0, 0, "/root"),
                user("www", 33, 33, "/var/www"),
                user("bad", 7, 7, "x"),
            ],
            groups: vec![
                group("root", 0, &[]),
                group("adm", 4, &["www"]),
                group("www", 33, &["www"]),
            ],
            ..Facts::default()
        }
    }

    #[test]
    fn by_name_number_and_group() {
        let of = |text| {
            let i = resolve(text, &facts()).unwrap();
            (i.uid, i.gid, i.groups, i.home)
        };
        assert_eq!(of(""), (0, 0, vec![], "/root".into()));
        assert_eq!(of("www"), (33, 33, vec![4], "/var/www".into()));
        assert_eq!(of("33"), (33, 33, vec![4], "/var/www".into()));
        assert_eq!(of("www:adm"), (33, 4, vec![], "/var/www".into()));
        assert_eq!(of("1234:5678"), (1234, 5678, vec![], "/".into()));
        assert_eq!(of("1234"), (1234, 0, vec![], "/".into()));
        assert_eq!(of("bad"), (7, 7, vec![], "/".into()));
    }

    #[test]
    fn what_the_image_lacks_is_named() {
        for (text, part) in [
            ("nobody", "no user \"nobody\""),
            ("root:x", "no group \"x\""),
            ("4294967295", "out of range"),
            ("99999999999", "out of range"),
        ] {
            let error = resolve(text, &facts()).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
