//! The container engine: a plan run in namespaces of this host's kernel.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, anyhow};
use rustix::event::PollFlags;
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use spec::boot::Ready;
use spec::exit::Ended;
use spec::ids::{IdMapping, IdRange};
use spec::plan::{Network, Plan};
use sys::cgroups::{Groups, Layout, Refusal};
use sys::mount;
use sys::netns;
use sys::process::{Child, Status};
use sys::rooted::Root;
use sys::signals;
use sys::socket::{self, Channel};
use sys::userns::{self, MapError, Range};

use crate::record::Record;
use crate::state::{Claim, RunDirectory};
use crate::{
    Created, Engine, Inside, Machine, NotStarted, NotStartedKind, Question, Remains, Streams, Talk,
    Visitor,
};

mod ask;
pub(crate) mod bundle;
mod bypass;
mod cgroupfs;
pub(crate) mod child;
mod door;
mod exec;
pub(crate) mod explain;
pub(crate) mod filter;
mod init;
mod prepare;
pub(crate) mod step;
mod supervisor;

use bypass::Bypass;
use cgroupfs::Emulation;
pub use explain::map as explain_map;
use prepare::{Means, Prepared};
use step::Step;
use supervisor::Supervisor;

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
        remains: Option<Remains>,
    ) -> Result<Box<dyn Created>> {
        run.reap();
        let (claim, last) = match remains {
            Some(remains) => (remains.claim, Some(remains.scratch)),
            None => (run.claim(&plan.name, &plan.id, plan.keep)?, None),
        };
        let groups = limit(plan, &claim)?;
        let emulates = manages(plan) && groups.unified().is_none();
        let initial = userns::is_initial();
        let means = Means {
            maps_ids: initial && rustix::process::geteuid().is_root(),
            in_userns: !initial,
            scratch: run.path(),
            kept: last.is_some(),
            emulates,
            cgroups: (groups.legacy_controllers(), groups.unified().is_some()),
        };
        let Prepared { namespaces, steps, trees } = prepare::prepare(plan, &means)?;
        let (ours, theirs) = socket::pair().context("cannot make a socket for the machine")?;
        let cgroup = groups.unified().map(open_directory).transpose()?;
        let notify = notify_socket(plan)?;
        let (steps_ref, ours_ref, claim_ref) = (&steps, &ours, &claim);
        let notify_ref = notify.as_ref().map(AsFd::as_fd);
        let visit = visit(plan)?;
        let child = sys::process::spawn(namespaces, cgroup.as_ref().map(AsFd::as_fd), move || {
            ours_ref.close_copy();
            claim_ref.close_copy();
            let inherited = child::Inherited {
                launcher: Some(theirs),
                streams,
                notify: notify_ref,
                own: child::bundle::Own::default(),
            };
            child::run(steps_ref, inherited)
        })
        .map_err(|error| explain::clone(error, plan));
        visit.map_or(Ok(()), netns::Visit::end)?;
        let child = child?;
        let machine = ContainerMachine {
            child: MainProcess::new(child),
            channel: ours,
            terminal: None,
            console: None,
            boots: plan.boot.is_some(),
            plan: (plan.boot.is_some() || plan.bypass.is_some() || emulates).then(|| plan.clone()),
            steps,
            plan_terminal: plan.process.terminal,
            takes_signals: plan.process.init || plan.boot.is_some(),
            notify,
            emulates,
            hands_over: emulates || plan.bypass.is_some(),
            supervisor: None,
            groups,
            scratch: None,
            keeps: prepare::keeps(plan),
            claim: Some(claim),
        };
        let pid = machine.child.child.pid();
        machine.groups.adopt(pid.as_raw_nonzero().get()).map_err(explain::cgroup)?;
        map_ids(&machine.child.child, &plan.ids)?;
        if let Some((uid, gid)) = outer_root(&plan.ids).filter(|_| means.maps_ids) {
            machine.groups.delegate(uid, gid).map_err(explain::cgroup)?;
        }
        let mut trees = open_trees(&machine.child.child, &trees)?;
        trees.extend(last);
        if let Some(claim) = &machine.claim {
            claim.record(pid, machine.groups.directories(), plan)?;
        }
        Ok(Box::new(Waiting { machine, trees }))
    }

    fn exec(
        &self,
        record: &Record,
        process: &spec::plan::Process,
        streams: Streams,
    ) -> Result<Box<dyn Machine>> {
        exec::exec(record, process, streams)
    }

    fn root(&self, record: &Record) -> Result<Root> {
        exec::root(record)
    }

    fn process(&self, record: &Record) -> Result<(i32, OwnedFd)> {
        exec::process(record)
    }

    fn inside(&self, record: &Record, visitor: &mut Inside<'_>) -> Result<crate::Visit> {
        exec::inside(record, visitor)
    }

    fn talk(&self, record: &Record, socket: &str, talk: &mut Talk<'_>) -> Result<crate::Visit> {
        exec::talk(record, socket, talk)
    }

    fn visit(&self, record: &Record, visitor: &mut Visitor<'_>) -> Result<crate::Visit> {
        exec::visit(record, visitor)
    }

    fn enter(&self, record: &Record) -> Result<()> {
        exec::enter(record)
    }
}

