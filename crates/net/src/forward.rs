//! A process that passes connections to a host's port on to a machine: those that rules of the
//! kernel do not lead there, such as the host's own over its loopback device.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType};
use rustix::process::{Pid, Signal, WaitOptions};
use spec::network::Protocol;

use crate::network::Target;
use crate::ports::Held;

/// The process; it is killed when this is dropped, and when this process dies.
pub(crate) struct Forwarder(Pid);

/// Where the machine's address is known.
#[derive(Debug, Clone, Copy)]
pub(crate) enum From {
    /// On this host.
    Host,
    /// In the machine itself.
    Machine,
}

impl Forwarder {
    /// In this process's ids.
    pub(crate) fn process_id(&self) -> i32 {
        self.0.as_raw_nonzero().get()
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.0, Signal::KILL);
        let _ = rustix::process::waitpid(Some(self.0), WaitOptions::empty());
    }
}

/// Starts it: from here on it holds the ports.
///
/// # Errors
/// fork(2)'s.
pub(crate) fn start(
    ports: Vec<Held>,
    target: &Target<'_>,
    address: IpAddr,
    from: From,
    machine: &str,
) -> Result<Forwarder> {
    let parent = rustix::process::getpid();
    if let Some(pid) = sys::process::fork().context("cannot start a process for the ports")? {
        return Ok(Forwarder(pid));
    }
    // Nothing of the launcher's may run on in here.
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        if prepare(&ports, target, from, machine, parent).is_ok() {
            serve(&ports, address);
        }
    }));
    sys::process::exit_now(1)
}

/// Leaves all that it does not need, and ends with its parent from here on.
fn prepare(
    ports: &[Held],
    target: &Target<'_>,
    from: From,
    machine: &str,
    parent: Pid,
) -> io::Result<()> {
    if let From::Machine = from {
        crate::site::enter(target.pidfd)?;
    }
    // Not before: entering a user namespace undoes it (prctl(2), PR_SET_PDEATHSIG).
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid() != Some(parent) {
        return Err(Errno::SRCH.into());
    }
    let sockets: Vec<BorrowedFd<'_>> =
        ports.iter().flat_map(|held| held.sockets.iter().map(AsFd::as_fd)).collect();
    leave_everything(&sockets, &format!("{OWN_NAME}{machine}"))?;
    raise_limit();
    Ok(())
}

/// How a process for a machine's ports is called, before the machine's name.
pub(crate) const OWN_NAME: &str = "pj:";

/// Gives up all that a forked process has of its parent's, but these descriptors.
pub(crate) fn leave_everything(kept: &[BorrowedFd<'_>], name: &str) -> io::Result<()> {
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    let null = rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    drop(null);
    sys::process::close_all_except(kept)?;
    rustix::process::chdir("/")?;
    // The kernel keeps 15 bytes of it (prctl(2), PR_SET_NAME).
    let name = std::ffi::CString::new(name)?;
    Ok(rustix::thread::set_name(&name)?)
}

/// Each connection needs two descriptors.
fn raise_limit() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised);
}

/// Bytes that wait in one direction.
const BUFFER: usize = 64 << 10;
/// After which a peer of UDP is forgotten.
const QUIET: Duration = Duration::from_secs(60);

/// One direction of a connection.
#[derive(Default)]
struct Flow {
    waiting: Vec<u8>,
    /// Nothing more comes.
    ended: bool,
    /// And that was passed on.
    closed: bool,
}

impl Flow {
    fn wants_input(&self) -> bool {
        !self.ended && self.waiting.len() < BUFFER
    }

    /// Takes what is there and passes on what can be; false where the connection is broken.
    fn turn(&mut self, from: &OwnedFd, to: &OwnedFd) -> bool {
        while self.wants_input() {
            let start = self.waiting.len();
            self.waiting.resize(BUFFER, 0);
            let got = rustix::net::recv(from, &mut self.waiting[start..], RecvFlags::DONTWAIT);
            self.waiting.truncate(start + got.as_ref().map_or(0, |(length, _)| *length));
            match got {
                Ok((0, _)) => self.ended = true,
                Ok(_) => {}
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(_) => return false,
            }
        }
        while !self.waiting.is_empty() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(to, &self.waiting, flags) {
                Ok(sent) => drop(self.waiting.drain(..sent)),
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(_) => return false,
            }
        }
        if self.ended && self.waiting.is_empty() && !self.closed {
            self.closed = true;
            return rustix::net::shutdown(to, Shutdown::Write).is_ok();
        }
        true
    }
}

/// A connection and its continuation.
struct Relay {
    outer: OwnedFd,
    inner: OwnedFd,
    connected: bool,
    inward: Flow,
    outward: Flow,
}

impl Relay {
    fn over(&self) -> bool {
        self.inward.closed && self.outward.closed
    }

    fn interest(&self) -> [PollFlags; 2] {
        let of = |input: &Flow, output: &Flow| {
            let mut flags = PollFlags::empty();
            if input.wants_input() {
                flags |= PollFlags::IN;
            }
            if !output.waiting.is_empty() {
                flags |= PollFlags::OUT;
            }
            flags
        };
        if !self.connected {
            return [PollFlags::empty(), PollFlags::OUT];
        }
        [of(&self.inward, &self.outward), of(&self.outward, &self.inward)]
    }

