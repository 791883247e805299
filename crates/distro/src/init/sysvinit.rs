//! System V's init.

use sys::rooted::Root;

use super::{Entry, Init};

/// init(8) of sysvinit: `/sbin/init` itself, beside an inittab(5). The last of the list,
/// because OpenRC and busybox keep an inittab too.
pub(super) struct Sysvinit;

impl Init for Sysvinit {
    fn name(&self) -> &'static str {
        "sysvinit"
    }

    fn recognise(&self, root: &Root, entry: &Entry) -> Option<&'static str> {
        entry.path().filter(|_| root.exists("/etc/inittab").unwrap_or(false))
    }
}
