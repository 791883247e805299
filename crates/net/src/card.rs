//! The network card of a guest, set up from within it.

use anyhow::{Context, Result};
use spec::network::Interface;

use crate::link::Links;

/// Gives the card that has this address its addresses and routes, and brings it up.
///
/// # Errors
/// Where there is no such card, or it does not take them.
pub fn set_up(interface: &Interface) -> Result<()> {
    let what = || format!("cannot set the network card {} up", interface.mac);
    let links = Links::new().with_context(what)?;
    let found =
        links.named(interface.mac).context("the kernel does not see it").with_context(what)?;
    let (index, name) = found;
    // It is told all that there is to know, and whoever advertises more is not to be heard. A kernel
    // without IPv6 hears nobody.
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/accept_ra"), "0");
    links.set_up_card(index, interface).with_context(what)
}
