//! Removing trees, and changing modes, without following a symbolic link.

use std::ffi::{CString, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RawDir, ResolveFlags, fchmod, fstat, openat, openat2,
    renameat, unlinkat,
};
use rustix::io::Errno;

use super::has_openat2;

/// Directories that [`remove_tree`] holds open at once; deeper ones are first moved up.
const MAX_OPEN: usize = 64;

/// Removes one name from a directory, with all that is in it where it is a directory.
///
/// Follows no symbolic link and enters no other mount, holds few descriptors whatever the depth, and
/// opens up directories that their owner locked (mode 000). Interrupted, it leaves a
/// smaller tree of the same name.
///
/// # Errors
/// As unlink(2); `EBUSY` where something is mounted within; `ENOTEMPTY` where
/// somebody else adds files meanwhile.
pub fn remove_tree(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) => return Ok(()),
        // Linux says EISDIR; POSIX, and some file systems with it, EPERM.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let name = CString::new(name.as_bytes())?;
    let top = open_for_removal(parent, &name)?;
    let mut removal = Removal {
        top: top.as_fd(),
        buffer: vec![MaybeUninit::uninit(); 64 * 1024],
        moved_up: Vec::new(),
        names_used: 0,
    };
    removal.empty(top.as_fd(), 1)?;
    while let Some(deep) = removal.moved_up.pop() {
        removal.remove_dir(top.as_fd(), &deep, 1)?;
    }
    Ok(unlinkat(parent, &name, AtFlags::REMOVEDIR)?)
}

/// Sets the permission bits of what has that name in a directory, never those of
/// what a symbolic link of that name leads to.
///
/// # Errors
/// As fchmodat2(2); `EOPNOTSUPP` where it is a symbolic link.
pub fn chmod_at(dir: BorrowedFd<'_>, name: &OsStr, mode: Mode) -> io::Result<()> {
    let name = CString::new(name.as_bytes())?;
    match fchmodat2(dir, &name, mode) {
        Err(Errno::NOSYS | Errno::PERM) => {}
        other => return Ok(other?),
    }
    // Before Linux 6.6 there is only this way: the link in /proc leads to the very inode.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(dir, &name, flags, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&fd)?.st_mode) == FileType::Symlink {
        return Err(Errno::OPNOTSUPP.into());
    }
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    Ok(rustix::fs::chmodat(CWD, path, mode, AtFlags::empty())?)
}

fn fchmodat2(dir: BorrowedFd<'_>, name: &CString, mode: Mode) -> rustix::io::Result<()> {
    /// The number is the same on every architecture that Debian has, and the libc
    /// crate lacks it for most (Linux 6.6, commit 78252deb023c).
    const SYS_FCHMODAT2: libc::c_long = 452;
    // SAFETY: `name` is a NUL-terminated string that outlives the call, which
    // reads nothing else from memory and writes nothing.
    let result = unsafe {
        libc::syscall(
            SYS_FCHMODAT2,
            dir.as_raw_fd(),
            name.as_ptr(),
            mode.as_raw_mode(),
            libc::AT_SYMLINK_NOFOLLOW,
        )
    };
    if result == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
}

/// The state of one [`remove_tree`].
struct Removal<'a> {
    top: BorrowedFd<'a>,
    buffer: Vec<MaybeUninit<u8>>,
    /// Directories that were too deep and now are in `top`.
    moved_up: Vec<CString>,
    names_used: u64,
}

