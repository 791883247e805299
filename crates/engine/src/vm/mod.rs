//! The engine of virtual machines: a plan run by a kernel of its own, under QEMU.
//!
//! Three processes: the monitor, as of any machine; the shim, which is its child, is the parent of
//! QEMU and speaks with the guest; and QEMU. Whoever wants something done in the machine speaks
//! with the shim, and the guest does it with the engine of containers: see `guest`.

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use spec::exit::Ended;
use spec::ids::IdMapping;
use spec::plan::{Limits, MountKind, Network, Plan, Process, Root};
use sys::process::{Child, Namespaces, Status};
use sys::signals;
use sys::socket;

use crate::record::Record;
use crate::state::{Claim, RunDirectory};
use crate::visit::Visit;
use crate::{Created, Engine, Errand, Inside, Machine, Question, Remains, Streams, Talk, Visitor};

pub mod accelerator;
mod channel;
mod client;
mod control;
pub mod firmware;
mod frame;
pub mod guest;
pub mod hardware;
pub mod initramfs;
mod network;
pub mod qemu;
pub mod qmp;
mod refusal;
mod share;
mod shim;
mod wire;

use client::{Client, Wants};
pub use control::signal;
use hardware::{Accelerator, Architecture, Board, Boot, Disk, Format, Hardware, Line, Writes};
use wire::{Job, Request, Say, Told};

/// Memory of a machine of which none is said: a system with a few services fits, and a page that is
/// never touched takes nothing.
const MEMORY: u64 = 1 << 30;

/// Runs plans in virtual machines.
pub(crate) struct Vm;

impl Engine for Vm {
    fn name(&self) -> &'static str {
        "vm"
    }

    fn has_own_kernel(&self) -> bool {
        true
    }

    fn check(&self, request: &spec::request::Request) -> Result<()> {
        refusal::check(request)
    }

    fn create(
        &self,
        plan: &Plan,
        run: &RunDirectory,
        mut streams: Streams,
        remains: Option<Remains>,
    ) -> Result<Box<dyn Created>> {
        run.reap();
        if let Some(remains) = remains {
            return again(plan, streams, remains);
        }
        let (mut hardware, remark) = hardware(plan, run)?;
        let mut inherited = Vec::new();
        let interface =
            streams.card.take().map(|card| network::plug(card, &mut hardware, &mut inherited));
        let mut job = Job { plan: for_guest(plan), interface, shares: false };
        let ids = plan.own_kernel.as_ref().map_or(&IdMapping::Inherit, |parts| &parts.ids);
        let sockets = directory(run);
        let place = (&*sockets, &*plan.id);
        let shares = share::plan(&mut job.plan, ids, place, &mut hardware, &mut inherited)?;
        job.shares = shares.is_some();
        let claim = run.claim(&plan.name, &plan.id, plan.keep)?;
        claim.foresee_machine(plan)?;
        let socket = Socket { directory: directory(run), id: plan.id.clone() };
        let listener = shim::listen(&socket.directory, &socket.id)?;
        let (ours, theirs) = socket::pair().context("cannot make a socket for the machine")?;
        let (ours_ref, claim_ref) = (&ours, &claim);
        let shim = sys::process::spawn(Namespaces::NONE, None, move || {
            ours_ref.close_copy();
            claim_ref.close_copy();
            shim::run(hardware, inherited, shares, theirs, listener);
        })
        .context("cannot make a process for the virtual machine")?;
        claim.record(shim.pid(), &[], plan)?;
        let shim = Shim { process: shim, over: false, is_orderly: false };
        let kept = Kept { client: ours, shim, claim, socket, prepared: None };
        let request = Request::Run(Box::new(job));
        Ok(Box::new(Waiting { request, streams, kept, remark }))
    }

    fn exec(
        &self,
        record: &Record,
        process: &Process,
        streams: Streams,
    ) -> Result<Box<dyn Machine>> {
        let wants = Wants {
            streams: if process.terminal { Vec::new() } else { client::streams(process, streams)? },
            terminal: process.terminal,
            notifies: false,
        };
        let request = Request::Exec(Box::new(process.clone()));
        Ok(Box::new(Client::open(connect(record)?, request, wants)?))
    }

    fn errand(
        &self,
        record: &Record,
        errand: &'static Errand,
        argument: &str,
        streams: Streams,
        _unused: &[BorrowedFd<'_>],
    ) -> Result<Visit> {
        let request =
            Request::Errand { name: errand.name.to_owned(), argument: argument.to_owned() };
        let mut further = Vec::new();
        further.extend(streams.input.map(|fd| (channel::INPUT, fd)));
        further.extend(streams.output.map(|fd| (channel::OUTPUT, fd)));
        let (answer, client) = client::reader(connect(record)?, request, channel::ANSWER, further)?;
        Ok(Visit::of_session(answer, Box::new(client)))
    }

    fn root(&self, record: &Record) -> Result<sys::rooted::Root> {
        bail!("{}", elsewhere(record))
    }

    fn process(&self, record: &Record) -> Result<(i32, OwnedFd)> {
        bail!("{}", elsewhere(record))
    }

    fn visit(&self, record: &Record, _visitor: &mut Visitor<'_>) -> Result<Visit> {
        bail!("{}", elsewhere(record))
    }

    fn inside(&self, record: &Record, _visitor: &mut Inside<'_>) -> Result<Visit> {
        bail!("{}", elsewhere(record))
    }

    fn talk(&self, record: &Record, _socket: &str, _talk: &mut Talk<'_>) -> Result<Visit> {
        bail!("{}", elsewhere(record))
    }

    fn enter(&self, record: &Record) -> Result<()> {
        bail!("{}", elsewhere(record))
    }

    fn hold(&self, record: &Record, still: bool) -> Result<bool> {
        control::hold(record, still).map(|()| true)
    }

    fn resize(&self, record: &Record) -> Result<()> {
        control::resize(record)
    }

    fn carriers(&self, record: &Record) -> Vec<i32> {
        let shim = record.pid.map(|(pid, _)| pid);
        let children = shim.map(sys::process::children).unwrap_or_default();
        shim.into_iter().chain(children).collect()
    }

    fn end_command(&self, _run: &RunDirectory, record: &Record) -> Result<()> {
        control::signal(record, signals::SIGKILL)
    }
}

