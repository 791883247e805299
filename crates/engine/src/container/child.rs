//! The machine's first process: it executes the prepared steps, and reports the one that fails.
//!
//! Everything up to [`Step::Pivot`] sees the host's files; nothing in here resolves a
//! path of the image but through [`sys::rooted`], which cannot leave the image's root.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use rustix::thread::UnshareFlags;
use sys::mount::{self, Attributes};
use sys::process;
use sys::rooted::Root;
use sys::seccomp::Filter;
use sys::socket::Channel;

use super::init;
use super::step::{Protected, Runtime, Step};
use crate::Streams;

pub(crate) mod bundle;
mod command;
mod copy_up;
mod etc;
mod root;

use command::{become_user, execute, working_directory};
use etc::etc_files;

/// First byte of the launcher's only message.
pub(super) const GO: u8 = b'G';
/// First byte of a message that carries the terminal's master end.
pub(super) const TERMINAL: u8 = b'T';
/// First byte of the message with the scratch.
pub(super) const SCRATCH: u8 = b'S';
/// First byte of a message with what the launcher needs to answer system calls.
pub(super) const HANDED_OVER: u8 = b'H';
/// First byte of a message about a failure: then the step's index and the errno.
pub(super) const FAILED: u8 = b'F';

/// Of directories made for a mount or as a working directory.
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o755);

/// Where binfmt_misc is mounted everywhere.
const BINFMT: &str = "/proc/sys/fs/binfmt_misc";

/// Exit status of a process that reported a failure.
const REPORTED: u8 = 125;

/// Executes the steps; never returns.
pub(super) fn run(steps: &[Step], inherited: Inherited<'_>) -> ! {
    let Inherited { launcher, streams, notify, own } = inherited;
    let mut child =
        Child { launcher, streams, notify, own, trees: Vec::new(), root: None, terminal: None };
    child.carry_out(steps, 0)
}

/// What the launcher leaves to its child.
pub(super) struct Inherited<'a> {
    /// Where failures are reported.
    pub(super) launcher: Option<Channel>,
    pub(super) streams: Streams,
    /// A datagram socket to be bound inside.
    pub(super) notify: Option<BorrowedFd<'a>>,
    /// Of a container of the OCI runtime.
    pub(super) own: bundle::Own,
}

struct Child<'a> {
    launcher: Option<Channel>,
    streams: Streams,
    notify: Option<BorrowedFd<'a>>,
    own: bundle::Own,
    trees: Vec<Option<OwnedFd>>,
    root: Option<Root>,
    terminal: Option<OwnedFd>,
}

