//! Sockets of the host's network in the place of a machine's own, so that what they carry needs
//! neither a device nor a copy (the idea of bypass4netns).
//!
//! A machine's calls that name an address wait for its monitor. It reads the address into a
//! copy, decides on that copy, makes a socket of its own network that is like the caller's, makes
//! the call itself with the copy, and puts the socket under the caller's descriptor. From then
//! on the kernel carries the data as on the host, and the monitor sees none of it.
//!
//! Nothing of a socket of IP is left to the kernel with arguments that the caller can still
//! change (seccomp_unotify(2), NOTES). What is left is what stays in the machine anyway. Should a
//! thread put one of our sockets under that descriptor in the meantime, the kernel refuses to
//! connect it: by Landlock, as the machine never needs it to; else by the socket's own filter (see
//! [`filter`]), which an ordinary user may not give a TCP socket on the newest kernels.
//!
//! Where the policy refuses, the call is made with the machine's own socket: it then reaches what
//! the machine reaches without us, at least its own servers.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Instant;

use rustix::fs::OFlags;
use rustix::io::Errno;
use spec::bypass::Bypass as Policy;
use sys::inet;
use sys::notify::{Call, Listener, Verdict};
use sys::seccomp::{Action, Condition, Relation};

use super::supervisor::OwnRule;

mod datagram;
mod filter;
mod options;
mod policy;
mod published;
mod socket;
mod watchers;

use options::Likenesses;
use policy::Route;
use socket::{Place, Places, Socket};
use watchers::Watchers;

/// What becomes of a call for now.
pub(super) enum Outcome {
    Answered(Verdict),
    /// Until its socket can be written to, or a moment.
    Waits(Waiting, Option<Instant>),
}

/// A call that is not answered yet.
pub(super) struct Waiting {
    pub(super) call: Call,
    /// Becomes writable when there is something to tell.
    pub(super) socket: OwnedFd,
    what: What,
}

enum What {
    /// A connection that is being established.
    Connecting {
        number: RawFd,
        to: Vec<u8>,
        /// What was under that number, to be put back where it fails.
        before: Option<OwnedFd>,
    },
    Sending {
        message: datagram::Message,
        /// Where the caller is told how much of it was sent, where it is one of many.
        length: Option<u64>,
    },
}

/// MSG_FASTOPEN (linux/socket.h): connects by sending.
const FAST_OPEN: u64 = 0x2000_0000;

/// The calls that wait for the monitor, and those that would go around it.
pub(super) fn rules(publishes: bool) -> Vec<OwnRule> {
    let refused = |errno: Errno| Action::Errno(errno.raw_os_error() as u16);
    let with = |argument, bits| {
        vec![Condition { argument, mask: bits, value: bits, relation: Relation::Equal }]
    };
    let named = Condition { argument: 4, mask: u64::MAX, value: 0, relation: Relation::NotEqual };
    let mut rules: Vec<OwnRule> = vec![
        (&["io_uring_setup", "io_uring_enter", "io_uring_register"], refused(Errno::PERM), vec![]),
        // Of 32-bit programs: its arguments are in memory. Newer ones have a call for each.
        (&["socketcall"], refused(Errno::NOSYS), vec![]),
        (&["sendto", "sendmmsg"], refused(Errno::OPNOTSUPP), with(3, FAST_OPEN)),
        (&["sendmsg"], refused(Errno::OPNOTSUPP), with(2, FAST_OPEN)),
        (&["sendto"], Action::Notify, vec![named]),
        (&["connect", "sendmsg", "sendmmsg"], Action::Notify, vec![]),
        (&["epoll_create", "epoll_create1"], Action::Notify, vec![]),
    ];
    if publishes {
        rules.push((&["bind", "getsockname"], Action::Notify, vec![]));
    }
    rules
}

/// The monitor's part.
pub(super) struct Bypass {
    policy: Policy,
    places: Places,
    likenesses: Likenesses,
    watchers: Watchers,
    /// The machine's processes are forbidden to connect.
    fenced: bool,
}