fn elsewhere(record: &Record) -> String {
    format!(
        "this cannot be done with the virtual machine {}: its processes and files are under a kernel of its own",
        record.name
    )
}

/// Where the sockets of a run directory's machines are.
fn directory(run: &RunDirectory) -> PathBuf {
    run.path().join(crate::state::SOCKETS)
}

/// For something that its guest does: one that stands still would never.
fn connect(record: &Record) -> Result<socket::Channel> {
    if record.paused {
        bail!("the machine {0} is paused: `postroj unpause {0}` first", record.name);
    }
    reach(record)
}

fn reach(record: &Record) -> Result<socket::Channel> {
    if record.exited.is_some() {
        bail!("the machine {} has ended", record.name);
    }
    let run = record.run.as_ref().context("the machine's run directory is not known")?;
    shim::connect(&run.join(crate::state::SOCKETS), record.id())
        .with_context(|| format!("cannot speak with the machine {}", record.name))
}

/// What QEMU is to make.
fn hardware(plan: &Plan, run: &RunDirectory) -> Result<(Hardware, Option<String>)> {
    let parts =
        plan.own_kernel.as_ref().context("the plan names no kernel for a virtual machine")?;
    let host =
        Architecture::host().context("there are no virtual machines on this processor yet")?;
    let found = accelerator::find(run.path(), host, Path::new(&parts.kernel))?;
    let cpus = match plan.limits.milli_cpus {
        Some(thousandths) => thousandths.div_ceil(1000).clamp(1, 255) as u32,
        // A second one makes a start a sixth slower, and QEMU's translating threads race where a kernel
        // changes its own code: one start in some hundreds ended in "Fatal exception in interrupt".
        None if found.accelerator == Accelerator::Tcg => 1,
        None => std::thread::available_parallelism().map_or(1, |n| n.get().min(4)) as u32,
    };
    let quick = accelerator::command_line(found.accelerator, host);
    let hardware = Hardware {
        name: format!("postroj-{}", &plan.id[..12]),
        architecture: host,
        accelerator: found.accelerator,
        board: Board::Microvm,
        cpus,
        memory: plan.limits.memory.unwrap_or(MEMORY),
        boot: Boot::Kernel {
            kernel: parts.kernel.clone().into(),
            initramfs: Some(parts.initramfs.clone().into()),
            // A card keeps the name that it is given first, whatever the image's udev thinks of that.
            command_line: format!("console={} quiet net.ifnames=0 {quick}", host.console()),
        },
        disks: vec![Disk {
            file: Path::new(&parts.image).to_owned(),
            format: Format::Raw,
            writes: Writes::Refused,
            serial: "image".into(),
        }],
        console: None,
        ports: Vec::new(),
        nics: Vec::new(),
        shares: Vec::new(),
        // The shim puts its own lines in their places.
        monitor: Line::Descriptor(-1),
    };
    Ok((hardware, found.remark))
}

