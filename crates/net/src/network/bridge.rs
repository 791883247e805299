//! Mode `bridge`: machines share a bridge, and the host routes for them. Needs CAP_NET_ADMIN.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, bail};
use spec::network::{Attachment, DEFAULT, End, INTERNAL, Interface, Link, Mac};
use sys::netns::Visit;

use super::{Attached, Known, Network, Place, Prepared, Target};
use crate::connect::is_gone;
use crate::forward::{self, Forwarder, From};
use crate::lease::{Directory, Lease, Member, Up, directories};
use crate::link::{DEVICE, Inside, Links, has_ipv6, known_routes, nth};
use crate::names;
use crate::ports::{self, Held};
use crate::rules::{Hook, Part, Rules, Table};
use crate::site::Site;

mod router;

/// Mode `bridge`.
pub(super) struct Bridge;

impl Network for Bridge {
    fn carries(&self, link: &Link) -> bool {
        matches!(link, Link::Bridge(_))
    }

    fn prepare(&self, attachment: &Attachment, place: &Place<'_>) -> Result<Box<dyn Prepared>> {
        let Link::Bridge(name) = &attachment.link else { bail!("this is no bridge") };
        let directory = Directory::new(place.run, name);
        if directory.config().is_none() && name != DEFAULT && name != INTERNAL {
            bail!("there is no network {name:?}: `postroj network create {name}` makes it");
        }
        let ports = ports::hold(&attachment.ports)?;
        let lock = directory.lock()?;
        let (up, site) = bring_up(&directory)?;
        let fill = |ip| member(ip, &up, attachment, place);
        let taken = directory.lease(&up, attachment.ip, start_of(place.id), fill);
        let (lease, member) = match taken {
            Ok(taken) => taken,
            Err(error) => {
                let _ = take_down(&directory);
                return Err(error);
            }
        };
        drop(lock);
        let internal = is_internal(&directory);
        let (ip, ip6) = (IpAddr::V4(member.ip), member.ip6.map(IpAddr::V6));
        let resolvers = match directory.config() {
            None if !up.held => Vec::new(),
            _ => vec![IpAddr::V4(up.gateway())],
        };
        let membership = Membership::new(lease, directory);
        if !resolvers.is_empty() && !up.held {
            names::start(&membership.directory, up.gateway(), internal)?;
        }
        let known = Known {
            addresses: [Some(ip), ip6].into_iter().flatten().collect(),
            gateway: Some(IpAddr::V4(up.gateway())),
            resolvers,
            ports: ports.iter().map(|held| held.port).collect(),
        };
        let has_card = false;
        Ok(Box::new(Waiting { up, site, member, known, ports, internal, has_card, membership }))
    }
}

impl Up {
    /// The bridge's own address.
    pub(crate) fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.subnet.0) + 1)
    }

    /// Of IPv6.
    fn gateway6(&self) -> Option<Ipv6Addr> {
        self.prefix.map(|prefix| nth(prefix, 1))
    }

    /// The name of its rules.
    pub(crate) fn table(&self) -> String {
        format!("postroj-{}", self.bridge)
    }
}

pub(crate) fn is_internal(directory: &Directory) -> bool {
    directory.name() == INTERNAL || directory.config().is_some_and(|config| config.internal)
}

/// Where the search for a free address begins: an address that was just given up may still be
/// known to others.
pub(crate) fn start_of(id: &str) -> u32 {
    id.get(..7).and_then(|hex| u32::from_str_radix(hex, 16).ok()).unwrap_or(0)
}

pub(crate) fn member(ip: Ipv4Addr, up: &Up, attachment: &Attachment, place: &Place<'_>) -> Member {
    let [a, b, c, d] = ip.octets();
    let number = u32::from(ip) - u32::from(up.subnet.0);
    let mut names = vec![place.machine.to_owned(), place.hostname.to_owned()];
    names.extend(attachment.aliases.iter().cloned());
    names.dedup();
    Member {
        machine: place.machine.to_owned(),
        id: place.id.to_owned(),
        ip,
        ip6: up.prefix.map(|prefix| nth(prefix, number)),
        // One machine has an address at a time, so one has this.
        mac: attachment.mac.unwrap_or(Mac([0x02, 0x70, a, b, c, d])),
        // IFNAMSIZ is 16, with the NUL.
        device: format!("pjv{}", place.id.get(..11).unwrap_or_default()),
        names,
    }
}

