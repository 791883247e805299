//! Directories and files of the host's in a virtual machine (virtiofs; virtio 1.2, 5.11).
//!
//! One virtiofsd serves all that a machine has of them: in a mount namespace of its own they are put side
//! by side in a directory in memory, each under its number, and that directory is what the guest mounts. So a file
//! can be shared as well as a directory, and what is read-only is so out of the guest's reach. It is in a user
//! namespace, too, in which the ids of files are those that the launcher's containers see: there it has
//! no right over the host, and no device can be made (mknod(2), "EPERM").

use std::ffi::CString;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::{Access, CWD, FileType};
use rustix::net::SocketType;
use rustix::pipe::PipeFlags;
use rustix::process::Pid;
use rustix::thread::UnshareFlags;
use spec::ids::{IdMapping, IdRange};
use spec::plan::{MountKind, Plan};
use sys::mount::{self, Attributes};
use sys::process::{self, Child, Namespaces, Status, Strings};
use sys::signals;
use sys::userns::{self, Range};

use super::hardware::{Hardware, Line, Share};

/// What the guest mounts.
pub(super) const TAG: &std::ffi::CStr = c"postroj-share";

/// Where it mounts that.
pub(super) const PLACE: &str = "/share";

/// Where they are side by side: a directory that every system has, hidden by this in the one namespace only.
const SIDE_BY_SIDE: &str = "/tmp";

/// One directory or file of the host's.
pub(super) struct Tree {
    source: String,
    recursive: bool,
    read_only: bool,
}

/// What is to be shared, and by whom.
pub(super) struct Shares {
    program: PathBuf,
    trees: Vec<Tree>,
    uids: Vec<Range>,
    gids: Vec<Range>,
    listener: OwnedFd,
}

/// A virtiofsd that runs; it is killed when this is dropped, and when this process dies.
pub(super) struct Server {
    process: Child,
    said: OwnedFd,
    over: bool,
}

/// Lets a guest's plan find what is shared where the guest has it; gives that.
///
/// # Errors
/// Where something of it is not there.
pub(super) fn point(plan: &mut Plan) -> Result<Vec<Tree>> {
    let mut trees = Vec::new();
    for mount in &mut plan.mounts {
        let MountKind::Bind { source, recursive, create_source, attributes } = &mut mount.kind
        else {
            continue;
        };
        is_there(source, std::mem::take(create_source))?;
        let inside = format!("{PLACE}/{}", trees.len());
        let source = std::mem::replace(source, inside);
        // All of it is one mount there.
        trees.push(Tree {
            source,
            recursive: std::mem::take(recursive),
            read_only: attributes.read_only,
        });
    }
    Ok(trees)
}

/// Takes what is to be shared out of a guest's plan, which then finds it where the guest has it, and gives
/// the machine a device for it.
///
/// # Errors
/// Where something of it is not there, or there is no virtiofsd: with the remedy.
pub(super) fn plan(
    plan: &mut Plan,
    ids: &IdMapping,
    (directory, id): (&Path, &str),
    hardware: &mut Hardware,
    inherited: &mut Vec<OwnedFd>,
) -> Result<Option<Shares>> {
    let trees = point(plan)?;
    if trees.is_empty() {
        return Ok(None);
    }
    let IdMapping::Private { uids, gids } = ids else {
        bail!("the plan does not say whose the files of shared directories are")
    };
    let program = find()?;
    let (listener, connected) = sockets(directory, id)?;
    let line = Line::Descriptor(connected.as_raw_fd());
    let tag = TAG.to_string_lossy().into_owned();
    hardware.shares.push(Share { tag, line });
    inherited.push(connected);
    let ranges = |map: &[IdRange]| {
        let range = |r: &IdRange| Range { inside: r.inside, outside: r.outside, count: r.count };
        map.iter().map(range).collect()
    };
    Ok(Some(Shares { program, trees, uids: ranges(uids), gids: ranges(gids), listener }))
}

