//! Whoever wants something done in a virtual machine, as its shim sees it: one socket, over which a
//! request goes with the descriptors that its streams lead to.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, anyhow};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use serde::{Deserialize, Serialize};
use spec::exit::Ended;
use spec::plan::Process;
use sys::process::{self, Child, Namespaces};
use sys::socket::Channel;

use super::channel::{ERROR, INPUT, OUTPUT};
use super::wire::{Opening, Request, Say, Size, Told};
use crate::{Machine, Question, Remains, Streams};

/// Longest message of either side.
pub(super) const LONGEST: usize = 192 << 10;

/// What a client says first; the descriptors come along in this order: of the streams, then for
/// notifications, then one that is closed when all is over.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Call {
    pub(super) opening: Opening,
    pub(super) notifies: bool,
}

/// A session with a guest.
pub(super) struct Client {
    socket: Channel,
    ended: OwnedFd,
    terminal: Option<OwnedFd>,
    notifications: Option<OwnedFd>,
    /// The last word, once it was heard.
    last: RefCell<Option<Told>>,
    started: Cell<bool>,
    /// Carries what is typed.
    _relay: Option<Relay>,
}

/// What a session is to have besides its request.
#[derive(Default)]
pub(super) struct Wants {
    /// By number, as the shim gets them.
    pub(super) streams: Vec<(u8, OwnedFd)>,
    pub(super) terminal: bool,
    pub(super) notifies: bool,
}

impl Client {
    /// Asks for something.
    ///
    /// # Errors
    /// Where the shim is gone.
    pub(super) fn open(socket: Channel, request: Request, wants: Wants) -> Result<Self> {
        let Wants { mut streams, terminal, notifies } = wants;
        let (ended, over) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let mut relay = None;
        for (_, stream) in streams.iter_mut().filter(|(number, _)| *number == INPUT) {
            if sys::pty::is_terminal(&*stream) {
                let (through, carrier) = relayed(stream.as_fd())?;
                (*stream, relay) = (through, Some(carrier));
            }
        }
        let own = terminal.then(terminal_pair).transpose()?;
        if let Some((_, theirs)) = &own {
            streams = vec![(INPUT, theirs.try_clone()?), (OUTPUT, theirs.try_clone()?)];
        }
        let notifications = notifies.then(datagrams).transpose()?;
        let opening = Opening {
            request,
            streams: streams.iter().map(|(number, _)| *number).collect(),
            terminal: terminal.then(|| own_size().unwrap_or(Size { rows: 24, columns: 80 })),
        };
        let message = serde_json::to_vec(&Call { opening, notifies })?;
        anyhow::ensure!(message.len() <= LONGEST, "the command and its environment are too long");
        let mut descriptors: Vec<BorrowedFd<'_>> =
            streams.iter().map(|(_, fd)| fd.as_fd()).collect();
        descriptors.extend(notifications.iter().map(|(_, theirs)| theirs.as_fd()));
        descriptors.push(over.as_fd());
        socket.send(&message, &descriptors).context("the machine has ended")?;
        Ok(Self {
            socket,
            ended,
            terminal: own.map(|(ours, _)| ours),
            notifications: notifications.map(|(ours, _)| ours),
            last: RefCell::new(None),
            started: Cell::new(false),
            _relay: relay,
        })
    }

    /// Readable when all is over, and all output is written.
    pub(super) fn ended(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }

    pub(super) fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.as_ref().map(AsFd::as_fd)
    }

    pub(super) fn notifications(&self) -> Option<BorrowedFd<'_>> {
        self.notifications.as_ref().map(AsFd::as_fd)
    }

    /// Hears what comes until the command runs, or never will.
    pub(super) fn executed(&self) -> Result<()> {
        while !self.started.get() && self.last.borrow().is_none() {
            if !self.hear()? {
                return Err(killed());
            }
        }
        match &*self.last.borrow() {
            Some(Told::Failed(failure)) => Err(failure.clone().into()),
            _ => Ok(()),
        }
    }

    /// The last word; nothing where the shim ended without one.
    pub(super) fn last(&self) -> Result<Option<Told>> {
        while self.last.borrow().is_none() {
            if !self.hear()? {
                return Ok(None);
            }
        }
        Ok(self.last.borrow_mut().take())
    }

    /// The connection, for another request.
    pub(super) fn into_socket(self) -> Channel {
        self.socket
    }

    /// Hears one message; tells whether there was one.
    fn hear(&self) -> Result<bool> {
        let mut buffer = vec![0; LONGEST];
        let length = match self.socket.receive(&mut buffer) {
            Ok((length, _)) => length,
            // It was killed before it had read what it was told (unix(7)).
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => 0,
            Err(error) => return Err(error).context("cannot hear from the machine"),
        };
        if length == 0 {
            return Ok(false);
        }
        match serde_json::from_slice::<Told>(&buffer[..length]) {
            Ok(Told::Started) => self.started.set(true),
            Ok(told) if told.is_last() => *self.last.borrow_mut() = Some(told),
            _ => {}
        }
        Ok(true)
    }

    pub(super) fn say(&self, say: Say) -> Result<()> {
        let sent = self.socket.send(&serde_json::to_vec(&say)?, &[]);
        sent.context("the machine has ended")
    }

    pub(super) fn resize(&self) -> Result<()> {
        if let Some(size) = own_size() {
            // It may have ended at this moment; that is seen elsewhere.
            let _ = self.say(Say::Resize(size));
        }
        Ok(())
    }
}