/// A network that waits for its machine, and for no other.
struct Waiting {
    up: Up,
    site: Site,
    member: Member,
    known: Known,
    ports: Vec<Held>,
    internal: bool,
    /// It is for a machine with a kernel of its own, whose card is there already.
    has_card: bool,
    membership: Membership,
}

impl Waiting {
    /// Gives the machine's namespace a device on the bridge.
    fn join(&self, target: &Target<'_>) -> Result<()> {
        let Self { up, site, member, .. } = self;
        let (outside, bridge) = self.bridge()?;
        let inside = links_of(target.pidfd, site)?;
        let end = inside_of(DEVICE, up, member, self.internal || up.held);
        outside
            .make_pair(&member.device, bridge, target.pid, &end)
            .with_context(|| format!("cannot attach the machine to the bridge {}", up.bridge))?;
        inside.set_up(&end).context("cannot set up the machine's addresses and routes")
    }

    /// Where the bridge is, and its number there.
    fn bridge(&self) -> Result<(Links, u32)> {
        let links = self.site.links().context("cannot set up links")?;
        let bridge = links.index(&self.up.bridge).context("the network's bridge is gone")?;
        Ok((links, bridge))
    }
}

impl Prepared for Waiting {
    fn known(&self) -> &Known {
        &self.known
    }

    fn card(&mut self) -> Result<(OwnedFd, Interface)> {
        let Self { up, site, member, .. } = &*self;
        let tap = site.tap(&member.device).context(
            "cannot make a device for the machine's network card (/dev/net/tun must be there, \
             and an ordinary user must be able to open it: `chmod 0666 /dev/net/tun`, as root)",
        )?;
        let (links, bridge) = self.bridge()?;
        links
            .put_on(bridge, &member.device, up.mtu)
            .with_context(|| format!("cannot attach the machine to the bridge {}", up.bridge))?;
        let Inside { mac, mtu, addresses, gateways, .. } =
            inside_of(DEVICE, up, member, self.internal || up.held);
        self.has_card = true;
        Ok((tap, Interface { mac, mtu, addresses, gateways, end: End::Tap }))
    }

    fn attach(self: Box<Self>, target: &Target<'_>) -> Result<Box<dyn Attached>> {
        if !self.has_card {
            self.join(target)?;
        }
        let Self { up, site, member, ports, membership, has_card, .. } = *self;
        // Where the network is held, who holds it reaches all of its machines.
        let from = match site.holder() {
            Some(pidfd) if has_card => Target { pid: target.pid, pidfd },
            _ => *target,
        };
        let published = (!ports.is_empty())
            .then(|| match site {
                Site::Host => publish(&up, &member, ports, target),
                Site::Held(_) => Published::by_process(&member, ports, &from, From::Machine),
            })
            .transpose()
            .context("cannot publish the machine's ports")?;
        Ok(Box::new(Using { published, _membership: membership }))
    }
}

/// The machine's own.
pub(crate) fn links_of(machine: BorrowedFd<'_>, site: &Site) -> Result<Links> {
    if site.is_held() {
        let socket = crate::site::fetch(machine, None);
        return socket.map(Links::from).context("cannot enter the machine's network");
    }
    let visit = Visit::of(machine).context("cannot enter the machine's network")?;
    // A socket stays in the namespace where it was made.
    let inside = Links::new();
    visit.end().context("cannot leave the machine's network")?;
    inside.context("cannot set up the machine's link")
}

pub(crate) fn inside_of(device: &str, up: &Up, member: &Member, internal: bool) -> Inside {
    let ip6 = member.ip6.map(|ip| (IpAddr::V6(ip), 64));
    let gateways = [Some(IpAddr::V4(up.gateway())), up.gateway6().map(IpAddr::V6)];
    Inside {
        device: device.into(),
        mac: member.mac,
        mtu: up.mtu,
        addresses: [Some((IpAddr::V4(member.ip), up.subnet.1)), ip6]
            .into_iter()
            .flatten()
            .collect(),
        gateways: gateways.into_iter().flatten().filter(|_| !internal).collect(),
    }
}