impl Bypass {
    /// `inside` is any socket of the machine's network.
    ///
    /// # Errors
    /// `ENOPROTOOPT` on kernels before Linux 5.14.
    pub(super) fn new(policy: Policy, inside: BorrowedFd<'_>) -> io::Result<Self> {
        let host = inet::namespace(inet::any()?.as_fd())?;
        let places = Places { host, machine: inet::namespace(inside)? };
        Ok(Self {
            policy,
            places,
            likenesses: Likenesses::default(),
            watchers: Watchers::new()?,
            fenced: sys::landlock::restricts_connections(),
        })
    }

    /// Answers a call, or says what it waits for; `None` where it is none of ours.
    pub(super) fn serve(&mut self, listener: &Listener, call: &Call) -> Option<Outcome> {
        let outcome = match call.name() {
            "connect" => self.connect(listener, call),
            "sendto" => self.send_to(listener, call),
            "sendmsg" => self.send_message(listener, call),
            "sendmmsg" => self.send_messages(listener, call),
            "bind" => self.bind(listener, call),
            "getsockname" => self.name(listener, call),
            "epoll_create" | "epoll_create1" => {
                self.watchers.one_more();
                Ok(Outcome::Answered(Verdict::Continue))
            }
            _ => return None,
        };
        Some(outcome.unwrap_or_else(|error| Outcome::Answered(fails(&error))))
    }

