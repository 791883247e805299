//! Where a network's bridge is: in the network that this process is in, or in a namespace that a
//! process holds for an ordinary user.
//!
//! Nothing is done from within that namespace. Whoever made a user namespace has every right over
//! it from outside (user_namespaces(7), "Capabilities"), and a netlink message that names
//! its destination is judged by the rights of its sender alone, not by those of who opened the socket
//! (net/netlink/af_netlink.c, `netlink_ns_capable`). So sockets of that namespace are fetched, and
//! used here.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use rustix::net::netlink::NETFILTER;
use rustix::process::WaitOptions;
use sys::process::Namespaces;

use crate::holder;
use crate::lease::{Directory, Up};
use crate::link::Links;
use crate::netlink::Socket;
use crate::rules::Rules;

/// A network namespace that bridges are made in.
pub(crate) enum Site {
    /// This process's own.
    Host,
    /// That of a process, by its pidfd.
    Held(OwnedFd),
}

impl Site {
    /// A place for a new bridge; to be called with the network's lock held.
    ///
    /// # Errors
    /// Where this user can have none.
    pub(crate) fn new(directory: &Directory, internal: bool) -> Result<Self> {
        match crate::survey::bridge() {
            Ok(()) => Ok(Self::Host),
            Err(missing) => holder::start(directory, internal).map(Self::Held).with_context(|| {
                format!("cannot have a network of one's own ({missing}): see --network user")
            }),
        }
    }

    /// Where a network is that is up; nothing where its holder has ended, and the network with it.
    pub(crate) fn of(directory: &Directory, up: &Up) -> Option<Self> {
        if !up.held {
            return Some(Self::Host);
        }
        holder::of(directory).filter(|_| directory.is_spoken_for()).map(Self::Held)
    }

    /// Its links.
    ///
    /// # Errors
    /// socket(2)'s and setns(2)'s.
    pub(crate) fn links(&self) -> io::Result<Links> {
        match self {
            Self::Host => Links::new(),
            Self::Held(holder) => fetch(holder.as_fd(), None).map(Links::from),
        }
    }

    /// A device in it whose packets are those of a virtual machine's card.
    ///
    /// # Errors
    /// As [`sys::tun::tap`], and [`Site::links`].
    pub(crate) fn tap(&self, name: &str) -> io::Result<OwnedFd> {
        match self {
            Self::Host => sys::tun::tap(name),
            Self::Held(holder) => fetch_made(holder.as_fd(), || sys::tun::tap(name)),
        }
    }

    /// Who holds it, where that is not this host.
    pub(crate) fn holder(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Host => None,
            Self::Held(holder) => Some(holder.as_fd()),
        }
    }

    /// Its rules.
    ///
    /// # Errors
    /// As [`Site::links`].
    pub(crate) fn rules(&self) -> io::Result<Rules> {
        match self {
            Self::Host => Rules::new(),
            Self::Held(holder) => fetch(holder.as_fd(), Some(NETFILTER)).map(Rules::from),
        }
    }

    pub(crate) fn is_held(&self) -> bool {
        matches!(self, Self::Held(_))
    }

    /// Takes all of it down, where it is one network's alone.
    pub(crate) fn end(&self) {
        if let Self::Held(holder) = self {
            // It may have ended by itself.
            let _ = rustix::process::pidfd_send_signal(holder, rustix::process::Signal::KILL);
        }
    }
}

/// A netlink socket of a process's network namespace.
///
/// # Errors
/// As [`fetch_made`].
pub(crate) fn fetch(
    process: BorrowedFd<'_>,
    protocol: Option<rustix::net::Protocol>,
) -> io::Result<Socket> {
    fetch_made(process, || Socket::new(protocol).map(OwnedFd::from)).map(Socket::from)
}

/// What is made in a process's network namespace, which the user namespace is left for.
///
/// # Errors
/// setns(2)'s and the maker's, as those of whoever was sent for it.
fn fetch_made(
    process: BorrowedFd<'_>,
    make: impl FnOnce() -> io::Result<OwnedFd>,
) -> io::Result<OwnedFd> {
    made_elsewhere(|| enter(process).and_then(|()| make()))
}

/// What a process makes that goes where it would not come back from.
///
/// # Errors
/// The maker's, as those of whoever was sent for it.
pub(crate) fn made_elsewhere(make: impl FnOnce() -> io::Result<OwnedFd>) -> io::Result<OwnedFd> {
    let (ours, theirs) = sys::socket::pair()?;
    let Some(pid) = sys::process::fork()? else {
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _ = match make() {
                Ok(made) => theirs.send(&0_i32.to_ne_bytes(), &[made.as_fd()]),
                Err(error) => {
                    theirs.send(&error.raw_os_error().unwrap_or(eio()).to_ne_bytes(), &[])
                }
            };
        }));
        sys::process::exit_now(0)
    };
    drop(theirs);
    let mut bytes = [0; 4];
    let received = ours.receive(&mut bytes);
    let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
    match (received?, i32::from_ne_bytes(bytes)) {
        ((4, mut sockets), 0) if sockets.len() == 1 => Ok(sockets.remove(0)),
        ((4, _), errno) if errno != 0 => Err(io::Error::from_raw_os_error(errno)),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

const fn eio() -> i32 {
    rustix::io::Errno::IO.raw_os_error()
}

/// Moves this process there: as an ordinary user only the user namespace gives the right to.
///
/// # Errors
/// setns(2)'s.
pub(crate) fn enter(process: BorrowedFd<'_>) -> io::Result<()> {
    match sys::process::enter(process, Namespaces::USER | Namespaces::NET) {
        // It is of this process's own user namespace.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
            sys::process::enter(process, Namespaces::NET)
        }
        other => other,
    }
}
