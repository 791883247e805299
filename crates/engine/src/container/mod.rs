//! The container engine: a plan run in namespaces of this host's kernel.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, anyhow};
use rustix::fs::{Mode, OFlags};
use spec::exit::Ended;
use spec::ids::{IdMapping, IdRange};
use spec::plan::{Network, Plan};
use sys::cgroups::{Groups, Layout, Refusal};
use sys::mount;
use sys::process::{Child, Status};
use sys::signals;
use sys::socket::{self, Channel};
use sys::userns::{self, MapError, Range};

use crate::state::{Claim, RunDirectory};
use crate::{Created, Engine, Machine, NotStarted, NotStartedKind, Streams};

mod child;
mod explain;
mod filter;
mod init;
mod prepare;
mod step;

pub use explain::map as explain_map;
use prepare::{Means, Prepared};
use step::Step;

/// Runs plans in namespaces.
pub(crate) struct Container;

impl Engine for Container {
    fn name(&self) -> &'static str {
        "container"
    }

    fn create(
        &self,
        plan: &Plan,
        run: &RunDirectory,
        streams: Streams,
    ) -> Result<Box<dyn Created>> {
        run.reap();
        let claim = run.claim(&plan.name, &plan.id)?;
        let groups = limit(plan, &claim)?;
        let initial = userns::is_initial();
        let means = Means {
            maps_ids: initial && rustix::process::geteuid().is_root(),
            in_userns: !initial,
            scratch: run.path(),
            cgroups: (groups.legacy_controllers(), groups.unified().is_some()),
        };
        let Prepared { namespaces, steps, trees } = prepare::prepare(plan, &means)?;
        let (ours, theirs) = socket::pair().context("cannot make a socket for the machine")?;
        let cgroup = groups.unified().map(open_directory).transpose()?;
        let (steps_ref, ours_ref, claim_ref) = (&steps, &ours, &claim);
        let child = sys::process::spawn(namespaces, cgroup.as_ref().map(AsFd::as_fd), move || {
            ours_ref.close_copy();
            claim_ref.close_copy();
            child::run(steps_ref, theirs, streams)
        })
        .map_err(|error| explain::clone(error, plan))?;
        let machine = ContainerMachine {
            child: MainProcess { child, ended: Cell::new(false), killed_by: Cell::new(None) },
            channel: ours,
            terminal: None,
            steps,
            plan_terminal: plan.process.terminal,
            has_init: plan.process.init,
            groups,
            claim,
        };
        let pid = machine.child.child.pid();
        machine.groups.adopt(pid.as_raw_nonzero().get()).map_err(explain::cgroup)?;
        map_ids(&machine.child.child, &plan.ids)?;
        let trees = open_trees(&machine.child.child, &trees)?;
        machine.claim.record(pid, machine.groups.directories())?;
        Ok(Box::new(Waiting { machine, trees }))
    }
}

fn limit(plan: &Plan, claim: &Claim) -> Result<Groups> {
    if !plan.limits.any() {
        return Ok(Groups::default());
    }
    let limits = sys::cgroups::Limits {
        memory: plan.limits.memory,
        milli_cpus: plan.limits.milli_cpus,
        pids: plan.limits.pids,
    };
    let layout = Layout::read().context("cannot read this process's control groups")?;
    claim.foresee(&layout.directories(&plan.id))?;
    layout.create(&plan.id, &limits).map_err(explain::cgroup)
}

fn map_ids(child: &Child, ids: &IdMapping) -> Result<()> {
    let IdMapping::Private { uids, gids } = ids else { return Ok(()) };
    let ranges = |list: &[IdRange]| -> Vec<Range> {
        let range = |r: &IdRange| Range { inside: r.inside, outside: r.outside, count: r.count };
        list.iter().map(range).collect()
    };
    userns::write_maps(child.pid(), &ranges(uids), &ranges(gids)).map_err(explain::map)
}

fn open_trees(child: &Child, wanted: &[prepare::WantedTree]) -> Result<Vec<OwnedFd>> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let namespace = userns::of(child.pid()).context("cannot open the machine's user namespace")?;
    wanted
        .iter()
        .map(|tree| {
            let path = tree.path.to_string_lossy();
            let fd = mount::copy_tree(rustix::fs::CWD, &tree.path, tree.recursive)
                .with_context(|| format!("cannot open {path}"))?;
            mount::map_ids(fd.as_fd(), namespace.as_fd(), tree.recursive)
                .map_err(|error| explain::idmap(error, &path))?;
            Ok(fd)
        })
        .collect()
}

