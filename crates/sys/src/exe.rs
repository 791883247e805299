//! Keeping this program's own file out of the reach of what it runs.
//!
//! A program of an image can be `/proc/self/exe`, or a script or link that leads
//! there: execve(2) then runs *this* file inside the machine, and whoever can see that
//! process can open its file through `/proc/PID/exe` and write to it later
//! (CVE-2019-5736). Nothing can be written where the file belongs to a user that
//! the machine's ids do not reach; where they do, this program runs through a mount of its file that is
//! read-only and in no namespace, so that nobody can change that, or from a sealed copy.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};

use crate::process::{self, Strings};

/// Makes sure that no id of the launcher could write the file this process runs from:
/// returns at once where that holds, else executes itself out of their reach with the same arguments.
/// `reachable` says whether an owner's id is one that a machine could have.
///
/// # Errors
/// Where no copy could be made.
pub fn protect(reachable: impl Fn(u32) -> bool) -> io::Result<()> {
    let exe = std::fs::File::open("/proc/self/exe")?;
    let stat = rustix::fs::fstat(&exe)?;
    // A memfd has no link in any directory.
    let sealed = stat.st_nlink == 0
        && rustix::fs::fcntl_get_seals(&exe).is_ok_and(|s| s.contains(SealFlags::WRITE));
    if sealed || is_read_only(&exe) || !reachable(stat.st_uid) {
        return Ok(());
    }
    let copy = match read_only_mount(&exe) {
        Ok(mount) => mount,
        // Who may not mount pays for a copy.
        Err(_) => sealed_copy(&exe, stat.st_size as u64)?,
    };
    let args: Vec<String> = std::env::args_os()
        .map(|a| a.into_string())
        .collect::<Result<_, _>>()
        .map_err(|a| io::Error::other(format!("the argument {a:?} is not UTF-8")))?;
    let env: Vec<String> = std::env::vars_os()
        .filter_map(|(k, v)| Some(format!("{}={}", k.into_string().ok()?, v.into_string().ok()?)))
        .collect();
    let nul = |s: String| io::Error::other(format!("{s:?} contains a NUL byte"));
    let args = Strings::new(args.iter().map(String::as_str)).map_err(nul)?;
    let env = Strings::new(env.iter().map(String::as_str)).map_err(nul)?;
    Err(process::fexecve(copy.as_fd(), &args, &env))
}

fn is_read_only(exe: &std::fs::File) -> bool {
    let read_only = rustix::fs::StatVfsMountFlags::RDONLY;
    rustix::fs::fstatvfs(exe).is_ok_and(|stat| stat.f_flag.contains(read_only))
}

/// A detached mount: what is executed through it is seen through it by all who open `/proc/PID/exe`.
fn read_only_mount(exe: &std::fs::File) -> io::Result<OwnedFd> {
    let mount = crate::mount::copy_tree(exe.as_fd(), c"", false)?;
    let read_only = crate::mount::Attributes { read_only: true, ..Default::default() };
    crate::mount::set_attributes(mount.as_fd(), read_only, false)?;
    Ok(mount)
}

fn sealed_copy(exe: &std::fs::File, size: u64) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let copy = rustix::fs::memfd_create(c"postroj", flags)?;
    let mut left = size;
    while left > 0 {
        match rustix::fs::sendfile(&copy, exe, None, left as usize)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => left -= n as u64,
        }
    }
    seal(&copy)?;
    Ok(copy)
}

/// Nothing is written to it any more. While anybody holds one of its pages for a moment, such as the kernel's own reclaim,
/// the kernel waits a little and then gives up (fcntl(2), `F_SEAL_WRITE`; Linux, `memfd_wait_for_pins`): not so this.
fn seal(copy: &OwnedFd) -> io::Result<()> {
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    for _ in 0..10 {
        match rustix::fs::fcntl_add_seals(copy, seals) {
            Err(rustix::io::Errno::BUSY) => {}
            other => return Ok(other?),
        }
    }
    Ok(rustix::fs::fcntl_add_seals(copy, seals)?)
}