impl Child<'_> {
    fn carry_out(&mut self, steps: &[Step], from: usize) -> ! {
        for (index, step) in steps.iter().enumerate().skip(from) {
            let done = match step {
                Step::Init => self.init(steps, index + 1),
                step => self.execute(step),
            };
            if let Err(error) = done {
                match self.own.worded {
                    true => self.report_in_words(step, &error),
                    false => self.report(index, &error),
                }
                process::exit_now(REPORTED);
            }
        }
        process::exit_now(REPORTED)
    }

    fn report(&self, index: usize, error: &io::Error) {
        let mut message = [FAILED, 0, 0, 0, 0, 0, 0, 0, 0];
        message[1..5].copy_from_slice(&(index as u32).to_le_bytes());
        message[5..9].copy_from_slice(&error.raw_os_error().unwrap_or(0).to_le_bytes());
        if let Some(launcher) = &self.launcher {
            // Without a launcher there is nobody to tell.
            let _ = launcher.send(&message, &[]);
        }
    }

    fn report_in_words(&self, step: &Step, error: &io::Error) {
        let text = super::explain::step(step, error).text;
        let message = [&[bundle::WORDS], text.as_bytes()].concat();
        if let Some(launcher) = &self.launcher {
            let _ = launcher.send(&message, &[]);
        }
    }

    fn execute(&mut self, step: &Step) -> io::Result<()> {
        match step {
            Step::DieWithLauncher => self.die_with_launcher(),
            Step::Session => Ok(rustix::process::setsid().map(drop)?),
            Step::PrivateMounts => mount::make_private(),
            Step::NetworkNamespace => sys::process::unshare(UnshareFlags::NEWNET),
            Step::Loopback => sys::loopback::up(),
            Step::Hostname(name) => Ok(rustix::system::sethostname(name.as_bytes())?),
            Step::AwaitLauncher => self.await_launcher(),
            Step::BecomeRoot => sys::userns::become_root(),
            Step::CgroupNamespace => sys::process::unshare(UnshareFlags::NEWCGROUP),
            Step::Scratch { directory, kept } => self.make_scratch(directory, *kept),
            Step::KeepScratch => self.keep_scratch(),
            Step::Layers(trees) => self.layers(trees),
            Step::EtcFiles(files) => etc_files(files),
            Step::Links(links) => links.iter().try_for_each(|(name, to)| {
                Ok(rustix::fs::symlinkat(to, open_directory(c"u")?, name)?)
            }),
            Step::OverlayRoot { options } => {
                mount::filesystem(c"overlay", c"r", Attributes::default(), options)?;
                self.enter_root()
            }
            Step::DirectoryRoot(tree) => {
                let tree = self.tree(tree, false)?;
                mount::attach_at(tree.as_fd(), c"r")?;
                self.enter_root()
            }
            Step::Filesystem { target, fstype, data, attributes } => {
                self.filesystem(target, fstype, data, *attributes)
            }
            Step::Bind { target, tree, recursive, attributes } => {
                self.bind(target, tree, *recursive, *attributes)
            }
            Step::OverlayMount { target, trees, index, options, read_only, files } => {
                match self.overlay_trees(trees, *index, files) {
                    Err(error) if root::has_vanished(&error, target, trees) => {
                        return Ok(rustix::process::fchdir(self.root()?.as_fd())?);
                    }
                    other => other?,
                }
                self.overlay_mount(target, *index, options, *read_only)
            }
            Step::Cgroups { legacy, unified } => self.cgroups(legacy, *unified),
            Step::OwnGroup => self.own_group(),
            Step::Devices(names) => self.devices(names),
            Step::DeviceLinks => self.at("/dev", device_links),
            Step::Terminal { console } => self.make_terminal(*console),
            Step::Protect { root, paths, empty } => self.protect(root, paths, empty),
            Step::Emulation { registration, .. } => self.emulation(registration),
            Step::ReadonlyRoot => {
                let read_only = Attributes { read_only: true, ..Attributes::default() };
                mount::set_attributes(self.root()?.as_fd(), read_only, false)
            }
            Step::Runtime { path, kind } => self.runtime(path, kind),
            Step::HandOver { filter, cgroups, connects } => {
                if *connects && sys::landlock::restricts_connections() {
                    sys::landlock::forbid_connections()?;
                }
                self.hand_over(filter, *cgroups)
            }
            Step::NotifySocket(path) => self.notify_socket(path),
            Step::Pivot => self.pivot(),
            Step::SharedMounts => mount::make_shared(),
            Step::Pings { last } => {
                // Without it ping(8) finds no way out: that is all.
                let _ = std::fs::write("/proc/sys/net/ipv4/ping_group_range", format!("0 {last}"));
                Ok(())
            }
            Step::Rlimit { resource, soft, hard, .. } => sys::rlimits::set(*resource, *soft, *hard),
            Step::Streams { stdin, control } => self.streams(*stdin, *control),
            Step::CloseDescriptors => self.close_descriptors(),
            Step::WorkingDirectory(path) => working_directory(path),
            Step::BoundCapabilities(set) => sys::caps::bound(*set),
            Step::Seccomp(filter) => filter.install(),
            Step::User { uid, gid, groups } => become_user(*uid, *gid, groups),
            Step::Capabilities(set) => sys::caps::set(*set),
            Step::NoNewPrivileges => Ok(rustix::thread::set_no_new_privs(true)?),
            // Its successors are its child's.
            Step::Init => Err(io::ErrorKind::InvalidInput.into()),
            Step::Execute { args, env, path } => Err(execute(args, env, path, self.own.umask)),
            Step::Bundle(piece) => self.piece(piece),
        }
    }

    /// The signal is lost when the ids change, so this is done again after that
    /// (prctl(2), PR_SET_PDEATHSIG); whether the launcher died before is seen at its socket.
    fn die_with_launcher(&self) -> io::Result<()> {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        let Some(launcher) = &self.launcher else { return Ok(()) };
        let mut poll = [rustix::event::PollFd::new(launcher, rustix::event::PollFlags::empty())];
        let now = rustix::event::Timespec::default();
        rustix::event::poll(&mut poll, Some(&now))?;
        if poll[0].revents().contains(rustix::event::PollFlags::HUP) {
            process::exit_now(REPORTED);
        }
        Ok(())
    }

    fn await_launcher(&mut self) -> io::Result<()> {
        let mut message = [0];
        let launcher = self.launcher.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let (_, trees) = launcher.receive(&mut message)?;
        if message != [GO] {
            // The launcher is gone, or gave up and says why itself.
            process::exit_now(REPORTED);
        }
        self.trees = trees.into_iter().map(Some).collect();
        Ok(())
    }

    fn cgroups(&self, legacy: &[CString], unified: bool) -> io::Result<()> {
        let inert = Attributes { read_only: true, nosuid: true, nodev: true, noexec: true };
        if legacy.is_empty() {
            return match unified {
                true => self.filesystem("/sys/fs/cgroup", c"cgroup2", c"", inert),
                false => Ok(()),
            };
        }
        let writable = Attributes { read_only: false, ..inert };
        self.filesystem("/sys/fs/cgroup", c"tmpfs", c"mode=0755,size=64k", writable)?;
        for controllers in legacy {
            let target = format!("/sys/fs/cgroup/{}", controllers.to_string_lossy());
            self.filesystem(&target, c"cgroup", controllers, inert)?;
        }
        if unified {
            self.filesystem("/sys/fs/cgroup/unified", c"cgroup2", c"", inert)?;
        }
        let read_only = Attributes { read_only: true, ..Attributes::default() };
        mount::set_attributes(self.target_directory("/sys/fs/cgroup")?.as_fd(), read_only, false)
    }

    fn own_group(&self) -> io::Result<()> {
        let group = cstring(super::exec::GROUP.to_owned())?;
        self.at(super::cgroupfs::MOUNT, || {
            directory(&group, 0o755)?;
            let group = open_directory(&group)?;
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let processes = rustix::fs::openat(group, c"cgroup.procs", flags, Mode::empty())?;
            Ok(rustix::io::write(processes, b"0").map(drop)?)
        })
    }

    fn devices(&self, names: &[CString]) -> io::Result<()> {
        self.at("/dev", || {
            for name in names {
                // The launcher's own node: `/dev` is the host's until the pivot.
                let source = cstring(format!("/dev/{}", name.to_string_lossy()))?;
                if let Some((parent, _)) = name.to_string_lossy().rsplit_once('/') {
                    directory(&cstring(parent.to_owned())?, 0o755)?;
                }
                empty_file(name)?;
                mount::bind(&source, name)?;
            }
            Ok(())
        })
    }

    fn make_terminal(&mut self, console: bool) -> io::Result<()> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let ptmx = match &self.root {
            Some(root) => root.open_in("/dev/pts/ptmx", flags, Mode::empty())?,
            None => rustix::fs::open(c"/dev/pts/ptmx", flags, Mode::empty())?,
        };
        let (master, slave) = sys::pty::open(ptmx)?;
        // Before the command can ask for it.
        let own = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
        if let Some(terminal) = own.into_iter().find(|fd| sys::pty::is_terminal(fd)) {
            sys::pty::copy_size(terminal, master.as_fd())?;
        }
        if console {
            // By the descriptor, not by the path: nobody can put another file in between.
            let tree = mount::copy_tree(slave.as_fd(), c"", false)?;
            let console = self.target_file("/dev/console")?;
            mount::attach(tree.as_fd(), console.as_fd())?;
        }
        let launcher = self.launcher.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        // Both ends: a terminal that nobody has open is hung up, and a system's console is
        // at times.
        launcher.send(&[TERMINAL], &[master.as_fd(), slave.as_fd()])?;
        self.terminal = Some(slave);
        Ok(())
    }

    fn protect(&self, root: &str, paths: &Protected, empty: &CStr) -> io::Result<()> {
        let read_only = Attributes { read_only: true, ..Attributes::default() };
        self.at(root, || {
            if !paths.is_empty() && !is_the_kernels(root)? {
                return Err(rustix::io::Errno::XDEV.into());
            }
            for path in &paths.readonly {
                mount::bind(path, path)?;
                mount::set_attributes_at(path, read_only)?;
            }
            for path in &paths.hidden_files {
                mount::bind(c"/dev/null", path)?;
            }
            for path in &paths.hidden_directories {
                mount::bind(empty, path)?;
                mount::set_attributes_at(path, read_only)?;
            }
            Ok(())
        })
    }

    /// The emulator is opened now, by the host's path: root and mounts are still the host's. The
    /// entries live as long as the mount does; what protects `/proc/sys` covers it afterwards.
    fn emulation(&self, registration: &[u8]) -> io::Result<()> {
        let inert = Attributes { read_only: false, nosuid: true, nodev: true, noexec: true };
        self.filesystem(BINFMT, c"binfmt_misc", c"", inert)?;
        let register = format!("{BINFMT}/register");
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let register = self.root()?.open_in(&register, flags, Mode::empty())?;
        match rustix::io::write(&register, registration) {
            // Another machine of this user namespace has made it.
            Err(rustix::io::Errno::EXIST) => Ok(()),
            other => Ok(other.map(drop)?),
        }
    }

    fn pivot(&mut self) -> io::Result<()> {
        rustix::process::fchdir(self.root()?.as_fd())?;
        // pivot_root(2), NOTES: the old root ends up below the new one, at the same place.
        rustix::process::pivot_root(c".", c".")?;
        rustix::mount::unmount(c".", rustix::mount::UnmountFlags::DETACH)?;
        rustix::process::chdir(c"/")?;
        self.root = None;
        Ok(())
    }

    fn runtime(&self, path: &str, kind: &Runtime) -> io::Result<()> {
        let root = self.root()?;
        match kind {
            Runtime::Directory(mode) => {
                root.create_dir_all(path, Mode::from_raw_mode(*mode)).map(drop)
            }
            Runtime::Text(content, mode) => root.write(path, content, Mode::from_raw_mode(*mode)),
            Runtime::Link(target) => {
                let (parent, name) = root.parent_of(path)?;
                Ok(rustix::fs::symlinkat(target, parent, name)?)
            }
        }
    }

    /// Whatever runs here makes some system calls through the launcher from now on. It is told
    /// where it finds the listener, a socket of this network, and the root of what it stands in
    /// for: this process cannot send it a descriptor any more, and waits until it has them.
    fn hand_over(&self, filter: &Filter, cgroups: bool) -> io::Result<()> {
        let inside = sys::inet::any()?;
        let root = if cgroups {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let mount = cstring(super::cgroupfs::MOUNT.to_owned())?;
            Some(rustix::fs::open(&mount, flags, Mode::empty())?)
        } else {
            None
        };
        let listener = filter.listen()?;
        let launcher = self.launcher.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let root = root.as_ref().map(AsFd::as_fd);
        let mut message = [HANDED_OVER; super::HANDED];
        let numbers = [Some(listener.as_fd()), Some(inside.as_fd()), root]
            .map(|fd| fd.map_or(-1, |fd| fd.as_raw_fd()).to_le_bytes());
        message[1..].copy_from_slice(numbers.as_flattened());
        launcher.send(&message, &[])?;
        launcher.receive(&mut [0])?;
        Ok(())
    }

    fn notify_socket(&self, path: &str) -> io::Result<()> {
        let socket = self.notify.ok_or(io::ErrorKind::NotConnected)?;
        let (parent, name) = self.root()?.parent_of(path)?;
        rustix::process::fchdir(&parent)?;
        let address = rustix::net::SocketAddrUnix::new(&name)?;
        rustix::net::bind(socket, &address)?;
        // Services have users of their own, and may tell their state too.
        rustix::fs::chmod(&name, Mode::from_raw_mode(0o666))?;
        Ok(rustix::process::fchdir(self.root()?.as_fd())?)
    }

    fn streams(&mut self, stdin: bool, control: bool) -> io::Result<()> {
        if let Some(terminal) = self.terminal.take() {
            if control {
                sys::pty::control(terminal.as_fd())?;
            }
            rustix::stdio::dup2_stdin(&terminal)?;
            rustix::stdio::dup2_stdout(&terminal)?;
            return Ok(rustix::stdio::dup2_stderr(&terminal)?);
        }
        if !stdin {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let null = rustix::fs::open(c"/dev/null", flags, Mode::empty())?;
            rustix::stdio::dup2_stdin(&null)?;
        } else if let Some(input) = &self.streams.input {
            rustix::stdio::dup2_stdin(input)?;
        }
        if let Some(output) = &self.streams.output {
            rustix::stdio::dup2_stdout(output)?;
        }
        if let Some(error) = &self.streams.error {
            rustix::stdio::dup2_stderr(error)?;
        }
        Ok(())
    }

    fn close_descriptors(&mut self) -> io::Result<()> {
        self.trees.clear();
        if let Some(launcher) = self.launcher.take() {
            self.launcher = Some(process::close_all_but(launcher)?);
        }
        Ok(())
    }

    /// Process 1 becomes an init, and its child goes on with the steps.
    fn init(&mut self, steps: &[Step], next: usize) -> io::Result<()> {
        sys::signals::Set::all_but(&[]).block();
        let child = process::lend(|| self.carry_out(steps, next))?;
        // Else the launcher would wait for this end of its socket as well.
        self.launcher = None;
        init::run(child)
    }
}

