//! Finit.

use sys::rooted::Root;

use super::{Entry, Init};

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
}
