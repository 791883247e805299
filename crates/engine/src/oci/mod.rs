//! The OCI runtime: containers that are created, started, killed and deleted by separate commands,
//! with nothing of ours in between but the container's own first process, which waits for its start.
//! It is made by the container engine's child from the steps of `config.json`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, PidfdFlags};
use spec::runtime::{Config, NamespaceKind, Process, Resources, State, Status};
use sys::process::Status as Ended;
use sys::signals;

use crate::container::bundle;
use crate::container::bundle::launch::{self, Launched};
use crate::container::child::bundle::SYNC;

mod attend;
mod cgroups;
mod create;
mod devices;
mod events;
pub(crate) mod hooks;
mod limits;
mod listener;
mod state;

pub use attend::attend;
use create::Making;
pub use events::{now, statistics};
pub use state::{Place, Record};

/// Where containers are known, and how it is said what stops nobody.
pub struct Containers<'a> {
    /// A directory with one for each.
    pub root: PathBuf,
    /// New ones get control groups.
    pub cgroups: bool,
    /// Is given warnings.
    pub warn: &'a dyn Fn(&str),
}

/// How a container is created, besides what its bundle says.
#[derive(Debug, Default)]
pub struct Creation {
    /// The bundle's directory.
    pub bundle: PathBuf,
    /// The file that gets the id of its process.
    pub pid_file: Option<PathBuf>,
    /// The socket that gets its terminal's other end.
    pub console_socket: Option<PathBuf>,
    /// Descriptors from 3 on that it gets.
    pub preserved: u32,
    /// Its root is moved to, not pivoted to.
    pub no_pivot: bool,
    /// It has a session keyring of its own.
    pub keyring: bool,
}

/// A further process.
#[derive(Debug, Default)]
pub struct Execution {
    /// The file that gets the id of the process.
    pub pid_file: Option<PathBuf>,
    /// The socket that gets its terminal's other end.
    pub console_socket: Option<PathBuf>,
    /// Descriptors from 3 on that it gets.
    pub preserved: u32,
    /// Groups below the container's, as runc's callers write them: `PATH`, or `CONTROLLER[,CONTROLLER]:PATH`.
    pub cgroups: Vec<String>,
    /// Though the container is paused.
    pub ignore_paused: bool,
}

/// A process of a container, of which this one is the parent.
pub struct Running {
    launched: Launched,
    /// The other end of its terminal, unless a socket was sent it.
    pub terminal: Option<OwnedFd>,
}

impl Running {
    /// Its id in this process's namespace.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.launched.pid().as_raw_nonzero().get()
    }

    /// It lives on without this process.
    pub fn let_go(&mut self) {
        self.launched.let_go();
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// waitid(2)'s.
    pub fn wait(&self) -> Result<Ended> {
        self.launched.wait()
    }

    /// Readable at its end.
    ///
    /// # Errors
    /// pidfd_open(2)'s.
    pub fn pidfd(&self) -> Result<OwnedFd> {
        Ok(rustix::process::pidfd_open(self.launched.pid(), PidfdFlags::empty())?)
    }
}

/// The options of mounts that are known, but for those of file systems.
#[must_use]
pub fn mount_options() -> Vec<String> {
    bundle::mount_options()
}

/// Whether this is not root of the host.
#[must_use]
pub fn is_rootless() -> bool {
    !rustix::process::geteuid().is_root() || !sys::userns::is_initial()
}

