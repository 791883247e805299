//! Failures of the kernel, in the words of what was being done and what to do about it.

use std::ffi::{CStr, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Error, anyhow};

use super::bundle::piece::Piece;
use super::step::Step;
use super::{MapError, NotStarted, NotStartedKind, Plan, Refusal};

/// clone3(2) failed.
pub(super) fn clone(error: io::Error, plan: &Plan) -> Error {
    let private = matches!(plan.ids, spec::ids::IdMapping::Private { .. });
    let hint = match error.raw_os_error() {
        Some(errno::EPERM) if private => Some(FORBIDDEN),
        Some(errno::EPERM) => Some("run as root, or without --userns=host"),
        Some(errno::ENOSPC) => Some(TOO_MANY),
        Some(errno::EACCES) if plan.limits.any() => {
            Some("you may not move a process into that control group: nothing is delegated to you")
        }
        Some(errno::ENOSYS) => Some("Linux 5.12 or newer is needed"),
        _ => None,
    };
    let what = match plan.network.is_own() {
        true => "cannot make the machine's namespaces",
        false => "cannot make the machine's namespaces (all but the network)",
    };
    NotStarted {
        kind: NotStartedKind::Setup,
        text: format!("{what}: {}", plain(&error)),
        hint: hint.map(str::to_owned),
    }
    .into()
}

const FORBIDDEN: &str = "this host forbids user namespaces to you: `sysctl kernel.unprivileged_userns_clone=1` or \
     `sysctl kernel.apparmor_restrict_unprivileged_userns=0` allows them, or run as root";

const TOO_MANY: &str = "the limit on namespaces is reached: see /proc/sys/user/max_*_namespaces";

/// A network namespace could not be entered.
pub(super) fn network(error: &io::Error, path: &str) -> Error {
    let hint = match error.raw_os_error() {
        Some(errno::EPERM) => " (only root may share the network of a namespace that it is not in)",
        Some(errno::EINVAL) => " (this is no network namespace)",
        _ => "",
    };
    anyhow!("cannot enter the network namespace {path}: {}{hint}", plain(error))
}

/// An id map could not be written, in words with a remedy.
#[must_use]
pub fn map(error: MapError) -> Error {
    match error {
        MapError::NoHelper(kind) => anyhow!(
            "{} is not installed, and without it an ordinary user has only one id \
             (install it: `apt install uidmap` or `dnf install shadow-utils`; --userns=single does with one id)",
            kind.helper()
        ),
        MapError::Helper(kind, said) => anyhow!(
            "{} refused the id map: {said} (see /etc/sub{}; it must be set-user-id root or have its capability)",
            kind.helper(),
            if kind == sys::userns::Kind::Uid { "uid" } else { "gid" },
        ),
        MapError::Kernel(error) => anyhow!("cannot write the id map: {}", plain(&error)),
    }
}

/// A tree's ids could not be mapped.
pub(super) fn idmap(error: io::Error, path: &str) -> Error {
    anyhow!(
        "cannot show {path} with the machine's ids: {} (its file system may lack id-mapped mounts; \
         --userns=host does without)",
        plain(&error)
    )
}

/// Limits cannot be had.
pub(super) fn cgroup(refusal: Refusal) -> Error {
    match refusal {
        Refusal::NoController(name) => anyhow!(
            "cannot limit {name}: this host has no such control group controller \
             (leave the limit out, or boot with it enabled)"
        ),
        Refusal::NotDelegated(path) => anyhow!(
            "cannot limit the machine: {} cannot be written, no control group is delegated to you \
             (run as root, or under `systemd-run --user --scope -p Delegate=yes`)",
            path.display()
        ),
        Refusal::Failed(path, error) => {
            anyhow!("cannot limit the machine: {}: {}", path.display(), plain(&error))
        }
    }
}

/// A step failed.
pub(super) fn step(step: &Step, error: &io::Error) -> NotStarted {
    let kind = match (step, error.raw_os_error()) {
        (Step::Execute { .. }, Some(errno::ENOENT | errno::ENOTDIR)) => NotStartedKind::NotFound,
        (Step::Execute { .. }, _) => NotStartedKind::NotExecutable,
        _ => NotStartedKind::Setup,
    };
    NotStarted {
        kind,
        text: match step {
            Step::Bundle(Piece::Find(path)) if path.len() > 1 => not_found(&path[0], error),
            _ => format!("cannot {}: {}", step.describe(), plain(error)),
        },
        hint: hint(step, error).map(str::to_owned),
    }
}

