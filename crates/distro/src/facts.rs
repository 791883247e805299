//! What a root file system holds, read once when an image is made.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use spec::image::Facts;
use sys::rooted::Root;

use crate::{elf, init, os_release, package, users};

/// Finds out what system `root` holds.
///
/// The root is hostile: everything is resolved inside it, and what is no regular file, or
/// is nonsense, counts as absent. Of a file that is too long only the start is looked at.
///
/// # Errors
/// Names the file that is there but could not be read, for lack of permission or because
/// the disk failed.
pub fn read(root: &Root) -> Result<Facts> {
    let mut os_release = Default::default();
    for path in os_release::PATHS {
        if let Some(text) = start(root, path, os_release::MAX_BYTES)? {
            os_release = os_release::parse(&text);
            break;
        }
    }
    let passwd = start(root, users::PASSWD, users::MAX_BYTES)?;
    let group = start(root, users::GROUP, users::MAX_BYTES)?;
    let found = init::find(root);
    let init_kind = found.as_ref().and_then(|found| found.init).map(|init| init.name().to_owned());
    let init = found.map(|found| found.path);
    Ok(Facts {
        os_release,
        init: init.map(str::to_owned),
        init_kind,
        package_manager: package::find(root).map(|found| found.name().to_owned()),
        architecture: architecture(root, init).map(str::to_owned),
        users: users::parse_passwd(&passwd.unwrap_or_default()),
        groups: users::parse_group(&group.unwrap_or_default()),
    })
}

/// The shell that a root has, for whoever asks for no command; `/bin/sh` where it has none.
#[must_use]
pub fn shell(root: &Root) -> &'static str {
    let there = |path: &&str| root.exists(path).unwrap_or(false);
    ["/bin/bash", "/bin/sh"].into_iter().find(there).unwrap_or("/bin/sh")
}

/// Programs that tell a root's architecture, those that every system has before the
/// dynamic linkers, because foreign libraries may lie beside the own ones.
const PROGRAMS: [&str; 21] = [
    "/bin/sh",
    "/usr/bin/env",
    "/bin/busybox",
    "/bin/bash",
    "/bin/ls",
    "/usr/lib/systemd/systemd",
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
    "/lib/ld-linux-armhf.so.3",
    "/lib64/ld64.so.2",
    "/lib/ld64.so.1",
    "/lib/ld-linux-riscv64-lp64d.so.1",
    "/lib64/ld-linux-loongarch-lp64d.so.1",
    "/lib64/ld.so.1",
    "/lib/ld-linux.so.2",
    "/lib/ld-musl-x86_64.so.1",
    "/lib/ld-musl-aarch64.so.1",
    "/lib/ld-musl-armhf.so.1",
    "/lib/ld-musl-i386.so.1",
    "/lib/ld-musl-riscv64.so.1",
    "/sbin/ldconfig",
];

/// The architecture of a root's own programs in OCI's words.
#[must_use]
pub fn architecture_of(root: &Root) -> Option<&'static str> {
    architecture(root, None)
}

/// A program that cannot be read only means that the next one is asked.
fn architecture(root: &Root, init: Option<&str>) -> Option<&'static str> {
    init.into_iter().chain(PROGRAMS).find_map(|path| {
        let bytes = start(root, path, elf::HEADER).ok()??;
        elf::architecture(&bytes)
    })
}

/// Up to `limit` bytes from the start of a regular file; `None` where there is no such file.
fn start(root: &Root, path: &str, limit: usize) -> Result<Option<Vec<u8>>> {
    let what = || format!("reading {path} of the image");
    // Looked at before it is opened: a fifo would wait for its writer, and merely opening
    // a device can do something (watchdog(4) would start to count down).
    let found = match root.open_in(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Ok(found) => File::from(found),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => {
                return Ok(None);
            }
            _ => return Err(error).with_context(what),
        },
    };
    if !found.metadata().with_context(what)?.is_file() {
        return Ok(None);
    }
    let file = File::open(format!("/proc/self/fd/{}", found.as_raw_fd())).with_context(what)?;
    let mut bytes = Vec::new();
    file.take(limit as u64).read_to_end(&mut bytes).with_context(what)?;
    Ok(Some(bytes))
}
