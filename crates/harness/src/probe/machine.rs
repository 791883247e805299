//! The machine of a cell: booted by this program once more, and gone with it.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, bail};
use distro::package::PackageManager;
use engine::Waited;
use engine::pool::{self, Wanted};
use engine::record::Record;
use engine::state::RunDirectory;
use rustix::event::{PollFd, PollFlags, Timespec};
use spec::boot::Condition;
use spec::image::Facts;
use spec::plan::Plan;

use super::Wish;
use super::evidence::{self, Output};
use super::inside::{Ask, Eyes};

/// This program, as a command with the options that say where things are kept.
#[derive(Debug, Clone)]
pub struct Program {
    /// Before any verb.
    pub options: Vec<std::ffi::OsString>,
}

impl Program {
    /// A verb of it.
    #[must_use]
    pub fn verb(&self, words: &[&str]) -> Command {
        let mut command = Command::new("/proc/self/exe");
        // By the link\'s name it would be what its parent is called.
        command.arg0("postroj");
        command.args(&self.options).args(words).stdin(Stdio::null());
        command
    }
}

/// A booted machine.
pub(crate) struct Machine {
    pub(crate) name: String,
    program: Program,
    run: RunDirectory,
    record: Record,
    /// Of a machine that was booted for this.
    monitor: Option<Child>,
    eyes: Option<Eyes>,
    /// What its monitor says, where it was booted for this.
    said: Option<Output>,
    kept: bool,
    /// What manages its packages, once that is known.
    pub(super) manager: Option<&'static dyn PackageManager>,
}

/// What a command did.
pub(crate) struct Ran {
    /// `None` where it was killed for taking too long.
    pub(crate) code: Option<i32>,
    /// What it said on standard output and error, or on the first alone.
    pub(crate) output: String,
    /// On standard error, where that was asked for by itself.
    pub(crate) errors: String,
}

/// Most of a command's output that is looked at: bytes.
pub(crate) const MAX_OUTPUT: u64 = 8 << 20;

/// How often it is seen to that a command's output does not take too much memory.
const TICK: Duration = Duration::from_millis(100);

/// The file of evidence with what a monitor said.
const BOOT: &str = "boot.txt";

/// How long a monitor may take after its machine's end.
const CLEANUP: Duration = Duration::from_secs(20);

impl Machine {
    /// Boots an image; the machine ends with this process unless it is wished to be kept.
    pub(crate) fn boot(
        program: &Program,
        run: &RunDirectory,
        name: &str,
        image: &str,
        options: &[String],
        wish: &Wish,
    ) -> Result<Self> {
        let (kept, evidence) = (wish.keep, wish.evidence.as_path());
        let timeout = Duration::from_secs(wish.boot_timeout);
        let name = name.to_owned();
        let said = Output::new()?;
        let mut command = program.verb(&["boot", "--detach", "--name", &name]);
        if !kept {
            command.arg("--rm").env("POSTROJ_TETHER", "1");
        }
        command.args(options).arg(image);
        // As the one that starts a monitor in the background does: see the face's `start`.
        command.env("POSTROJ_MONITOR", std::process::id().to_string());
        command.stdout(Stdio::piped()).stderr(said.stdio()?);
        let mut monitor = command.spawn().context("cannot start a monitor")?;
        let report = monitor.stdout.take().context("the monitor has no output")?;
        let told = readable(&report, Instant::now() + timeout)?;
        let mut line = String::new();
        if told {
            BufReader::new(report).read_line(&mut line).context("cannot hear from the monitor")?;
        }
        let is_up = line.ends_with('\n');
        let why = || {
            let text = said.text(MAX_OUTPUT).unwrap_or_default();
            let last = text.lines().rfind(|line| !line.contains(": note: "));
            last.unwrap_or_default().trim_start_matches("postroj: ").to_owned()
        };
        if told && !is_up {
            let _ = monitor.wait();
            let kept = evidence::fill(&evidence.join(BOOT), &mut said.reader());
            let why = Some(why()).filter(|text| !text.is_empty());
            return Err(failed(why.unwrap_or("it ended before it was up".into()), kept));
        }
        let record = match run.find(&name) {
            Ok(record) => record,
            Err(_) => {
                let _ = (monitor.kill(), monitor.wait());
                let kept = evidence::fill(&evidence.join(BOOT), &mut said.reader());
                return Err(failed(
                    format!("it was not there after {} s", timeout.as_secs()),
                    kept,
                ));
            }
        };
        let program = program.clone();
        let (monitor, said) = (Some(monitor), Some(said));
        let (run, eyes) = (run.clone(), None);
        let mut machine =
            Self { name, program, run, record, monitor, eyes, said, kept, manager: None };
        if !is_up {
            let busy = machine.busy();
            machine.kept = false;
            let kept = machine.evidence(evidence);
            return Err(failed(format!("it was not up after {} s{busy}", timeout.as_secs()), kept));
        }
        Ok(machine)
    }