/// Created: the child waits for its launcher.
struct Waiting {
    machine: ContainerMachine,
    trees: Vec<OwnedFd>,
}

impl Created for Waiting {
    fn start(self: Box<Self>) -> Result<Box<dyn Machine>> {
        let Self { mut machine, trees } = *self;
        let descriptors: Vec<BorrowedFd<'_>> = trees.iter().map(AsFd::as_fd).collect();
        if descriptors.len() > socket::MAX_DESCRIPTORS {
            anyhow::bail!(
                "the machine has more than {} layers and mounts",
                socket::MAX_DESCRIPTORS
            );
        }
        if let Err(error) = machine.channel.send(&[child::GO], &descriptors) {
            // It failed before this: it says why.
            return Err(machine.failure().unwrap_or_else(|| error.into()));
        }
        if machine.plan_terminal {
            machine.receive_terminal()?;
        }
        Ok(Box::new(machine))
    }
}

/// A child that is killed and reaped when it is dropped.
struct MainProcess {
    child: Child,
    ended: Cell<bool>,
    /// A signal that was meant to end it, and was turned into SIGKILL.
    killed_by: Cell<Option<i32>>,
}

impl MainProcess {
    fn wait(&self) -> Result<Ended> {
        let status = self.child.wait().context("cannot wait for the machine")?;
        self.ended.set(true);
        Ok(match (status, self.killed_by.get()) {
            (Status::Signalled(9), Some(signal)) => Ended::Signalled(signal as u8),
            (Status::Signalled(signal), _) => Ended::Signalled(signal),
            (Status::Exited(code), _) => Ended::Exited(code),
        })
    }
}

impl Drop for MainProcess {
    fn drop(&mut self) {
        if !self.ended.get() {
            // It may have ended by itself; then there is only a status to take.
            let _ = self.child.signal(signals::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

/// A running container. The fields are in the order of teardown.
struct ContainerMachine {
    child: MainProcess,
    channel: Channel,
    terminal: Option<OwnedFd>,
    steps: Vec<Step>,
    plan_terminal: bool,
    has_init: bool,
    groups: Groups,
    claim: Claim,
}

impl ContainerMachine {
    fn receive_terminal(&mut self) -> Result<()> {
        let mut message = [0; 9];
        let (length, mut descriptors) =
            self.channel.receive(&mut message).context("cannot hear from the machine")?;
        match (message[0], descriptors.pop()) {
            (child::TERMINAL, Some(master)) if length > 0 => {
                self.terminal = Some(master);
                Ok(())
            }
            (child::FAILED, _) if length == 9 => Err(self.explain(message)),
            _ => Err(anyhow!("the machine ended while it was set up")),
        }
    }

    /// What the child reported, if it did.
    fn failure(&self) -> Option<anyhow::Error> {
        let mut message = [0; 9];
        match self.channel.receive(&mut message) {
            Ok((9, _)) if message[0] == child::FAILED => Some(self.explain(message)),
            _ => None,
        }
    }

    fn explain(&self, message: [u8; 9]) -> anyhow::Error {
        let number = |at: usize| {
            u32::from_le_bytes([message[at], message[at + 1], message[at + 2], message[at + 3]])
        };
        let error = std::io::Error::from_raw_os_error(number(5) as i32);
        match self.steps.get(number(1) as usize) {
            Some(step) => explain::step(step, &error).into(),
            None => anyhow!("the machine reported a failure that makes no sense"),
        }
    }
}

impl Machine for ContainerMachine {
    fn ended(&self) -> BorrowedFd<'_> {
        self.child.child.as_fd()
    }

    fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.as_ref().map(AsFd::as_fd)
    }

    fn signal(&self, signal: i32) -> Result<()> {
        let child = &self.child.child;
        // While it waits for signals, an init seems to take none (Linux, kernel/signal.c,
        // `do_sigtimedwait`), and takes them all.
        let spared = !self.has_init
            && signals::ends_by_default(signal)
            && signals::left_to_default(child.pid(), signal).unwrap_or(false);
        if spared {
            self.child.killed_by.set(Some(signal));
        }
        let sent = child.signal(if spared { signals::SIGKILL } else { signal });
        sent.with_context(|| format!("cannot send signal {signal} to the machine"))
    }

    fn wait(self: Box<Self>) -> Result<Ended> {
        let ended = self.child.wait()?;
        match ended {
            // The status of a child that reported; a command may also exit with it.
            Ended::Exited(125) => self.failure().map_or(Ok(ended), Err),
            _ => Ok(ended),
        }
    }
}

fn open_directory(path: &std::path::Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .with_context(|| format!("cannot open the control group {}", path.display()))
}
