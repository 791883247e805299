//! One thing that is done in a guest, in a process of its own: it may be moved into the machine's
//! namespaces, and nothing that goes wrong in it reaches the agent.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags};
use rustix::net::RecvFlags;
use spec::plan::{Plan, Process};
use sys::process;
use sys::socket::Channel;

use super::super::share;
use super::super::wire::{End, Failure, Job, Request, Size, Told};
use super::Abilities;
use crate::container::Container;
use crate::record::{Note, Record};
use crate::remains::Kept;
use crate::state::RunDirectory;
use crate::{Engine, Errand, Machine, Remains, Streams, Work, visit};

/// The message that carries a terminal.
const TERMINAL: &[u8] = b"T";

/// The message that carries the directory which holds what is written in the machine.
pub(super) const SCRATCH: &[u8] = b"S";

/// This machine's name in its own guest, where there is no other.
const NAME: &str = "machine";

/// A session's ends of its streams, by number.
#[derive(Default)]
pub(super) struct Given {
    pub(super) streams: [Option<OwnedFd>; 4],
    /// Of the machine's last run, for its next one.
    pub(super) scratch: Option<OwnedFd>,
}

/// Does what is asked for, and says how that ended; never returns.
pub(super) fn run(
    request: Request,
    size: Option<Size>,
    socket: Channel,
    given: Given,
    run: &RunDirectory,
    abilities: &Abilities,
) -> ! {
    let mut kept = vec![socket.as_fd()];
    kept.extend(given.streams.iter().flatten().chain(&given.scratch).map(AsFd::as_fd));
    let told = process::close_all_except(&kept)
        .context("cannot close what is not a session's")
        .and_then(|()| carry_out(request, size, &socket, given, run, abilities))
        .unwrap_or_else(|error| Told::Failed(Failure::from(&error)));
    if let Ok(text) = serde_json::to_vec(&told) {
        let _ = socket.send(&text, &[]);
    }
    process::exit_now(0)
}

fn carry_out(
    request: Request,
    size: Option<Size>,
    socket: &Channel,
    given: Given,
    run: &RunDirectory,
    abilities: &Abilities,
) -> Result<Told> {
    let Given { streams: [input, output, error, answer], scratch } = given;
    let streams = Streams { input, output, error, card: None };
    match request {
        Request::Run(job) => {
            let Job { plan, interface, shares } = *job;
            interface.iter().try_for_each(abilities.set_up)?;
            if shares {
                mount_shares()?;
            }
            machine(plan, run, streams, None, size, socket)
        }
        Request::RunAgain(plan, prepared) => {
            let scratch = scratch.context("the machine did not run yet")?;
            let claim = run.claim(NAME, &plan.id, false)?;
            let mut remains = Remains(Kept::Scratch { scratch, claim });
            if let Some(prepared) = prepared {
                remains
                    .exchange(&prepared)
                    .context("cannot restore what was written in the machine")?;
            }
            machine(*plan, run, streams, Some(remains), size, socket)
        }
        Request::Exec(process) => {
            let record = run.find(NAME)?;
            attend(Container.exec(&record, &with_input(*process, &streams), streams)?, size, socket)
        }
        Request::Errand { name, argument } => {
            let answer = answer.context("nobody waits for an answer")?;
            visit::tell(answer, errand(run, (&name, &argument), streams, abilities.errands));
            Ok(Told::Ended(End::Exited(0)))
        }
        Request::Ask(path) => {
            let answer = answer.context("nobody waits for an answer")?;
            let record = run.find(NAME)?;
            let state = Container.talk(&record, &path, &mut |bus| Ok(bus.state_and_failures()?))?;
            rustix::io::write(&answer, state.join()?.as_bytes())?;
            Ok(Told::Ended(End::Exited(0)))
        }
        Request::Signal(signal) => {
            run.signal(&run.find(NAME)?, signal)?;
            Ok(Told::Ended(End::Exited(0)))
        }
        Request::Clock(tv_sec, tv_nsec) => {
            let now = rustix::time::Timespec { tv_sec, tv_nsec };
            rustix::time::clock_settime(rustix::time::ClockId::Realtime, now)
                .context("cannot set the guest's clock")?;
            Ok(Told::Ended(End::Exited(0)))
        }
        // Of the agent, who has the terminals, and of the shim.
        Request::Window(_) | Request::Hold(_) => bail!("no session does this"),
        Request::Background(command) => {
            let record = run.find(NAME)?;
            let plan = record.plan.as_ref().context("the machine is not up yet")?;
            let process = Process {
                args: command,
                cwd: "/".into(),
                uid: 0,
                gid: 0,
                groups: Vec::new(),
                terminal: false,
                stdin: false,
                init: false,
                ..plan.process.clone()
            };
            let null = || std::fs::File::options().write(true).open("/dev/null").map(OwnedFd::from);
            let streams =
                Streams { output: Some(null()?), error: Some(null()?), ..Streams::default() };
            attend(Container.exec(&record, &process, streams)?, None, socket)
        }
    }
}

