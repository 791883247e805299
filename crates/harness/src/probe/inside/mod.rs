//! The eyes of a probe inside its machine: a process of our own in the machine's namespaces, which
//! answers questions, a line of JSON each. Nothing of the image is executed by it, and nothing that it
//! says comes from the image's programs, but for what systemd tells of itself.

mod capture;
mod changes;
mod files;
mod network;
mod processes;
mod tls;
mod trace;
mod units;

use std::fs::Permissions;
use std::io::{BufRead, Write};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use engine::record::Record;
use engine::{Errand, Streams};
use rustix::event::{PollFd, PollFlags, Timespec};
use serde::{Deserialize, Serialize};

pub use engine::bus::Unit;
pub use network::{Answered, Protocol, Request};
pub use processes::{Listener, Process};
pub use trace::{Packet, Trace};

/// A question. Times are milliseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Ask {
    /// How everything is.
    Look {
        /// With the names of all files.
        files: bool,
    },
    /// Waits until systemd has nothing to do any more.
    Settle {
        /// Until it is given up.
        timeout: u64,
        /// How long nothing may have changed.
        quiet: u64,
    },
    /// Waits until a unit is active, or will not be.
    Unit {
        /// Its name, with its kind.
        name: String,
        /// Until it is given up.
        timeout: u64,
        /// How long it has to stay active: a service of `Type=simple` is so before it is even
        /// executed (systemd.service(5)).
        quiet: u64,
    },
    /// Waits until a server answers as it should.
    Network {
        /// Whom to ask what.
        request: Request,
        /// Until it is given up.
        timeout: u64,
    },
    /// Notes changes of files from now on.
    Watch {
        /// Absolute paths of files and directories; they need not be there.
        paths: Vec<String>,
    },
    /// Waits until one of them changes.
    Change {
        /// Until it is given up.
        timeout: u64,
    },
    /// Whether something is there.
    Exists {
        /// Absolute path.
        path: String,
    },
    /// The content of a file.
    Read {
        /// Absolute path.
        path: String,
    },
    /// Writes a file, and makes the directories that it needs.
    Write {
        /// Absolute path.
        path: String,
        /// What is in it.
        text: String,
    },
    /// Copies files of the machine.
    Copy {
        /// The directory to make them in.
        directory: String,
        /// Names there, and what is copied.
        files: Vec<(String, String)>,
    },
}

/// How a machine is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// Units that are loaded; none where there is no systemd.
    pub units: Vec<Unit>,
    /// Processes but our own.
    pub processes: Vec<Process>,
    /// Sockets that wait for somebody.
    pub listeners: Vec<Listener>,
    /// Paths of what is not a directory, sorted.
    pub files: Vec<String>,
}

/// What came of waiting for something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waited {
    /// Whether it is as it should be.
    pub good: bool,
    /// How it is.
    pub seen: String,
    /// The time was over; else more of it would have changed nothing.
    pub late: bool,
}

/// What came of waiting until a system has nothing to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// It has nothing to do.
    pub good: bool,
    /// Units that are loaded.
    pub units: Vec<Unit>,
}

/// Largest file that is read: bytes.
const MAX_FILE: u64 = 64 << 20;

/// Enters a machine and answers what is asked on standard input, until its end.
///
/// # Errors
/// Where the machine cannot be entered.
pub fn serve(record: &Record) -> Result<()> {
    let streams = Streams {
        input: Some(rustix::stdio::stdin().try_clone_to_owned()?),
        output: Some(rustix::stdio::stdout().try_clone_to_owned()?),
        ..Streams::default()
    };
    engine::of(record).errand(record, &LOOK, "", streams, &[])?.join().map(drop)
}

/// Answers until nobody asks any more.
pub(crate) static LOOK: Errand = Errand {
    name: "look",
    work: engine::Work::Inside(|_| {
        let _ = std::env::set_current_dir("/");
        answer_all().map(|()| String::new())
    }),
};

fn answer_all() -> Result<()> {
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    let mut eyes = Open::default();
    loop {
        // A question is a line, and the next one comes after the answer: none waits in a buffer.
        eyes.units.listen(rustix::stdio::stdin())?;
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let answer = serde_json::from_str(&line)
            .map_err(anyhow::Error::from)
            .and_then(|ask| answer(&ask, &mut eyes))
            .map_err(|error| format!("{error:#}"));
        output.write_all((serde_json::to_string(&answer)? + "\n").as_bytes())?;
        output.flush()?;
    }
}

/// What stays open from one question to the next.
#[derive(Default)]
struct Open {
    units: units::Watch,
    changes: Option<changes::Changes>,
}

