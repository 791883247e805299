//! busybox's init.

use spec::boot::{Boot, Ready, Startup};
use sys::rooted::Root;

use super::{Entry, Init, SIGTERM, Wish, plain};

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

    /// busybox, init/init.c: SIGUSR2 powers off and SIGTERM restarts, each after the
    /// `shutdown` lines of the inittab.
    fn startup(&self, path: &str, _: &Wish) -> Startup {
        plain(
            path,
            Boot {
                init: self.name().into(),
                // It tells nothing, and what it starts is the inittab's business.
                ready: Ready::Started,
                power_off: SIGUSR2,
                reboot: Some(SIGTERM),
                ..Boot::default()
            },
        )
    }
}

const SIGUSR2: i32 = 12;
