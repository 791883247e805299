//! Starting a machine, in the foreground or in the background.
//!
//! A machine's monitor is the process that made it. In the background that is this
//! program once more, with the same arguments: it reports through its standard output once
//! the machine is there, and from then on has nothing to do with who started it.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use engine::Streams;
use engine::record::About;
use engine::state::{self, RunDirectory};
use harness::host::Host;
use harness::{Launch, launch};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::process::Signal;
use spec::boot::Condition;
use spec::plan::Plan;
use spec::request::Request;

use super::options::Options;
use super::{Here, image, own_kernel, pool};

/// What is to be started.
pub(super) struct Start {
    pub(super) request: Request,
    /// Standard input goes to the machine's terminal.
    pub(super) interactive: bool,
    /// In the background: report only when the system is up.
    pub(super) waits: bool,
}

/// Tells the program that it is a monitor in the background, and by whom it was started.
pub(super) const MONITOR: &str = "POSTROJ_MONITOR";

/// Tells a monitor that its machine is to end with whoever started it: one of a probe's.
const TETHER: &str = "POSTROJ_TETHER";

/// Starts a machine of the image that is called `name`, which gets an init where it `boots` and has none;
/// `decide` says which, once the image is there.
pub(super) fn start(
    here: &Here,
    options: &Options,
    name: &str,
    boots: bool,
    decide: impl FnOnce(&image::Ready, &RunDirectory) -> Result<Start>,
) -> Result<u8> {
    let membership = pool::membership()?;
    let detach = options.detach || membership.is_some();
    let is_monitor = detach && std::env::var_os(MONITOR).is_some();
    // One that stays in the foreground is its own monitor.
    if !detach && std::env::var_os(TETHER).is_some() {
        leave(MONITOR)?;
    }
    if detach && !is_monitor {
        return in_background(
            MONITOR,
            "the machine ended before it was up (`postroj logs` may tell why)",
        );
    }
    let run = RunDirectory::open(&here.places()?.run)?;
    let host = Host::new(run.path())?;
    // Before anything is done twice: this may start the program once more.
    let engine = options.engine();
    if !engine.has_own_kernel() {
        let ids = plan::id_mapping(&options.request()?, &host.launcher)?;
        sys::exe::protect(|owner| harness::host::within_reach(&ids, owner))
            .context("cannot keep postroj's own file out of the machine's reach")?;
    }
    let ready = image::open(name, options.pull, options.platform.as_ref(), here)?;
    let with = options.install_with.as_deref();
    let wants = image::Wants { install: &options.install, init: boots, with };
    let ready = image::provisioned(ready, name, &wants, here)?;
    let Start { mut request, interactive, waits } = decide(&ready, &run)?;
    if let Some(membership) = &membership {
        request = Request { name: Some(membership.name.clone()), keep: false, ..request };
    }
    engine.check(&request)?;
    let _mounted = image::mounted(&mut request, options.pull, here)?;
    let (plan, _held) = if engine.has_own_kernel() {
        let (request, launcher) = own_kernel::request(request, &host.launcher);
        let mut plan = plan::plan(&request, &ready.config, &ready.facts, &ready.root, &launcher)?;
        let (parts, held) = own_kernel::parts(here, &ready, &plan)?;
        plan.own_kernel = Some(parts);
        (plan, Some(held))
    } else {
        let launcher = &host.launcher;
        let mut plan = plan::plan(&request, &ready.config, &ready.facts, &ready.root, launcher)?;
        plan.emulation = harness::emulation(ready.facts.architecture.as_deref(), &plan, launcher)?;
        (plan, None)
    };
    let about = About {
        image: name.to_owned(),
        created: state::now(),
        detached: is_monitor,
        member: membership.map(|membership| membership.member),
    };
    carry_out(&run, &plan, &about, interactive, waits, options.cidfile.as_deref())
}

/// Makes a machine of a plan, and attends to it until its end.
pub(super) fn carry_out(
    run: &RunDirectory,
    plan: &Plan,
    about: &About,
    interactive: bool,
    waits: bool,
    cidfile: Option<&Path>,
) -> Result<u8> {
    let is_monitor = about.detached;
    let mut background = is_monitor.then(|| Background::new(run, plan)).transpose()?;
    let mut streams = background.as_ref().map(Background::streams).transpose()?.unwrap_or_default();
    // Kept open, so that whoever attaches can write to it.
    let piped = is_monitor && interactive && !plan.process.terminal && plan.boot.is_none();
    let (output, input) = piped
        .then(|| rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC))
        .transpose()?
        .unzip();
    streams.input = output;
    let waits = waits && plan.boot.is_some();
    let background = std::cell::RefCell::new(&mut background);
    let report = |text: &str| match background.borrow_mut().as_mut() {
        Some(background) => background.report(text),
        None => Ok(()),
    };
    let ended = launch(Launch {
        plan,
        run,
        about,
        streams,
        input,
        interactive: interactive && !is_monitor,
        remark: &mut |text| eprintln!("postroj: note: {text}"),
        created: &mut || {
            background.borrow().as_ref().map_or(Ok(()), Background::name_log)?;
            cidfile.map_or(Ok(()), |path| write_cidfile(path, &plan.id))
        },
        started: &mut || if waits { Ok(()) } else { report(&plan.id) },
        up: &mut |condition| {
            if let Condition::Degraded(failed) = condition {
                eprintln!("postroj: the system is up, but degraded: {}", failed.join(", "));
            }
            report(&plan.id)
        },
    })?;
    Ok(ended.code())
}

