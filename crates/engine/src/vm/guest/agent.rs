//! What a guest's process 1 does: it hears over the port what is to be done, has a process of its own
//! for each thing, and moves bytes between the port and those.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use rustix::event::PollFlags;
use rustix::fs::OFlags;
use rustix::pipe::PipeFlags;
use rustix::process::WaitOptions;
use rustix::termios::Winsize;
use sys::process::{self, Child, Namespaces};
use sys::signals::{self, Signals};
use sys::socket;

use super::super::channel::{ANSWER, Channel, Event, INPUT, OUTPUT};
use super::super::frame::Kind;
use super::super::wire::{Failure, Opening, Say, Size, Told};
use super::Abilities;
use super::session::{self, Given};
use crate::state::RunDirectory;

/// Longest that a session's process says at once.
const LONGEST: usize = 64 << 10;

/// Serves whoever is at the other end of the port, until nobody is.
///
/// # Errors
/// Where the port fails, or what comes makes no sense.
pub(super) fn serve(port: OwnedFd, run: &RunDirectory, abilities: &Abilities) -> io::Result<()> {
    // What a session leaves behind when it is killed comes to process 1.
    let orphans = Signals::block(&[signals::SIGCHLD])?;
    let mut agent =
        Agent { channel: Channel::new(port), run, abilities, orphans, sessions: BTreeMap::new() };
    agent.channel.put(Kind::Hello, 0, &[]);
    loop {
        agent.turn()?;
    }
}

struct Agent<'a> {
    channel: Channel,
    run: &'a RunDirectory,
    abilities: &'a Abilities,
    orphans: Signals,
    sessions: BTreeMap<u32, Session>,
}

/// Something that is done, by a process of its own.
struct Session {
    process: Child,
    /// What that says, and hears.
    socket: Option<socket::Channel>,
    terminal: Option<OwnedFd>,
    size: Option<Size>,
    /// Its last word, which is passed on after all output.
    last: Option<Vec<u8>>,
}