    fn turn(&mut self) -> bool {
        self.connected = true;
        self.inward.turn(&self.outer, &self.inner) && self.outward.turn(&self.inner, &self.outer)
    }
}

/// A peer of UDP.
struct Talk {
    inner: OwnedFd,
    heard: Instant,
}

fn serve(ports: &[Held], address: IpAddr) {
    let listeners: Vec<(BorrowedFd<'_>, Protocol, SocketAddr)> = ports
        .iter()
        .flat_map(|Held { port, sockets }| {
            let to = SocketAddr::new(address, port.inside);
            sockets.iter().map(move |socket| (socket.as_fd(), port.protocol, to))
        })
        .collect();
    let mut relays: Vec<Relay> = Vec::new();
    let mut talks: HashMap<(usize, SocketAddr), Talk> = HashMap::new();
    loop {
        let peers: Vec<(usize, SocketAddr)> = talks.keys().copied().collect();
        let mut polled: Vec<PollFd<'_>> = listeners
            .iter()
            .map(|(socket, ..)| PollFd::from_borrowed_fd(*socket, PollFlags::IN))
            .collect();
        for relay in &relays {
            let [outer, inner] = relay.interest();
            polled.push(PollFd::new(&relay.outer, outer));
            polled.push(PollFd::new(&relay.inner, inner));
        }
        polled.extend(peers.iter().map(|peer| PollFd::new(&talks[peer].inner, PollFlags::IN)));
        let soon = Timespec { tv_sec: 10, tv_nsec: 0 };
        let limit = (!talks.is_empty()).then_some(&soon);
        if rustix::event::poll(&mut polled, limit).is_err_and(|error| error != Errno::INTR) {
            return;
        }
        let seen: Vec<bool> = polled.iter().map(|p| !p.revents().is_empty()).collect();
        drop(polled);
        let (of_listeners, rest) = seen.split_at(listeners.len());
        let (of_relays, of_talks) = rest.split_at(relays.len() * 2);
        for (peer, _) in peers.iter().zip(of_talks).filter(|(_, seen)| **seen) {
            answer(listeners[peer.0].0, peer.1, &mut talks, *peer);
        }
        let mut at = 0;
        relays.retain_mut(|relay| {
            let touched = of_relays[at] || of_relays[at + 1];
            at += 2;
            !touched || (relay.turn() && !relay.over())
        });
        for (index, (socket, protocol, to)) in listeners.iter().enumerate() {
            match (of_listeners[index], protocol) {
                (false, _) => {}
                (true, Protocol::Tcp) => accept(*socket, *to, &mut relays),
                (true, Protocol::Udp) => hear(index, *socket, *to, &mut talks),
            }
        }
        talks.retain(|_, talk| talk.heard.elapsed() < QUIET);
    }
}

fn accept(listener: BorrowedFd<'_>, to: SocketAddr, relays: &mut Vec<Relay>) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    while let Ok(outer) = rustix::net::accept_with(listener, flags) {
        // Dropped where there is no way on: the peer sees a reset or an end.
        if let Ok(inner) = connect(to, SocketType::STREAM) {
            for socket in [&outer, &inner] {
                let _ = rustix::net::sockopt::set_tcp_nodelay(socket, true);
            }
            let (inward, outward) = (Flow::default(), Flow::default());
            relays.push(Relay { outer, inner, connected: false, inward, outward });
        }
    }
}

fn connect(to: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, kind, flags, None)?;
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

/// Largest datagram of UDP.
const DATAGRAM: usize = 65_535;

fn hear(
    index: usize,
    socket: BorrowedFd<'_>,
    to: SocketAddr,
    talks: &mut HashMap<(usize, SocketAddr), Talk>,
) {
    let Ok(socket) = socket.try_clone_to_owned().map(UdpSocket::from) else { return };
    let mut buffer = vec![0; DATAGRAM];
    while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
        let talk = match talks.entry((index, peer)) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => {
                let Ok(inner) = connect(to, SocketType::DGRAM) else { continue };
                new.insert(Talk { inner, heard: Instant::now() })
            }
        };
        talk.heard = Instant::now();
        // Lost, where nobody listens: as datagrams are.
        let _ = rustix::net::send(&talk.inner, &buffer[..length], SendFlags::NOSIGNAL);
    }
}

fn answer(
    socket: BorrowedFd<'_>,
    peer: SocketAddr,
    talks: &mut HashMap<(usize, SocketAddr), Talk>,
    key: (usize, SocketAddr),
) {
    let Some(talk) = talks.get_mut(&key) else { return };
    let mut buffer = vec![0; DATAGRAM];
    while let Ok((length, _)) = rustix::net::recv(&talk.inner, &mut buffer[..], RecvFlags::DONTWAIT)
    {
        talk.heard = Instant::now();
        let _ = rustix::net::sendto(socket, &buffer[..length], SendFlags::NOSIGNAL, &peer);
    }
}
