//! The pieces of an OCI container, done by the same child as the steps of every machine.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::UnshareFlags;
use sys::mount::{self, Attributes, flag};
use sys::process;

use super::super::bundle::piece::Piece;
use super::{Child, GO, cstring};

mod mounts;

/// First byte of the message that all is ready for the launcher's part.
pub(crate) const SYNC: u8 = b'Y';
/// First byte of the message that the container waits to be started.
pub(crate) const READY: u8 = b'R';
/// First byte of a message about a failure in words.
pub(crate) const WORDS: u8 = b'W';
/// First byte of the message with the number of the filter's listener.
pub(crate) const LISTENS: u8 = b'L';

/// Bytes of the longest message.
pub(crate) const LONGEST: usize = 1 << 16;

/// What a container has that no other machine has.
#[derive(Debug, Default)]
pub(crate) struct Own {
    /// Where it hears of its start.
    pub(crate) start: Option<OwnedFd>,
    /// Failures are told in words: who hears of them need not know the steps.
    pub(crate) worded: bool,
    /// The state that hooks read.
    state: Vec<u8>,
    pub(super) umask: Option<Mode>,
}

impl Child<'_> {
    pub(super) fn piece(&mut self, piece: &Piece) -> io::Result<()> {
        match piece {
            Piece::BecomeRoot => match sys::userns::become_root() {
                // Its root may have no id.
                Err(error) if is(&error, Errno::INVAL) => Ok(()),
                other => other,
            },
            Piece::TimeNamespace(offsets) => time_namespace(offsets),
            Piece::Domainname(name) => Ok(rustix::system::setdomainname(name.as_bytes())?),
            Piece::Keyring(name) => match sys::process::join_session_keyring(name) {
                // A kernel without keyrings, and a filter that forbids them: there is nothing to share.
                Err(error) if is(&error, Errno::NOSYS) || is(&error, Errno::PERM) => Ok(()),
                other => other,
            },
            Piece::Propagation(flags) | Piece::RootPropagation(flags) => {
                mount::plain(c"", c"/", c"", *flags, c"")
            }
            Piece::PrivateParent(path) => private_parent(path),
            Piece::Root { tree, path } => {
                let tree = self.tree(tree, true)?;
                mount::attach_at(tree.as_fd(), path)?;
                rustix::process::umask(Mode::empty());
                rustix::process::fchdir(&tree)?;
                self.root = Some(sys::rooted::Root::from_fd(tree));
                Ok(())
            }
            Piece::PlainRoot(path) => {
                let root = super::open_directory(path)?;
                self.root = Some(sys::rooted::Root::from_fd(root));
                Ok(())
            }
            Piece::Mount(mount) => self.mount(mount),
            Piece::Devices(devices) => self.nodes(devices),
            Piece::DeviceLinks => self.at("/dev", links),
            Piece::ReadonlyLater(target, change) => {
                mount::change(self.target_directory(target)?.as_fd(), *change, false)
            }
            Piece::Sysctl { path, value } => write(&format!("/proc/sys/{path}"), value),
            Piece::Readonly(paths) => self.read_only(paths),
            Piece::Masked(paths) => self.mask(paths),
            Piece::Sync => self.sync(),
            Piece::Hooks(hooks) => crate::oci::hooks::run(hooks, &self.own.state),
            Piece::MoveRoot => self.move_root(),
            Piece::Chroot => {
                rustix::process::fchdir(self.root()?.as_fd())?;
                self.root = None;
                rustix::process::chroot(c".")?;
                Ok(rustix::process::chdir(c"/")?)
            }
            Piece::CloseDescriptors(preserved) => self.close_all(*preserved),
            Piece::Attribute { file, value } => write(&format!("/proc/self/{file}"), value),
            Piece::Scheduler(scheduler) => sys::sched::set(*scheduler),
            Piece::IoPriority(priority) => sys::sched::set_io_priority(*priority),
            Piece::Personality(persona) => sys::sched::set_personality(*persona),
            Piece::Bound(set) => match sys::caps::bound(*set) {
                // Without the right to, it has none that it could drop, and can gain none.
                Err(error) if is(&error, Errno::PERM) => Ok(()),
                other => other,
            },
            Piece::User { uid, gid, groups } => {
                own_streams(*uid);
                // Else the rights would be lost with the ids; execve(2) clears it.
                rustix::thread::set_keep_capabilities(true)?;
                super::become_user(*uid, *gid, groups)
            }
            Piece::Capabilities(sets) => sys::caps::set_all(*sets),
            Piece::Umask(mask) => {
                self.own.umask = Some(*mask);
                rustix::process::umask(*mask);
                Ok(())
            }
            Piece::Find(path) => find(path),
            Piece::AwaitStart => self.await_start(),
            Piece::NoProcess => Err(Errno::INVAL.into()),
            Piece::Seccomp { filter, flags } => match filter.install_with(*flags)? {
                Some(listener) => self.hand_listener(&listener),
                None => Ok(()),
            },
        }
    }

    fn read_only(&self, paths: &[String]) -> io::Result<()> {
        for path in paths {
            let Some(found) = self.existing(path)? else { continue };
            let tree = mount::copy_tree(found.as_fd(), c"", true)?;
            let read_only = Attributes { read_only: true, ..Attributes::default() };
            mount::set_attributes(tree.as_fd(), read_only, false)?;
            mount::attach(tree.as_fd(), found.as_fd())?;
        }
        Ok(())
    }

    fn mask(&self, paths: &[String]) -> io::Result<()> {
        let mut empty: Option<OwnedFd> = None;
        for path in paths {
            let Some(found) = self.existing(path)? else { continue };
            let kind = FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode);
            if kind != FileType::Directory {
                // The launcher's: nobody can have put something else there.
                let null = mount::copy_tree(rustix::fs::CWD, c"/dev/null", false)?;
                mount::attach(null.as_fd(), found.as_fd())?;
                continue;
            }
            match &empty {
                Some(empty) => {
                    let copy = mount::copy_tree(empty.as_fd(), c"", false)?;
                    mount::attach(copy.as_fd(), found.as_fd())?;
                }
                None => {
                    rustix::process::fchdir(&found)?;
                    mount::plain(c"tmpfs", c".", c"tmpfs", flag::RDONLY, c"size=0k")?;
                    rustix::process::fchdir(self.root()?.as_fd())?;
                    empty = self.existing(path)?;
                }
            }
        }
        Ok(())
    }

    fn existing(&self, path: &str) -> io::Result<Option<OwnedFd>> {
        match self.root()?.open_in(path, OFlags::PATH, Mode::empty()) {
            Ok(found) => Ok(Some(found)),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => Ok(None),
                _ => Err(error),
            },
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        let launcher = self.launcher.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        launcher.send(&[SYNC], &[])?;
        let mut message = vec![0; LONGEST];
        let (length, _) = launcher.receive(&mut message)?;
        if length == 0 || message[0] != GO {
            process::exit_now(super::REPORTED);
        }
        self.own.state = message[1..length].to_vec();
        Ok(())
    }

    /// For a root that cannot be pivoted to, such as one in an initramfs: what is mounted
    /// elsewhere stays, out of reach (runc, `--no-pivot`).
    fn move_root(&mut self) -> io::Result<()> {
        self.hide_kernel_s()?;
        rustix::process::fchdir(self.root()?.as_fd())?;
        self.root = None;
        mount::plain(c".", c"/", c"", flag::MOVE, c"")?;
        rustix::process::chroot(c".")?;
        Ok(rustix::process::chdir(c"/")?)
    }

    /// Takes the launcher's `/proc` and `/sys` away, which stay reachable where the root is only moved over: while they
    /// are, the kernel lets whoever is root of a user namespace mount such whole, without what is masked in the
    /// container's (Linux, `mount_too_revealing` of fs/namespace.c; runc, `msMoveRoot`).
    fn hide_kernel_s(&self) -> io::Result<()> {
        let root = format!("/proc/self/fd/{}", self.root()?.as_fd().as_raw_fd());
        let root = rustix::fs::readlink(root, Vec::new())?.into_bytes();
        let mounts = sys::process::read_proc("/proc/self/mountinfo")?;
        // Whoever wants mounts to be shared with the host would lose the host's (mount_namespaces(7)).
        if mounts.lines().any(|line| line.contains(" / / ") && line.contains(" shared:")) {
            return Ok(());
        }
        // The last is above those before it.
        for line in mounts.lines().rev() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let shows_kernel = right.starts_with("proc ") || right.starts_with("sysfs ");
            let Some(place) = left.split(' ').nth(4).filter(|_| shows_kernel) else { continue };
            if std::path::Path::new(place).starts_with(std::ffi::OsStr::from_bytes(&root)) {
                continue;
            }
            let place = cstring(place.to_owned())?;
            let detach = rustix::mount::UnmountFlags::DETACH;
            // What came with another user namespace's mounts cannot be taken away, but covered (mount_namespaces(7)).
            if rustix::mount::unmount(&place, detach).is_err() {
                let flags = flag::NOSUID | flag::NODEV | flag::NOEXEC | flag::RDONLY;
                mount::plain(c"tmpfs", &place, c"tmpfs", flags, c"size=0")?;
            }
        }
        Ok(())
    }

    fn close_all(&mut self, preserved: u32) -> io::Result<()> {
        self.trees.clear();
        let own = [
            self.launcher.as_ref().map(AsFd::as_fd),
            self.own.start.as_ref().map(AsFd::as_fd),
            self.terminal.as_ref().map(AsFd::as_fd),
        ];
        let own = own.into_iter().flatten().map(|fd| fd.as_raw_fd());
        let preserved = (3..3 + preserved as i32).collect::<Vec<_>>();
        for fd in &preserved {
            sys::process::inherit(*fd)?;
        }
        process::close_others(&own.chain(preserved).collect::<Vec<_>>())
    }

    /// From here on there is no launcher, but one who starts.
    fn await_start(&mut self) -> io::Result<()> {
        let listener = self.own.start.take().ok_or(io::ErrorKind::NotConnected)?;
        let launcher = self.launcher.take().ok_or(io::ErrorKind::NotConnected)?;
        launcher.send(&[READY], &[])?;
        drop(launcher);
        loop {
            let flags = rustix::net::SocketFlags::CLOEXEC;
            let starter = match rustix::net::accept_with(&listener, flags) {
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                other => sys::socket::Channel::from(other?),
            };
            let mut message = [0];
            if matches!(starter.receive(&mut message), Ok((1, _))) && message == [GO] {
                self.launcher = Some(starter);
                return Ok(());
            }
        }
    }

    /// With write(2) and read(2) only: other calls may wait for the listener already.
    fn hand_listener(&self, listener: &OwnedFd) -> io::Result<()> {
        let launcher = self.launcher.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let mut message = [LISTENS; 5];
        message[1..].copy_from_slice(&listener.as_raw_fd().to_le_bytes());
        rustix::io::write(launcher, &message)?;
        let mut answer = [0];
        match rustix::io::read(launcher, &mut answer)? {
            1 if answer == [GO] => Ok(()),
            _ => process::exit_now(super::REPORTED),
        }
    }
}

