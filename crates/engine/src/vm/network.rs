//! How a virtual machine is joined to a network: a card, whose outer end somebody else made.

use std::os::fd::{AsRawFd, OwnedFd};

use spec::network::{End, Interface};

use super::hardware::{Hardware, Link, Nic};
use crate::Card;

/// Adds the card, whose outer end is to be inherited; gives what the guest must know of it.
pub(super) fn plug(card: Card, hardware: &mut Hardware, inherited: &mut Vec<OwnedFd>) -> Interface {
    let Card { end, interface } = card;
    let number = end.as_raw_fd();
    let link = match interface.end {
        End::Stream => Link::Stream(number),
        End::Tap => Link::Tap(number),
    };
    hardware.nics.push(Nic { mac: interface.mac.0, link });
    inherited.push(end);
    interface
}
