//! runit.

use spec::boot::{Boot, Ready, Startup};
use sys::rooted::Root;

use super::{Entry, Init, Wish, plain};

/// runit(8). It supervises under other inits too, so that its being there tells nothing:
/// `/sbin/init` must be it.
pub(super) struct Runit;

/// Upstream's and Void's place, Debian's, Artix's.
const PROGRAMS: [&str; 3] = ["/sbin/runit-init", "/lib/runit/runit-init", "/usr/bin/runit-init"];

impl Init for Runit {
    fn name(&self) -> &'static str {
        "runit"
    }

    fn recognise(&self, root: &Root, entry: &Entry) -> Option<&'static str> {
        entry.path().filter(|_| entry.is_any_of(root, &PROGRAMS))
    }

    /// runit-init(8): `init 0` enters stage 3; runsvdir(8) is stage 2.
    fn startup(&self, path: &str, _: &Wish) -> Startup {
        plain(
            path,
            Boot {
                init: self.name().into(),
                ready: Ready::Process(vec!["runsvdir".into()]),
                power_off: SIGCONT,
                power_off_command: Some(vec!["init".into(), "0".into()]),
                ..Boot::default()
            },
        )
    }
}

/// runit(8): stage 3 where `/etc/runit/stopit` can be executed, which `init 0` sees to.
const SIGCONT: i32 = 18;
