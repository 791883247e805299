//! Runs a further command in a machine.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result, bail};
use engine::record::Record;
use engine::{Errand, Streams, attend};
use plan::ExecRequest;
use rustix::process::Signal;
use spec::exit::Ended;
use spec::image::Facts;
use sys::process::{self, Child, Namespaces, Status};
use sys::rooted::Root;

/// Runs it until its end.
///
/// # Errors
/// [`engine::NotStarted`] where the command was never executed; where the machine has ended.
pub fn exec(record: &Record, request: &ExecRequest) -> Result<Ended> {
    exec_with(record, request, Streams::default())
}

/// A command in a machine, run by a process of its own. It is killed when this is dropped, and when
/// this process is.
pub struct Running {
    helper: Child,
    over: bool,
    /// What it prints.
    pub output: File,
}

/// Runs it beside this process; what it says on its standard error is lost.
///
/// # Errors
/// Where no process can be made.
pub fn exec_beside(record: &Record, request: &ExecRequest) -> Result<Running> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let null = File::options().write(true).open("/dev/null")?;
    let helper = process::spawn(Namespaces::NONE, None, || {
        process::close_copy(reader.as_fd());
        let error = Some(null.into());
        let streams = Streams { output: Some(writer), error, ..Streams::default() };
        let tied = || {
            // Lost when the machine was entered (prctl(2), PR_SET_PDEATHSIG).
            Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?)
        };
        let ended = enter(record, request, streams, tied);
        process::exit_now(ended.map_or(spec::exit::FAILED, |ended| ended.code()))
    })
    .context("cannot make a process for the machine")?;
    Ok(Running { helper, over: false, output: reader.into() })
}

impl Running {
    /// Waits until it ends by itself; gives its exit code.
    ///
    /// # Errors
    /// Where it cannot be waited for.
    pub fn wait(mut self) -> Result<u8> {
        self.over = true;
        Ok(match self.helper.wait().context("cannot wait for the command")? {
            Status::Exited(code) => code,
            Status::Signalled(signal) => Ended::Signalled(signal).code(),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.over {
            let _ = self.helper.signal(sys::signals::SIGKILL);
            let _ = self.helper.wait();
        }
    }
}

/// What is known of the system in a machine, as it is now.
pub(crate) fn facts(record: &Record) -> Result<Facts> {
    let engine = engine::of(record);
    if !engine.has_own_kernel() {
        return distro::facts::read(&engine.root(record)?);
    }
    let visit = engine.errand(record, &FACTS, "", Streams::default(), &[])?;
    serde_json::from_str(&visit.join()?).context("cannot hear of the machine's users")
}

/// Reads the facts of a machine's system.
pub(crate) static FACTS: Errand = Errand {
    name: "facts",
    // Files are opened by way of /proc, which knows the machine's own processes only.
    work: engine::Work::Inside(|_| {
        let root = Root::open(Path::new("/")).context("cannot open the root directory")?;
        Ok(serde_json::to_string(&distro::facts::read(&root)?)?)
    }),
};

/// As [`exec`], with other streams than one's own.
///
/// # Errors
/// As [`exec`].
pub fn exec_with(record: &Record, request: &ExecRequest, streams: Streams) -> Result<Ended> {
    enter(record, request, streams, || Ok(()))
}

fn enter(
    record: &Record,
    request: &ExecRequest,
    streams: Streams,
    entered: impl FnOnce() -> Result<()>,
) -> Result<Ended> {
    let Some(plan) = &record.plan else { bail!("the machine {} is not up yet", record.name) };
    if record.exited.is_some() {
        bail!("the machine {} has ended", record.name);
    }
    if record.paused {
        bail!("the machine {0} is paused: `postroj unpause {0}` first", record.name);
    }
    // Names of users are the machine's, as they are now.
    let facts = match &request.user {
        Some(_) => facts(record)?,
        None => Facts::default(),
    };
    let process = plan::exec(plan, &facts, request)?;
    let signals = attend::signals(process.terminal)?;
    let machine = engine::of(record).exec(record, &process, streams)?;
    entered()?;
    let attendance = attend::Attendance {
        signals: &signals,
        interactive: request.interactive,
        timeout: None,
        boot: None,
        up: &mut |_| Ok(()),
        again: &mut |_| false,
        over: &mut |_| {},
    };
    match attend::attend(machine, attendance)? {
        attend::Over::Ended(ended) => Ok(ended),
        attend::Over::Again(_) => bail!("a command does not run again"),
    }
}
