//! What is known of a container: a directory with its name below `--root`.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use spec::runtime::{Config, State, Status};

use super::cgroups::Groups;

/// What is written down: the state that hooks know, and more.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The specification's part.
    #[serde(flatten)]
    pub state: State,
    /// Absolute path of the root file system.
    pub rootfs: String,
    /// When it was created (RFC 3339).
    pub created: String,
    /// The user's name who did.
    #[serde(default)]
    pub owner: String,
    /// Start time of its first process, in clock ticks since boot.
    pub start_time: u64,
    /// Its control groups.
    #[serde(default)]
    pub(crate) cgroups: Groups,
    /// It stands still, and has no control group that would tell: a virtual machine.
    #[serde(default)]
    pub paused: bool,
}

/// A container's directory.
#[derive(Debug)]
pub struct Place {
    /// Its path, whose last part is the container's id.
    pub directory: PathBuf,
}

const STATE: &str = "state.json";
const CONFIG: &str = "config.json";
/// There until the container is started.
const START: &str = "start.sock";

impl Place {
    /// That of a container below `--root`, which need not be there.
    ///
    /// # Errors
    /// Where that is no name for a container.
    pub fn of(root: &Path, id: &str) -> Result<Self> {
        let is_good = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
        if id.is_empty() || id.len() > 1024 || id == "." || id == ".." || !id.chars().all(is_good) {
            bail!("invalid container id {id:?}: it consists of letters, digits and _+-.");
        }
        Ok(Self { directory: root.join(id) })
    }

    /// Makes it.
    ///
    /// # Errors
    /// Where there is one.
    pub fn make(&self) -> Result<()> {
        let make = |path: &Path, all| fs::DirBuilder::new().mode(0o711).recursive(all).create(path);
        let parent = self.directory.parent().unwrap_or(Path::new("/"));
        make(parent, true).with_context(|| format!("cannot make {}", parent.display()))?;
        match make(&self.directory, false) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                bail!("container with id {:?} exists already", self.id())
            }
            other => other.with_context(|| format!("cannot make {}", self.directory.display())),
        }
    }

    /// The container's id.
    #[must_use]
    pub fn id(&self) -> String {
        self.directory.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Removes it with all that is in it.
    ///
    /// # Errors
    /// unlink(2)'s.
    pub fn remove(&self) -> io::Result<()> {
        fs::remove_dir_all(&self.directory)
    }

    /// A socket where the container hears of its start. The directory's path may be longer than
    /// a socket's can be. Whoever connects says a byte, and hears why the command could not be executed, after another
    /// byte; where it could, the connection is closed.
    ///
    /// # Errors
    /// Where there is one.
    pub fn listen(&self) -> Result<OwnedFd> {
        let what = || format!("cannot make a socket in {}", self.directory.display());
        let flags = SocketFlags::CLOEXEC;
        let listener =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .with_context(what)?;
        let directory = fs::File::open(&self.directory).with_context(what)?;
        rustix::net::bind(&listener, &address(&directory)?).with_context(what)?;
        rustix::net::listen(&listener, 1).with_context(what)?;
        Ok(listener)
    }

    /// Connects to it.
    pub(super) fn connect(&self) -> Result<sys::socket::Channel> {
        let what = || anyhow!("the container {:?} has been started already", self.id());
        let flags = SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let directory = fs::File::open(&self.directory)?;
        rustix::net::connect(&socket, &address(&directory)?).map_err(|_| what())?;
        Ok(socket.into())
    }

    pub(super) fn started(&self) -> io::Result<()> {
        fs::remove_file(self.directory.join(START))
    }

    fn is_started(&self) -> bool {
        !self.directory.join(START).exists()
    }

    /// Writes down what is known.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(&self, record: &Record) -> Result<()> {
        self.put(STATE, &serde_json::to_vec(record)?)
    }

    /// Writes down the configuration, for whoever does something with it later.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write_config(&self, config: &[u8]) -> Result<()> {
        self.put(CONFIG, config)
    }

    fn put(&self, name: &str, content: &[u8]) -> Result<()> {
        use std::io::Write;
        let path = self.directory.join(name);
        let new = self.directory.join(format!(".{name}"));
        let what = || format!("cannot write {}", path.display());
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .with_context(what)?;
        file.write_all(content).with_context(what)?;
        fs::rename(&new, &path).with_context(what)
    }

    /// What is known, with its status now.
    ///
    /// # Errors
    /// Where there is no such container.
    pub fn read(&self) -> Result<Record> {
        let text = match fs::read(self.directory.join(STATE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                bail!("container {:?} does not exist", self.id())
            }
            other => other.with_context(|| format!("cannot read the state of {:?}", self.id()))?,
        };
        let mut record: Record = serde_json::from_slice(&text)
            .with_context(|| format!("the state of {:?} is damaged", self.id()))?;
        record.state.status = self.status(&record);
        if record.state.status == Status::Stopped {
            record.state.pid = 0;
        }
        Ok(record)
    }

    pub(super) fn config(&self) -> Result<Config> {
        let text = fs::read(self.directory.join(CONFIG))
            .with_context(|| format!("cannot read the configuration of {:?}", self.id()))?;
        Ok(Config::parse(&text)?)
    }

    fn status(&self, record: &Record) -> Status {
        if record.process().is_none() {
            return match record.state.pid {
                0 => Status::Creating,
                _ => Status::Stopped,
            };
        }
        if !self.is_started() {
            return Status::Created;
        }
        match record.paused || record.cgroups.is_frozen() {
            true => Status::Paused,
            false => Status::Running,
        }
    }
}

fn address(directory: &fs::File) -> io::Result<SocketAddrUnix> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}/{START}", directory.as_raw_fd());
    Ok(SocketAddrUnix::new(path)?)
}

impl Record {
    /// Of a container that has no process and no control groups yet.
    ///
    /// # Errors
    /// Where it is not known what time it is.
    pub fn new(place: &Place, bundle: &Path, config: &Config) -> Result<Self> {
        let root = config.root.as_ref().map(|root| bundle.join(&root.path));
        let text = |path: &Path| path.to_string_lossy().into_owned();
        Ok(Self {
            state: State {
                oci_version: spec::runtime::VERSION.to_owned(),
                id: place.id(),
                status: Status::Creating,
                pid: 0,
                bundle: text(bundle),
                annotations: config.annotations.clone(),
            },
            rootfs: root.as_deref().map(text).unwrap_or_default(),
            created: super::events::now()?,
            owner: String::new(),
            start_time: 0,
            cgroups: Groups::default(),
            paused: false,
        })
    }

    /// Says which process it is.
    pub fn is(&mut self, pid: Pid) {
        self.state.pid = super::raw(pid);
        self.start_time = sys::process::start_time(pid).unwrap_or(0);
    }

    /// Its first process, where that has not ended.
    #[must_use]
    pub fn process(&self) -> Option<Pid> {
        let pid = Pid::from_raw(self.state.pid)?;
        let now = sys::process::start_time(pid).ok()?;
        (now == self.start_time && !is_dead(pid)).then_some(pid)
    }

    /// As hooks read it, in another status.
    pub(super) fn told(&self, status: Status) -> Result<Vec<u8>> {
        Ok(serde_json::to_vec(&State { status, ..self.state.clone() })?)
    }
}

/// It has ended, and its parent has not looked yet (pidfd_open(2)).
fn is_dead(pid: Pid) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec};
    let Ok(pidfd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else {
        return true;
    };
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&now)) != Ok(0)
}
