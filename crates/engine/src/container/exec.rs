//! A further process in a machine that runs.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::process::{DumpableBehavior, Pid};
use spec::bypass::Bypass;
use spec::plan::{Plan, Process};
use sys::cgroups::Groups;
use sys::process::{self, Child, Namespaces};
use sys::rooted::Root;
use sys::socket::{self, Channel};

use super::cgroupfs::{Emulation, MOUNT};
use super::child::{self, Inherited};
use super::door::Door;
use super::supervisor::Supervisor;
use super::{ContainerMachine, HANDED, Handed, MainProcess, outer_root, prepare};
use crate::bus::Bus;
use crate::record::Record;
use crate::visit::{self, Visit};
use crate::{Inside, Machine, Streams, Talk, Visitor};

/// The group below a managed one that takes what is run inside; groups with others below them
/// may hold no process themselves (cgroups(7), "no internal processes").
pub(super) const GROUP: &str = "postroj.exec";

/// Moves this process into the machine, and starts `process` there as its child.
pub(super) fn exec(
    record: &Record,
    process: &Process,
    streams: Streams,
) -> Result<Box<dyn Machine>> {
    let (door, plan) = door(record)?;
    let mut steps = prepare::inside(plan, process)?;
    let emulation = emulated(&door, plan)?;
    prepare::hand_over(&mut steps, plan, emulation.is_some())?;
    for group in &record.cgroups {
        join(group, plan);
    }
    let (ours, theirs) = socket::pair().context("cannot make a socket for the process")?;
    let answers = Answers { policy: plan.bypass.as_ref(), emulation };
    let outside = answers.any().then(|| Outside::new(&answers)).transpose()?;
    door.enter().context("cannot enter the machine's namespaces")?;
    let (steps_ref, ours_ref) = (&steps, &ours);
    let child = process::spawn(Namespaces::NONE, None, move || {
        ours_ref.close_copy();
        let inherited = Inherited {
            launcher: Some(theirs),
            streams,
            notify: None,
            own: child::bundle::Own::default(),
        };
        child::run(steps_ref, inherited)
    })
    .context("cannot make a process in the machine")?;
    let mut machine = ContainerMachine {
        child: MainProcess::new(child),
        channel: ours,
        terminal: None,
        console: None,
        boots: false,
        plan: None,
        steps,
        plan_terminal: process.terminal,
        takes_signals: true,
        notify: None,
        emulates: false,
        hands_over: outside.is_some(),
        supervisor: None,
        groups: Groups::default(),
        scratch: None,
        keeps: false,
        claim: None,
    };
    if process.terminal {
        machine.receive_terminal()?;
    }
    if let Some(outside) = outside {
        outside.take_over(&machine)?;
    }
    Ok(Box::new(machine))
}

/// Which system calls of a process are answered from outside.
struct Answers<'a> {
    policy: Option<&'a Bypass>,
    /// The machine's root as it is called outside, where its control groups are emulated.
    emulation: Option<(u32, u32)>,
}

impl Answers<'_> {
    fn any(&self) -> bool {
        self.policy.is_some() || self.emulation.is_some()
    }
}

/// Whether what is run in this machine would see that its control groups are emulated: only what
/// makes containers looks so closely.
fn emulated(door: &Door, plan: &Plan) -> Result<Option<(u32, u32)>> {
    if !plan.nested || !plan.manages_control_groups() {
        return Ok(None);
    }
    let what = "cannot look at the machine's control groups";
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mount = door.root().and_then(|root| root.open_in(MOUNT, flags, Mode::empty()));
    let stat = rustix::fs::fstatfs(mount.context(what)?).context(what)?;
    Ok((stat.f_type as u64 != CGROUP2).then(|| outer_root(&plan.ids).unwrap_or((0, 0))))
}

/// statfs(2), `CGROUP2_SUPER_MAGIC`.
const CGROUP2: u64 = 0x6367_7270;

/// A process that stays where the launcher was, and has the network that it had: it answers the
/// system calls of what is run inside. It ends when nobody is left who could call.
struct Outside {
    channel: Channel,
    /// Killed when the launcher ends.
    _process: Child,
}

