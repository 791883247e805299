//! What a machine can be attached to.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, bail};
use spec::network::{Attachment, HostAddress, Interface, Link, Port};
use spec::plan::{File, Plan};

mod adopted;
pub(crate) mod bridge;
mod user;

/// A kind of network.
pub trait Network: Sync {
    /// Whether this is what the link means.
    fn carries(&self, link: &Link) -> bool;

    /// Takes what can be taken before there is a machine, such as an address and ports.
    ///
    /// # Errors
    /// Names what cannot be had here, and the remedy.
    fn prepare(&self, attachment: &Attachment, place: &Place<'_>) -> Result<Box<dyn Prepared>>;
}

/// Every network there is.
const NETWORKS: &[&dyn Network] = &[&bridge::Bridge, &user::User, &adopted::Adopted];

/// For whom a network is prepared.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// This user's run directory.
    pub run: &'a Path,
    /// The machine's name.
    pub machine: &'a str,
    /// The machine's id.
    pub id: &'a str,
    /// Its host name.
    pub hostname: &'a str,
}

/// What is known of a machine's network before there is the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// The machine's addresses.
    pub addresses: Vec<IpAddr>,
    /// The host's, as the machine reaches it.
    pub gateway: Option<IpAddr>,
    /// Resolvers to be used in the place of the host's.
    pub resolvers: Vec<IpAddr>,
    /// Published ports, with those of the host's chosen.
    pub ports: Vec<Port>,
}

/// A network that waits for its machine.
pub trait Prepared {
    /// What is known so far.
    fn known(&self) -> &Known;

    /// The outer end of a network card, for a machine that has a kernel of its own, and how its guest is
    /// to set that up; to be asked for before such a machine is made, and once.
    ///
    /// # Errors
    /// Where this network carries namespaces only.
    fn card(&mut self) -> Result<(OwnedFd, Interface)> {
        bail!("this network cannot be joined by a machine that has a kernel of its own")
    }

    /// Attaches it to the machine, whose first process waits.
    ///
    /// # Errors
    /// Says which step failed. Nothing that was made remains.
    fn attach(self: Box<Self>, target: &Target<'_>) -> Result<Box<dyn Attached>>;
}

/// A machine's namespaces, by its first process.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// In the launcher's process ids.
    pub pid: i32,
    /// Of the same process (pidfd_open(2)).
    pub pidfd: BorrowedFd<'a>,
}

/// A network in use; it ends when this is dropped.
pub trait Attached {
    /// Processes that carry it, which must not outlive the machine.
    fn processes(&self) -> Vec<i32>;
}

/// Prepares the network of a plan, and says in the plan's files what is known of it.
///
/// # Errors
/// As [`Network::prepare`].
pub fn prepare(attachment: &Attachment, plan: &mut Plan, run: &Path) -> Result<Box<dyn Prepared>> {
    let network = NETWORKS.iter().find(|network| network.carries(&attachment.link));
    let network = network.context("there is no network of this kind here")?;
    let place = Place { run, machine: &plan.name, id: &plan.id, hostname: &plan.hostname };
    let prepared = network.prepare(attachment, &place)?;
    if matches!(attachment.link, Link::Namespace(_)) {
        // Who made that has written the files, too.
        return Ok(prepared);
    }
    let hostname = plan.hostname.clone();
    amend(&mut plan.files, attachment, prepared.known(), &hostname);
    if let spec::plan::Network::Attached(attachment) = &mut plan.network {
        attachment.ports.clone_from(&prepared.known().ports);
    }
    // On a bridge a server must be there for its peers.
    if let Some(bypass) = plan.bypass.as_mut().filter(|_| matches!(attachment.link, Link::User(_)))
    {
        bypass.ports.clone_from(&prepared.known().ports);
    }
    Ok(prepared)
}

/// Adds to `/etc/hosts` and `/etc/resolv.conf`.
fn amend(files: &mut [File], attachment: &Attachment, known: &Known, hostname: &str) {
    for file in files {
        match file.name.as_str() {
            "hosts" => {
                let own = known.addresses.iter().map(|address| (*address, hostname));
                let gateways = attachment.hosts.iter().filter_map(|(name, address)| {
                    let gateway = known.gateway.filter(|_| *address == HostAddress::Gateway)?;
                    Some((gateway, name.as_str()))
                });
                for (address, name) in own.chain(gateways) {
                    let _ = writeln!(file.content, "{address}\t{name}");
                }
                if known.addresses.is_empty() {
                    let _ = writeln!(file.content, "127.0.1.1\t{hostname}");
                }
            }
            "resolv.conf" if attachment.dns.is_empty() && !known.resolvers.is_empty() => {
                file.content = replaced(&file.content, &known.resolvers);
            }
            _ => {}
        }
    }
}

/// The text with other resolvers (resolv.conf(5)).
fn replaced(text: &str, resolvers: &[IpAddr]) -> String {
    let others = text.lines().filter(|line| !line.trim_start().starts_with("nameserver"));
    let mut text: String = others.map(|line| format!("{line}\n")).collect();
    resolvers.iter().for_each(|address| text += &format!("nameserver {address}\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_tell_what_is_known() {
        let file = |name: &str, content: &str| File {
            name: name.into(),
            content: content.into(),
            mode: 0o644,
        };
        let mut files = [
            file("hosts", "127.0.0.1\tlocalhost\n"),
            file("resolv.conf", "search x\nnameserver 1.1.1.1\n"),
        ];
        let attachment = Attachment {
            link: Link::Bridge("x".into()),
            ports: Vec::new(),
            dns: Vec::new(),
            hosts: vec![("outside".into(), HostAddress::Gateway)],
            ip: None,
            mac: None,
            aliases: Vec::new(),
        };
        let address = |text: &str| text.parse().unwrap();
        let known = Known {
            addresses: vec![address("10.1.0.2")],
            gateway: Some(address("10.1.0.1")),
            resolvers: vec![address("10.1.0.1")],
            ports: Vec::new(),
        };
        amend(&mut files, &attachment, &known, "box");
        assert_eq!(files[0].content, "127.0.0.1\tlocalhost\n10.1.0.2\tbox\n10.1.0.1\toutside\n");
        assert_eq!(files[1].content, "search x\nnameserver 10.1.0.1\n");
    }
}
