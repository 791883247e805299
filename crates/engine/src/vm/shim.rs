//! The process between a virtual machine and everybody who wants something done in it. It is the parent
//! of QEMU, which does not outlive it, and the machine's first process as its record has it: whoever
//! ends it, ends the machine.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{SendFlags, SocketFlags, SocketType};
use sys::process;
use sys::signals::Signals;
use sys::socket::Channel as Socket;

use super::channel::{Channel, Event, INPUT};
use super::client::{Call, LONGEST};
use super::frame::Kind;
use super::hardware::{Hardware, Port};
use super::qemu::{self, Ended, Qemu};
use super::share::{Server, Shares};
use super::wire::{End, Failure, MAIN, Request, Say, Told};
use crate::attend::PASSED;

/// How long a kernel may take until its process 1 says that it is there: it is emulated, perhaps, on a
/// machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(300);

/// How long QEMU may take for something small.
const HURRY: Duration = Duration::from_secs(10);

/// Of what a guest's console says, this much is kept for when it dies.
const TAIL: usize = 4096;

/// Does the shim's work until the machine has ended; what goes wrong, the client of the machine
/// itself is told. QEMU gets what its hardware names of `inherited`.
pub(super) fn run(
    hardware: Hardware,
    inherited: Vec<OwnedFd>,
    shares: Option<Shares>,
    main: Socket,
    listener: OwnedFd,
) {
    let kill = Some(rustix::process::Signal::KILL);
    let _ = rustix::process::set_parent_process_death_signal(kill);
    let mut kept = vec![main.as_fd(), listener.as_fd()];
    kept.extend(inherited.iter().map(AsFd::as_fd));
    kept.extend(shares.iter().map(AsFd::as_fd));
    // Whoever made it may have died before.
    if is_alone(&main) || process::close_all_except(&kept).is_err() {
        return;
    }
    // What is typed at the launcher's terminal is not for it, and whoever reads the launcher's output is not to
    // wait for the machine's end.
    let _ = rustix::process::setsid();
    if let_go_of_streams().is_err() {
        return;
    }
    let main = Client::new(main);
    match Shim::new(hardware, inherited, shares, listener) {
        Ok(mut shim) => {
            shim.clients.insert(MAIN, main);
            let error = shim.serve().err();
            shim.end(error);
        }
        Err(error) => {
            let told = Told::Failed(Failure::from(&error));
            main.tell(&serde_json::to_vec(&told).unwrap_or_default());
        }
    }
    process::exit_now(0);
}

/// The standard streams lead nowhere: what the shim has to say, it tells its clients.
fn let_go_of_streams() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(rustix::stdio::dup2_stderr(&null)?)
}

fn is_alone(main: &Socket) -> bool {
    let mut polled = [PollFd::new(main, PollFlags::empty())];
    let polls = rustix::event::poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    polls.is_err() || polled[0].revents().contains(PollFlags::HUP)
}

struct Shim {
    channel: Channel,
    clients: BTreeMap<u32, Client>,
    next: u32,
    listener: OwnedFd,
    signals: Signals,
    /// Until it has ended.
    qemu: Option<Qemu>,
    shares: Option<Server>,
    console: Option<OwnedFd>,
    tail: Vec<u8>,
    /// Until when the guest must have said that it is there.
    deadline: Option<Instant>,
}

/// Somebody who wants something done.
struct Client {
    socket: Socket,
    opened: bool,
    /// Closed when all is over.
    ended: Option<OwnedFd>,
    notifications: Option<OwnedFd>,
    /// A terminal's input, until there is a terminal.
    input: Option<OwnedFd>,
    /// The last word, which is passed on after all output.
    last: Option<Vec<u8>>,
}

impl Client {
    fn new(socket: Socket) -> Self {
        Self { socket, opened: false, ended: None, notifications: None, input: None, last: None }
    }

    /// Whoever does not listen misses it.
    fn tell(&self, content: &[u8]) {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let _ = rustix::net::send(self.socket.as_fd(), content, flags);
    }
}