impl Containers<'_> {
    fn warn(&self) -> impl FnMut(String) + '_ {
        |text: String| (self.warn)(&text)
    }

    /// Makes a container, whose process then waits to be started.
    ///
    /// # Errors
    /// Where it could not be made: then nothing remains of it.
    pub fn create(&self, id: &str, creation: &Creation) -> Result<Running> {
        let place = Place::of(&self.root, id)?;
        let bundle = creation
            .bundle
            .canonicalize()
            .with_context(|| format!("cannot find the bundle {}", creation.bundle.display()))?;
        let file = bundle.join("config.json");
        let text =
            std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let config =
            Config::parse(&text).with_context(|| format!("{} is not valid", file.display()))?;
        let terminal = config.process.as_ref().is_some_and(|process| process.terminal);
        if creation.console_socket.is_some() && !terminal {
            bail!("there is a console socket, but process.terminal is false");
        }
        place.make()?;
        let made =
            Making { containers: self, place: &place, config: &config, creation, bundle: &bundle };
        made.make(&text).inspect_err(|_| {
            // It is this call's own.
            let _ = place.remove();
        })
    }

    /// Lets a created container's process execute its command.
    ///
    /// # Errors
    /// Where it is not waiting, or its command could not be executed.
    pub fn start(&self, id: &str) -> Result<()> {
        let place = Place::of(&self.root, id)?;
        let record = place.read()?;
        if record.state.status != Status::Created {
            bail!("cannot start the container {id:?}: it is {}", record.state.status.name());
        }
        let config = place.config()?;
        let process = record.process().context("the container's process has ended")?;
        let channel = place.connect()?;
        channel.send(b"G", &[]).context("the container's process has ended")?;
        let seccomp = config.linux.as_ref().and_then(|linux| linux.seccomp.as_ref());
        let mut hand_on = |pid: Pid, number| listener::hand_on(seccomp, pid, number, &record.state);
        let executed = launch::executed(&channel, process, &mut hand_on);
        place.started().context("cannot note the start")?;
        executed?;
        let hooks = config.hooks.unwrap_or_default();
        hooks::run_all(&hooks.poststart, &record.told(Status::Running)?, &mut self.warn());
        Ok(())
    }

    /// What is known of one.
    ///
    /// # Errors
    /// Where there is no such container.
    pub fn state(&self, id: &str) -> Result<Record> {
        Place::of(&self.root, id)?.read()
    }

    /// Its configuration, as it was when it was created.
    ///
    /// # Errors
    /// Where there is no such container.
    pub fn config(&self, id: &str) -> Result<Config> {
        Place::of(&self.root, id)?.config()
    }

    /// All of them, by name. One that is just being made or removed may be missing.
    ///
    /// # Errors
    /// Where they cannot be listed.
    pub fn list(&self) -> Result<Vec<Record>> {
        let entries = match std::fs::read_dir(&self.root) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.with_context(|| format!("cannot list {}", self.root.display()))?,
        };
        let mut records: Vec<Record> = entries
            .flatten()
            .filter_map(|entry| self.state(entry.file_name().to_str()?).ok())
            .collect();
        records.sort_by(|a, b| a.state.id.cmp(&b.state.id));
        Ok(records)
    }

    /// Sends a signal to its first process, or to all of them.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn kill(&self, id: &str, signal: i32, all: bool) -> Result<()> {
        let record = self.state(id)?;
        if all {
            for pid in record.cgroups.processes() {
                // It may have ended just now.
                let _ = signals::send(pid, signal);
            }
            return Ok(());
        }
        let process = record.process().with_context(|| {
            format!("container not running: {id:?} is {}", record.state.status.name())
        })?;
        let pidfd = rustix::process::pidfd_open(process, PidfdFlags::empty());
        let pidfd = pidfd.context("container not running")?;
        sys::process::signal(pidfd.as_fd(), signal)
            .with_context(|| format!("cannot send the signal {signal} to the container {id:?}"))?;
        // What is frozen hears of no signal before it is thawed.
        if signal == signals::SIGKILL && record.cgroups.is_frozen() {
            record.cgroups.freeze(false)?;
        }
        Ok(())
    }

    /// Removes all that is left of one.
    ///
    /// # Errors
    /// Where there is none, or its process has not ended and `force` is not set.
    pub fn delete(&self, id: &str, force: bool) -> Result<()> {
        let place = Place::of(&self.root, id)?;
        let record = match place.read() {
            Err(_) if force => {
                // What a create left that was killed; to be sure that there is none is enough.
                let _ = place.remove();
                return Ok(());
            }
            other => other?,
        };
        if let Some(process) = record.process() {
            if !force {
                bail!(
                    "cannot delete container {id:?} that is not stopped: it is {}",
                    record.state.status.name()
                );
            }
            end(process, &record)?;
        }
        for pid in record.cgroups.processes() {
            // Without a namespace of their own the others live on.
            let _ = signals::send(pid, signals::SIGKILL);
        }
        record.cgroups.remove();
        let config = place.config();
        place.remove().with_context(|| format!("cannot remove {}", place.directory.display()))?;
        let hooks = config.ok().and_then(|config| config.hooks).unwrap_or_default();
        let told = State { pid: 0, status: Status::Stopped, ..record.state.clone() };
        hooks::run_all(&hooks.poststop, &serde_json::to_vec(&told)?, &mut self.warn());
        Ok(())
    }

    /// Runs a further process in one.
    ///
    /// # Errors
    /// Where it does not run, or the command could not be executed.
    pub fn exec(&self, id: &str, process: &Process, execution: &Execution) -> Result<Running> {
        let place = Place::of(&self.root, id)?;
        let record = place.read()?;
        match record.state.status {
            Status::Running | Status::Created => {}
            Status::Paused if execution.ignore_paused => {}
            other => bail!("cannot exec in the container {id:?}: it is {}", other.name()),
        }
        let pid = record.process().context("the container's process has ended")?;
        let config = place.config()?;
        let linux = config.linux.unwrap_or_default();
        let userns = linux.namespaces.iter().any(|n| n.kind == NamespaceKind::User);
        let seccomp = linux.seccomp.as_ref();
        let steps =
            bundle::inside(process, userns, execution.preserved, seccomp, &mut self.warn())?;
        let mut launched = launch::inside(pid, &steps)?;
        record.cgroups.adopt_another(raw(launched.pid()), &execution.cgroups)?;
        launched.hear(SYNC)?;
        limit_process(&launched, process)?;
        let terminal = terminal(&mut launched, execution.console_socket.as_deref(), process)?;
        launched.resume(&[])?;
        let mut hand_on = |pid: Pid, number| listener::hand_on(seccomp, pid, number, &record.state);
        launched.executed(&mut hand_on)?;
        if let Some(file) = &execution.pid_file {
            write_pid(file, launched.pid())?;
        }
        Ok(Running { launched, terminal })
    }

    /// Freezes all its processes.
    ///
    /// # Errors
    /// Where it does not run, or they cannot be frozen.
    pub fn pause(&self, id: &str) -> Result<()> {
        let record = self.state(id)?;
        match record.state.status {
            Status::Running | Status::Created => record.cgroups.freeze(true),
            other => bail!("cannot pause the container {id:?}: it is {}", other.name()),
        }
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// Where it is not paused.
    pub fn resume(&self, id: &str) -> Result<()> {
        let record = self.state(id)?;
        match record.state.status {
            Status::Paused => record.cgroups.freeze(false),
            other => bail!("cannot resume the container {id:?}: it is {}", other.name()),
        }
    }

    /// Its processes.
    ///
    /// # Errors
    /// Where there is no such container.
    pub fn processes(&self, id: &str) -> Result<Vec<i32>> {
        let record = self.state(id)?;
        let mut found = record.cgroups.processes();
        if found.is_empty() {
            found.extend(record.process().map(raw));
        }
        Ok(found)
    }

    /// Waits for the end of its process for this long; whether it has ended.
    ///
    /// # Errors
    /// Where there is no such container.
    pub fn wait(&self, id: &str, time: std::time::Duration) -> Result<bool> {
        let Some(process) = self.state(id)?.process() else { return Ok(true) };
        let Ok(pidfd) = rustix::process::pidfd_open(process, PidfdFlags::empty()) else {
            return Ok(true);
        };
        let polled = rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN);
        let time = rustix::event::Timespec {
            tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        };
        match rustix::event::poll(&mut [polled], Some(&time)) {
            Ok(found) => Ok(found > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error).context("cannot wait for the container's process"),
        }
    }

    /// Changes its limits.
    ///
    /// # Errors
    /// Where there is no such container, or the host cannot.
    pub fn update(&self, id: &str, resources: &Resources) -> Result<()> {
        let record = self.state(id)?;
        if record.process().is_none() {
            bail!("cannot update the container {id:?}: it is {}", record.state.status.name());
        }
        record.cgroups.limit(resources, is_rootless(), &mut self.warn())
    }
}