/// In runc's words: those who call a runtime look for them to tell what a failure means.
fn not_found(candidate: &CStr, error: &io::Error) -> String {
    let path = Path::new(OsStr::from_bytes(candidate.to_bytes()));
    let name = path.file_name().unwrap_or_default();
    match error.raw_os_error() {
        Some(errno::ENOENT) => {
            format!("exec: {name:?}: executable file not found in $PATH: {}", plain(error))
        }
        _ => format!("exec: {name:?}: {}", plain(error)),
    }
}

fn hint(step: &Step, error: &io::Error) -> Option<&'static str> {
    use errno::*;
    match (step, error.raw_os_error()?) {
        (Step::Execute { path, .. }, ENOENT) if path.len() != 1 => {
            Some("no directory of the image's PATH has it")
        }
        (Step::Execute { .. }, ENOENT) => {
            Some("it is not in the image, or the interpreter that it names is not")
        }
        (Step::Execute { .. }, EACCES) => Some("it is a directory, or not marked as executable"),
        (Step::Execute { .. }, ENOEXEC) => {
            Some("it is for another architecture, or a script without its #! line")
        }
        (Step::PrivateMounts | Step::NetworkNamespace, EPERM) => Some(FORBIDDEN),
        (Step::NetworkNamespace, ENOSPC) => Some(TOO_MANY),
        (Step::OverlayRoot { .. } | Step::OverlayMount { .. }, EPERM | ENODEV) => Some(
            "this kernel has no overlayfs for ordinary users: Linux 5.11 or newer is needed, or root",
        ),
        (Step::OverlayRoot { .. }, ELOOP) => Some("the image lies on an overlay itself"),
        (Step::WorkingDirectory(_), ELOOP | ENOENT) => Some("it leads out of the image's root"),
        (Step::Rlimit { .. }, EPERM) => Some("the launcher's own hard limit is lower"),
        (Step::Filesystem { fstype, .. }, EPERM) if fstype.as_bytes() == b"proc" => Some(
            "the launcher's own /proc is partly hidden, and then the kernel shows no other; \
             inside of a container, that one needs its /proc unmasked",
        ),
        (Step::Scratch { .. }, EPERM | EACCES) => {
            Some("this host forbids mounts to ordinary users even in their own namespaces")
        }
        (Step::Emulation { .. }, EPERM | ENODEV | ENOENT) => Some(
            "a machine has an emulator of its own from Linux 6.7 on, with binfmt_misc (`modprobe binfmt_misc`); \
             else the host must know it: `apt install binfmt-support qemu-user-static`",
        ),
        (Step::Protect { .. }, EXDEV) => Some("a mount, or a link of the image, is in its place"),
        (Step::User { .. }, EINVAL) => Some("the machine's id range does not have that id"),
        _ => None,
    }
}

/// The reason alone, without Rust's "(os error N)".
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = text.chars();
    letters.next().map(|c| c.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// Errno values that are told apart here (errno(3)).
mod errno {
    use rustix::io::Errno;
    pub(super) const EPERM: i32 = Errno::PERM.raw_os_error();
    pub(super) const ENOENT: i32 = Errno::NOENT.raw_os_error();
    pub(super) const EACCES: i32 = Errno::ACCESS.raw_os_error();
    pub(super) const EXDEV: i32 = Errno::XDEV.raw_os_error();
    pub(super) const ENOTDIR: i32 = Errno::NOTDIR.raw_os_error();
    pub(super) const ENOEXEC: i32 = Errno::NOEXEC.raw_os_error();
    pub(super) const ENODEV: i32 = Errno::NODEV.raw_os_error();
    pub(super) const EINVAL: i32 = Errno::INVAL.raw_os_error();
    pub(super) const ENOSPC: i32 = Errno::NOSPC.raw_os_error();
    pub(super) const ELOOP: i32 = Errno::LOOP.raw_os_error();
    pub(super) const ENOSYS: i32 = Errno::NOSYS.raw_os_error();
}
