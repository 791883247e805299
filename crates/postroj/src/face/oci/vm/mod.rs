//! The same command line over virtual machines: `postroj-vm`, or `--isolation vm`. The bundle's root becomes a
//! file system of the guest's own, and its process runs there as in a container that nothing is kept from.
//!
//! A container's process, as its caller knows it, is the machine's monitor: it has the streams, passes
//! signals on, and ends with the code of what it ran.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use engine::attend::PASSED;
use engine::record::Record;
use engine::state::RunDirectory;
use serde_json::json;
use spec::runtime::{Config, Process, Status};
use sys::signals;

use super::words::Words;
use super::{CREATE, Creation, creation, output};

mod configuration;
mod monitor;
mod place;

use monitor::Monitored;
use place::Place;

/// Containers as virtual machines.
pub(super) struct Machines<'a> {
    /// A directory with one for each.
    pub(super) root: PathBuf,
    pub(super) warn: &'a dyn Fn(&str),
}

/// Where the machines are recorded, below the root; no container can be called that.
const RUN: &str = ".run";

impl Machines<'_> {
    /// Does what a verb says.
    pub(super) fn run(&self, verb: &str, args: &mut VecDeque<String>) -> Result<u8> {
        match verb {
            "create" => {
                let words = Words::read(args, &CREATE, usize::MAX)?;
                self.create(words.id()?, &creation(&words)?).map(|_| 0)
            }
            "run" => self.create_and_start(args),
            "start" => super::one(args, |id| self.start(id)),
            "state" => {
                let words = Words::read(args, &[], usize::MAX)?;
                println!("{}", serde_json::to_string_pretty(&self.state(words.id()?)?)?);
                Ok(0)
            }
            "kill" => {
                let words = Words::read(args, &[("all", Some('a'), false)], 2)?;
                let name = words.operands.get(1).map_or("TERM", String::as_str);
                self.kill(words.id()?, super::signal(name)?).map(|()| 0)
            }
            "delete" => {
                let words = Words::read(args, &[("force", Some('f'), false)], usize::MAX)?;
                self.delete(words.id()?, words.is_set("force")).map(|()| 0)
            }
            "exec" => self.exec(args),
            "list" => self.list(args),
            "pause" => super::one(args, |id| self.hold(id, true)),
            "resume" => super::one(args, |id| self.hold(id, false)),
            "ps" | "update" | "events" | "spec" | "checkpoint" | "restore" => {
                bail!("{verb} is not supported for virtual machines")
            }
            other => bail!("unknown verb {other:?}; see --help"),
        }
    }

    fn directory(&self) -> Result<RunDirectory> {
        RunDirectory::open(&self.root.join(RUN))
    }

    fn place(&self, id: &str) -> Result<Place> {
        Place::of(&self.root, id)
    }

    fn create(&self, id: &str, creation: &Creation) -> Result<i32> {
        let place = self.place(id)?;
        let bundle = creation
            .bundle
            .canonicalize()
            .with_context(|| format!("cannot find the bundle {}", creation.bundle.display()))?;
        let file = bundle.join("config.json");
        let text =
            std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let config =
            Config::parse(&text).with_context(|| format!("{} is not valid", file.display()))?;
        configuration::check(&config)?;
        place.make()?;
        let made = self.make(&place, &bundle, &config, creation);
        made.inspect_err(|_| {
            // It is this call's own.
            let _ = place.remove();
        })
    }

    fn make(
        &self,
        place: &Place,
        bundle: &Path,
        config: &Config,
        creation: &Creation,
    ) -> Result<i32> {
        place.write_config(config)?;
        let run = self.directory()?;
        let prepared = configuration::prepare(place, bundle, config, &run)?;
        let listener = place.listen()?;
        let console = creation.console_socket.as_deref();
        let monitor = Monitored { prepared: &prepared, run: &run, console, warn: self.warn };
        let pid = monitor.start(listener)?;
        place.write(bundle, config, pid)?;
        if let Some(file) = &creation.pid_file {
            engine::oci::write_pid(file, pid)?;
        }
        Ok(pid.as_raw_nonzero().get())
    }

    fn create_and_start(&self, args: &mut VecDeque<String>) -> Result<u8> {
        let words = Words::read(args, &CREATE, usize::MAX)?;
        let id = words.id()?;
        let pid = self.create(id, &creation(&words)?)?;
        let child = rustix::process::Pid::from_raw(pid).map(sys::process::Child::of);
        let child = child.context("the container has no process")??;
        if let Err(error) = self.start(id) {
            let _ = self.delete(id, true);
            return Err(error);
        }
        if words.is_set("detach") {
            return Ok(0);
        }
        let status = child.wait().context("cannot wait for the container")?;
        if !words.is_set("keep") {
            self.delete(id, true)?;
        }
        Ok(match status {
            sys::process::Status::Exited(code) => code,
            sys::process::Status::Signalled(signal) => 128 + signal,
        })
    }

    fn start(&self, id: &str) -> Result<()> {
        let place = self.place(id)?;
        let known = place.read()?;
        let status = self.status(&place, &known);
        if status != Status::Created {
            bail!("cannot start the container {id:?}: it is {}", status.name());
        }
        place.start()
    }

    /// The machine's record, while it is there.
    fn record(&self, id: &str) -> Result<Record> {
        let record = self.directory()?.find(id);
        record.with_context(|| format!("container not running: {id:?}"))
    }

    fn status(&self, place: &Place, known: &place::Known) -> Status {
        match known.process() {
            None => Status::Stopped,
            Some(_) if !place.is_started() => Status::Created,
            Some(_) if self.record(&known.state.id).is_ok_and(|record| record.paused) => {
                Status::Paused
            }
            Some(_) => Status::Running,
        }
    }

    fn state(&self, id: &str) -> Result<serde_json::Value> {
        let place = self.place(id)?;
        let known = place.read()?;
        let status = self.status(&place, &known);
        let state = &known.state;
        Ok(json!({
            "ociVersion": state.oci_version,
            "id": state.id,
            "pid": if status == Status::Stopped { 0 } else { state.pid },
            "status": status,
            "bundle": state.bundle,
            "created": known.created,
            "annotations": state.annotations,
        }))
    }

    fn list(&self, args: &mut VecDeque<String>) -> Result<u8> {
        let known = [("format", Some('f'), true), ("quiet", Some('q'), false)];
        let words = Words::read(args, &known, usize::MAX)?;
        let entries = std::fs::read_dir(&self.root).into_iter().flatten().flatten();
        let mut ids: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        ids.sort();
        // One that is just being made or removed may be missing.
        let all: Vec<_> = ids.iter().filter_map(|id| self.state(id).ok()).collect();
        if words.value("format") == Some("json") {
            println!("{}", serde_json::to_string(&all)?);
            return Ok(0);
        }
        for state in &all {
            let word = |name: &str| state[name].as_str().unwrap_or_default().to_owned();
            match words.is_set("quiet") {
                true => println!("{}", word("id")),
                false => println!("{}   {}   {}", word("id"), word("status"), word("bundle")),
            }
        }
        Ok(0)
    }

    fn kill(&self, id: &str, signal: i32) -> Result<()> {
        let place = self.place(id)?;
        let known = place.read()?;
        let process = known.process().with_context(|| {
            format!("container not running: {id:?} is {}", self.status(&place, &known).name())
        })?;
        // Its machine ends with a monitor that is killed.
        if signal == signals::SIGKILL || PASSED.contains(&signal) {
            let process = sys::process::Child::of(process).context("container not running")?;
            return process
                .signal(signal)
                .with_context(|| format!("cannot send the signal {signal} to {id:?}"));
        }
        engine::vm::signal(&self.record(id)?, signal)
    }

    fn delete(&self, id: &str, force: bool) -> Result<()> {
        let place = self.place(id)?;
        let known = match place.read() {
            Err(_) if force => {
                // What a create left that was killed.
                let _ = place.remove();
                return Ok(());
            }
            other => other?,
        };
        if let Some(process) = known.process() {
            if !force {
                let status = self.status(&place, &known);
                bail!(
                    "cannot delete container {id:?} that is not stopped: it is {}",
                    status.name()
                );
            }
            place::end(process)?;
        }
        // What a killed monitor left.
        self.directory()?.reap();
        place.remove().with_context(|| format!("cannot remove the container {id:?}"))
    }

    fn hold(&self, id: &str, still: bool) -> Result<()> {
        let (run, record) = (self.directory()?, self.record(id)?);
        match still {
            true => engine::pause::pause(&run, &record),
            false => engine::pause::unpause(&run, &record),
        }
    }

    fn exec(&self, args: &mut VecDeque<String>) -> Result<u8> {
        let words = Words::read(args, &super::process::EXEC, 1)?;
        let id = words.id()?;
        if args.front().is_some_and(|word| word == "--") {
            args.pop_front();
        }
        let path = |name| words.value(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        let process: Process = match path("process") {
            Some(file) => super::process::read(&file)?,
            None => {
                let own = self.place(id)?.config()?.process.unwrap_or_default();
                super::process::changed(own, &words, args)?
            }
        };
        let record = self.record(id)?;
        let console = path("console-socket");
        let execution = monitor::Execution {
            record: &record,
            process: configuration::process(&process)?,
            console: console.as_deref(),
            warn: self.warn,
        };
        if !words.is_set("detach") {
            return execution.run();
        }
        let pid = execution.start()?;
        if let Some(file) = path("pid-file") {
            engine::oci::write_pid(&file, pid)?;
        }
        Ok(0)
    }
}

/// RFC 3339.
fn now() -> String {
    output::now()
}