/// Mounts what the host shares, from where the plan has it.
fn mount_shares() -> Result<()> {
    let what = "cannot mount the directories of the host";
    std::fs::create_dir(share::PLACE).context(what)?;
    let place = std::ffi::CString::new(share::PLACE)?;
    let flags = sys::mount::Attributes::default().flags();
    sys::mount::plain(share::TAG, &place, c"virtiofs", flags, c"").context(what)
}

/// The machine itself.
fn machine(
    plan: Plan,
    run: &RunDirectory,
    streams: Streams,
    remains: Option<Remains>,
    size: Option<Size>,
    socket: &Channel,
) -> Result<Told> {
    let plan = Plan { name: NAME.to_owned(), keep: false, ..plan };
    let machine = Container.create(&plan, run, streams, remains)?.start()?;
    if let Some(scratch) = machine.scratch() {
        // Errands find it by the record; the agent keeps it for the next run.
        run.note(NAME, &Note::Scratch(scratch.as_raw_fd()))?;
        socket.send(SCRATCH, &[scratch]).context("cannot hand over what is written")?;
    }
    attend(machine, size, socket)
}

/// There is an input only where somebody sends one.
fn with_input(process: Process, streams: &Streams) -> Process {
    Process { stdin: process.stdin && streams.input.is_some(), ..process }
}

fn errand(
    run: &RunDirectory,
    (name, argument): (&str, &str),
    streams: Streams,
    errands: &[&'static Errand],
) -> Result<String> {
    let Some(errand) = errands.iter().copied().find(|errand| errand.name == name) else {
        bail!("there is no errand {name:?}");
    };
    let record: Record = run.find(NAME)?;
    if let Work::Written(work) = errand.work {
        if let Some(output) = &streams.output {
            rustix::stdio::dup2_stdout(output)?;
        }
        return work(argument, run, &record);
    }
    Container.errand(&record, errand, argument, streams, &[])?.join()
}

/// Until its end: passes signals on, and what a system says of itself.
fn attend(machine: Box<dyn Machine>, size: Option<Size>, socket: &Channel) -> Result<Told> {
    if let Some((terminal, size)) = machine.terminal().zip(size) {
        // At once: the command may look as soon as it runs. It may have ended already, too.
        let _ = super::agent::resize(terminal, size);
        socket.send(TERMINAL, &[terminal]).context("cannot hand the terminal over")?;
    }
    machine.executed()?;
    say(socket, &Told::Started)?;
    loop {
        let ended = machine.ended();
        let notifications = machine.notifications();
        let mut polled =
            vec![PollFd::new(&ended, PollFlags::IN), PollFd::new(socket, PollFlags::IN)];
        polled.extend(notifications.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        match rustix::event::poll(&mut polled, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let found: Vec<PollFlags> = polled.iter().map(PollFd::revents).collect();
        if !found[0].is_empty() {
            return Ok(Told::Ended(machine.wait(&mut |ended| ended)?.into()));
        }
        if !found[1].is_empty() {
            let mut message = [0; 4];
            match socket.receive(&mut message)? {
                // It may have ended just now.
                (4, _) => drop(machine.signal(i32::from_le_bytes(message))),
                _ => bail!("nobody waits for it any more"),
            }
        }
        if let Some(socket_inside) = notifications {
            let mut buffer = [0; 4096];
            while let Ok((length, _)) =
                rustix::net::recv(socket_inside, &mut buffer[..], RecvFlags::DONTWAIT)
            {
                let text = String::from_utf8_lossy(&buffer[..length]);
                for word in text.lines().filter(|line| WORDS.contains(line)) {
                    say(socket, &Told::Notified(word.to_owned()))?;
                }
            }
        }
    }
}

/// What a monitor acts upon.
const WORDS: [&str; 2] = ["READY=1", "STOPPING=1"];

fn say(socket: &Channel, told: &Told) -> Result<()> {
    socket.send(&serde_json::to_vec(told)?, &[]).context("cannot speak with the agent")
}
