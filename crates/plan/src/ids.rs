//! Which ids of the host a machine's ids are.

use spec::ids::{IdMapping, IdRange};
use spec::request::{Request, UsernsRequest};

use crate::{Launcher, PlanError, range, without_userns};

/// How many ids a private range has: what images use, `nobody` (65534) included.
const PRIVATE: u32 = 65_536;

/// The map for a request: all of a plan that can be known without an image.
///
/// # Errors
/// Where this user cannot have it.
pub fn map(request: &Request, launcher: &Launcher) -> Result<IdMapping, PlanError> {
    let root = launcher.uid == 0;
    if without_userns(request, launcher) {
        return if root {
            Ok(IdMapping::Inherit)
        } else {
            Err(PlanError::new("--userns=host needs root").hint("leave it out, or use sudo"))
        };
    }
    let private = |uids, gids| Ok(IdMapping::Private { uids, gids });
    match (request.userns, root) {
        (UsernsRequest::Single, _) => {
            private(vec![range(0, launcher.uid, 1)], vec![range(0, launcher.gid, 1)])
        }
        (UsernsRequest::KeepId, true) => {
            Err(PlanError::new("--userns=keep-id is for ordinary users")
                .hint("root keeps its id already"))
        }
        (UsernsRequest::KeepId, false) => private(
            keep(launcher.uid, &subordinate(&launcher.subuids, launcher, "subuid")?),
            keep(launcher.gid, &subordinate(&launcher.subgids, launcher, "subgid")?),
        ),
        (_, true) => {
            let whole = || vec![range(0, launcher.private_base, PRIVATE)];
            private(whole(), whole())
        }
        (_, false) => private(
            shifted(launcher.uid, &subordinate(&launcher.subuids, launcher, "subuid")?),
            shifted(launcher.gid, &subordinate(&launcher.subgids, launcher, "subgid")?),
        ),
    }
}

fn subordinate(
    ranges: &[(u32, u32)],
    launcher: &Launcher,
    file: &str,
) -> Result<Vec<(u32, u32)>, PlanError> {
    checked(ranges, launcher.uid, file).map(<[_]>::to_vec)
}

/// The map of an ordinary user's whole range: its own id as root, and all subordinate ones.
///
/// # Errors
/// Where there are none; `file` is `subuid` or `subgid`.
pub fn subordinate_map(
    own: u32,
    ranges: &[(u32, u32)],
    user: u32,
    file: &str,
) -> Result<Vec<IdRange>, PlanError> {
    checked(ranges, user, file).map(|ranges| shifted(own, ranges))
}

fn checked<'a>(
    ranges: &'a [(u32, u32)],
    user: u32,
    file: &str,
) -> Result<&'a [(u32, u32)], PlanError> {
    if ranges.is_empty() {
        return Err(PlanError::new(format!(
            "user id {user} has no subordinate ids in /etc/{file}"
        ))
        .hint(format!(
            "an administrator adds them by `usermod --add-{file}s 100000-165535 USER`; \
             --userns=single does with one id"
        )));
    }
    Ok(ranges)
}

/// The launcher's own id is root, and the subordinate ids follow from 1 on.
fn shifted(own: u32, subordinate: &[(u32, u32)]) -> Vec<IdRange> {
    let mut map = vec![range(0, own, 1)];
    let mut next = 1u32;
    for (first, count) in subordinate {
        let count = (*count).min(u32::MAX - 1 - next);
        map.push(range(next, *first, count));
        next += count;
    }
    map
}

/// The launcher's own id keeps its number; subordinate ids fill the numbers around it.
fn keep(own: u32, subordinate: &[(u32, u32)]) -> Vec<IdRange> {
    let mut map = Vec::new();
    let mut next = 0u32;
    let mut kept = false;
    for (first, count) in subordinate {
        let (mut first, mut count) = (*first, (*count).min(u32::MAX - 2 - next));
        if !kept && next + count >= own {
            let below = own - next;
            if below > 0 {
                map.push(range(next, first, below));
            }
            map.push(range(own, own, 1));
            (first, count, next, kept) = (first + below, count - below, own + 1, true);
        }
        if count > 0 {
            map.push(range(next, first, count));
            next += count;
        }
    }
    if !kept {
        map.push(range(own, own, 1));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_id_first_then_the_subordinate_ones() {
        assert_eq!(
            shifted(1001, &[(100_000, 65_536), (300_000, 10)]),
            [range(0, 1001, 1), range(1, 100_000, 65_536), range(65_537, 300_000, 10)]
        );
    }

    #[test]
    fn a_kept_id_splits_the_range_it_falls_into() {
        assert_eq!(
            keep(1001, &[(100_000, 65_536)]),
            [range(0, 100_000, 1001), range(1001, 1001, 1), range(1002, 101_001, 64_535)]
        );
        assert_eq!(keep(7, &[(100, 3)]), [range(0, 100, 3), range(7, 7, 1)]);
        assert_eq!(
            keep(3, &[(100, 3), (200, 2)]),
            [range(0, 100, 3), range(3, 3, 1), range(4, 200, 2)]
        );
    }
}
