//! The host as the router of a bridge: its settings, and the rules that all machines of a network share.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result};
use spec::network::Protocol;

use crate::lease::Up;
use crate::rules::{Hook, Part, Rules, Table};

/// Makes this host a router (ip-sysctl.rst in the kernel's documentation).
pub(super) fn route(internal: bool) -> Result<()> {
    if internal {
        return Ok(());
    }
    let set = |path: &str| -> Result<()> {
        let path = Path::new("/proc/sys/net").join(path);
        match std::fs::read_to_string(&path) {
            Ok(text) if text.trim() == "0" => std::fs::write(&path, "1").with_context(|| {
                format!("cannot make this host a router: cannot write {}", path.display())
            }),
            // There is no such protocol, or it is one already.
            _ => Ok(()),
        }
    };
    set("ipv4/ip_forward")?;
    let all = "ipv6/conf/all/forwarding";
    let routes = std::fs::read_to_string(Path::new("/proc/sys/net").join(all));
    if routes.is_ok_and(|text| text.trim() == "0") {
        keep_advertised_routes();
    }
    set(all)
}

/// A router hears no router advertisements unless it is told to (`accept_ra` = 2): without this
/// the host would lose its own way out, where that was advertised.
fn keep_advertised_routes() {
    let devices = std::fs::read_dir("/proc/sys/net/ipv6/conf").into_iter().flatten().flatten();
    for device in devices {
        let path = device.path().join("accept_ra");
        if std::fs::read_to_string(&path).is_ok_and(|text| text.trim() == "1") {
            let _ = std::fs::write(&path, "2");
        }
    }
}

/// The rules that all machines of a network share.
pub(super) fn write_rules(up: &Up, internal: bool) -> Result<()> {
    let mut table = Table::new(&up.table(), false);
    let bridge = up.bridge.as_str();
    table.chain(Hook::Forward);
    if internal {
        table.chain(Hook::Input);
        table.rule(Hook::Forward, &[Part::From(bridge), Part::NotTo(bridge), Part::Drop]);
        table.rule(Hook::Forward, &[Part::To(bridge), Part::NotFrom(bridge), Part::Drop]);
        // Of this host they may ask for names only.
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            let names = [Part::From(bridge), Part::Port(protocol, 53), Part::Accept];
            table.rule(Hook::Input, &names);
        }
        table.rule(Hook::Input, &[Part::From(bridge), Part::New, Part::Drop]);
    } else {
        // From elsewhere only what is published can be reached.
        let (to, elsewhere) = (Part::To(bridge), Part::NotFrom(bridge));
        let unasked = [to, elsewhere, Part::New, Part::Undirected, Part::Drop];
        table.rule(Hook::Forward, &unasked);
        table.chain(Hook::Source);
        let (network, prefix) = up.subnet;
        let own = Part::Source(IpAddr::V4(network), prefix);
        table.rule(Hook::Source, &[own, Part::NotTo(bridge), Part::Masquerade]);
        if let Some(network) = up.prefix {
            let own = Part::Source(IpAddr::V6(network), 64);
            table.rule(Hook::Source, &[own, Part::NotTo(bridge), Part::Masquerade]);
        }
    }
    let sent = Rules::new().and_then(|rules| table.send(&rules));
    sent.context(
        "cannot write the network's rules (nftables must be in the kernel: CONFIG_NF_TABLES)",
    )
}