fn limit(plan: &Plan, claim: &Claim) -> Result<Groups> {
    let managed = manages(plan);
    if !plan.limits.any() && !managed {
        return Ok(Groups::default());
    }
    let limits = sys::cgroups::Limits {
        memory: plan.limits.memory,
        milli_cpus: plan.limits.milli_cpus,
        pids: plan.limits.pids,
    };
    let layout = Layout::read().context("cannot read this process's control groups")?;
    claim.foresee(&layout.directories(&plan.id))?;
    match layout.create(&plan.id, &limits, managed) {
        // What can be done without is: limits cannot.
        Err(Refusal::NotDelegated(_) | Refusal::NoController(_)) if !plan.limits.any() => {
            Ok(Groups::default())
        }
        other => other.map_err(explain::cgroup),
    }
}

/// Moves this process into the network that the machine is to share, where that is not its own: the
/// child is born there, since from its own user namespace it could not go there.
fn visit(plan: &Plan) -> Result<Option<netns::Visit>> {
    let Network::Joined { path } = &plan.network else { return Ok(None) };
    netns::Visit::new(path.as_ref()).map(Some).map_err(|error| explain::network(&error, path))
}

/// Whether what runs makes control groups of its own.
fn manages(plan: &Plan) -> bool {
    plan.manages_control_groups()
}

/// Bound inside by the child, so that the machine finds it under a path of its own.
fn notify_socket(plan: &Plan) -> Result<Option<OwnedFd>> {
    let Some(Ready::Notify { .. }) = plan.boot.as_ref().map(|boot| &boot.ready) else {
        return Ok(None);
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None);
    socket.map(Some).context("cannot make a socket for the machine's readiness")
}

fn map_ids(child: &Child, ids: &IdMapping) -> Result<()> {
    let IdMapping::Private { uids, gids } = ids else { return Ok(()) };
    let ranges = |list: &[IdRange]| -> Vec<Range> {
        let range = |r: &IdRange| Range { inside: r.inside, outside: r.outside, count: r.count };
        list.iter().map(range).collect()
    };
    userns::write_maps(child.pid(), &ranges(uids), &ranges(gids)).map_err(explain::map)
}