    /// Takes one out of a pool of the image, where there is one whose machines suit. It ends with this
    /// process too, with the next command at the latest.
    pub(super) fn from_pool(
        program: &Program,
        run: &RunDirectory,
        name: &str,
        suits: impl Fn(&Plan) -> bool,
        wish: &Wish,
    ) -> Result<Option<Self>> {
        let (kept, name) = (wish.keep, name.to_owned());
        run.reap();
        let Ok(found) = pool::find(run, &wish.image) else { return Ok(None) };
        let members = pool::members(run, &found);
        if !members.iter().filter_map(|member| member.plan.as_ref()).any(suits) {
            return Ok(None);
        }
        let own = rustix::process::getpid();
        let start = sys::process::start_time(own).context("cannot read one's own start time")?;
        let wanted = Wanted {
            name: Some(name.clone()),
            keep: kept,
            tether: (!kept).then_some((own.as_raw_nonzero().get(), start)),
            ..Wanted::default()
        };
        let record = pool::take(run, &found, &wanted, || {})?;
        let (program, run) = (program.clone(), run.clone());
        let (monitor, eyes, said, manager) = (None, None, None, None);
        Ok(Some(Self { name, program, run, record, monitor, eyes, said, kept, manager }))
    }

    /// What a system waits for that does not get up.
    fn busy(&mut self) -> String {
        let look = self.ask::<super::inside::Look>(&Ask::Look { files: false });
        let units: Vec<String> = look
            .map(|look| look.units)
            .unwrap_or_default()
            .into_iter()
            .filter(|unit| unit.active == "activating")
            .map(|unit| unit.name)
            .collect();
        if units.is_empty() {
            String::new()
        } else {
            format!(": it waits for {}", units.join(", "))
        }
    }

    /// Asks what can be seen inside.
    pub(crate) fn ask<T: serde::de::DeserializeOwned>(&mut self, ask: &Ask) -> Result<T> {
        if self.eyes.is_none() {
            let mut command = self.program.verb(&["inside", &self.name]);
            command.stderr(Stdio::null());
            self.eyes = Some(Eyes::open(command)?);
        }
        let Some(eyes) = &mut self.eyes else { bail!("nobody looks") };
        eyes.ask(ask)
    }

    /// Runs a command inside, with the machine's own rights.
    pub(crate) fn run(&self, command: &[&str], timeout: Duration) -> Result<Ran> {
        finish(self.exec(command), false, timeout)
    }

    /// The same with options of `exec`; `apart` says whether standard error is told by itself.
    pub(crate) fn run_with(
        &self,
        options: &[String],
        command: &[&str],
        apart: bool,
        timeout: Duration,
    ) -> Result<Ran> {
        let mut words: Vec<&str> = vec!["exec"];
        words.extend(options.iter().map(String::as_str));
        words.push(&self.name);
        words.extend(command);
        finish(self.program.verb(&words), apart, timeout)
    }

    fn exec(&self, command: &[&str]) -> Command {
        let own = self.manager.map_or(&[][..], |manager| manager.environment());
        let variables: Vec<String> = [("LC_ALL", "C.UTF-8")]
            .iter()
            .chain(own)
            .flat_map(|(name, value)| ["-e".to_owned(), format!("{name}={value}")])
            .collect();
        let variables: Vec<&str> = variables.iter().map(String::as_str).collect();
        self.program.verb(&[&["exec"], &variables[..], &[&self.name], command].concat())
    }

    /// What is known of its system, as it is now.
    pub(crate) fn facts(&self) -> Result<Facts> {
        crate::exec::facts(&self.record)
    }

    /// Whether something is mounted there for it.
    pub(super) fn mounts(&self, target: &str) -> bool {
        let mounts = self.record.plan.iter().flat_map(|plan| &plan.mounts);
        mounts.into_iter().any(|mount| mount.target == target)
    }

    /// Copies files in: `SOURCE/.` is what is in a directory.
    pub(crate) fn put(&self, source: &Path, target: &str) -> Result<()> {
        let what = || format!("cannot copy {} into the machine", source.display());
        let source = source.to_str().with_context(what)?;
        self.copy(source, &format!("{}:{target}", self.name)).with_context(what)
    }

    /// Copies files out.
    pub(crate) fn get(&self, source: &str, target: &Path) -> Result<()> {
        let what = || format!("cannot copy {source} out of the machine");
        let target = target.to_str().with_context(what)?;
        self.copy(&format!("{}:{source}", self.name), target).with_context(what)
    }