impl Outside {
    fn new(answers: &Answers<'_>) -> Result<Self> {
        let what = "cannot make a process that answers system calls";
        let (ours, theirs) = socket::pair().context(what)?;
        let ours_ref = &ours;
        let process = process::spawn(Namespaces::NONE, None, move || {
            ours_ref.close_copy();
            // Whoever waits for it sees the socket closed.
            let _ = answer(&theirs, answers);
        });
        Ok(Self { channel: ours, _process: process.context(what)? })
    }

    /// It may look into the process; the launcher has become one of the machine's own.
    fn take_over(&self, machine: &ContainerMachine) -> Result<()> {
        let message = machine.receive_handed()?;
        let told = self.channel.send(&message, &[machine.child.child.as_fd()]).and_then(|()| {
            match self.channel.receive(&mut [0])? {
                (0, _) => Err(std::io::ErrorKind::BrokenPipe.into()),
                _ => Ok(()),
            }
        });
        told.context("cannot hand the process's system calls over")?;
        Ok(machine.channel.send(&[child::GO], &[])?)
    }
}

fn answer(channel: &Channel, answers: &Answers<'_>) -> Result<()> {
    let kill = Some(rustix::process::Signal::KILL);
    rustix::process::set_parent_process_death_signal(kill)?;
    process::close_all_except(&[channel.as_fd()])?;
    let mut message = [0; HANDED];
    let (_, descriptors) = channel.receive(&mut message)?;
    let Some(process) = descriptors.first() else { bail!("the launcher ended") };
    let Handed { listener, inside, root } = Handed::take(process.as_fd(), &message)?;
    let bypass = |policy: &Bypass| super::bypass::Bypass::new(policy.clone(), inside.as_fd());
    let bypass = answers.policy.map(bypass).transpose()?;
    let emulation = root.zip(answers.emulation);
    let emulation = emulation.map(|(root, owner)| Emulation::further(root, owner));
    let mut supervisor = Supervisor::new(listener, emulation, bypass)?;
    channel.send(b"L", &[])?;
    loop {
        let both = [supervisor.calls(), supervisor.as_fd()];
        let mut polled = both.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        match rustix::event::poll(&mut polled, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let [called, asked] = polled.map(|polled| polled.revents());
        if called.contains(PollFlags::IN) {
            supervisor.answer()?;
        } else if !called.is_empty() {
            // Nobody is left who could call.
            return Ok(());
        }
        if !asked.is_empty() {
            supervisor.serve()?;
        }
    }
}

/// The root directory as the machine's own processes see it.
pub(super) fn root(record: &Record) -> Result<Root> {
    let what = || format!("cannot look into the machine {}", record.name);
    door(record)?.0.root().with_context(what)
}

/// Whoever is looked at by these functions.
pub(super) fn process(record: &Record) -> Result<(i32, OwnedFd)> {
    Ok(door(record)?.0.into_process())
}

/// In the machine's user and mount namespaces only: it is no process of the machine's, so that
/// none of those sees it. Whoever enters a user namespace is not dumpable afterwards (Linux,
/// kernel/cred.c, `commit_creds`), so that its root may not look into it either.
pub(super) fn visit(record: &Record, visitor: &mut Visitor<'_>) -> Result<Visit> {
    let (door, _) = door(record)?;
    let (answer, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let helper = process::spawn(Namespaces::NONE, None, || {
        process::close_copy(answer.as_fd());
        let said = enter_files(&door, writer.as_fd()).and_then(|root| visitor(&root));
        visit::tell(writer, said);
        process::exit_now(0)
    })
    .context("cannot enter the machine")?;
    Ok(Visit::new(helper, answer))
}

/// In all of the machine's namespaces, as its root user.
pub(super) fn inside(record: &Record, visitor: &mut Inside<'_>) -> Result<Visit> {
    let (door, _) = door(record)?;
    let (answer, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let helper = process::spawn(Namespaces::NONE, None, || {
        process::close_copy(answer.as_fd());
        let entered = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .map_err(Into::into)
            .and_then(|()| door.enter())
            // Lost where ids or rights change: now they have.
            .and_then(|()| visit::end_with_listener(writer.as_fd()))
            .and_then(|()| process::fork());
        match entered {
            Ok(None) => {
                let root = become_root(writer.as_fd());
                visit::tell(writer, root.and_then(|()| visitor()));
                process::exit_now(0)
            }
            Ok(Some(child)) => {
                drop(writer);
                let none = rustix::process::WaitOptions::empty();
                let _ = rustix::process::waitpid(Some(child), none);
            }
            Err(error) => {
                let error = anyhow::Error::from(error).context("cannot enter the machine");
                visit::tell(writer, Err(error));
            }
        }
    })
    .context("cannot enter the machine")?;
    Ok(Visit::new(helper, answer))
}

fn become_root(answer: BorrowedFd<'_>) -> Result<()> {
    sys::userns::become_root().context("cannot become root in the machine")?;
    Ok(visit::end_with_listener(answer)?)
}

/// From inside: a private socket answers only to root of its own namespaces.
pub(super) fn talk(record: &Record, socket: &str, talk: &mut Talk<'_>) -> Result<Visit> {
    inside(record, &mut || talk(&mut connect(socket)?))
}

/// In a system that is about to start, the socket comes late.
fn connect(path: &str) -> Result<Bus<UnixStream>> {
    let stream = loop {
        match UnixStream::connect(path) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                std::thread::sleep(LATE);
            }
            other => break other.with_context(|| format!("cannot connect to {path}"))?,
        }
    };
    Bus::connect(stream).context("cannot speak with the machine's systemd")
}

/// Between two looks for a socket that is not there yet.
const LATE: std::time::Duration = std::time::Duration::from_millis(20);

fn enter_files(door: &Door, answer: BorrowedFd<'_>) -> Result<Root> {
    let what = "cannot enter the machine's files";
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).context(what)?;
    door.enter_only(Namespaces::USER | Namespaces::MOUNT).context(what)?;
    sys::userns::become_root().context(what)?;
    visit::end_with_listener(answer).context(what)?;
    Root::open(Path::new("/")).context(what)
}