impl Shim {
    fn new(
        mut hardware: Hardware,
        mut inherited: Vec<OwnedFd>,
        shares: Option<Shares>,
        listener: OwnedFd,
    ) -> Result<Self> {
        let signals = Signals::block(&PASSED).context("cannot receive signals")?;
        let (port, their_port, port_line) = qemu::line()?;
        let (console, their_console, console_line) = qemu::line()?;
        port.set_nonblocking(true)?;
        console.set_nonblocking(true)?;
        hardware.console = Some(console_line);
        let name = super::guest::PORT.to_owned();
        hardware.ports = vec![Port { name, line: port_line, console: false }];
        // Before there are descriptors of QEMU's, of which it would keep copies.
        let shares = shares.map(Shares::serve).transpose()?;
        inherited.extend([their_port, their_console]);
        let started = Qemu::start(hardware, inherited);
        let qemu = Some(started.map_err(|error| match shares.as_ref().map(Server::words) {
            Some(words) if !words.is_empty() => error.context(words),
            _ => error,
        })?);
        Ok(Self {
            channel: Channel::new(port.into()),
            clients: BTreeMap::new(),
            next: MAIN + 1,
            listener,
            signals,
            qemu,
            shares,
            console: Some(console.into()),
            tail: Vec::new(),
            deadline: Some(Instant::now() + PATIENCE),
        })
    }

    /// Until the machine itself has ended.
    fn serve(&mut self) -> Result<()> {
        while self.clients.contains_key(&MAIN) {
            self.turn()?;
        }
        Ok(())
    }

    fn turn(&mut self) -> Result<()> {
        let ids: Vec<u32> = self.clients.keys().copied().collect();
        let Some(qemu) = &self.qemu else { return Err(anyhow!("QEMU has ended")) };
        let mut others: Vec<(BorrowedFd<'_>, PollFlags)> = vec![
            (qemu.ended(), PollFlags::IN),
            (self.listener.as_fd(), PollFlags::IN),
            (self.signals.as_fd(), PollFlags::IN),
        ];
        others.extend(self.clients.values().map(|client| (client.socket.as_fd(), PollFlags::IN)));
        others.extend(self.console.iter().map(|fd| (fd.as_fd(), PollFlags::IN)));
        others.extend(self.shares.iter().map(|server| (server.ended(), PollFlags::IN)));
        let turned = self.channel.turn(&others, self.limit());
        let (events, found) = match turned {
            Ok(done) => done,
            Err(error) => return Err(self.verdict(Some(&error))),
        };
        let (first, rest) = found.split_at(3);
        if self.deadline.is_some_and(|at| at <= Instant::now()) {
            self.hear_console();
            let said = self.said();
            return Err(anyhow!(
                "the virtual machine's kernel did not start within {} seconds{said}",
                PATIENCE.as_secs()
            ));
        }
        if !first[0].is_empty() {
            return Err(self.verdict(None));
        }
        if self.shares.is_some() && rest.last().is_some_and(|found| !found.is_empty()) {
            return Err(self.without_shares());
        }
        if self.console.is_some() && rest.get(ids.len()).is_some_and(|found| !found.is_empty()) {
            self.hear_console();
        }
        for (id, _) in ids.iter().zip(rest).filter(|(_, found)| !found.is_empty()) {
            self.hear(*id);
        }
        if !first[1].is_empty() {
            self.accept();
        }
        while let Some(signal) = self.signals.next()? {
            let say = serde_json::to_vec(&Say::Signal(signal))?;
            self.channel.put(Kind::Tell, MAIN, &say);
        }
        for event in events {
            match event {
                Event::Hello => self.deadline = None,
                Event::Tell { session, content } => self.told(session, content),
                // A guest asks for nothing.
                Event::Open { .. } | Event::Close { .. } => {}
            }
        }
        self.part();
        Ok(())
    }

    fn limit(&self) -> Option<Timespec> {
        let left = self.deadline?.saturating_duration_since(Instant::now());
        Some(Timespec { tv_sec: left.as_secs() as i64 + 1, tv_nsec: 0 })
    }