/// The rules that lead to a machine's ports go with `rules`; who comes from this host itself is
/// led there by a process.
struct Published {
    forwarder: Forwarder,
    _rules: Option<Rules>,
}

impl Published {
    fn by_process(
        member: &Member,
        ports: Vec<Held>,
        target: &Target<'_>,
        from: From,
    ) -> Result<Self> {
        let forwarder =
            forward::start(ports, target, IpAddr::V4(member.ip), from, &member.machine)?;
        Ok(Self { forwarder, _rules: None })
    }
}

fn publish(up: &Up, member: &Member, ports: Vec<Held>, target: &Target<'_>) -> Result<Published> {
    let rules = Rules::new().context("cannot reach nftables")?;
    let mut table = Table::new(&format!("postroj-{}", &member.device), true);
    table.chain(Hook::Destination);
    for Held { port, .. } in &ports {
        let to = [Some(IpAddr::V4(member.ip)), member.ip6.map(IpAddr::V6)];
        for to in to.into_iter().flatten() {
            let bound = match port.address {
                None => Part::Local,
                Some(address) if address.is_unspecified() => Part::Local,
                Some(address) if address.is_ipv4() != to.is_ipv4() => continue,
                Some(address @ IpAddr::V4(_)) => Part::Destination(address, 32),
                Some(address) => Part::Destination(address, 128),
            };
            let (version, reached) = (Part::Version(&to), Part::Port(port.protocol, port.host));
            // Peers come by the process, as their answers would not pass here.
            let outside = Part::NotFrom(&up.bridge);
            let redirect = Part::Redirect(to, port.inside);
            table.rule(Hook::Destination, &[version, outside, bound, reached, redirect]);
        }
    }
    table.send(&rules).context("cannot write the port rules")?;
    let published = Published::by_process(member, ports, target, From::Host)?;
    Ok(Published { _rules: Some(rules), ..published })
}

/// A network in use, in the order of teardown.
struct Using {
    published: Option<Published>,
    _membership: Membership,
}

impl Attached for Using {
    fn processes(&self) -> Vec<i32> {
        self.published.iter().map(|published| published.forwarder.process_id()).collect()
    }
}

/// A place on a network; the last one to leave takes it down.
pub(crate) struct Membership {
    pub(crate) lease: Lease,
    pub(crate) directory: Directory,
}

impl Membership {
    pub(crate) fn new(lease: Lease, directory: Directory) -> Self {
        Self { lease, directory }
    }

    /// To be done once.
    pub(crate) fn leave(&self) {
        self.lease.remove();
        if self.directory.living().is_empty() {
            linger(&self.directory);
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.leave();
    }
}

/// How long a network stays that nobody uses: the kernel takes tens of milliseconds to remove one
/// (RCU grace periods), for which neither this command's end nor the next one's start should wait.
const LINGER: std::time::Duration = std::time::Duration::from_secs(2);

/// Takes the network down in a while, in a process of its own; where that is killed, the
/// next command does.
fn linger(directory: &Directory) {
    let (Some(sweeper), Some(up)) = (directory.sweep(), directory.up()) else { return };
    if up.held {
        // Who holds it sees that by itself.
        return;
    }
    match sys::process::fork() {
        Ok(Some(_)) => {}
        Err(_) => drop(leave(directory)),
        Ok(None) => {
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                if forward::leave_everything(&[sweeper.as_fd()], "pj-sweep").is_ok() {
                    let _ = rustix::process::setsid();
                    std::thread::sleep(LINGER);
                    // Somebody may have removed the run directory, and all that was known with it.
                    let _ = if directory.exists() { leave(directory) } else { remove(&up) };
                }
            }));
            sys::process::exit_now(0)
        }
    }
}