/// Clocks are those of the children only, but for who enters the namespace (time_namespaces(7)).
fn time_namespace(offsets: &str) -> io::Result<()> {
    process::unshare(UnshareFlags::NEWTIME)?;
    if !offsets.is_empty() {
        write("/proc/self/timens_offsets", offsets)?;
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let made = rustix::fs::open(c"/proc/self/ns/time_for_children", flags, Mode::empty())?;
    process::enter(made.as_fd(), process::Namespaces::TIME)
}

fn private_parent(path: &CStr) -> io::Result<()> {
    let mut path = std::path::Path::new(std::ffi::OsStr::from_bytes(path.to_bytes())).to_owned();
    loop {
        let text = cstring(path.to_string_lossy().into_owned())?;
        match mount::plain(c"", &text, c"", flag::PRIVATE, c"") {
            // It is no mount point.
            Err(error) if is(&error, Errno::INVAL) => {}
            other => return other,
        }
        if !path.pop() {
            return Ok(());
        }
    }
}

/// Programs that have other ids may open them anew (`/proc/self/fd/1`).
fn own_streams(uid: u32) {
    let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    let null = rustix::fs::stat(c"/dev/null").map(|stat| stat.st_rdev);
    for stream in streams {
        let Ok(stat) = rustix::fs::fstat(stream) else { continue };
        let is_null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && null.is_ok_and(|null| null == stat.st_rdev);
        if stat.st_uid != uid && !is_null {
            // One of a file system without that id, or of somebody else, stays his.
            let _ = rustix::fs::fchown(stream, Some(rustix::fs::Uid::from_raw(uid)), None);
        }
    }
}

fn find(path: &[std::ffi::CString]) -> io::Result<()> {
    let mut denied = None;
    for candidate in path {
        let flags = AtFlags::EACCESS;
        let found =
            rustix::fs::accessat(rustix::fs::CWD, candidate, rustix::fs::Access::EXEC_OK, flags);
        match found {
            Ok(()) => match rustix::fs::stat(candidate) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                    denied = Some(Errno::ACCESS);
                }
                _ => return Ok(()),
            },
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(error) => denied = Some(error),
        }
    }
    Err(denied.unwrap_or(Errno::NOENT).into())
}

/// Links that every program may expect (runtime-spec 1.2, `runtime-linux.md`).
fn links() -> io::Result<()> {
    let mut all = vec![
        (c"/proc/self/fd", c"fd"),
        (c"/proc/self/fd/0", c"stdin"),
        (c"/proc/self/fd/1", c"stdout"),
        (c"/proc/self/fd/2", c"stderr"),
    ];
    if rustix::fs::stat(c"pts/ptmx").is_ok() {
        // What an image has there, or a node, would be of another instance.
        let _ = rustix::fs::unlink(c"ptmx");
        all.push((c"pts/ptmx", c"ptmx"));
    }
    if rustix::fs::stat(c"/proc/kcore").is_ok() {
        all.push((c"/proc/kcore", c"core"));
    }
    for (target, name) in all {
        match rustix::fs::symlink(target, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn write(path: &str, value: &str) -> io::Result<()> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(rustix::io::write(&file, value.as_bytes()).map(drop)?)
}

fn is(error: &io::Error, errno: Errno) -> bool {
    Errno::from_io_error(error) == Some(errno)
}