    fn accept(&mut self) {
        let Ok(socket) = rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC) else {
            return;
        };
        self.clients.insert(self.next, Client::new(socket.into()));
        self.next = self.next.wrapping_add(1).max(MAIN + 1);
    }

    /// Hears what a client says.
    fn hear(&mut self, id: u32) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let mut buffer = vec![0; LONGEST];
        match client.socket.receive(&mut buffer) {
            Ok((length, descriptors)) if length > 0 => {
                let message = &buffer[..length];
                if client.opened {
                    self.channel.put(Kind::Tell, id, message);
                } else if let Err(error) = self.open(id, message, descriptors) {
                    self.refuse(id, &error);
                }
            }
            // It has gone: nobody waits for what it asked for.
            _ => {
                self.channel.put(Kind::Close, id, &[]);
                self.channel.forget(id);
                self.clients.remove(&id);
            }
        }
    }

    fn open(&mut self, id: u32, message: &[u8], mut descriptors: Vec<OwnedFd>) -> Result<()> {
        let call: Call = serde_json::from_slice(message).context("cannot read a request")?;
        if let Request::Hold(still) = call.opening.request {
            return self.hold(id, still);
        }
        let Some(client) = self.clients.get_mut(&id) else { return Ok(()) };
        client.opened = true;
        client.ended = descriptors.pop();
        if call.notifies {
            client.notifications = descriptors.pop();
        }
        for (stream, descriptor) in call.opening.streams.iter().zip(descriptors) {
            match (*stream, call.opening.terminal) {
                (INPUT, Some(_)) => client.input = Some(descriptor),
                (INPUT, None) => self.channel.send_from(id, INPUT, descriptor),
                (stream, _) => self.channel.write_to(id, stream, descriptor),
            }
        }
        self.channel.put(Kind::Open, id, &serde_json::to_vec(&call.opening)?);
        Ok(())
    }

    /// Stops the guest, or lets it go on ("QEMU QMP Reference Manual", `stop` and `cont`).
    fn hold(&mut self, id: u32, still: bool) -> Result<()> {
        let qemu = self.qemu.as_mut().context("QEMU has ended")?;
        let command = if still { "stop" } else { "cont" };
        qemu.tell(command, serde_json::Value::Null, Instant::now() + HURRY)?;
        if let Some(client) = self.clients.remove(&id) {
            client.tell(&serde_json::to_vec(&Told::Ended(End::Exited(0)))?);
        }
        Ok(())
    }

    fn refuse(&mut self, id: u32, error: &anyhow::Error) {
        let told = Told::Failed(Failure::from(error));
        if let Some(client) = self.clients.remove(&id) {
            client.tell(&serde_json::to_vec(&told).unwrap_or_default());
        }
    }

    /// Hears what the guest says of a session.
    fn told(&mut self, id: u32, content: Vec<u8>) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        match serde_json::from_slice::<Told>(&content) {
            Ok(Told::Started) => {
                if let Some(input) = client.input.take() {
                    self.channel.send_from(id, INPUT, input);
                }
                client.tell(&content);
            }
            Ok(Told::Notified(text)) => {
                if let Some(socket) = &client.notifications {
                    // Who does not listen misses it; a guest may say it without end.
                    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
                    let _ = rustix::net::send(socket, text.as_bytes(), flags);
                }
            }
            Ok(_) => client.last = Some(content),
            Err(_) => {}
        }
    }

    /// Says the last word to those whose output is written. Who has the machine itself may want it to run
    /// again: it ends when they go.
    fn part(&mut self) {
        let over = |(id, client): (&u32, &Client)| {
            (client.last.is_some() && self.channel.is_written(*id)).then_some(*id)
        };
        let over: Vec<u32> = self.clients.iter().filter_map(over).collect();
        for id in over {
            if let Some(client) = self.clients.remove(&id) {
                client.tell(client.last.as_deref().unwrap_or_default());
                if id == MAIN {
                    self.clients.insert(MAIN, Client::new(client.socket));
                }
            }
            self.channel.forget(id);
        }
    }

    fn hear_console(&mut self) {
        let Some(console) = &self.console else { return };
        let mut buffer = [0; 4096];
        match rustix::io::read(console, &mut buffer) {
            Ok(length) if length > 0 => {
                self.tail.extend_from_slice(&buffer[..length]);
                let excess = self.tail.len().saturating_sub(TAIL);
                self.tail.drain(..excess);
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            _ => self.console = None,
        }
    }

    /// What the console said last, as a part of an error.
    fn said(&self) -> String {
        let text = String::from_utf8_lossy(&self.tail);
        let wanted = |line: &&str| !line.trim().is_empty();
        let lines: Vec<&str> = text.lines().map(str::trim).filter(wanted).collect();
        // A kernel says why it panics before it says how it got there.
        let panic = lines.iter().find(|line| {
            line.contains("Kernel panic") || line.contains("postroj:") || line.starts_with("qemu")
        });
        match panic.or(lines.last()) {
            Some(line) => {
                format!(": {}", line.chars().filter(|c| !c.is_control()).collect::<String>())
            }
            None => String::new(),
        }
    }

    /// Why the machine ended although nobody asked for that.
    fn verdict(&mut self, error: Option<&io::Error>) -> anyhow::Error {
        self.hear_console();
        let said = self.said();
        if let Some(error) = error.filter(|error| error.kind() == io::ErrorKind::InvalidData) {
            return anyhow!("the virtual machine was ended: its guest sent {error}");
        }
        match self.qemu.take().map(Qemu::wait) {
            Some(Ok(Ended::Killed(signal))) => {
                anyhow!(
                    "the virtual machine ended unexpectedly: QEMU was killed by signal {signal}"
                )
            }
            Some(Ok(Ended::Told)) => {
                anyhow!(
                    "the virtual machine ended unexpectedly: somebody told QEMU to end, as the signal SIGTERM does"
                )
            }
            Some(Ok(Ended::Failed(words))) => {
                anyhow!("the virtual machine ended unexpectedly: {words}")
            }
            _ => anyhow!("the virtual machine ended unexpectedly{said}"),
        }
    }

    /// Why the machine cannot go on, where who serves its shares has ended.
    fn without_shares(&mut self) -> anyhow::Error {
        match self.shares.take().and_then(|mut server| server.verdict()) {
            Some(error) => error.context("the virtual machine was ended"),
            // QEMU has closed its end, and will be over in a moment.
            None => self.verdict(None),
        }
    }

    /// Ends the machine, and tells those who still wait for something why.
    fn end(mut self, error: Option<anyhow::Error>) {
        let error = error.unwrap_or_else(|| anyhow!("the machine has ended"));
        let told = Told::Failed(Failure::from(&error));
        let content = serde_json::to_vec(&told).unwrap_or_default();
        for client in std::mem::take(&mut self.clients).into_values() {
            client.tell(client.last.as_deref().unwrap_or(&content));
        }
    }
}