/// The ids outside of the machine's root.
fn outer_root(ids: &IdMapping) -> Option<(u32, u32)> {
    let IdMapping::Private { uids, gids } = ids else { return None };
    let root = |ranges: &[IdRange]| ranges.iter().find(|r| r.inside == 0).map(|r| r.outside);
    Some((root(uids)?, root(gids)?))
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

/// For a system that would manage control groups, where it has none.
const EMULATED: &str = "no control group is delegated to you, so the system's own are emulated: no limits and \
     no accounting (`systemd-run --user --scope \
     -p Delegate=yes` gives you real ones)";

impl Created for Waiting {
    fn remark(&self) -> Option<&str> {
        self.machine.emulates.then_some(EMULATED)
    }

    fn process_id(&self) -> i32 {
        self.machine.process_id()
    }

    fn process(&self) -> BorrowedFd<'_> {
        self.machine.ended()
    }

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
        if machine.keeps {
            machine.receive_scratch()?;
        }
        if machine.plan_terminal {
            machine.receive_terminal()?;
        }
        if machine.hands_over {
            let message = machine.receive_handed()?;
            let handed = Handed::take(machine.child.child.as_fd(), &message)?;
            machine.channel.send(&[child::GO], &[])?;
            machine.supervise(handed)?;
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
    fn new(child: Child) -> Self {
        Self { child, ended: Cell::new(false), killed_by: Cell::new(None) }
    }

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

/// What a machine's first process made for whoever answers its system calls.
struct Handed {
    listener: OwnedFd,
    /// A socket of its network.
    inside: OwnedFd,
    /// Of the stand-in for its control groups.
    root: Option<OwnedFd>,
}

/// Length of the message with their numbers.
const HANDED: usize = 13;

impl Handed {
    /// Takes them out of the process that waits. That needs the right to look into it.
    fn take(process: BorrowedFd<'_>, message: &[u8; HANDED]) -> Result<Self> {
        let take = |at: usize| {
            let number = message[at..at + 4].try_into().map_or(-1, i32::from_le_bytes);
            (number >= 0).then(|| sys::process::descriptor(process, number)).transpose()
        };
        let taken = || Ok::<_, std::io::Error>((take(1)?, take(5)?, take(9)?));
        match taken().context("cannot take the machine's listener")? {
            (Some(listener), Some(inside), root) => Ok(Self { listener, inside, root }),
            _ => Err(anyhow!("the machine handed nothing over")),
        }
    }
}

/// A running container. The fields are in the order of teardown.
struct ContainerMachine {
    child: MainProcess,
    channel: Channel,
    terminal: Option<OwnedFd>,
    /// The other end, so that the console is never hung up.
    console: Option<OwnedFd>,
    boots: bool,
    /// Of a machine of its own.
    plan: Option<Plan>,
    steps: Vec<Step>,
    plan_terminal: bool,
    /// Process 1 is an init, ours or the system's: a signal does what it makes of it.
    takes_signals: bool,
    notify: Option<OwnedFd>,
    emulates: bool,
    /// Some of its system calls wait for this process.
    hands_over: bool,
    /// What becomes readable, and who answers then.
    supervisor: Option<([OwnedFd; 2], RefCell<Supervisor>)>,
    groups: Groups,
    /// What the machine writes is in there.
    scratch: Option<OwnedFd>,
    keeps: bool,
    /// Of a machine of its own; what is run in another has none.
    claim: Option<Claim>,
}

impl ContainerMachine {
    fn receive_terminal(&mut self) -> Result<()> {
        let mut message = [0; 9];
        let (length, mut descriptors) =
            self.channel.receive(&mut message).context("cannot hear from the machine")?;
        let (slave, master) = (descriptors.pop(), descriptors.pop());
        match (message[0], master) {
            (child::TERMINAL, Some(master)) if length > 0 => {
                self.terminal = Some(master);
                // Kept for a system only: a command's end is seen by its terminal's hang-up.
                self.console = slave.filter(|_| self.boots);
                Ok(())
            }
            (child::FAILED, _) if length == 9 => Err(self.explain(message)),
            _ => Err(anyhow!("the machine ended while it was set up")),
        }
    }

    fn receive_scratch(&mut self) -> Result<()> {
        let mut message = [0; 9];
        let (length, mut descriptors) =
            self.channel.receive(&mut message).context("cannot hear from the machine")?;
        match (message[0], descriptors.pop()) {
            (child::SCRATCH, Some(scratch)) if length > 0 => {
                self.scratch = Some(scratch);
                Ok(())
            }
            (child::FAILED, _) if length == 9 => Err(self.explain(message)),
            _ => Err(anyhow!("the machine ended while it was set up")),
        }
    }

    /// Hears what is needed to answer the machine's system calls: see [`Handed::take`].
    fn receive_handed(&self) -> Result<[u8; HANDED]> {
        let mut message = [0; HANDED];
        let (length, _) =
            self.channel.receive(&mut message).context("cannot hear from the machine")?;
        if (message[0], length) == (child::HANDED_OVER, HANDED) {
            return Ok(message);
        }
        let failure = message.first_chunk().filter(|_| message[0] == child::FAILED);
        Err(failure.map_or_else(
            || anyhow!("the machine ended while it was set up"),
            |message| self.explain(*message),
        ))
    }

    fn supervise(&mut self, handed: Handed) -> Result<()> {
        let Handed { listener, inside, root } = handed;
        let owner = self.plan.as_ref().and_then(|plan| outer_root(&plan.ids)).unwrap_or((0, 0));
        let pid = self.child.child.pid().as_raw_nonzero().get();
        let emulation = root.map(|root| Emulation::new(root, owner, pid)).transpose();
        let emulation = emulation.context("cannot emulate the control groups")?;
        let policy = self.plan.as_ref().and_then(|plan| plan.bypass.as_ref());
        let bypass = policy.map(|policy| Bypass::new(policy.clone(), inside.as_fd())).transpose();
        let bypass = bypass.context("cannot tell networks apart (it takes Linux 5.14 or newer)")?;
        let supervisor = Supervisor::new(listener, emulation, bypass);
        let supervisor = supervisor.context("cannot answer the machine's system calls")?;
        let own = [supervisor.calls(), supervisor.as_fd()];
        let [calls, ready] = own.map(|fd| fd.try_clone_to_owned());
        self.supervisor = Some(([calls?, ready?], RefCell::new(supervisor)));
        Ok(())
    }

    /// Whether the command is not executed yet, which closes the other end. Until then a signal
    /// waits, blocked, and a process 1 that unblocks it would lose it.
    fn is_starting(&self) -> bool {
        let mut polled = [rustix::event::PollFd::new(&self.channel, PollFlags::empty())];
        let now = rustix::event::Timespec::default();
        let seen = rustix::event::poll(&mut polled, Some(&now));
        seen.is_ok() && !polled[0].revents().contains(PollFlags::HUP)
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

    fn executed(&self) -> Result<()> {
        // The other end is closed by execve(2), without a message.
        self.failure().map_or(Ok(()), Err)
    }

    fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.as_ref().map(AsFd::as_fd)
    }

    fn process_id(&self) -> i32 {
        self.child.child.pid().as_raw_nonzero().get()
    }

    fn scratch(&self) -> Option<BorrowedFd<'_>> {
        self.scratch.as_ref().map(AsFd::as_fd)
    }

    fn notifications(&self) -> Option<BorrowedFd<'_>> {
        self.notify.as_ref().map(AsFd::as_fd)
    }

    fn calls(&self) -> Option<BorrowedFd<'_>> {
        self.supervisor.as_ref().map(|([calls, _], _)| calls.as_fd())
    }

    fn answer(&self) -> Result<()> {
        let answered = self.supervisor.as_ref().map_or(Ok(()), |(_, s)| s.borrow_mut().answer());
        answered.context("cannot answer the machine's system calls")
    }

    fn requests(&self) -> Option<BorrowedFd<'_>> {
        self.supervisor.as_ref().map(|([_, ready], _)| ready.as_fd())
    }

    fn serve(&self) -> Result<()> {
        let served = self.supervisor.as_ref().map_or(Ok(()), |(_, s)| s.borrow_mut().serve());
        served.context("cannot answer the machine's system calls")
    }

    fn ask(&self, socket: &str) -> Result<Question> {
        ask::ask(self.child.child.pid(), socket)
    }

    fn run_inside(&self, command: &[String]) -> Result<()> {
        let plan = self.plan.as_ref().context("nothing can be run inside of a process")?;
        exec::in_background(self.child.child.pid(), plan, command)
    }

    fn signal(&self, signal: i32) -> Result<()> {
        let child = &self.child.child;
        // While it waits for signals, an init seems to take none (Linux, kernel/signal.c,
        // `do_sigtimedwait`), and takes them all.
        let spared = !self.takes_signals
            && signals::ends_by_default(signal)
            && (self.is_starting()
                || signals::left_to_default(child.pid(), signal).unwrap_or(false));
        if spared {
            self.child.killed_by.set(Some(signal));
        }
        let sent = child.signal(if spared { signals::SIGKILL } else { signal });
        sent.with_context(|| format!("cannot send signal {signal} to the machine"))
    }

    fn wait_and_keep(
        mut self: Box<Self>,
        over: &mut dyn FnMut(Ended) -> Ended,
    ) -> Result<(Ended, Option<Remains>)> {
        let ended = over(self.child.wait()?);
        // The status of a child that reported; a command may also exit with it.
        if ended == Ended::Exited(125)
            && let Some(error) = self.failure()
        {
            return Err(error);
        }
        let remains = match (self.claim.take(), self.scratch.take()) {
            (Some(claim), Some(scratch)) => Some(Remains { claim, scratch }),
            // Dropped last, after the groups.
            (claim, _) => {
                self.claim = claim;
                None
            }
        };
        drop(self);
        Ok((ended, remains))
    }
}

fn open_directory(path: &std::path::Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .with_context(|| format!("cannot open the control group {}", path.display()))
}