/// The same plan as the guest carries it out: the kernel is the machine's own, so nothing has to be
/// kept from it, and its size is its limit.
fn for_guest(plan: &Plan) -> Plan {
    let mut plan = plan.clone();
    plan.root = match plan.root {
        Root::Overlay { links, read_only, .. } => {
            Root::Overlay { layers: vec![guest::IMAGE.into()], links, read_only }
        }
        other @ Root::Directory { .. } => other,
    };
    if matches!(plan.network, Network::Attached(_)) {
        plan.network = Network::Host;
    }
    plan.limits = Limits { pids: plan.limits.pids, ..Limits::default() };
    if !plan.limits.any() && !plan.manages_control_groups() {
        plan.mounts.retain(|mount| !matches!(mount.kind, MountKind::Cgroup { .. }));
    }
    (plan.own_kernel, plan.timeout) = (None, None);
    // There it is a container.
    plan.isolation = String::new();
    plan
}

/// Removed with the machine.
struct Socket {
    directory: PathBuf,
    id: String,
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.directory.join(&self.id));
    }
}

/// It is killed when this is dropped, and QEMU with it; or waited for.
struct Shim {
    process: Child,
    over: bool,
    /// It ends by itself, once its client has gone.
    is_orderly: bool,
}

impl Shim {
    /// Waits until it has ended.
    fn end(&mut self) -> Result<Status> {
        let status = self.process.wait().context("cannot wait for the machine")?;
        self.over = true;
        Ok(status)
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        if !self.over {
            if !self.is_orderly {
                let _ = self.process.signal(signals::SIGKILL);
            }
            let _ = self.process.wait();
        }
    }
}

/// What a machine is between two runs of its command; its kernel goes on. The fields are in the order of
/// teardown.
pub(crate) struct Kept {
    client: socket::Channel,
    shim: Shim,
    socket: Socket,
    claim: Claim,
    /// What takes the place of what was written, where there is something.
    pub(crate) prepared: Option<String>,
}

/// The next run of a machine.
fn again(plan: &Plan, streams: Streams, remains: Remains) -> Result<Box<dyn Created>> {
    let crate::remains::Kept::Machine(mut kept) = remains.0 else {
        bail!("a container does not go on as a virtual machine");
    };
    kept.claim.record(kept.shim.process.pid(), &[], plan)?;
    let mut plan = for_guest(plan);
    // What is shared is where the first run found it.
    share::point(&mut plan)?;
    let request = Request::RunAgain(Box::new(plan), kept.prepared.take());
    Ok(Box::new(Waiting { request, streams, kept: *kept, remark: None }))
}

/// Created: the kernel starts already, and nothing is to be done yet.
struct Waiting {
    request: Request,
    streams: Streams,
    kept: Kept,
    remark: Option<String>,
}

impl Created for Waiting {
    fn remark(&self) -> Option<&str> {
        self.remark.as_deref()
    }

    fn process_id(&self) -> i32 {
        self.kept.shim.process.pid().as_raw_nonzero().get()
    }

