//! The network namespace of an ordinary user's network: a process that does nothing but be in it, and
//! the one that started it, which stays outside and answers for names. Either takes the other along,
//! and with them goes all that is in the namespace.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, PidfdFlags, Signal};
use rustix::thread::UnshareFlags;
use sys::socket::Channel;

use crate::forward::leave_everything;
use crate::lease::Directory;
use crate::link::Links;
use crate::names;

/// Starts both, and gives the pidfd of the one inside; to be called with the network's lock held,
/// under which a machine's lease must be taken: without one they end as soon as it is free.
///
/// # Errors
/// Where this user may not make namespaces.
pub(crate) fn start(directory: &Directory, internal: bool) -> Result<OwnedFd> {
    let what = "cannot start a process that holds the network";
    let lock = silence(directory).context(what)?;
    let upstream = names::upstream(internal);
    let (ours, theirs) = sys::socket::pair().context(what)?;
    if sys::process::fork().context(what)?.is_none() {
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _ = rustix::process::setsid();
            let kept = [lock.as_fd(), theirs.as_fd()];
            if leave_everything(&kept, "pj-names").is_ok() {
                speak(directory, theirs, upstream);
            }
        }));
        sys::process::exit_now(0)
    }
    drop(theirs);
    let mut told = [0; 256];
    let (length, mut descriptors) = ours.receive(&mut told).context(what)?;
    match descriptors.pop() {
        Some(pidfd) => Ok(pidfd),
        None => bail!("{what}: {}", String::from_utf8_lossy(&told[..length])),
    }
}

/// Ends whoever answers for names of a network that is not up, and gives the right to; to be called with the
/// network's lock held. One that waits for that lock to see whether it is over would wait for ever: its
/// starter may have been killed before the network was written down as up, or a machine was on it.
///
/// # Errors
/// Where the network's directory is gone.
pub(crate) fn silence(directory: &Directory) -> Result<File> {
    directory.next_speaker(|| {
        // Either takes the other along. Where none is written down yet, it is the next time.
        if let Some(holder) = of(directory) {
            let _ = rustix::process::pidfd_send_signal(holder, Signal::KILL);
        }
    })
}

/// The one inside, by what is written down.
pub(crate) fn of(directory: &Directory) -> Option<OwnedFd> {
    let (pid, start) = directory.holder()?;
    let pid = Pid::from_raw(pid)?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
    // Looked at after that was opened, so that both mean the same process.
    sys::process::start_time(pid).is_ok_and(|now| now == start).then_some(pidfd)
}

/// Until the last machine is gone, or the one inside.
fn speak(directory: &Directory, starter: Channel, upstream: Vec<std::net::IpAddr>) {
    let begun = begin(directory);
    let (udp, tcp, holder) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            let _ = starter.send(format!("{error:#}").as_bytes(), &[]);
            return;
        }
    };
    let told = starter.send(b"up", &[holder.as_fd()]);
    drop(starter);
    if told.is_ok() {
        let over = || {
            if !directory.exists() {
                return true;
            }
            // Who comes meanwhile waits for the lock, and then finds nothing.
            let Some(_lock) = directory.lock_at_once() else { return false };
            let over = directory.living().is_empty();
            if over {
                directory.clear_up();
            }
            over
        };
        names::serve(directory, &udp, &tcp, Some(holder.as_fd()), &upstream.into(), over);
    }
}

fn begin(directory: &Directory) -> Result<(UdpSocket, TcpListener, OwnedFd)> {
    let (ours, theirs) = sys::socket::pair()?;
    let parent = rustix::process::getpid();
    let ids = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let Some(pid) = sys::process::fork()? else {
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _ = rustix::thread::set_name(c"pj-network");
            match inside(parent, ids) {
                Ok((udp, tcp)) => {
                    let _ = theirs.send(b"up", &[udp.as_fd(), tcp.as_fd()]);
                }
                Err(error) => {
                    let _ = theirs.send(format!("{error:#}").as_bytes(), &[]);
                    return;
                }
            }
            let _ = sys::process::close_all_except(&[]);
            loop {
                // Nothing wakes it but its end.
                let _ = rustix::event::poll(&mut [], None);
            }
        }));
        sys::process::exit_now(1)
    };
    drop(theirs);
    let mut told = [0; 256];
    let (length, mut sockets) = ours.receive(&mut told)?;
    let (Some(tcp), Some(udp)) = (sockets.pop(), sockets.pop()) else {
        bail!("{}", String::from_utf8_lossy(&told[..length]))
    };
    let holder = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    directory.set_holder((pid.as_raw_nonzero().get(), sys::process::start_time(pid)?))?;
    Ok((udp.into(), tcp.into(), holder))
}

/// Moves into new namespaces, and opens what outside will answer names by.
fn inside(parent: Pid, (uid, gid): (u32, u32)) -> Result<(UdpSocket, TcpListener)> {
    sys::process::unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNET)
        .context("cannot make namespaces as this user")?;
    // Changed by it (prctl(2), PR_SET_PDEATHSIG).
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid() != Some(parent) {
        bail!("whoever started it has ended");
    }
    // One's own id alone needs no helper (user_namespaces(7)).
    let map = |name: &str, text: &str| {
        std::fs::write(format!("/proc/self/{name}"), text)
            .with_context(|| format!("cannot write /proc/self/{name}"))
    };
    map("setgroups", "deny")?;
    map("uid_map", &format!("0 {uid} 1"))?;
    map("gid_map", &format!("0 {gid} 1"))?;
    Links::new().and_then(|links| links.raise("lo")).context("cannot bring up its loopback")?;
    // Its bridge, which is all there is besides, comes later.
    let any = (Ipv4Addr::UNSPECIFIED, names::PORT);
    let (udp, tcp) = (UdpSocket::bind(any)?, TcpListener::bind(any)?);
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    Ok((udp, tcp))
}
