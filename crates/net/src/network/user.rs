//! Mode `user`: processes of the user carry the machine's traffic, and nothing is set up on the host.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Result, bail};
use spec::network::{Attachment, Link, Port, Tap};

use super::{Attached, Known, Network, Place, Prepared, Target};
use crate::forward::{self, Forwarder, From};
use crate::ports::{self, Held};

mod carrier;
mod passt;
mod pasta;
mod slirp4netns;

/// Mode `user`.
pub(super) struct User;

impl Network for User {
    fn carries(&self, link: &Link) -> bool {
        matches!(link, Link::User(_))
    }

    fn prepare(&self, attachment: &Attachment, place: &Place<'_>) -> Result<Box<dyn Prepared>> {
        let Link::User(user) = attachment.link else { bail!("this is no user-mode network") };
        if attachment.ip.is_some() || attachment.mac.is_some() {
            bail!(
                "a user-mode network gives no address to choose: leave --ip and --mac-address out"
            );
        }
        if !attachment.aliases.is_empty() {
            bail!("a user-mode network has no peers that could know an alias: leave it out");
        }
        let Some(tap) = user.tap else {
            // The machine's own servers will listen there: nothing is to be carried.
            return Ok(Box::new(Alone::new(ports::hold(&attachment.ports)?, place)));
        };
        let (carrier, known): (Box<dyn carrier::Program>, Known) = match tap {
            Tap::Passt => return Ok(Box::new(passt::Passt::new(attachment, place)?)),
            Tap::Pasta => {
                let pasta = pasta::Pasta::new(attachment, place)?;
                let known = pasta::known(&pasta);
                (Box::new(pasta), known)
            }
            Tap::Slirp4netns => {
                let slirp = slirp4netns::Slirp4netns::new(attachment, place)?;
                let known = slirp4netns::known(&slirp);
                (Box::new(slirp), known)
            }
        };
        Ok(Box::new(Waiting { carrier, known }))
    }
}

/// Sockets of the host's are all there is: whoever gives them (the engine) needs nothing made.
struct Alone {
    known: Known,
    /// A server has one socket: other ports that lead to it are passed on to that one's.
    further: Vec<(Held, IpAddr)>,
    machine: String,
}

impl Alone {
    fn new(held: Vec<Held>, place: &Place<'_>) -> Self {
        let ports: Vec<Port> = held.iter().map(|held| held.port).collect();
        let further = held.into_iter().enumerate().filter_map(|(nth, mut held)| {
            let first = ports[..nth].iter().find(|first| same_server(first, &held.port))?;
            held.port.inside = first.host;
            let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
            Some((held, first.address.filter(|a| !a.is_unspecified()).unwrap_or(loopback)))
        });
        let further = further.collect();
        let known = Known { ports, ..Known::default() };
        Self { known, further, machine: place.machine.to_owned() }
    }
}

/// Whether what is published is one socket of the machine's.
fn same_server(a: &Port, b: &Port) -> bool {
    let versions = a.address.zip(b.address).map(|(a, b)| a.is_ipv4() == b.is_ipv4());
    a.protocol == b.protocol && a.inside == b.inside && versions != Some(false)
}

impl Prepared for Alone {
    fn known(&self) -> &Known {
        &self.known
    }

    fn attach(self: Box<Self>, target: &Target<'_>) -> Result<Box<dyn Attached>> {
        let start = |(held, to)| forward::start(vec![held], target, to, From::Host, &self.machine);
        let forwarders = self.further.into_iter().map(start).collect::<Result<_>>()?;
        Ok(Box::new(Further(forwarders)))
    }
}

struct Further(Vec<Forwarder>);

impl Attached for Further {
    fn processes(&self) -> Vec<i32> {
        self.0.iter().map(Forwarder::process_id).collect()
    }
}

struct Waiting {
    carrier: Box<dyn carrier::Program>,
    known: Known,
}

impl Prepared for Waiting {
    fn known(&self) -> &Known {
        &self.known
    }

    fn attach(self: Box<Self>, target: &Target<'_>) -> Result<Box<dyn Attached>> {
        Ok(Box::new(self.carrier.start(target)?))
    }
}