/// Takes a network down that nobody uses any more.
///
/// # Errors
/// Where its directory cannot be locked.
pub(crate) fn leave(directory: &Directory) -> Result<()> {
    let _lock = directory.lock()?;
    // One that dies between the two looks has its device still: then the next command sees to it.
    let is_used = !directory.living().is_empty();
    tidy(directory);
    if is_used { Ok(()) } else { take_down(directory) }
}

/// Removes the devices of machines whose place nobody keeps, and then the place; to be called with
/// the lock held.
pub(crate) fn tidy(directory: &Directory) {
    let site = directory.up().and_then(|up| Site::of(directory, &up));
    let mut links = None;
    directory.tidy(|member| {
        let Some(site) = &site else { return true };
        let links = links.get_or_insert_with(|| site.links());
        // Mostly it went with its machine.
        links.as_ref().is_ok_and(|links| match links.remove(&member.device) {
            Ok(()) => true,
            Err(error) => is_gone(&error),
        })
    });
}

/// Removes what there is of a network; to be called with the lock held.
pub(crate) fn take_down(directory: &Directory) -> Result<()> {
    let Some(up) = directory.up() else { return Ok(()) };
    match Site::of(directory, &up) {
        Some(Site::Host) => remove(&up)?,
        Some(held) => held.end(),
        None => {}
    }
    directory.clear_up();
    Ok(())
}

/// Kept with a bridge, so that one is known whose record vanished.
fn whose(run: &Path) -> String {
    let run = run.to_string_lossy();
    // As much as the kernel takes (IFALIASZ).
    format!("{WHOSE}{}", run.get(..run.len().min(255 - WHOSE.len())).unwrap_or_default())
}

const WHOSE: &str = "postroj: ";

/// Takes down bridges of a run directory that no record there tells of, and that nothing is on.
pub(crate) fn take_lost(run: &Path) -> Result<()> {
    // A tenth of what asking for them costs, and every launch comes by here.
    let devices = std::fs::read_to_string("/proc/self/net/dev");
    if devices.is_ok_and(|lines| !lines.lines().any(|line| line.trim_start().starts_with("pj"))) {
        return Ok(());
    }
    let (links, own) = (Links::new()?, whose(run));
    let mut lost = links.unused()?;
    lost.retain(|(_, whose)| *whose == own);
    if !lost.is_empty() {
        let known: Vec<Up> = directories(run).iter().filter_map(Directory::up).collect();
        lost.retain(|(name, _)| known.iter().all(|up| up.held || up.bridge != *name));
    }
    for (name, _) in lost {
        remove_rules(&format!("postroj-{name}"))?;
        links.remove(&name)?;
    }
    Ok(())
}

fn remove_rules(table: &str) -> Result<()> {
    let what = "cannot remove the network's rules";
    if let Ok(rules) = Rules::new() {
        rules.remove(table).context(what)?;
        rules.remove_of_bridge(table).context(what)?;
    }
    Ok(())
}

fn remove(up: &Up) -> Result<()> {
    remove_rules(&up.table())?;
    // Another's may have its name, where ours was never made.
    let links = Links::new()?;
    if links.hardware_address(&up.bridge) == Some(up.mac) {
        links.remove(&up.bridge).context("cannot remove the network's bridge")?;
    }
    Ok(())
}

