//! Machines that run come to a further network, and leave one.
//!
//! A process keeps each such place, as a machine's monitor keeps its first: it has the lease locked,
//! and ends with the machine, or when its lease is gone.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use spec::network::{Attachment, Link};

use crate::forward::leave_everything;
use crate::lease::Member;
use crate::link::{DEVICE, Links};
use crate::names;
use crate::network::bridge::{self, Membership};
use crate::network::{Place, Target};
use crate::networks;
use crate::site::Site;

/// What may be chosen.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// Address.
    pub ip: Option<Ipv4Addr>,
    /// Further names that its peers know it by.
    pub aliases: Vec<String>,
}

/// Gives a running machine a device on a network, until [`disconnect`], or its `first` process ends.
///
/// # Errors
/// Where there is no such network, it is on it already, or the address cannot be had.
pub fn connect(
    place: &Place<'_>,
    network: &str,
    target: &Target<'_>,
    first: BorrowedFd<'_>,
    wishes: &Wishes,
) -> Result<()> {
    let directory = networks::find(place.run, network)?;
    let lock = directory.lock()?;
    if directory.living().iter().any(|member| member.id == place.id) {
        bail!("the machine {} is on the network {network} already", place.machine);
    }
    let attachment = Attachment {
        link: Link::Bridge(network.into()),
        ports: Vec::new(),
        dns: Vec::new(),
        hosts: Vec::new(),
        ip: wishes.ip,
        mac: None,
        aliases: wishes.aliases.clone(),
    };
    let (up, site) = bridge::bring_up(&directory)?;
    let fill = |ip: Ipv4Addr| {
        let member = bridge::member(ip, &up, &attachment, place);
        let [.., c, d] = ip.octets();
        // Its first has this name without the address (IFNAMSIZ is 16, with the NUL).
        let id = place.id.get(..8).unwrap_or_default();
        Member { device: format!("pjv{id}{c:02x}{d:02x}"), ..member }
    };
    let taken = directory.lease(&up, wishes.ip, bridge::start_of(place.id), fill);
    let (lease, member) = match taken {
        Ok(taken) => taken,
        Err(error) => {
            if directory.living().is_empty() {
                let _ = bridge::take_down(&directory);
            }
            return Err(error);
        }
    };
    drop(lock);
    let membership = Membership::new(lease, directory);
    if membership.directory.config().is_some() && !up.held {
        let internal = bridge::is_internal(&membership.directory);
        names::start(&membership.directory, up.gateway(), internal)?;
    }
    let inside = bridge::links_of(target.pidfd, &site)?;
    let free = |name: &String| inside.index(name).is_err();
    let is_first = inside.index(DEVICE).is_err();
    let name = (0..256).map(|nth| format!("eth{nth}")).find(free).context("it has 256 devices")?;
    // A machine has one way out, that of its first network.
    let leads_nowhere = !is_first || up.held || bridge::is_internal(&membership.directory);
    let end = bridge::inside_of(&name, &up, &member, leads_nowhere);
    let outside = site.links().context("cannot set up links")?;
    let index = outside.index(&up.bridge).context("the network's bridge is gone")?;
    outside
        .make_pair(&member.device, index, target.pid, &end)
        .with_context(|| format!("cannot attach the machine to the bridge {}", up.bridge))?;
    let set_up = inside.set_up(&end).context("cannot set up the machine's addresses");
    if let Err(error) = set_up.and_then(|()| keep(&membership, first)) {
        let _ = outside.remove(&member.device);
        return Err(error);
    }
    // The lease is the other process's from here on.
    std::mem::forget(membership);
    Ok(())
}

/// Leaves a process that keeps a place until its machine ends, or somebody removes the lease.
fn keep(membership: &Membership, first: BorrowedFd<'_>) -> Result<()> {
    let what = "cannot start a process that keeps the address";
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).context(what)?;
    let lease = &membership.lease;
    // Its last name is gone (inotify(7), IN_ATTRIB).
    inotify::add_watch(&watch, lease.path(), WatchFlags::ATTRIB).context(what)?;
    if sys::process::fork().context(what)?.is_some() {
        return Ok(());
    }
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = rustix::process::setsid();
        let kept = [lease.as_fd(), watch.as_fd(), first];
        if leave_everything(&kept, "pj-lease").is_err() {
            return;
        }
        let mut polled =
            [PollFd::new(&watch, PollFlags::IN), PollFd::from_borrowed_fd(first, PollFlags::IN)];
        while let Ok(0) | Err(rustix::io::Errno::INTR) = rustix::event::poll(&mut polled, None) {}
        membership.leave();
    }));
    sys::process::exit_now(0)
}

/// Takes a machine's device on a network away.
///
/// # Errors
/// Where there is no such network, or the machine is not on it.
pub fn disconnect(run: &Path, network: &str, machine: &str) -> Result<()> {
    let directory = networks::find(run, network)?;
    let _lock = directory.lock()?;
    let members = directory.living();
    let member = members.iter().find(|member| member.machine == machine).with_context(|| {
        format!("the machine {machine} is not on the network {network} (`postroj network inspect {network}`)")
    })?;
    if let Some(site) = directory.up().and_then(|up| Site::of(&directory, &up)) {
        let links: Links = site.links().context("cannot set up links")?;
        match links.remove(&member.device) {
            Err(error) if !is_gone(&error) => {
                return Err(error).context("cannot remove the machine's device");
            }
            _ => {}
        }
    }
    directory.give_up(member.ip)
}

pub(crate) fn is_gone(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}
