//! One call of `create`: from a configuration to a process that waits to be started.

use std::path::Path;

use anyhow::{Context, Result};
use rustix::process::Pid;
use spec::runtime::{Config, Linux, Process, Status};

use super::cgroups::Groups;
use super::state::{Place, Record};
use super::{
    Containers, Creation, Running, hooks, is_rootless, limit_process, raw, terminal, write_pid,
};
use crate::container::bundle::{self, Means, launch};
use crate::container::child::bundle::{READY, SYNC};

/// One call of `create`.
pub(super) struct Making<'a> {
    pub(super) containers: &'a Containers<'a>,
    pub(super) place: &'a Place,
    pub(super) config: &'a Config,
    pub(super) creation: &'a Creation,
    pub(super) bundle: &'a Path,
}

impl Making<'_> {
    pub(super) fn make(&self, text: &[u8]) -> Result<Running> {
        let rootless = is_rootless();
        let empty = Linux::default();
        let linux = self.config.linux.as_ref().unwrap_or(&empty);
        let groups = match self.containers.cgroups {
            true => {
                let path = linux.cgroups_path.as_deref();
                Groups::make(path, &self.place.id(), rootless, self.containers.warn)?
            }
            false => Groups::default(),
        };
        self.within(&groups, text, linux, rootless).inspect_err(|_| groups.remove())
    }

    fn within(
        &self,
        groups: &Groups,
        text: &[u8],
        linux: &Linux,
        rootless: bool,
    ) -> Result<Running> {
        let mut warn = self.containers.warn();
        let mut means = Means {
            bundle: self.bundle,
            hierarchies: groups.shown()?,
            preserved: self.creation.preserved,
            no_pivot: self.creation.no_pivot,
            keyring: self.creation.keyring.then(|| format!("_ses.{}", self.place.id())),
            opens: rustix::process::geteuid().is_root(),
            warn: &mut warn,
        };
        let prepared = bundle::prepare(self.config, &mut means)?;
        if let Some(resources) = linux.resources.as_ref().filter(|_| self.containers.cgroups) {
            groups.limit(resources, rootless, &mut warn)?;
        }
        let process = &bundle::process_of(self.config);
        let mut record = Record::new(self.place, self.bundle, self.config)?;
        record.cgroups = groups.clone();
        self.place.write(&record)?;
        self.place.write_config(text)?;
        let start = self.place.listen()?;
        let mut launched = launch::create(&prepared, linux, start)?;
        let pid = launched.pid();
        groups.adopt(raw(pid))?;
        record.is(pid);
        launched.go()?;
        launched.hear(SYNC)?;
        // While it is this user still: others' need CAP_SYS_RESOURCE (prlimit(2)), which root may lack.
        limit_process(&launched, process)?;
        oom_score(pid, process)?;
        // The runtime environment is there (runtime-spec 1.2, `runtime.md`, "Lifecycle", step 2).
        let told = record.told(Status::Created)?;
        if let Some(hooks) = &self.config.hooks {
            hooks::run(&hooks.prestart, &told)?;
            hooks::run(&hooks.create_runtime, &told)?;
        }
        launched.resume(&told)?;
        launched.hear(READY)?;
        let terminal = terminal(&mut launched, self.creation.console_socket.as_deref(), process)?;
        self.place.write(&record)?;
        if let Some(file) = &self.creation.pid_file {
            write_pid(file, pid)?;
        }
        Ok(Running { launched, terminal })
    }
}

/// What it has already need not be set: without CAP_SYS_RESOURCE it could not be.
fn oom_score(pid: Pid, process: &Process) -> Result<()> {
    let Some(wanted) = process.oom_score_adj else { return Ok(()) };
    let path = format!("/proc/{}/oom_score_adj", raw(pid));
    let now = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<i64>().ok());
    if now == Some(wanted) {
        return Ok(());
    }
    std::fs::write(&path, wanted.to_string())
        .with_context(|| format!("cannot set process.oomScoreAdj to {wanted}"))
}
