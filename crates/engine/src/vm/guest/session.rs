//! One thing that is done in a guest, in a process of its own: it may be moved into the machine's
//! namespaces, and nothing that goes wrong in it reaches the agent.

use std::os::fd::{AsFd, OwnedFd};

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
use crate::record::Record;
use crate::state::RunDirectory;
use crate::{Engine, Errand, Machine, Streams, visit};

/// The message that carries a terminal.
const TERMINAL: &[u8] = b"T";

/// This machine's name in its own guest, where there is no other.
const NAME: &str = "machine";

/// A session's ends of its streams, by number.
#[derive(Default)]
pub(super) struct Given {
    pub(super) streams: [Option<OwnedFd>; 4],
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
    kept.extend(given.streams.iter().flatten().map(AsFd::as_fd));
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
    let [input, output, error, answer] = given.streams;
    let streams = Streams { input, output, error, card: None };
    match request {
        Request::Run(job) => {
            let Job { plan, interface, shares } = *job;
            interface.iter().try_for_each(abilities.set_up)?;
            if shares {
                mount_shares()?;
            }
            let plan = Plan { name: NAME.to_owned(), keep: false, ..plan };
            let machine = Container.create(&plan, run, streams, None)?.start()?;
            attend(machine, size, socket)
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