    /// Looks after a call whose socket became writable, or whose time is over.
    pub(super) fn go_on(&mut self, listener: &Listener, waiting: Waiting, late: bool) -> Outcome {
        let Waiting { call, socket, what } = waiting;
        let done = match what {
            What::Connecting { number, to, before } => {
                if late {
                    // connect(2), as socket(7) has it for SO_SNDTIMEO.
                    Err(Errno::INPROGRESS.into())
                } else {
                    self.connected(listener, &call, socket.as_fd(), number, &to, before)
                }
            }
            What::Sending { .. } if late => Err(Errno::AGAIN.into()),
            What::Sending { message, length } => match message.send(socket.as_fd()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let what = What::Sending { message, length };
                    return Outcome::Waits(Waiting { call, socket, what }, None);
                }
                sent => sent.and_then(|bytes| datagram::told(&call, bytes, length)),
            },
        };
        Outcome::Answered(done.unwrap_or_else(|error| fails(&error)))
    }

    /// The end of a connection's establishment. One that failed leaves the caller's own socket, as
    /// good as new, so that it can still be used for what is inside.
    fn connected(
        &mut self,
        listener: &Listener,
        call: &Call,
        socket: BorrowedFd<'_>,
        number: RawFd,
        to: &[u8],
        before: Option<OwnedFd>,
    ) -> io::Result<Verdict> {
        let error = rustix::net::sockopt::socket_error(socket)?;
        let Err(error) = error else {
            // So far it only was begun to be connected: the next call would succeed once more.
            let _ = inet::connect(socket, to);
            return Ok(Verdict::Done(0));
        };
        let inode = rustix::fs::fstat(socket)?.st_ino;
        let there =
            listener.descriptor(call, number).and_then(|fd| Ok(rustix::fs::fstat(fd)?.st_ino));
        if let Some(before) = before
            && there.is_ok_and(|there| there == inode)
        {
            let close = socket::flags(call, number)?.contains(OFlags::CLOEXEC);
            // Where the caller is gone, there is nothing to put back.
            let _ = listener.put(call, before.as_fd(), number, close);
        }
        Ok(Verdict::Fail(error))
    }

    fn connect(&mut self, listener: &Listener, call: &Call) -> io::Result<Outcome> {
        let number = call.args[0] as RawFd;
        let Some(socket) = Socket::of(listener, call, number, &self.places)? else { return left() };
        let bytes = address(call, call.args[1], call.args[2])?;
        if !listener.is_waiting(call) {
            return left();
        }
        let to = match inet::decode(&bytes) {
            Some(to) => to,
            // Disconnects, or is no address at all.
            None if socket.place != Place::Host || is_unspecified(&bytes) => {
                return Ok(Outcome::Answered(done(inet::connect(socket.fd.as_fd(), &bytes))));
            }
            None => return Err(Errno::AFNOSUPPORT.into()),
        };
        if socket.place == Place::Host
            && socket.kind.is_tcp()
            && let Some(outcome) = again(call, &socket, &bytes)?
        {
            return Ok(outcome);
        }
        match self.leads_outside(&socket, to) {
            true => self.connect_outside(listener, call, &socket, &bytes, to),
            false if socket.place == Place::Host => Err(Errno::NETUNREACH.into()),
            false => self.connect_inside(listener, call, socket, &bytes, to),
        }
    }

    fn leads_outside(&self, socket: &Socket, to: SocketAddr) -> bool {
        if socket.place == Place::Inner {
            return false;
        }
        let by_policy = match policy::route(&self.policy, to) {
            Route::Outside => true,
            Route::OutsideUnlessOwn => !inet::is_own(policy::plain(to.ip())),
            Route::Inside => false,
        };
        by_policy
            && !(socket.place == Place::Machine && options::is_bound_to_device(socket.fd.as_fd()))
    }

    fn connect_outside(
        &mut self,
        listener: &Listener,
        call: &Call,
        socket: &Socket,
        bytes: &[u8],
        to: SocketAddr,
    ) -> io::Result<Outcome> {
        if !socket.kind.is_tcp() {
            // A socket of datagrams may be connected as often as one likes.
            let moved = self.outside(listener, call, socket)?;
            let fd = moved.as_ref().unwrap_or(&socket.fd);
            return Ok(Outcome::Answered(done(inet::connect(fd.as_fd(), bytes))));
        }
        let made = self.likenesses.make(socket.kind, socket.fd.as_fd())?;
        if !self.fenced {
            inet::restrict(made.as_fd(), &filter::only_from(to))?;
        }
        let begun = match inet::connect(made.as_fd(), bytes) {
            Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => {
                return Err(error);
            }
            begun => begun,
        };
        let flags = self.put(listener, call, socket, &made)?;
        match begun {
            Ok(()) => Ok(Outcome::Answered(Verdict::Done(0))),
            Err(error) if flags.contains(OFlags::NONBLOCK) => Err(error),
            // Who is near has answered meanwhile: nobody need be waited for, and the second call
            // says so to the socket.
            Err(_) if inet::tcp_state(made.as_fd())? == ESTABLISHED => {
                Ok(Outcome::Answered(done(inet::connect(made.as_fd(), bytes))))
            }
            Err(_) => {
                let before = (socket.place == Place::Machine).then(|| socket.fd.try_clone());
                Ok(waits_for_connection(call, socket.number, bytes, made, before.transpose()?))
            }
        }
    }

    /// A connection within the machine. Its socket is made not to wait for as long as the call
    /// takes, which on the loopback device is at once but for a listener that is behind.
    fn connect_inside(
        &mut self,
        listener: &Listener,
        call: &Call,
        socket: Socket,
        bytes: &[u8],
        to: SocketAddr,
    ) -> io::Result<Outcome> {
        let flags = socket.flags()?;
        rustix::fs::fcntl_setfl(&socket.fd, flags | OFlags::NONBLOCK)?;
        let begun = inet::connect(socket.fd.as_fd(), bytes);
        rustix::fs::fcntl_setfl(&socket.fd, flags)?;
        // A server whose port is published listens outside. That nobody listens here is known
        // as soon as the call returns.
        if socket.place == Place::Machine
            && let Some(outer) = self.published().reached_at(to, socket.kind)
            && begun.as_ref().is_err_and(|error| is(error, Errno::INPROGRESS))
            && inet::tcp_state(socket.fd.as_fd())? == CLOSE
        {
            return self.connect_outside(listener, call, &socket, &inet::encode(&outer), outer);
        }
        match begun {
            Ok(()) => Ok(Outcome::Answered(Verdict::Done(0))),
            Err(error) if is(&error, Errno::INPROGRESS) && !flags.contains(OFlags::NONBLOCK) => {
                Ok(waits_for_connection(call, socket.number, bytes, socket.fd, None))
            }
            Err(error) => Err(error),
        }
    }

    /// A socket of datagrams that is outside: a new one, unless it is already.
    fn outside(
        &mut self,
        listener: &Listener,
        call: &Call,
        socket: &Socket,
    ) -> io::Result<Option<OwnedFd>> {
        if socket.is_ours() {
            return Ok(None);
        }
        let made = self.likenesses.make(socket.kind, socket.fd.as_fd())?;
        inet::restrict(made.as_fd(), &filter::by_policy(&self.policy))?;
        self.put(listener, call, socket, &made)?;
        Ok(Some(made))
    }

    /// In the place of the caller's socket; gives the flags that both have.
    fn put(
        &mut self,
        listener: &Listener,
        call: &Call,
        socket: &Socket,
        made: &OwnedFd,
    ) -> io::Result<OFlags> {
        let flags = socket::flags(call, socket.number)?;
        rustix::fs::fcntl_setfl(made, flags)?;
        listener.put(call, made.as_fd(), socket.number, flags.contains(OFlags::CLOEXEC))?;
        self.watchers.follow(listener, call, socket.number, socket.fd.as_fd(), made.as_fd())?;
        Ok(flags)
    }
}