    fn copy(&self, from: &str, to: &str) -> Result<()> {
        let output = self.program.verb(&["cp", from, to]).output()?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            bail!("{}", why.trim().trim_start_matches("postroj: "));
        }
        Ok(())
    }

    /// Restarts it with all that was written in it, and waits until it is up.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.eyes = None;
        let output = self.program.verb(&["restart", &self.name]).output()?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            bail!("{}", why.trim().trim_start_matches("postroj: "));
        }
        self.record = self.run.find(&self.name)?;
        Ok(())
    }

    /// Waits until it was restarted from inside; tells whether it was.
    pub(crate) fn restarted(&mut self, patience: Duration) -> Result<bool> {
        self.eyes = None;
        let before = self.record.pid;
        let anew = |now: &Record| {
            let up = matches!(now.condition, Some(Condition::Running | Condition::Degraded(_)));
            now.pid != before && now.pid.is_some() && up
        };
        match self.run.wait(&self.name, Some(patience), anew)? {
            Waited::Holds(record) => self.record = record,
            Waited::Late => return Ok(false),
            Waited::Ended(_) => bail!("the machine ended instead of starting again"),
        }
        Ok(true)
    }

    /// Writes down what there is to see: all that it can.
    ///
    /// # Errors
    /// The first of what could not be written.
    pub(crate) fn evidence(&mut self, directory: &Path) -> Result<()> {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let mut all = Vec::new();
        if let Some(said) = &self.said {
            all.push(evidence::fill(&directory.join(BOOT), &mut said.reader()));
        }
        if let Ok(mut console) = File::open(self.run.log_path(self.record.id())) {
            all.push(evidence::fill(&directory.join("console.txt"), &mut console));
        }
        for (file, command) in [
            ("journal.txt", &["journalctl", "--no-pager", "--quiet"][..]),
            ("journal.export", &["journalctl", "--no-pager", "--quiet", "-o", "export"]),
            ("failed-units.txt", &["systemctl", "--no-pager", "--failed", "--full", "status"]),
        ] {
            let output = Output::new()?;
            // What has none of these programs has no such evidence.
            let _ = self.exec(command).stdout(output.stdio()?).stderr(Stdio::null()).status();
            all.push(evidence::fill(&directory.join(file), &mut output.reader()));
        }
        if let Some(listed) = self.manager.and_then(|m| super::packages::list(self, m).ok()) {
            all.push(evidence::write(&directory.join("packages-after.txt"), listed.as_bytes()));
        }
        all.into_iter().collect()
    }

    /// The name of the init that it was booted with.
    pub(crate) fn init(&self) -> Result<&str> {
        let boot = self.record.plan.as_ref().and_then(|plan| plan.boot.as_ref());
        Ok(&boot.context("the machine has no init")?.init)
    }

    /// Leaves the machine as it is.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }

    /// It goes in any case.
    pub(crate) fn end(mut self) {
        self.kept = false;
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.eyes = None;
        if self.kept {
            return;
        }
        let _ = self.run.signal(&self.record, sys::signals::SIGKILL);
        if let Ok(Waited::Late) =
            self.run.wait(&self.name, Some(CLEANUP), |record| record.exited.is_some())
        {
            let _ = self.monitor.as_mut().map(Child::kill);
        }
        match &mut self.monitor {
            Some(monitor) => drop(monitor.wait()),
            None => self.run.wait_for_monitor(&self.record, CLEANUP),
        }
        self.run.reap();
        if let Ok(record) = self.run.find(&self.name) {
            let _ = self.run.remove(&record);
        }
    }
}

/// Why a machine is not up, and why that cannot be looked into, where it cannot.
fn failed(why: String, kept: Result<()>) -> Error {
    match kept {
        Ok(()) => Error::msg(why),
        Err(error) => error.context(why),
    }
}

/// Runs a command to its end, or until its time is up.
pub(crate) fn finish(mut command: Command, apart: bool, timeout: Duration) -> Result<Ran> {
    let output = Output::new()?;
    let errors = apart.then(Output::new).transpose()?;
    let mut child = command
        .stdout(output.stdio()?)
        .stderr(errors.as_ref().unwrap_or(&output).stdio()?)
        .spawn()
        .context("cannot run it")?;
    let pid = rustix::process::Pid::from_child(&child);
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    let deadline = Instant::now() + timeout;
    let ended = loop {
        if readable(&pidfd, deadline.min(Instant::now() + TICK))? {
            break true;
        }
        if Instant::now() >= deadline {
            child.kill()?;
            break false;
        }
        output.cut(MAX_OUTPUT)?;
        errors.as_ref().map_or(Ok(()), |errors| errors.cut(MAX_OUTPUT))?;
    };
    let status = child.wait()?;
    Ok(Ran {
        code: ended.then(|| status.code().unwrap_or(137)),
        output: output.text(MAX_OUTPUT)?,
        errors: errors.map_or(Ok(String::new()), |errors| errors.text(MAX_OUTPUT))?,
    })
}

/// Waits until there is something to read, or the end.
pub(crate) fn readable(fd: &impl AsFd, deadline: Instant) -> Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match rustix::event::poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&left)) {
            Ok(count) => return Ok(count > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
