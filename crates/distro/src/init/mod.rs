//! The init systems that boot an image.

use sys::rooted::Root;

pub use entry::Entry;

mod busybox;
mod entry;
mod finit;
mod openrc;
mod runit;
mod s6;
mod systemd;
mod sysvinit;

/// A kind of init system.
pub trait Init: Sync {
    /// What it is called, in lower case.
    fn name(&self) -> &'static str;

    /// Path of the program that boots `root` with this init, where this is the init that does.
    fn recognise(&self, root: &Root, entry: &Entry) -> Option<&'static str>;
}

/// Every init there is. The first that recognises a root has it: those with a program
/// of their own stand before those that are told by what lies beside `/sbin/init`.
pub const INITS: &[&dyn Init] = &[
    &systemd::Systemd,
    &finit::Finit,
    &runit::Runit,
    &s6::S6,
    &openrc::Openrc,
    &busybox::Busybox,
    &sysvinit::Sysvinit,
];

/// What boots a root.
pub struct Found {
    /// The kind; `None` for an `/sbin/init` that no entry of [`INITS`] knows.
    pub init: Option<&'static dyn Init>,
    /// Path of the program to be started as process 1.
    pub path: &'static str,
}

/// Finds out what boots `root`; `None` where nothing does, as in most application images.
pub fn find(root: &Root) -> Option<Found> {
    let entry = Entry::find(root);
    INITS
        .iter()
        .find_map(|&init| init.recognise(root, &entry).map(|path| Found { init: Some(init), path }))
        .or_else(|| entry.path().map(|path| Found { init: None, path }))
}