impl Agent<'_> {
    fn turn(&mut self) -> io::Result<()> {
        let listening: Vec<(u32, BorrowedFd<'_>)> = self
            .sessions
            .iter()
            .filter_map(|(id, session)| Some((*id, session.socket.as_ref()?.as_fd())))
            .collect();
        let mut polled: Vec<_> = listening.iter().map(|(_, fd)| (*fd, PollFlags::IN)).collect();
        polled.push((self.orphans.as_fd(), PollFlags::IN));
        let ids: Vec<u32> = listening.iter().map(|(id, _)| *id).collect();
        let (events, found) = self.channel.turn(&polled, None)?;
        for (id, _) in ids.into_iter().zip(&found).filter(|(_, found)| !found.is_empty()) {
            self.hear(id);
        }
        if found.last().is_some_and(|found| !found.is_empty()) {
            self.reap()?;
        }
        for event in events {
            match event {
                Event::Open { session, content } => self.open(session, &content),
                Event::Tell { session, content } => self.tell(session, &content),
                Event::Close { session } => self.close(session),
                Event::Hello => {}
            }
        }
        self.part();
        Ok(())
    }

    /// Takes whatever has ended; of a session's own process, its socket tells.
    fn reap(&self) -> io::Result<()> {
        while self.orphans.next()?.is_some() {}
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
        Ok(())
    }

    fn open(&mut self, id: u32, content: &[u8]) {
        if let Err(error) = self.try_open(id, content) {
            self.channel.forget(id);
            self.last(id, &Told::Failed(Failure::from(&error)));
        }
    }

    fn try_open(&mut self, id: u32, content: &[u8]) -> Result<()> {
        let opening: Opening = serde_json::from_slice(content).context("cannot read a request")?;
        let (ours, theirs) = socket::pair().context("cannot make a socket for a session")?;
        let mut given = Given::default();
        let mut streams = Vec::new();
        if opening.terminal.is_none() {
            for stream in opening.streams.iter().copied().filter(|s| *s <= ANSWER) {
                let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
                let (own, other) =
                    if stream == INPUT { (writer, reader) } else { (reader, writer) };
                rustix::fs::fcntl_setfl(&own, OFlags::NONBLOCK)?;
                streams.push((stream, own));
                given.streams[usize::from(stream)] = Some(other);
            }
        }
        let (run, abilities) = (self.run, self.abilities);
        let (request, size) = (opening.request, opening.terminal);
        let process = process::spawn(Namespaces::NONE, None, move || {
            session::run(request, size, theirs, given, run, abilities);
        })
        .context("cannot make a process for a session")?;
        for (stream, own) in streams {
            match stream {
                INPUT => self.channel.write_to(id, stream, own),
                _ => self.channel.send_from(id, stream, own),
            }
        }
        let session = Session {
            process,
            socket: Some(ours),
            terminal: None,
            size: opening.terminal,
            last: None,
        };
        self.sessions.insert(id, session);
        Ok(())
    }

    /// Hears what a session's process says.
    fn hear(&mut self, id: u32) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(socket) = &session.socket else { return };
        let mut buffer = vec![0; LONGEST];
        let heard = socket.receive(&mut buffer);
        match heard {
            Ok((1, mut descriptors)) => {
                if let Some(terminal) = descriptors.pop() {
                    // A terminal that cannot be joined stays silent.
                    let _ = self.join(id, terminal);
                }
            }
            Ok((length, _)) if length > 1 => {
                let told = serde_json::from_slice::<Told>(&buffer[..length]);
                if told.is_ok_and(|told| told.is_last()) {
                    session.last = Some(buffer[..length].to_vec());
                    session.socket = None;
                    self.channel.finish(id);
                } else {
                    self.channel.put(Kind::Tell, id, &buffer[..length]);
                }
            }
            _ => {
                let error = anyhow::anyhow!("what ran it in the guest was killed");
                session.last = serde_json::to_vec(&Told::Failed(Failure::from(&error))).ok();
                session.socket = None;
                self.channel.finish(id);
            }
        }
    }

    fn join(&mut self, id: u32, terminal: OwnedFd) -> io::Result<()> {
        rustix::fs::fcntl_setfl(&terminal, OFlags::NONBLOCK)?;
        let Some(session) = self.sessions.get_mut(&id) else { return Ok(()) };
        if let Some(size) = session.size {
            // It may be hung up already, and what was written before is still in it.
            let _ = resize(terminal.as_fd(), size);
        }
        self.channel.send_from(id, OUTPUT, terminal.try_clone()?);
        self.channel.write_to(id, INPUT, terminal.try_clone()?);
        session.terminal = Some(terminal);
        Ok(())
    }

    fn tell(&mut self, id: u32, content: &[u8]) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        match serde_json::from_slice(content) {
            Ok(Say::Resize(size)) => {
                session.size = Some(size);
                if let Some(terminal) = &session.terminal {
                    // It may be hung up.
                    let _ = resize(terminal.as_fd(), size);
                }
            }
            Ok(Say::Signal(signal)) => {
                if let Some(socket) = &session.socket {
                    // It may have ended just now.
                    let _ = socket.send(&signal.to_le_bytes(), &[]);
                }
            }
            Err(_) => {}
        }
    }

    /// Ends what nobody waits for any more.
    fn close(&mut self, id: u32) {
        self.channel.forget(id);
        if let Some(session) = self.sessions.remove(&id) {
            let _ = session.process.signal(sys::signals::SIGKILL);
            let _ = session.process.wait();
        }
    }

    /// Says the last word of sessions whose output is sent.
    fn part(&mut self) {
        let over = |(id, session): (&u32, &Session)| {
            (session.last.is_some() && self.channel.is_sent(*id)).then_some(*id)
        };
        let over: Vec<u32> = self.sessions.iter().filter_map(over).collect();
        for id in over {
            let Some(session) = self.sessions.remove(&id) else { continue };
            self.channel.put(Kind::Tell, id, session.last.as_deref().unwrap_or_default());
            self.channel.forget(id);
            // It has nothing more to do.
            let _ = session.process.signal(sys::signals::SIGKILL);
            let _ = session.process.wait();
        }
    }

    fn last(&mut self, id: u32, told: &Told) {
        let content = serde_json::to_vec(told).unwrap_or_default();
        self.channel.put(Kind::Tell, id, &content);
    }
}

pub(super) fn resize(terminal: BorrowedFd<'_>, size: Size) -> io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}