/// Kills a container's first process, and with it all that its namespace holds.
fn end(process: Pid, record: &Record) -> Result<()> {
    let pidfd = rustix::process::pidfd_open(process, PidfdFlags::empty())
        .context("cannot open the container's process")?;
    // It may end by itself just now.
    let _ = sys::process::signal(pidfd.as_fd(), signals::SIGKILL);
    if record.cgroups.is_frozen() {
        record.cgroups.freeze(false)?;
    }
    loop {
        let polled =
            rustix::event::PollFd::from_borrowed_fd(pidfd.as_fd(), rustix::event::PollFlags::IN);
        match rustix::event::poll(&mut [polled], None) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for the container's process"),
        }
    }
}

fn raw(pid: Pid) -> i32 {
    pid.as_raw_nonzero().get()
}

fn limit_process(launched: &Launched, process: &Process) -> Result<()> {
    for limit in &process.rlimits {
        let name = limit.kind.strip_prefix("RLIMIT_").map(str::to_ascii_lowercase);
        let resource = name.as_deref().and_then(sys::rlimits::resource);
        let resource = resource.with_context(|| format!("unknown rlimit {:?}", limit.kind))?;
        sys::sched::limit(launched.pid(), resource, limit.soft, limit.hard).with_context(|| {
            format!("cannot set {} to {}:{}", limit.kind, limit.soft, limit.hard)
        })?;
    }
    Ok(())
}

fn terminal(
    launched: &mut Launched,
    socket: Option<&Path>,
    process: &Process,
) -> Result<Option<OwnedFd>> {
    let Some(terminal) = launched.terminal() else { return Ok(None) };
    if let Some(size) = process.console_size.filter(|size| size.height > 0 && size.width > 0) {
        let size = rustix::termios::Winsize {
            ws_row: size.height,
            ws_col: size.width,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&terminal, size).context("cannot set the terminal's size")?;
    }
    let Some(path) = socket else { return Ok(Some(terminal)) };
    send_terminal(path, terminal.as_fd())?;
    Ok(None)
}

/// Sends a terminal's other end to a console socket, as runc does.
///
/// # Errors
/// Where nobody listens there.
pub fn send_terminal(path: &Path, terminal: BorrowedFd<'_>) -> Result<()> {
    listener::send(path, b"/dev/ptmx", terminal)
        .with_context(|| format!("cannot send the terminal to {}", path.display()))
}

/// Writes a process's id to a file.
///
/// # Errors
/// Where it cannot be written.
pub fn write_pid(path: &Path, pid: Pid) -> Result<()> {
    let what = || anyhow!("cannot write the pid file {}", path.display());
    let name = path.file_name().with_context(what)?.to_string_lossy().into_owned();
    // Whoever sees it sees all of it.
    let new = path.with_file_name(format!(".{name}"));
    std::fs::write(&new, raw(pid).to_string()).with_context(what)?;
    std::fs::rename(&new, path).with_context(what)
}