impl Removal<'_> {
    fn remove_dir(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CString,
        depth: usize,
    ) -> io::Result<()> {
        let dir = match open_for_removal(parent, name) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                // One above was locked: without its x bit, nothing in it can be reached.
                fchmod(parent, Mode::RWXU)?;
                open_for_removal(parent, name)?
            }
            other => other?,
        };
        self.empty(dir.as_fd(), depth + 1)?;
        drop(dir);
        Ok(unlinking(parent, || unlinkat(parent, name, AtFlags::REMOVEDIR))?)
    }

    fn empty(&mut self, dir: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
        let mut directories = Vec::new();
        let mut entries = RawDir::new(dir, &mut self.buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if entry.file_type() == FileType::Directory {
                directories.push(name.to_owned());
                continue;
            }
            match unlinking(dir, || unlinkat(dir, name, AtFlags::empty())) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR | Errno::PERM) if entry.file_type() == FileType::Unknown => {
                    directories.push(name.to_owned());
                }
                Err(error) => return Err(error.into()),
            }
        }
        for name in directories {
            if depth < MAX_OPEN {
                self.remove_dir(dir, &name, depth)?;
            } else {
                self.move_up(dir, &name)?;
            }
        }
        Ok(())
    }

    fn move_up(&mut self, dir: BorrowedFd<'_>, name: &CString) -> io::Result<()> {
        // All three must be writable: a directory that moves gets another `..`.
        chmod_at(dir, OsStr::from_bytes(name.as_bytes()), Mode::RWXU)?;
        fchmod(dir, Mode::RWXU)?;
        fchmod(self.top, Mode::RWXU)?;
        loop {
            let up = CString::new(format!(".removing-{}", self.names_used))?;
            self.names_used += 1;
            match renameat(dir, name, self.top, &up) {
                Ok(()) => {
                    self.moved_up.push(up);
                    return Ok(());
                }
                // Taken: whatever has the name goes as well, but in its turn.
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Opens a directory to empty it, never through a symbolic link and never another mount.
fn open_for_removal(parent: BorrowedFd<'_>, name: &CString) -> io::Result<OwnedFd> {
    match open_same_mount(parent, name) {
        Err(Errno::ACCESS) => {
            chmod_at(parent, OsStr::from_bytes(name.as_bytes()), Mode::RWXU)?;
            Ok(open_same_mount(parent, name)?)
        }
        Err(Errno::XDEV) => Err(Errno::BUSY.into()),
        other => Ok(other?),
    }
}

fn open_same_mount(parent: BorrowedFd<'_>, name: &CString) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
    match openat2(parent, name, flags, Mode::empty(), resolve) {
        Err(Errno::NOSYS | Errno::PERM) if !has_openat2() => {
            let fd = openat(parent, name, flags, Mode::empty())?;
            if fstat(&fd)?.st_dev == fstat(parent)?.st_dev { Ok(fd) } else { Err(Errno::XDEV) }
        }
        other => other,
    }
}

/// Does something to an entry of a directory; where the owner locked the
/// directory, opens it up and does it again.
fn unlinking(
    dir: BorrowedFd<'_>,
    mut action: impl FnMut() -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    match action() {
        Err(Errno::ACCESS) => {
            fchmod(dir, Mode::RWXU)?;
            action()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use rustix::fs::mkdirat;

    use super::super::tests::Scratch;
    use super::super::{DIRECTORY, Root};
    use super::*;

    #[test]
    fn a_tree_goes_and_what_its_links_lead_to_stays() {
        let scratch = Scratch::new();
        let tree = scratch.path().join("root/tree");
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
        fs::write(tree.join("a/b/c/file"), "x").unwrap();
        symlink(scratch.path().join("outside"), tree.join("a/out")).unwrap();
        symlink("../../../outside", tree.join("out")).unwrap();
        symlink("/", tree.join("a/b/top")).unwrap();
        for i in 0..3000 {
            fs::write(tree.join(format!("a/a rather long name, to fill the buffer {i}")), "")
                .unwrap();
        }
        let root = scratch.root();
        root.remove_all("/tree").unwrap();
        assert!(!tree.exists());
        scratch.assert_outside_is_whole();
        assert_eq!(root.remove_all("tree").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(root.remove_all("..").unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn a_link_is_removed_and_not_followed() {
        let scratch = Scratch::new();
        symlink("../outside", scratch.path().join("root/link")).unwrap();
        scratch.root().remove_all("link/").unwrap();
        assert!(fs::symlink_metadata(scratch.path().join("root/link")).is_err());
        scratch.assert_outside_is_whole();
    }

    #[test]
    fn locked_directories_are_opened_up() {
        let scratch = Scratch::new();
        let tree = scratch.path().join("root/tree");
        for mode in [0o000, 0o100, 0o200, 0o400, 0o500, 0o555] {
            let dir = tree.join(format!("{mode:o}"));
            fs::create_dir_all(dir.join("below/it")).unwrap();
            fs::write(dir.join("file"), "").unwrap();
            fs::set_permissions(dir.join("below"), fs::Permissions::from_mode(mode)).unwrap();
            fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::set_permissions(&tree, fs::Permissions::from_mode(0o500)).unwrap();
        scratch.root().remove_all("tree").unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn depth_costs_no_descriptors() {
        let scratch = Scratch::new();
        let top = Root::open(&scratch.path().join("root")).unwrap();
        mkdirat(&top, "deep", Mode::RWXU).unwrap();
        mkdirat(&top, "deep/.removing-0", Mode::RWXU).unwrap();
        let mut dir = top.open_dir("deep").unwrap();
        for i in 0..3000 {
            mkdirat(&dir, "d", Mode::RWXU).unwrap();
            let mode = if i % 100 == 70 { Mode::empty() } else { Mode::RWXU };
            let next = openat(&dir, "d", DIRECTORY, Mode::empty()).unwrap();
            if mode.is_empty() {
                mkdirat(&next, "d", Mode::RWXU).unwrap();
                let beyond = openat(&next, "d", DIRECTORY, Mode::empty()).unwrap();
                chmod_at(dir.as_fd(), OsStr::new("d"), mode).unwrap();
                dir = beyond;
            } else {
                dir = next;
            }
        }
        top.remove_all("deep").unwrap();
        assert_eq!(fs::read_dir(scratch.path().join("root")).unwrap().count(), 0);
    }

    #[test]
    fn another_mount_is_not_entered() {
        let scratch = Scratch::new();
        let below = scratch.path().join("root/tree/below");
        fs::create_dir_all(&below).unwrap();
        let root = scratch.root();
        let mounted = rustix::mount::mount_bind(scratch.path().join("outside"), &below).is_ok();
        if !mounted {
            // Without the privilege to mount, at least the check that stands for it.
            let proc = Root::open(std::path::Path::new("/")).unwrap();
            let found = open_for_removal(proc.as_fd(), &CString::new("proc").unwrap());
            assert_eq!(found.unwrap_err().raw_os_error(), Some(libc::EBUSY));
            return;
        }
        let failure = root.remove_all("tree").unwrap_err();
        rustix::mount::unmount(&below, rustix::mount::UnmountFlags::DETACH).unwrap();
        assert_eq!(failure.raw_os_error(), Some(libc::EBUSY));
        scratch.assert_outside_is_whole();
    }

    #[test]
    fn modes_of_links_are_refused() {
        let scratch = Scratch::new();
        symlink("../outside/canary", scratch.path().join("root/link")).unwrap();
        fs::write(scratch.path().join("root/file"), "").unwrap();
        let root = scratch.root();
        let mode = Mode::from_raw_mode(0o4711);
        let failure = chmod_at(root.as_fd(), OsStr::new("link"), mode).unwrap_err();
        assert_eq!(failure.raw_os_error(), Some(libc::EOPNOTSUPP));
        chmod_at(root.as_fd(), OsStr::new("file"), mode).unwrap();
        let file = fs::metadata(scratch.path().join("root/file")).unwrap();
        assert_eq!(file.permissions().mode() & 0o7777, 0o4711);
        scratch.assert_outside_is_whole();
    }
}
