//! busybox's init.

use sys::rooted::Root;

use super::{Entry, Init};

/// The applet `init` of busybox(1). It goes by the name it is started under, so that
/// `/bin/busybox` alone, a common rescue tool, is no init.
pub(super) struct Busybox;

const PROGRAMS: [&str; 4] =
    ["/bin/busybox", "/usr/bin/busybox", "/sbin/busybox", "/bin/busybox.static"];

impl Init for Busybox {
    fn name(&self) -> &'static str {
        "busybox"
    }

    fn recognise(&self, root: &Root, entry: &Entry) -> Option<&'static str> {
        entry.path().filter(|_| entry.is_any_of(root, &PROGRAMS))
    }
}
