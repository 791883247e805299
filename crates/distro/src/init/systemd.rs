//! systemd.

use sys::rooted::Root;

use super::{Entry, Init};

/// systemd(1).
pub(super) struct Systemd;

/// The second is for roots whose `/lib` is no link into `/usr`, as Debian's were until 11.
const PROGRAMS: [&str; 2] = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"];

impl Init for Systemd {
    fn name(&self) -> &'static str {
        "systemd"
    }

    /// Also without an `/sbin/init`, which Debian has in a package of its own (systemd-sysv):
    /// systemd-nspawn(1) boots such a root too.
    fn recognise(&self, root: &Root, entry: &Entry) -> Option<&'static str> {
        let chosen = entry.path().is_none() || entry.is_any_of(root, &PROGRAMS);
        if chosen { Entry::first_of(root, &PROGRAMS) } else { None }
    }
}
