//! The last steps: from a prepared process to the command.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::Mode;
use sys::process::{self, Strings};
use sys::rooted::Root;

use super::DIRECTORY_MODE;

/// Not through a magic link, and not outside of the root: a working directory such as
/// `/proc/self/fd/7` would otherwise lead to whatever that is (CVE-2024-21626).
pub(super) fn working_directory(path: &CStr) -> io::Result<()> {
    // No magic link is followed there.
    let root = Root::open(std::path::Path::new("/"))?;
    let path = std::path::Path::new(OsStr::from_bytes(path.to_bytes()));
    let opened = match root.open_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            root.create_dir_all(path, DIRECTORY_MODE)?;
            root.open_dir(path)
        }
        other => other,
    };
    rustix::process::fchdir(opened?)?;
    let here = rustix::process::getcwd(Vec::new())?;
    if here.to_bytes().starts_with(b"/") { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
}

pub(super) fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    use rustix::process::{Gid, Uid};
    let groups: Vec<Gid> = groups.iter().map(|g| Gid::from_raw(*g)).collect();
    match rustix::thread::set_thread_groups(&groups) {
        // A namespace of one id forbids it (user_namespaces(7)), and then there are none to set.
        Err(rustix::io::Errno::PERM) if groups.is_empty() => {}
        other => other?,
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    Ok(rustix::thread::set_thread_res_uid(uid, uid, uid)?)
}

/// execvpe(3), but for its shell: what has no format is not executed.
pub(super) fn execute(
    args: &Strings,
    env: &Strings,
    path: &[CString],
    umask: Option<Mode>,
) -> io::Error {
    if let Some(signal) = sys::signals::pending_end() {
        process::exit_now(128 + signal as u8);
    }
    sys::signals::reset();
    rustix::process::umask(umask.unwrap_or(Mode::from_raw_mode(0o022)));
    let mut denied = None;
    for candidate in path {
        let error = process::execve(candidate, args, env);
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {}
            io::ErrorKind::PermissionDenied => denied = Some(error),
            _ => return error,
        }
    }
    denied.unwrap_or_else(|| io::Error::from_raw_os_error(rustix::io::Errno::NOENT.raw_os_error()))
}