fn is_there(source: &str, create: bool) -> Result<()> {
    match std::fs::metadata(source) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && create => {
            std::fs::create_dir_all(source)
                .with_context(|| format!("cannot make the directory {source} to mount"))
        }
        found => found.map(drop).with_context(|| format!("cannot mount {source}")),
    }
}

/// A virtiofsd: distributions keep it out of `PATH`, as nobody calls it by hand.
fn find() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter(|directory| directory.is_absolute())
        // The last is QEMU's own, which came with it up to version 7.2.
        .chain(["/usr/libexec", "/usr/lib", "/usr/lib/qemu"].map(PathBuf::from))
        .map(|directory| directory.join("virtiofsd"))
        .find(|program| {
            program.is_file() && rustix::fs::access(program, Access::EXEC_OK).is_ok()
        })
        .ok_or_else(|| {
            anyhow!(
                "there is no virtiofsd, which shares directories with virtual machines: install the package \
                 virtiofsd (Debian 13, Ubuntu 24.04, Fedora) or qemu-system-common (Debian 12)"
            )
        })
}

/// A socket that listens, for virtiofsd, which takes no other, and one that is connected to it, for QEMU.
fn sockets(directory: &Path, id: &str) -> Result<(OwnedFd, OwnedFd)> {
    let what = "cannot make a socket for what is shared with the virtual machine";
    std::fs::create_dir_all(directory).context(what)?;
    let name = format!("{id}-share");
    let make = || -> Result<(OwnedFd, OwnedFd)> {
        let [listener, connected] =
            [super::shim::socket(SocketType::STREAM)?, super::shim::socket(SocketType::STREAM)?];
        let (_held, address) = super::shim::address(directory, &name)?;
        rustix::net::bind(&listener, &address)?;
        rustix::net::listen(&listener, 1)?;
        rustix::net::connect(&connected, &address)?;
        Ok((listener, connected))
    };
    let made = make().context(what);
    // Both have each other; nobody else is to come.
    let _ = std::fs::remove_file(directory.join(name));
    made
}

impl Shares {
    /// Starts virtiofsd, which serves as soon as it can: QEMU waits for it.
    ///
    /// # Errors
    /// fork(2)'s.
    pub(super) fn serve(self) -> Result<Server> {
        let (said, say) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
            .context("cannot make a pipe for virtiofsd's messages")?;
        let parent = rustix::process::getpid();
        let process = process::spawn(Namespaces::NONE, None, || {
            if let Err(error) = self.become_it(say.as_fd(), parent) {
                let _ = rustix::io::write(&say, format!("{error:#}").as_bytes());
            }
        })
        .context("cannot make a process for virtiofsd")?;
        Ok(Server { process, said, over: false })
    }