fn answer(ask: &Ask, open: &mut Open) -> Result<serde_json::Value> {
    let after = |ms: &u64| Instant::now() + Duration::from_millis(*ms);
    Ok(match ask {
        Ask::Look { files } => serde_json::to_value(look(*files, open)?)?,
        Ask::Settle { timeout, quiet } => {
            let quiet = Duration::from_millis(*quiet);
            serde_json::to_value(open.units.settle(after(timeout), quiet)?)?
        }
        Ask::Unit { name, timeout, quiet } => {
            let quiet = Duration::from_millis(*quiet);
            serde_json::to_value(open.units.wait(name, after(timeout), quiet)?)?
        }
        Ask::Network { request, timeout } => {
            serde_json::to_value(network::wait(request, after(timeout))?)?
        }
        Ask::Watch { paths } => {
            open.changes = Some(changes::Changes::of(paths)?);
            serde_json::Value::Null
        }
        Ask::Change { timeout } => {
            let changes = open.changes.as_ref().context("nothing is watched")?;
            changes.wait(Duration::from_millis(*timeout))?;
            serde_json::Value::Null
        }
        Ask::Exists { path } => std::fs::symlink_metadata(path).is_ok().into(),
        Ask::Read { path } => {
            use std::io::Read as _;
            let mut text = Vec::new();
            let file = std::fs::File::open(path).with_context(|| format!("opening {path}"))?;
            file.take(MAX_FILE).read_to_end(&mut text)?;
            String::from_utf8_lossy(&text).into()
        }
        Ask::Write { path, text } => {
            let parent = std::path::Path::new(path).parent().context("it has no directory")?;
            std::fs::create_dir_all(parent)
                .and_then(|()| std::fs::write(path, text))
                .and_then(|()| std::fs::set_permissions(path, Permissions::from_mode(0o644)))
                .with_context(|| format!("writing {path}"))?;
            serde_json::Value::Null
        }
        Ask::Copy { directory, files } => {
            std::fs::create_dir_all(directory).with_context(|| format!("making {directory}"))?;
            for (name, from) in files {
                let path = format!("{directory}/{name}");
                let copied = std::fs::copy(from, &path)
                    .and_then(|_| std::fs::set_permissions(&path, Permissions::from_mode(0o644)));
                copied.with_context(|| format!("copying {name}"))?;
            }
            serde_json::Value::Null
        }
    })
}

fn look(files: bool, open: &mut Open) -> Result<Look> {
    let processes = processes::all()?;
    Ok(Look {
        units: open.units.all().unwrap_or_default(),
        listeners: processes::listeners(&processes),
        processes,
        files: if files { files::all()? } else { Vec::new() },
    })
}

/// How long is waited between two attempts at a server: that a socket begins to listen is told to nobody
/// (sock_diag(7) has groups for sockets that are destroyed only).
const TICK: Duration = Duration::from_millis(20);

/// Tries until something is good, the deadline has passed, or trying on is of no use.
fn until(deadline: Instant, mut attempt: impl FnMut() -> Result<Waited>) -> Result<Waited> {
    loop {
        let waited = attempt()?;
        if waited.good || !waited.late || Instant::now() + TICK >= deadline {
            return Ok(waited);
        }
        std::thread::sleep(TICK);
    }
}

/// A child that answers, seen from outside.
#[derive(Debug)]
pub struct Eyes {
    child: std::process::Child,
    /// Until the last question.
    input: Option<std::process::ChildStdin>,
    output: std::io::BufReader<std::process::ChildStdout>,
}

impl Eyes {
    /// Of a command that runs [`serve`].
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn open(mut command: std::process::Command) -> Result<Self> {
        use std::process::Stdio;
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start an observer")?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the observer has no pipes");
        };
        Ok(Self { child, input: Some(input), output: std::io::BufReader::new(output) })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// Where the machine has ended, or the question could not be answered.
    pub fn ask<T: serde::de::DeserializeOwned>(&mut self, ask: &Ask) -> Result<T> {
        let gone = "the machine ended";
        let question = serde_json::to_string(ask)? + "\n";
        self.input.as_mut().context(gone)?.write_all(question.as_bytes()).context(gone)?;
        let mut line = String::new();
        self.output.read_line(&mut line).context(gone)?;
        if line.is_empty() {
            bail!(gone);
        }
        let answer: Result<serde_json::Value, String> =
            serde_json::from_str(&line).context("the observer talks nonsense")?;
        match answer {
            Ok(value) => Ok(serde_json::from_value(value)?),
            Err(text) => bail!(text),
        }
    }
}

impl Drop for Eyes {
    /// Who answers is a process of the machine's, which cannot end before that one was waited for
    /// (Linux, kernel/pid_namespace.c, `zap_pid_ns_processes`). Its parent does, unless that is
    /// killed: then it is for the host's process 1, which may take its time. So it ends by itself.
    fn drop(&mut self) {
        drop(self.input.take());
        if !ends_within(&self.child, MOMENT).unwrap_or(false) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// For an answer that is still being given.
const MOMENT: Duration = Duration::from_millis(500);

fn ends_within(child: &std::process::Child, time: Duration) -> std::io::Result<bool> {
    let pid = rustix::process::Pid::from_child(child);
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    let mut polled = [PollFd::new(&pidfd, PollFlags::IN)];
    let time = Timespec::try_from(time).map_err(std::io::Error::other)?;
    Ok(rustix::event::poll(&mut polled, Some(&time))? > 0)
}
