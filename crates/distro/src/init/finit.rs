//! Finit.

use spec::boot::{Boot, Ready, Startup};
use sys::rooted::Root;

use super::{Entry, Init, SIGTERM, Wish, plain};

/// finit(8).
pub(super) struct Finit;

const PROGRAMS: [&str; 2] = ["/sbin/finit", "/usr/sbin/finit"];

impl Init for Finit {
    fn name(&self) -> &'static str {
        "finit"
    }

    fn recognise(&self, root: &Root, entry: &Entry) -> Option<&'static str> {
        let chosen = entry.path().is_none() || entry.is_any_of(root, &PROGRAMS);
        if chosen { Entry::first_of(root, &PROGRAMS) } else { None }
    }

    /// finit(8), "SIGNALS".
    fn startup(&self, path: &str, _: &Wish) -> Startup {
        plain(
            path,
            Boot {
                init: self.name().into(),
                // Its signals are handled from about when it listens there (finit, src/api.c).
                ready: Ready::Path(vec!["/run/finit/socket".into()]),
                power_off: SIGUSR2,
                reboot: Some(SIGTERM),
                ..Boot::default()
            },
        )
    }
}

const SIGUSR2: i32 = 12;