/// Starts this program once more, told by a variable what it is, and passes on what it reports; `silent`
/// says what it means where it ends in good order and has not.
pub(super) fn in_background(role: &str, silent: &'static str) -> Result<u8> {
    let mut command = Command::new("/proc/self/exe");
    // By the link\'s name it would be what its parent is called.
    command.arg0("postroj");
    command.args(std::env::args_os().skip(1)).env(role, std::process::id().to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut monitor = command.spawn().context("cannot start a monitor in the background")?;
    let report = monitor.stdout.take().context("the monitor has no output")?;
    let mut line = String::new();
    BufReader::new(report).read_line(&mut line).context("cannot hear from the monitor")?;
    if line.ends_with('\n') {
        print!("{line}");
        return Ok(0);
    }
    let status = monitor.wait().context("cannot wait for the monitor")?;
    match status.code() {
        // It has said why; a machine that ended in good order before it was up is a failure too.
        Some(0) | None => bail!(silent),
        Some(code) => Ok(code as u8),
    }
}

/// A monitor's ends of things.
struct Background {
    log: OwnedFd,
    /// Where the log is to be found.
    path: PathBuf,
    /// Where its starter listens, until it has heard.
    starter: Option<File>,
}

impl Background {
    /// From here on the standard output is the machine's log. What goes wrong before the report is
    /// still said on the starter's standard error.
    fn new(run: &RunDirectory, plan: &Plan) -> Result<Self> {
        leave(MONITOR)?;
        // Whoever attaches copies a descriptor of this process; Yama has that from descendants only
        // (Linux, Documentation/admin-guide/LSM/Yama.rst), and is missing elsewhere.
        let _ = rustix::process::set_ptracer(rustix::process::PTracer::Any);
        let path = run.log_path(&plan.id);
        let log =
            nameless(&path).with_context(|| format!("cannot make the log {}", path.display()))?;
        let starter = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
        rustix::stdio::dup2_stdout(&log)?;
        Ok(Self { log: log.into(), path, starter: Some(File::from(starter)) })
    }

    /// Gives the log its name, once there is a record of the machine that it can be found by: whoever
    /// is killed before that leaves none.
    fn name_log(&self) -> Result<()> {
        let (cwd, link) = (rustix::fs::CWD, format!("/proc/self/fd/{}", self.log.as_raw_fd()));
        match rustix::fs::linkat(cwd, link, cwd, &self.path, AtFlags::SYMLINK_FOLLOW) {
            // It had its name from the beginning.
            Err(rustix::io::Errno::EXIST) => Ok(()),
            other => other.with_context(|| format!("cannot make the log {}", self.path.display())),
        }
    }

    fn streams(&self) -> Result<Streams> {
        let log = || self.log.as_fd().try_clone_to_owned();
        Ok(Streams { output: Some(log()?), error: Some(log()?), ..Streams::default() })
    }

    /// Tells the starter, once, and then lets go of it.
    fn report(&mut self, text: &str) -> Result<()> {
        let Some(mut starter) = self.starter.take() else { return Ok(()) };
        if std::env::var_os(TETHER).is_none() {
            rustix::process::set_parent_process_death_signal(None)?;
        }
        // It may be gone at this very moment; the machine stays.
        let _ = starter.write_all(format!("{text}\n").as_bytes());
        Ok(rustix::stdio::dup2_stderr(&self.log)?)
    }
}

/// A file that is to be at `path`, and has no name yet where the file system has such (open(2), `O_TMPFILE`).
fn nameless(path: &Path) -> Result<File> {
    let directory = path.parent().context("the log has no directory")?;
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let (flags, mode) =
        (OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC, Mode::from_raw_mode(0o644));
    match rustix::fs::open(directory, flags | OFlags::TMPFILE, mode) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => {
            Ok(rustix::fs::open(path, flags | OFlags::CREATE, mode)?.into())
        }
        other => Ok(other?.into()),
    }
}

/// Leaves the starter's session. Until that has been told that all is well, it takes this process along
/// when it is killed.
pub(super) fn leave(role: &str) -> Result<()> {
    let _ = rustix::process::setsid();
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let parent = rustix::process::getppid().map(|parent| parent.as_raw_nonzero().to_string());
    if parent != std::env::var(role).ok() {
        bail!("whoever started this was killed");
    }
    Ok(())
}

pub(super) fn write_cidfile(path: &Path, id: &str) -> Result<()> {
    let mut file = File::create_new(path)
        .with_context(|| format!("cannot make the id file {}", path.display()))?;
    Ok(file.write_all(id.as_bytes())?)
}