    fn process(&self) -> BorrowedFd<'_> {
        self.kept.shim.process.as_fd()
    }

    fn start(self: Box<Self>) -> Result<Box<dyn Machine>> {
        let Self { request, streams, kept, .. } = *self;
        let Kept { client, shim, socket, claim, .. } = kept;
        let plan = match &request {
            Request::Run(job) => &job.plan,
            Request::RunAgain(plan, _) => plan,
            _ => bail!("a machine runs a plan"),
        };
        let process = &plan.process;
        let wants = Wants {
            streams: if process.terminal { Vec::new() } else { client::streams(process, streams)? },
            terminal: process.terminal,
            notifies: plan.boot.is_some(),
        };
        let client = Client::open(client, request, wants)?;
        Ok(Box::new(VirtualMachine { client, beside: RefCell::default(), shim, socket, claim }))
    }
}

/// A running virtual machine. The fields are in the order of teardown.
struct VirtualMachine {
    client: Client,
    /// Commands that run until the machine ends.
    beside: RefCell<Vec<Client>>,
    shim: Shim,
    socket: Socket,
    claim: Claim,
}

impl VirtualMachine {
    /// Another session with this machine.
    fn connect(&self) -> Result<socket::Channel> {
        shim::connect(&self.socket.directory, &self.socket.id)
    }
}

impl Machine for VirtualMachine {
    fn ended(&self) -> BorrowedFd<'_> {
        self.client.ended()
    }

    fn executed(&self) -> Result<()> {
        self.client.executed()
    }

    fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.client.terminal()
    }

    fn resize(&self, _like: BorrowedFd<'_>) -> Result<()> {
        self.client.resize()
    }

    fn process_id(&self) -> i32 {
        self.shim.process.pid().as_raw_nonzero().get()
    }

    fn scratch(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn notifications(&self) -> Option<BorrowedFd<'_>> {
        self.client.notifications()
    }

    fn calls(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn answer(&self) -> Result<()> {
        Ok(())
    }

    fn requests(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn serve(&self) -> Result<()> {
        Ok(())
    }

    fn ask(&self, socket: &str) -> Result<Question> {
        let request = Request::Ask(socket.to_owned());
        let (answer, client) =
            client::reader(self.connect()?, request, channel::ANSWER, Vec::new())?;
        Ok(Question { answer, helper: crate::ready::Helper::Session(Box::new(client)) })
    }

    fn run_inside(&self, command: &[String]) -> Result<()> {
        let request = Request::Background(command.to_vec());
        let client = Client::open(self.connect()?, request, Wants::default())?;
        // It runs for as long as somebody waits for it.
        self.beside.borrow_mut().push(client);
        Ok(())
    }

    fn signal(&self, signal: i32) -> Result<()> {
        if signal == signals::SIGKILL {
            return self.shim.process.signal(signal).context("cannot kill the machine");
        }
        self.client.say(Say::Signal(signal))
    }

    fn wait_and_keep(
        mut self: Box<Self>,
        over: &mut dyn FnMut(Ended) -> Ended,
    ) -> Result<(Ended, Option<Remains>)> {
        let ended = match self.client.last() {
            Ok(Some(Told::Ended(end))) => Ok(end.into()),
            Ok(Some(Told::Failed(failure))) => Err(failure.into()),
            Ok(_) => self.shim.end().and_then(|status| match status {
                Status::Signalled(signal) => Ok(Ended::Signalled(signal)),
                Status::Exited(_) => Err(anyhow!("the virtual machine ended without a word")),
            }),
            Err(error) => Err(error),
        };
        let is_over = self.shim.over || ended.is_err();
        let seen = over(*ended.as_ref().unwrap_or(&Ended::Exited(spec::exit::FAILED)));
        let Self { client, beside, mut shim, socket, claim } = *self;
        drop(beside);
        let client = client.into_socket();
        // It ends once nobody has this machine, and tells others so.
        shim.is_orderly = true;
        if is_over {
            drop(client);
            if !shim.over {
                shim.end()?;
            }
            return ended.map(|_| (seen, None));
        }
        let kept = Kept { client, shim, socket, claim, prepared: None };
        Ok((seen, Some(Remains(crate::remains::Kept::Machine(Box::new(kept))))))
    }
}
pub mod seed;