    /// What the process does; it returns only where something fails.
    fn become_it(&self, say: BorrowedFd<'_>, parent: Pid) -> Result<()> {
        let null = File::options().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(say)?;
        process::close_all_except(&[self.listener.as_fd(), say])?;
        signals::reset();
        let with = UnshareFlags::NEWNS | UnshareFlags::NEWNET | UnshareFlags::NEWIPC;
        userns::enter(&self.uids, &self.gids, with).map_err(crate::explain_map)?;
        // A change of ids takes it away (prctl(2), PR_SET_PDEATHSIG).
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        if rustix::process::getppid() != Some(parent) {
            bail!("whoever started this has died");
        }
        self.put_side_by_side()?;
        process::inherit(self.listener.as_raw_fd())?;
        let listener = format!("--fd={}", self.listener.as_raw_fd());
        let source = format!("source={SIDE_BY_SIDE}");
        let mut arguments = vec!["virtiofsd", &listener, "-o", &source, "-o", "sandbox=chroot"];
        // Attributes of files go through as they are; mounts below are told apart by their device.
        arguments.extend(["-o", "xattr", "-o", "announce_submounts", "--rlimit-nofile=0"]);
        if self.program.starts_with("/usr/lib/qemu") {
            // What is changed on the host is seen at once; the other one knows no such option.
            arguments.extend(["-o", "timeout=0", "-o", "log_level=err"]);
        }
        let arguments = Strings::new(arguments).map_err(anyhow::Error::msg)?;
        let environment =
            Strings::new(["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]).map_err(anyhow::Error::msg)?;
        let program = CString::new(self.program.as_os_str().as_bytes())?;
        let error = process::execve(&program, &arguments, &environment);
        Err(error).with_context(|| format!("cannot execute {}", self.program.display()))
    }

    /// Mounts what is shared, each under its number.
    fn put_side_by_side(&self) -> Result<()> {
        mount::make_private().context("cannot separate mounts")?;
        let opened = self.trees.iter().map(open).collect::<Result<Vec<_>>>()?;
        let place = CString::new(SIDE_BY_SIDE)?;
        let what = || format!("cannot mount a file system in memory on {SIDE_BY_SIDE}");
        mount::filesystem(c"tmpfs", &place, Attributes::default(), c"mode=0755,size=64k")
            .with_context(what)?;
        for (number, (tree, is_directory)) in opened.iter().enumerate() {
            let path = format!("{SIDE_BY_SIDE}/{number}");
            let source = &self.trees[number].source;
            let what = || format!("cannot mount {source} for the virtual machine");
            if *is_directory {
                std::fs::create_dir(&path).with_context(what)?;
            } else {
                File::create(&path).with_context(what)?;
            }
            mount::attach_at(tree.as_fd(), &CString::new(path)?).with_context(what)?;
        }
        mount::set_attributes_at(&place, Attributes { read_only: true, ..Attributes::default() })
            .with_context(what)
    }
}

/// A copy of what is mounted there, and whether it is a directory.
fn open(tree: &Tree) -> Result<(OwnedFd, bool)> {
    let what = || format!("cannot mount {}", tree.source);
    let path = CString::new(tree.source.as_str()).with_context(what)?;
    let copy = mount::copy_tree(CWD, &path, tree.recursive).with_context(what)?;
    if tree.read_only {
        let attributes = Attributes { read_only: true, ..Attributes::default() };
        mount::set_attributes(copy.as_fd(), attributes, tree.recursive).with_context(what)?;
    }
    let kind = rustix::fs::fstat(&copy).with_context(what)?.st_mode;
    let is_directory = FileType::from_raw_mode(kind) == FileType::Directory;
    Ok((copy, is_directory))
}

/// What must be kept for it.
impl AsFd for Shares {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Server {
    /// Readable when it has ended.
    pub(super) fn ended(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }

    /// Waits for its end, and says why it was not to be; nothing where it ended in good order, as it does
    /// where QEMU has.
    pub(super) fn verdict(&mut self) -> Option<anyhow::Error> {
        let status = self.process.wait();
        self.over = true;
        let words = self.words();
        let why = match status {
            Ok(Status::Exited(0)) => return None,
            Ok(Status::Signalled(signal)) => format!("it was killed by signal {signal}"),
            _ if words.is_empty() => "it gave no reason".to_owned(),
            _ => words,
        };
        Some(anyhow!("virtiofsd, which serves the machine's shared directories, has ended: {why}"))
    }

    /// What it said, on one line.
    pub(super) fn words(&self) -> String {
        let mut bytes = Vec::new();
        if let Ok(copy) = self.said.try_clone() {
            // Until nothing is there: it ends by EAGAIN where it still runs.
            let _ = File::from(copy).take(64 << 10).read_to_end(&mut bytes);
        }
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> =
            text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let last = lines.len().saturating_sub(3);
        lines[last..].join("; ").chars().filter(|c| !c.is_control()).take(1000).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.over {
            let _ = self.process.signal(signals::SIGKILL);
            let _ = self.process.wait();
        }
    }
}