/// Whether the current directory is what was mounted on `root`, not what a link of the image, or
/// a volume, has put in its place: paths below it would be those of somebody else.
fn is_the_kernels(root: &str) -> io::Result<bool> {
    // linux/magic.h.
    const PROC_SUPER_MAGIC: u64 = 0x9fa0;
    const SYSFS_MAGIC: u64 = 0x6265_6572;
    let magic = if root == "/proc" { PROC_SUPER_MAGIC } else { SYSFS_MAGIC };
    Ok(rustix::fs::statfs(c".")?.f_type as u64 == magic)
}

/// Links that every program may expect (runtime-spec 1.2, runtime-linux.md, "Dev symbolic links"),
/// and places of mounts that always follow: far cheaper here than where each is found missing.
fn device_links() -> io::Result<()> {
    for name in [c"pts", c"shm", c"mqueue"] {
        directory(name, 0o755)?;
    }
    for (target, name) in [
        (c"/proc/self/fd", c"fd"),
        (c"/proc/self/fd/0", c"stdin"),
        (c"/proc/self/fd/1", c"stdout"),
        (c"/proc/self/fd/2", c"stderr"),
        (c"pts/ptmx", c"ptmx"),
    ] {
        rustix::fs::symlink(target, name)?;
    }
    Ok(())
}

fn directory(path: &CStr, mode: u32) -> io::Result<()> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(mode)) {
        // Of the machine's last run.
        Err(rustix::io::Errno::EXIST) => Ok(()),
        other => Ok(other?),
    }
}

fn empty_file(name: &CStr) -> io::Result<()> {
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::open(name, flags, Mode::from_raw_mode(0o666))?;
    Ok(())
}

fn cstring(text: String) -> io::Result<CString> {
    CString::new(text).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn open_directory(path: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}
