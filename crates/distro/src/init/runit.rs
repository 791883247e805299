//! runit.

use sys::rooted::Root;

use super::{Entry, Init};

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
}
