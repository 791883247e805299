//! The init systems that boot an image.

use spec::boot::{Boot, Startup};
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

    /// Where its program is in a root that is booted with it by request, without being told
    /// to by an `/sbin/init`.
    fn path(&self) -> &'static str {
        "/sbin/init"
    }

    /// What it takes to boot with the program at `path`, and how it is spoken to.
    fn startup(&self, path: &str, wish: &Wish) -> Startup;

    /// The command inside that does this with a service, and ends when it is done. Its exit
    /// status is that of LSB's init scripts (Linux Standard Base 5.0, Core, "Init Script Actions").
    fn service(&self, name: &str, action: Action) -> Vec<String>;

    /// Files and directories inside of which one changes when a service comes up; what writes nothing is
    /// asked from time to time.
    fn signs(&self, _name: &str) -> Vec<String> {
        // Where daemons put their process ids (daemon(7), FHS 3.0 "/run").
        vec!["/run".into()]
    }
}

/// What can be done with a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Ask: 0 it runs, 1 and 2 it is dead but left something, 3 it does not run, 4 it is not known.
    Status,
    /// Have it run.
    Start,
    /// Have it not run.
    Stop,
    /// Have it run anew.
    Restart,
}

impl Action {
    /// As init scripts, `systemctl` and `sv` alike call it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
        }
    }

    /// What LSB's init scripts say of a service that is not there.
    fn unknown(self) -> u8 {
        match self {
            Self::Status => 4,
            _ => 5,
        }
    }
}

/// A shell script that finds the service's name in `$1`, the action in `$2`, and in `$3` what to
/// exit with where there is no such service.
fn script(text: &str, name: &str, action: Action) -> Vec<String> {
    let unknown = action.unknown().to_string();
    ["sh", "-c", text, "sh", name, action.word(), &unknown].map(str::to_owned).to_vec()
}

/// How a system is to be booted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wish {
    /// Without what only a person or a physical machine needs.
    pub fast: bool,
    /// Units or services that shall not start.
    pub mask: Vec<String>,
    /// Secrets and settings by name (systemd.exec(5), "Credentials").
    pub credentials: Vec<(String, String)>,
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

/// The init of that name.
pub fn by_name(name: &str) -> Option<&'static dyn Init> {
    INITS.iter().copied().find(|init| init.name() == name)
}

/// Of a program that nothing is known of: it is started, and SIGTERM shall end it.
pub fn unknown(path: &str) -> Startup {
    plain(path, Boot { init: "unknown".into(), power_off: SIGTERM, ..Boot::default() })
}

/// Nothing but the program, as most inits want it.
fn plain(path: &str, boot: Boot) -> Startup {
    Startup { args: vec![path.to_owned()], boot, ..Startup::default() }
}

const SIGHUP: i32 = 1;
const SIGTERM: i32 = 15;