/// Makes a network's bridge and rules, where they are not there; to be called with the lock held.
pub(crate) fn bring_up(directory: &Directory) -> Result<(Up, Site)> {
    if let Some(up) = directory.up() {
        tidy(directory);
        if let Some(site) = Site::of(directory, &up)
            && let Ok(links) = site.links()
            && links.hardware_address(&up.bridge) == Some(up.mac)
        {
            return Ok((up, site));
        }
        take_down(directory)?;
    }
    let internal = is_internal(directory);
    let site = Site::new(directory, internal)?;
    let links = site.links().context("cannot set up links")?;
    let config = directory.config().unwrap_or_default();
    let routes = if site.is_held() { routes_of_others(directory) } else { known_routes() };
    let (random, mtu) = (random()?, links.mtu(site.is_held()));
    for number in 0..=u8::MAX {
        let up = candidate(number, config.subnet, &random, mtu);
        let up = Up { held: site.is_held(), ..up };
        if links.index(&up.bridge).is_ok() || overlaps(&up, &routes) {
            if config.subnet.is_some() && overlaps(&up, &routes) {
                let (first, prefix) = up.subnet;
                bail!(
                    "the network {first}/{prefix} overlaps with one that this host has a route to"
                );
            }
            continue;
        }
        directory.set_up(&up)?;
        let mut addresses = vec![(IpAddr::V4(up.gateway()), up.subnet.1)];
        addresses.extend(up.gateway6().map(|gateway| (IpAddr::V6(gateway), 64)));
        match links.make_bridge(&up.bridge, up.mac, up.mtu, &addresses, &whose(directory.run())) {
            Ok(_) => {}
            // Somebody with another run directory was quicker.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
            Err(error) => {
                let _ = take_down(directory);
                return Err(error).context("cannot make a bridge");
            }
        }
        // Who holds one routes nothing.
        let made = match site {
            Site::Host => router::route(internal).and_then(|()| router::write_rules(&up, internal)),
            Site::Held(_) => Ok(()),
        };
        if let Err(error) = made {
            let _ = take_down(directory);
            return Err(error);
        }
        return Ok((up, site));
    }
    bail!("no name and address is left for a bridge: see `ip link` and `ip route`")
}

/// A machine may be on several networks of a user's.
fn routes_of_others(directory: &Directory) -> Vec<(Ipv4Addr, Ipv4Addr)> {
    let mask = |prefix: u8| Ipv4Addr::from(u32::MAX << (32 - prefix));
    let subnets = directory.others().into_iter().filter_map(|other| Some(other.up()?.subnet));
    subnets.map(|(first, prefix)| (first, mask(prefix))).collect()
}

/// What the nth bridge would be.
fn candidate(number: u8, subnet: Option<(Ipv4Addr, u8)>, random: &[u8; 11], mtu: u32) -> Up {
    let [a, b, c, d, e, f, g, h, i, j, _] = *random;
    let pair = |high, low| u16::from_be_bytes([high, low]);
    // RFC 4193, section 3.2: a random global id.
    let ula = [0xfd00 | u16::from(f), pair(g, h), pair(i, j), u16::from(number)];
    let prefix = Ipv6Addr::new(ula[0], ula[1], ula[2], ula[3], 0, 0, 0, 0);
    Up {
        bridge: format!("pj{number}"),
        mac: Mac([0x02, a, b, c, d, e]),
        subnet: subnet.unwrap_or((Ipv4Addr::new(10, 87, number, 0), 24)),
        prefix: has_ipv6().then_some(prefix),
        mtu,
        held: false,
    }
}

fn random() -> Result<[u8; 11]> {
    let mut bytes = [0; 11];
    let flags = rustix::rand::GetRandomFlags::empty();
    rustix::rand::getrandom(&mut bytes, flags).context("cannot get random numbers")?;
    Ok(bytes)
}

fn overlaps(up: &Up, routes: &[(Ipv4Addr, Ipv4Addr)]) -> bool {
    let (first, prefix) = up.subnet;
    let own = u32::MAX << (32 - prefix);
    routes.iter().any(|(destination, mask)| {
        let common = own & u32::from(*mask);
        u32::from(*destination) & common == u32::from(first) & common
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_that_are_there_are_kept_clear_of() {
        let up = candidate(3, None, &[0; 11], 1500);
        assert_eq!((up.bridge.as_str(), up.subnet), ("pj3", (Ipv4Addr::new(10, 87, 3, 0), 24)));
        let route = |a: [u8; 4], m: [u8; 4]| (Ipv4Addr::from(a), Ipv4Addr::from(m));
        assert!(overlaps(&up, &[route([10, 0, 0, 0], [255, 0, 0, 0])]));
        assert!(overlaps(&up, &[route([10, 87, 3, 128], [255, 255, 255, 128])]));
        assert!(!overlaps(&up, &[route([10, 87, 4, 0], [255, 255, 255, 0])]));
    }
}
