//! A namespace that somebody else made and connected, such as podman, for a machine with a kernel of its own: its
//! guest takes the place of the namespace's device, with hardware address, addresses and ways out, so that whatever
//! leads to them leads into the guest.
//!
//! The device and the card are two ports of a bridge in that namespace. The bridge has an address, too, by
//! which processes of that namespace reach the guest (podman's `rootlessport` connects from there).

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use spec::network::{Attachment, End, Interface, Link, Mac};
use sys::netns::Visit;

use super::{Attached, Known, Network, Place, Prepared, Target};
use crate::link::{Inside, Links};
use crate::netlink::Socket;
use crate::site::made_elsewhere;

/// Such a namespace.
pub(super) struct Adopted;

/// Addresses of both ends of the way from the namespace to the guest (RFC 3927); nobody else is on it.
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 77, 1));
const GUEST: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 77, 2));
const PREFIX: u8 = 30;

const BRIDGE: &str = "postroj0";
const TAP: &str = "postroj1";

impl Network for Adopted {
    fn carries(&self, link: &Link) -> bool {
        matches!(link, Link::Namespace(_))
    }

    fn prepare(&self, attachment: &Attachment, _place: &Place<'_>) -> Result<Box<dyn Prepared>> {
        let Link::Namespace(path) = &attachment.link else { bail!("this is no namespace") };
        let path = PathBuf::from(path);
        let socket = made_in(&path, || Socket::new(None).map(OwnedFd::from))?;
        let links = Links::from(Socket::from(socket));
        let device = the_device(links.ethernets().context("cannot read the network's devices")?)?;
        let known = Known {
            addresses: device.addresses.iter().map(|(address, _)| *address).collect(),
            gateway: device.gateways.first().copied(),
            ..Known::default()
        };
        Ok(Box::new(Waiting { path, known, place: Taken { links, device, is_taken: false } }))
    }
}

/// What is made in a namespace: by another process, as podman's ordinary user may enter it, but has no right to
/// come back into the host's.
fn made_in(path: &Path, make: impl FnOnce() -> io::Result<OwnedFd>) -> Result<OwnedFd> {
    let made = made_elsewhere(|| {
        let _there = Visit::new(path)?;
        make()
    });
    made.with_context(|| format!("cannot use the network {}", path.display()))
}

/// The one that the guest takes the place of.
fn the_device(mut devices: Vec<Inside>) -> Result<Inside> {
    if devices.iter().any(|device| device.device == BRIDGE) {
        bail!(
            "another virtual machine has this network already: containers that share one, such as those of a \
             pod, cannot be virtual machines"
        );
    }
    devices.retain(|device| !device.addresses.is_empty());
    match devices.len() {
        0 => bail!("the container's network has no device with an address"),
        1 => Ok(devices.remove(0)),
        _ => {
            let names: Vec<&str> = devices.iter().map(|device| &*device.device).collect();
            bail!("a virtual machine can be on one network: this one has {}", names.join(" and "))
        }
    }
}

/// A namespace that waits for its machine.
struct Waiting {
    path: PathBuf,
    known: Known,
    place: Taken,
}

impl Prepared for Waiting {
    fn known(&self) -> &Known {
        &self.known
    }

    fn card(&mut self) -> Result<(OwnedFd, Interface)> {
        let tap = made_in(&self.path, || sys::tun::tap(TAP)).context(
            "cannot make a device for the machine's network card (/dev/net/tun must be there, and an ordinary \
             user must be able to open it: `chmod 0666 /dev/net/tun`, as root)",
        )?;
        self.place.take().context("cannot give the container's network to the virtual machine")?;
        let Inside { mac, mtu, addresses, gateways, .. } = self.place.device.clone();
        let addresses = addresses.into_iter().chain([(GUEST, PREFIX)]).collect();
        Ok((tap, Interface { mac, mtu, addresses, gateways, end: End::Tap }))
    }

    fn attach(self: Box<Self>, _target: &Target<'_>) -> Result<Box<dyn Attached>> {
        Ok(Box::new(self.place))
    }
}

/// The place of a namespace's device; given back when this is dropped, as a container may be started again in the
/// same namespace.
struct Taken {
    links: Links,
    device: Inside,
    is_taken: bool,
}

impl Taken {
    fn take(&mut self) -> io::Result<()> {
        let Self { links, device, is_taken } = self;
        *is_taken = true;
        // The last byte tells them apart; both are of the kind that nobody is given (IEEE 802, 8.2).
        let [mut port, mut own] = [device.mac.0; 2];
        (port[0], own[0]) = (port[0] | 2, own[0] | 2);
        (port[5], own[5]) = (port[5] ^ 1, own[5] ^ 2);
        links.bare(&device.device, Mac(port), &device.addresses)?;
        let reach = [(HERE, PREFIX)];
        let bridge = links.make_bridge(BRIDGE, Mac(own), device.mtu, &reach, "postroj")?;
        links.put_on(bridge, &device.device, device.mtu)?;
        links.put_on(bridge, TAP, device.mtu)?;
        for (address, _) in device.addresses.iter().filter(|(address, _)| address.is_ipv4()) {
            links.lead_to(bridge, *address)?;
        }
        Ok(())
    }
}

impl Attached for Taken {
    fn processes(&self) -> Vec<i32> {
        Vec::new()
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if !self.is_taken {
            return;
        }
        // Mostly nobody needs it any more, and the namespace is gone in a moment.
        let _ = self.links.remove(BRIDGE);
        let _ = self.links.bare(&self.device.device, self.device.mac, &[]);
        let _ = self.links.set_up(&self.device);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_device_has_addresses() {
        let device = |name: &str, addresses: &[IpAddr]| Inside {
            device: name.into(),
            mac: Mac([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            addresses: addresses.iter().map(|address| (*address, 24)).collect(),
            gateways: Vec::new(),
        };
        let (one, none) = (device("eth0", &[HERE]), device("dummy0", &[]));
        assert_eq!(the_device(vec![none.clone(), one.clone()]).unwrap(), one);
        for (devices, part) in [
            (vec![none], "no device with an address"),
            (vec![one.clone(), device("eth1", &[GUEST])], "eth0 and eth1"),
            (vec![one, device(BRIDGE, &[HERE])], "another virtual machine"),
        ] {
            let error = the_device(devices).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