/// Moves this process into the machine.
pub(super) fn enter(record: &Record) -> Result<()> {
    let what = || format!("cannot enter the machine {}", record.name);
    door(record)?.0.enter().with_context(what)?;
    sys::userns::become_root().with_context(what)
}

fn door(record: &Record) -> Result<(Door, &Plan)> {
    let (Some((pid, start)), Some(plan)) = (record.pid, &record.plan) else {
        bail!("the machine {} is not up yet", record.name);
    };
    let gone = || format!("the machine {} has ended", record.name);
    if record.exited.is_some() {
        bail!("{}", gone());
    }
    let pid = Pid::from_raw(pid).with_context(gone)?;
    Ok((Door::of(pid, start, plan.process.init).with_context(gone)?, plan))
}

/// So that the machine's limits hold for it. Where this user may not, it runs beside them: then
/// nothing is limited either, since limits need the same right.
fn join(group: &Path, plan: &Plan) {
    // The record has also those that might have been made.
    if !group.exists() {
        return;
    }
    let managed = plan.manages_control_groups();
    let is_unified = group.join("cgroup.controllers").exists();
    let group = if managed && is_unified { group.join(GROUP) } else { group.to_owned() };
    if managed && is_unified {
        let _ = std::fs::create_dir(&group);
    }
    let _ = std::fs::write(group.join("cgroup.procs"), "0");
}

/// Starts a command as root with the machine's own rights, and does not wait for it.
pub(super) fn in_background(pid: Pid, plan: &Plan, command: &[String]) -> Result<()> {
    let process = Process {
        args: command.to_vec(),
        cwd: "/".into(),
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        terminal: false,
        stdin: false,
        ..plan.process.clone()
    };
    let steps = prepare::inside(plan, &process)?;
    let door = Door::open(pid).context("cannot enter the machine")?;
    let null = std::fs::File::options().write(true).open("/dev/null")?;
    let output = || null.as_fd().try_clone_to_owned();
    let streams = Streams { output: Some(output()?), error: Some(output()?), ..Streams::default() };
    let helper = process::spawn(Namespaces::NONE, None, || {
        if door.enter().is_err() {
            return;
        }
        match process::fork() {
            Ok(None) => child::run(
                &steps,
                Inherited {
                    launcher: None,
                    streams,
                    notify: None,
                    own: child::bundle::Own::default(),
                },
            ),
            // Not to leave it to the host's process 1 while this one can wait.
            Ok(Some(child)) => {
                let none = rustix::process::WaitOptions::empty();
                let _ = rustix::process::waitpid(Some(child), none);
            }
            Err(_) => {}
        }
    });
    // It is this process's child, and goes with it.
    helper.map(drop).context("cannot run a command in the machine")
}
