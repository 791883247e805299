//! pasta(1): the machine has the host's own addresses, and sees those of its peers.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use spec::network::{Attachment, Port, Protocol};

use super::carrier::{Carrier, Program};
use crate::network::{Known, Place, Target};
use crate::ports;

/// How it is to be started.
pub(super) struct Pasta {
    ports: Vec<Port>,
    /// Where it says that it is ready.
    told: PathBuf,
}

/// The ports, and nothing else: it copies the host's addresses once it is started.
pub(super) fn known(pasta: &Pasta) -> Known {
    Known { ports: pasta.ports.clone(), ..Known::default() }
}

impl Pasta {
    pub(super) fn new(attachment: &Attachment, place: &Place<'_>) -> Result<Self> {
        // It binds them itself; who holds one is said better here.
        let ports = ports::free(&attachment.ports)?;
        Ok(Self { ports, told: place.run.join(format!("pasta-{}", place.id)) })
    }
}

impl Program for Pasta {
    fn start(self: Box<Self>, target: &Target<'_>) -> Result<Carrier> {
        let mut command = Command::new("pasta");
        command.args(["--foreground", "--quiet", "--config-net", "--no-map-gw"]);
        command.args(["--ns-ifname", "eth0", "-T", "none", "-U", "none"]);
        if rustix::process::geteuid().is_root() {
            // As nobody, which it would become, it may not enter the machine's namespaces.
            command.args(["--runas", "0"]);
        }
        ports_of(&mut command, &self.ports);
        command.arg("--pid").arg(&self.told).arg(target.pid.to_string());
        // A file in the run directory that a killed launcher may leave; it is as good as empty.
        let told = Removed(self.told);
        let mut carrier = Carrier::start(&mut command, None)?;
        let is_ready = || std::fs::metadata(&told.0).is_ok_and(|file| file.len() > 0);
        carrier.await_that(is_ready, "pasta")?;
        Ok(carrier)
    }
}

/// Says which ports of the host's lead inside, and that no others do.
pub(super) fn ports_of(command: &mut Command, ports: &[Port]) {
    for (option, protocol) in [("-t", Protocol::Tcp), ("-u", Protocol::Udp)] {
        let of_it: Vec<&Port> = ports.iter().filter(|p| p.protocol == protocol).collect();
        if of_it.is_empty() {
            command.args([option, "none"]);
        }
        for port in of_it {
            command.args([option, &forward(port)]);
        }
    }
}

/// A file that is removed when this is dropped.
pub(super) struct Removed(pub(super) PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// `[ADDRESS/]HOST:INSIDE` (pasta(1), `--tcp-ports`).
fn forward(port: &Port) -> String {
    let address = match port.address {
        Some(IpAddr::V4(address)) => format!("{address}/"),
        Some(IpAddr::V6(address)) => format!("{address}/"),
        None => String::new(),
    };
    format!("{address}{}:{}", port.host, port.inside)
}