/// Of a session that the shim did not bring to its end.
pub(super) fn killed() -> anyhow::Error {
    anyhow!("the virtual machine was killed")
}

/// The streams of a command that has no terminal: the launcher's own, unless others are given.
pub(super) fn streams(process: &Process, given: Streams) -> Result<Vec<(u8, OwnedFd)>> {
    let own = |fd: BorrowedFd<'_>| fd.try_clone_to_owned();
    let mut list = Vec::new();
    if process.stdin {
        list.push((INPUT, given.input.map_or_else(|| own(rustix::stdio::stdin()), Ok)?));
    }
    list.push((OUTPUT, given.output.map_or_else(|| own(rustix::stdio::stdout()), Ok)?));
    list.push((ERROR, given.error.map_or_else(|| own(rustix::stdio::stderr()), Ok)?));
    Ok(list)
}

fn terminal_pair() -> Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    pair.context("cannot make a socket for the terminal")
}

fn datagrams() -> Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::DGRAM, flags, None);
    pair.context("cannot make a socket for the machine's readiness")
}

/// The size of the launcher's terminal, where it has one.
pub(super) fn own_size() -> Option<Size> {
    let own = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    let size = own.into_iter().find_map(|fd| rustix::termios::tcgetwinsize(fd).ok())?;
    Some(Size { rows: size.ws_row, columns: size.ws_col })
}

/// A process that reads a terminal, which only its own foreground may (termios(3), SIGTTIN): the shim
/// is in none.
struct Relay(Child);

fn relayed(terminal: BorrowedFd<'_>) -> Result<(OwnedFd, Relay)> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let carrier = process::spawn(Namespaces::NONE, None, || {
        let kill = Some(rustix::process::Signal::KILL);
        let _ = rustix::process::set_parent_process_death_signal(kill);
        if process::close_all_except(&[terminal, writer.as_fd()]).is_err() {
            return;
        }
        sys::signals::reset();
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = rustix::io::read(terminal, &mut buffer) {
            if rustix::io::write(&writer, &buffer[..length]).is_err() {
                return;
            }
        }
    })
    .context("cannot make a process that reads the terminal")?;
    Ok((reader, Relay(carrier)))
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.0.signal(sys::signals::SIGKILL);
        let _ = self.0.wait();
    }
}

/// A further process in a machine that runs.
impl Machine for Client {
    fn ended(&self) -> BorrowedFd<'_> {
        self.ended()
    }

    fn executed(&self) -> Result<()> {
        self.executed()
    }

    fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.terminal()
    }

    fn resize(&self, _like: BorrowedFd<'_>) -> Result<()> {
        self.resize()
    }

    fn process_id(&self) -> i32 {
        rustix::process::getpid().as_raw_nonzero().get()
    }

    fn scratch(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn notifications(&self) -> Option<BorrowedFd<'_>> {
        None
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

    fn ask(&self, _socket: &str) -> Result<Question> {
        Err(anyhow!("a process is no system that could be asked"))
    }

    fn run_inside(&self, _command: &[String]) -> Result<()> {
        Err(anyhow!("nothing can be run inside of a process"))
    }

    fn signal(&self, signal: i32) -> Result<()> {
        self.say(Say::Signal(signal))
    }

    fn wait_and_keep(
        self: Box<Self>,
        over: &mut dyn FnMut(Ended) -> Ended,
    ) -> Result<(Ended, Option<Remains>)> {
        match self.last()? {
            Some(Told::Ended(end)) => Ok((over(end.into()), None)),
            Some(Told::Failed(failure)) => Err(failure.into()),
            _ => Err(killed()),
        }
    }
}

/// What a session writes to a pipe of its own, such as an answer; it lives as long as this.
pub(super) fn reader(
    socket: Channel,
    request: Request,
    stream: u8,
    further: Vec<(u8, OwnedFd)>,
) -> Result<(File, Client)> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let mut streams = further;
    streams.push((stream, writer));
    let client = Client::open(socket, request, Wants { streams, ..Wants::default() })?;
    Ok((File::from(reader), client))
}
