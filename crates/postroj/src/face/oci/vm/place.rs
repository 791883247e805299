//! What is known of a container that is a virtual machine: a directory with its name below `--root`.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use spec::runtime::{Config, State, Status};
use sys::process::Child;

/// What is written down.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Known {
    /// The specification's part; its status is told by what is there.
    #[serde(flatten)]
    pub(super) state: State,
    /// When it was created (RFC 3339).
    pub(super) created: String,
    /// Start time of its process, in clock ticks since boot.
    start_time: u64,
}

impl Known {
    /// Its monitor, where that has not ended.
    pub(super) fn process(&self) -> Option<Pid> {
        let pid = Pid::from_raw(self.state.pid)?;
        let now = sys::process::start_time(pid).ok()?;
        (now == self.start_time && !is_dead(pid)).then_some(pid)
    }
}

/// It has ended, and its parent has not looked yet (proc_pid_stat(5), the third field).
fn is_dead(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    let stat = stat.unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

/// A container's directory.
pub(super) struct Place {
    directory: PathBuf,
}

const STATE: &str = "state.json";
const CONFIG: &str = "config.json";
/// There until the container is started.
const START: &str = "start.sock";

impl Place {
    /// # Errors
    /// Where that is no name for a container.
    pub(super) fn of(root: &Path, id: &str) -> Result<Self> {
        engine::state::check_name(id)
            .map_err(|_| anyhow::anyhow!("invalid container id {id:?}"))?;
        Ok(Self { directory: root.join(id) })
    }

    pub(super) fn id(&self) -> String {
        self.directory.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The file system of its root.
    pub(super) fn image(&self) -> PathBuf {
        self.directory.join("root.erofs")
    }

    /// Makes it.
    ///
    /// # Errors
    /// Where there is one.
    pub(super) fn make(&self) -> Result<()> {
        let make = |path: &Path, all| DirBuilder::new().mode(0o700).recursive(all).create(path);
        let parent = self.directory.parent().unwrap_or(Path::new("/"));
        make(parent, true).with_context(|| format!("cannot make {}", parent.display()))?;
        match make(&self.directory, false) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                bail!("container with id {:?} exists already", self.id())
            }
            other => other.with_context(|| format!("cannot make {}", self.directory.display())),
        }
    }

    pub(super) fn remove(&self) -> io::Result<()> {
        fs::remove_dir_all(&self.directory)
    }

    pub(super) fn write_config(&self, config: &Config) -> Result<()> {
        self.put(CONFIG, &serde_json::to_vec(config)?)
    }

    pub(super) fn config(&self) -> Result<Config> {
        let text = fs::read(self.directory.join(CONFIG))
            .with_context(|| format!("container {:?} does not exist", self.id()))?;
        Ok(Config::parse(&text)?)
    }

    /// Notes which process it is.
    pub(super) fn write(&self, bundle: &Path, config: &Config, pid: Pid) -> Result<()> {
        let state = State {
            oci_version: spec::runtime::VERSION.to_owned(),
            id: self.id(),
            status: Status::Created,
            pid: pid.as_raw_nonzero().get(),
            bundle: bundle.to_string_lossy().into_owned(),
            annotations: config.annotations.clone(),
        };
        let start_time =
            sys::process::start_time(pid).context("cannot read the container's start time")?;
        self.put(STATE, &serde_json::to_vec(&Known { state, created: super::now(), start_time })?)
    }

    fn put(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.directory.join(name);
        let new = self.directory.join(format!(".{name}"));
        let what = || format!("cannot write {}", path.display());
        fs::write(&new, content).with_context(what)?;
        fs::rename(&new, &path).with_context(what)
    }

    /// # Errors
    /// Where there is no such container.
    pub(super) fn read(&self) -> Result<Known> {
        match fs::read(self.directory.join(STATE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                bail!("container {:?} does not exist", self.id())
            }
            other => {
                let text =
                    other.with_context(|| format!("cannot read the state of {:?}", self.id()))?;
                serde_json::from_slice(&text)
                    .with_context(|| format!("the state of {:?} is damaged", self.id()))
            }
        }
    }

    pub(super) fn is_started(&self) -> bool {
        !self.directory.join(START).exists()
    }

    /// A socket where its monitor hears of its start.
    pub(super) fn listen(&self) -> Result<Listener> {
        let what = || format!("cannot make a socket in {}", self.directory.display());
        let socket = socket().with_context(what)?;
        let (_held, address) = self.address().with_context(what)?;
        rustix::net::bind(&socket, &address).with_context(what)?;
        rustix::net::listen(&socket, 1).with_context(what)?;
        Ok(Listener { socket, path: self.directory.join(START) })
    }

    /// Lets its process start, and hears whether it did.
    pub(super) fn start(&self) -> Result<()> {
        let socket = socket()?;
        let (_held, address) = self.address()?;
        rustix::net::connect(&socket, &address).map_err(|_| {
            anyhow::anyhow!("the container {:?} has been started already", self.id())
        })?;
        let socket = sys::socket::Channel::from(socket);
        let mut said = vec![0; LONGEST];
        let (length, _) = socket.receive(&mut said).context("the container's process has ended")?;
        match said[..length].split_first() {
            Some((b'+', _)) => Ok(()),
            Some((_, error)) => bail!("{}", String::from_utf8_lossy(error)),
            None => bail!("the container's process has ended"),
        }
    }

    /// Addresses of sockets are short (unix(7): 108 bytes), and paths need not be.
    fn address(&self) -> io::Result<(File, SocketAddrUnix)> {
        let held = File::open(&self.directory)?;
        let path = format!("/proc/self/fd/{}/{START}", held.as_raw_fd());
        Ok((held, SocketAddrUnix::new(path)?))
    }
}

/// Longest answer to a start: bytes.
const LONGEST: usize = 8 << 10;

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Where a monitor hears of its start.
pub(super) struct Listener {
    pub(super) socket: OwnedFd,
    path: PathBuf,
}

/// Who waits for a start to be over.
pub(super) struct Starter(sys::socket::Channel);

impl Listener {
    /// Waits for the start.
    pub(super) fn accept(&self) -> Result<Starter> {
        let socket = rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC)
            .context("cannot hear of the container's start")?;
        fs::remove_file(&self.path).context("cannot note the start")?;
        Ok(Starter(socket.into()))
    }
}

impl Starter {
    /// Tells it that the command runs, or why it does not; it may have gone.
    pub(super) fn tell(&self, error: Option<&anyhow::Error>) {
        let text = match error {
            None => b"+".to_vec(),
            Some(error) => format!("-{error:#}").into_bytes(),
        };
        let _ = self.0.send(&text[..text.len().min(LONGEST)], &[]);
    }
}

/// Kills a container's monitor, and waits for its end.
pub(super) fn end(process: Pid) -> Result<()> {
    let child = Child::of(process).context("cannot open the container's process")?;
    // It may end by itself just now.
    let _ = child.signal(sys::signals::SIGKILL);
    loop {
        match rustix::event::poll(
            &mut [PollFd::from_borrowed_fd(child.as_fd(), PollFlags::IN)],
            None,
        ) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for the container's process"),
        }
    }
}
