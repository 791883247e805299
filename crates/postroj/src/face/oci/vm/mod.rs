//! The same command line over virtual machines: `postroj-vm`, or `--isolation vm`. The bundle's root becomes a
//! file system of the guest's own, and its process runs there as in a container that nothing is kept from.
//!
//! A container's process, as its caller and `engine::oci` know it, is the machine's monitor: it has the streams, passes
//! signals on, and ends with the code of what it ran.

use std::collections::VecDeque;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use engine::attend::PASSED;
use engine::oci::{Containers, Place};
use engine::record::Record;
use engine::state::RunDirectory;
use spec::runtime::{Config, Process, Status};
use sys::signals;

use super::words::Words;
use super::{CREATE, Creation, creation};

mod configuration;
mod monitor;
mod mounts;
mod place;

use monitor::Monitored;
use place::Listener;

/// Containers as virtual machines: what is not the same as of others.
pub(super) struct Machines<'a>(pub(super) &'a Containers<'a>);

/// Where the machines are recorded, below the root; no container can be called that.
const RUN: &str = ".run";

impl Machines<'_> {
    /// Does what a verb says; nothing where that is done as for any container.
    pub(super) fn run(&self, verb: &str, args: &mut VecDeque<String>) -> Result<Option<u8>> {
        let done = match verb {
            "create" => {
                let words = Words::read(args, &CREATE, usize::MAX)?;
                self.create(words.id()?, &creation(&words)?).map(|_| 0)
            }
            "run" => self.create_and_start(args),
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
            "pause" => super::one(args, |id| self.hold(id, true)),
            "resume" => super::one(args, |id| self.hold(id, false)),
            "update" | "events" | "checkpoint" | "restore" => {
                bail!("{verb} is not supported for virtual machines")
            }
            _ => return Ok(None),
        };
        done.map(Some)
    }

    fn directory(&self) -> Result<RunDirectory> {
        RunDirectory::open(&self.0.root.join(RUN))
    }

    fn create(&self, id: &str, creation: &Creation) -> Result<i32> {
        engine::state::check_name(id).map_err(|_| anyhow!("invalid container id {id:?}"))?;
        let place = Place::of(&self.0.root, id)?;
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
        let made =
            place.write_config(&text).and_then(|()| self.make(&place, &bundle, &config, creation));
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
        // The root's file system will be in there, whatever it has that is not everybody's to read.
        std::fs::set_permissions(&place.directory, Permissions::from_mode(0o700))
            .with_context(|| format!("cannot protect {}", place.directory.display()))?;
        let mut record = engine::oci::Record::new(place, bundle, config)?;
        place.write(&record)?;
        let run = self.directory()?;
        let prepared = configuration::prepare(place, bundle, config, &run)?;
        let listener = Listener(place.listen()?);
        let console = creation.console_socket.as_deref();
        let monitor = Monitored { prepared: &prepared, run: &run, console, warn: self.0.warn };
        let pid = monitor.start(listener)?;
        record.is(pid);
        place.write(&record)?;
        if let Some(file) = &creation.pid_file {
            engine::oci::write_pid(file, pid)?;
        }
        Ok(pid.as_raw_nonzero().get())
    }

    fn create_and_start(&self, args: &mut VecDeque<String>) -> Result<u8> {
        let words = Words::read(args, &CREATE, usize::MAX)?;
        if words.is_set("dry-run") {
            bail!("--dry-run is for containers: bubblewrap makes no virtual machines");
        }
        let id = words.id()?;
        let pid = self.create(id, &creation(&words)?)?;
        let child = rustix::process::Pid::from_raw(pid).map(sys::process::Child::of);
        let child = child.context("the container has no process")??;
        if let Err(error) = self.0.start(id) {
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

    /// The machine's record, while it is there.
    fn record(&self, id: &str) -> Result<Record> {
        let record = self.directory()?.find(id);
        record.with_context(|| format!("container not running: {id:?}"))
    }

    /// Its machine ends with a monitor that is killed, and what a monitor passes on it is sent.
    fn kill(&self, id: &str, signal: i32) -> Result<()> {
        let is_for_monitor = signal == signals::SIGKILL || PASSED.contains(&signal);
        if is_for_monitor || self.0.state(id)?.process().is_none() {
            return self.0.kill(id, signal, false);
        }
        engine::vm::signal(&self.record(id)?, signal)
    }

    fn delete(&self, id: &str, force: bool) -> Result<()> {
        self.0.delete(id, force)?;
        // What a killed monitor left.
        self.directory()?.reap();
        Ok(())
    }

    fn hold(&self, id: &str, still: bool) -> Result<()> {
        let place = Place::of(&self.0.root, id)?;
        let mut known = place.read()?;
        let (wanted, verb) = match still {
            true => (Status::Running, "pause"),
            false => (Status::Paused, "resume"),
        };
        if known.state.status != wanted {
            bail!("cannot {verb} the container {id:?}: it is {}", known.state.status.name());
        }
        let (run, record) = (self.directory()?, self.record(id)?);
        match still {
            true => engine::pause::pause(&run, &record)?,
            false => engine::pause::unpause(&run, &record)?,
        }
        known.paused = still;
        place.write(&known)
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
                let own = self.0.config(id)?.process.unwrap_or_default();
                super::process::changed(own, &words, args)?
            }
        };
        let record = self.record(id)?;
        let console = path("console-socket");
        let execution = monitor::Execution {
            record: &record,
            process: configuration::process(&process)?,
            console: console.as_deref(),
            warn: self.0.warn,
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