/// Where a machine's shim is reached, below the run directory.
pub(super) fn listen(directory: &std::path::Path, id: &str) -> Result<OwnedFd> {
    let what = "cannot make a socket for the virtual machine";
    std::fs::create_dir_all(directory).context(what)?;
    let socket = socket(SocketType::SEQPACKET).context(what)?;
    let (_held, address) = address(directory, id).context(what)?;
    rustix::net::bind(&socket, &address).context(what)?;
    rustix::net::listen(&socket, 16).context(what)?;
    Ok(socket)
}

/// Speaks with a machine's shim.
pub(super) fn connect(directory: &std::path::Path, id: &str) -> Result<Socket> {
    let socket = socket(SocketType::SEQPACKET)?;
    let (_held, address) = address(directory, id)?;
    rustix::net::connect(&socket, &address).context("the machine has ended, or is not up yet")?;
    Ok(socket.into())
}

/// A socket of this host's.
pub(super) fn socket(kind: SocketType) -> io::Result<OwnedFd> {
    let family = rustix::net::AddressFamily::UNIX;
    Ok(rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?)
}

/// Addresses of sockets are short (unix(7): 108 bytes), and paths need not be.
pub(super) fn address(
    directory: &std::path::Path,
    id: &str,
) -> Result<(OwnedFd, rustix::net::SocketAddrUnix)> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let held = rustix::fs::open(directory, flags, Mode::empty())
        .with_context(|| format!("cannot open {}", directory.display()))?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&held);
    let path = format!("/proc/self/fd/{number}/{id}");
    Ok((held, rustix::net::SocketAddrUnix::new(path)?))
}