// net/tcp_states.h.
const ESTABLISHED: u8 = 1;
const SYN_SENT: u8 = 2;
const CLOSE: u8 = 7;

/// What connect(2) says of a socket of the host's that it was called for before; `None` where it
/// is as good as new.
fn again(call: &Call, socket: &Socket, bytes: &[u8]) -> io::Result<Option<Outcome>> {
    match inet::tcp_state(socket.fd.as_fd())? {
        CLOSE => match rustix::net::sockopt::socket_error(&socket.fd)? {
            Ok(()) => Ok(None),
            Err(error) => Ok(Some(Outcome::Answered(Verdict::Fail(error)))),
        },
        SYN_SENT if socket.waits()? => {
            let fd = socket.fd.try_clone()?;
            Ok(Some(waits_for_connection(call, socket.number, bytes, fd, None)))
        }
        SYN_SENT => Err(Errno::ALREADY.into()),
        _ => Ok(Some(Outcome::Answered(done(inet::connect(socket.fd.as_fd(), bytes))))),
    }
}

fn waits_for_connection(
    call: &Call,
    number: RawFd,
    to: &[u8],
    socket: OwnedFd,
    before: Option<OwnedFd>,
) -> Outcome {
    let until = options::patience(socket.as_fd()).and_then(|time| Instant::now().checked_add(time));
    let what = What::Connecting { number, to: to.to_vec(), before };
    Outcome::Waits(Waiting { call: *call, socket, what }, until)
}

/// The caller's address, as a copy (`struct sockaddr_storage` is the longest that the kernel takes).
fn address(call: &Call, at: u64, length: u64) -> io::Result<Vec<u8>> {
    // An int to the kernel.
    match u32::try_from(length & u64::from(u32::MAX)) {
        Ok(length @ 0..=128) => call.read(at, length as usize),
        _ => Err(Errno::INVAL.into()),
    }
}

fn is_unspecified(address: &[u8]) -> bool {
    address.starts_with(&[0, 0])
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

fn left() -> io::Result<Outcome> {
    Ok(Outcome::Answered(Verdict::Continue))
}

fn done(result: io::Result<()>) -> Verdict {
    result.map_or_else(|error| fails(&error), |()| Verdict::Done(0))
}

fn fails(error: &io::Error) -> Verdict {
    Verdict::Fail(Errno::from_io_error(error).unwrap_or(Errno::IO))
}
