//! `network` and `port`: networks that machines share, and ports that lead into machines.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use engine::state::{self, RunDirectory};
use net::faults::Degraded;
use net::lease::Config;
use net::networks::{self, Shown};
use serde_json::json;
use spec::network::Port;
use spec::plan::Network;

use super::table::Listing;
use super::{Here, quantity};

/// Networks that machines share
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Make a network, on which machines know each other by name
    Create {
        /// Name
        name: String,
        /// Its machines reach each other only
        #[arg(long)]
        internal: bool,
        /// Addresses, such as 10.9.0.0/24
        #[arg(long, value_name = "NETWORK", value_parser = subnet)]
        subnet: Option<(Ipv4Addr, u8)>,
    },
    /// List networks
    #[command(visible_alias = "list")]
    Ls(Listing),
    /// Show a network and its machines as JSON
    Inspect {
        /// Names
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove networks that no machine uses
    #[command(visible_alias = "remove")]
    Rm {
        /// Names
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Give a running machine a device on a further network, until it ends or restarts
    Connect(Connected),
    /// Take a machine's device on a network away
    Disconnect {
        /// Network
        network: String,
        /// Machine's name or id
        machine: String,
    },
    /// Let nothing pass between two machines of a network
    Cut {
        /// A machine's name
        a: String,
        /// Another's
        b: String,
    },
    /// Make packets to a machine and from it get lost, come late or slowly
    Degrade(Degradation),
    /// Let everything pass again: between two machines, or to and from one
    Heal {
        /// A machine's name
        a: String,
        /// Another's
        b: Option<String>,
    },
    /// Remove all that somebody made and no machine uses
    Prune,
}

#[derive(Debug, clap::Args)]
pub(super) struct Connected {
    /// Address
    #[arg(long, value_name = "IP")]
    ip: Option<Ipv4Addr>,
    /// A further name that peers know the machine by
    #[arg(long, value_name = "NAME", value_parser = super::network::alias)]
    alias: Vec<String>,
    /// Network
    network: String,
    /// Machine's name or id
    machine: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct Degradation {
    /// Share that is lost, each way, such as 5%
    #[arg(long, value_name = "PERCENT", value_parser = loss, required_unless_present_any = ["delay", "rate"])]
    loss: Option<u32>,
    /// How late packets come, each way, such as 50ms
    #[arg(long, value_name = "TIME", value_parser = delay)]
    delay: Option<u64>,
    /// How much passes, each way, such as 10mbit
    #[arg(long, value_name = "RATE", value_parser = rate)]
    rate: Option<u32>,
    /// Machine's name or id
    machine: String,
}

impl Degradation {
    fn degraded(&self) -> Degraded {
        Degraded {
            loss: self.loss.unwrap_or(0),
            delay: self.delay.unwrap_or(0),
            rate: self.rate.unwrap_or(0),
        }
    }
}

/// A number and its unit.
fn measure(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let number: f64 = text[..text.len() - unit.len()].parse().ok()?;
    let (_, factor) = units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    Some(number * factor)
}

/// In millionths.
fn loss(text: &str) -> Result<u32, String> {
    let share = measure(text, &[("%", 1e4), ("", 1e4)]).filter(|share| (1.0..=1e6).contains(share));
    share.map(|share| share as u32).ok_or_else(|| format!("{text:?} is no share, such as 5%"))
}

/// In microseconds.
fn delay(text: &str) -> Result<u64, String> {
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6)];
    let time = measure(text, &units).filter(|time| (1.0..=6e7).contains(time));
    time.map(|time| time as u64)
        .ok_or_else(|| format!("{text:?} is no time, such as 50ms: up to 60s"))
}

/// In bytes a second, from tc(8)'s units.
fn rate(text: &str) -> Result<u32, String> {
    let units = [("bit", 0.125), ("kbit", 125.0), ("mbit", 125e3), ("gbit", 125e6)];
    let rate = measure(text, &units).filter(|rate| (1e3..4e9).contains(rate));
    rate.map(|rate| rate as u32)
        .ok_or_else(|| format!("{text:?} is no rate, such as 10mbit: 8kbit to 32gbit"))
}

fn degrade(machine: &str, degraded: Option<Degraded>, run: &RunDirectory) -> Result<()> {
    let record = run.find(machine)?;
    let (pid, pidfd) = engine::of(&record).process(&record)?;
    let target = net::Target { pid, pidfd: pidfd.as_fd() };
    networks::degrade(run.path(), &record.name, degraded, &target)
}

fn connect(asked: &Connected, run: &RunDirectory) -> Result<()> {
    let record = run.find(&asked.machine)?;
    let process = record.pid.filter(|_| record.monitored);
    let (first, _) =
        process.with_context(|| format!("the machine {} does not run", record.name))?;
    let plan = record.plan.as_ref();
    if !plan.is_some_and(|plan| plan.network.is_own()) {
        bail!("the machine {} has no network of its own to add to", record.name);
    }
    let first = rustix::process::Pid::from_raw(first).context("its process is gone")?;
    let first = rustix::process::pidfd_open(first, rustix::process::PidfdFlags::empty())
        .with_context(|| format!("the machine {} has ended", record.name))?;
    let (pid, pidfd) = engine::of(&record).process(&record)?;
    let place = net::Place {
        run: run.path(),
        machine: &record.name,
        id: record.id(),
        hostname: plan.map_or("", |plan| plan.hostname.as_str()),
    };
    let wishes = net::connect::Wishes { ip: asked.ip, aliases: asked.alias.clone() };
    let target = net::Target { pid, pidfd: pidfd.as_fd() };
    net::connect::connect(&place, &asked.network, &target, first.as_fd(), &wishes)
}

pub(super) fn run(verb: &Verb, here: &Here) -> Result<u8> {
    let run = here.run_directory()?;
    run.reap();
    net::reap(run.path());
    match verb {
        Verb::Create { name, internal, subnet } => {
            let config = Config { internal: *internal, subnet: *subnet, created: state::now() };
            networks::create(run.path(), name, &config)?;
            println!("{name}");
        }
        Verb::Ls(listing) => {
            let all = networks::list(run.path());
            listing.print(&all, |shown| &shown.name, json_of, HEADING, row)?;
        }
        Verb::Inspect { names } => {
            let found = names.iter().map(|name| networks::inspect(run.path(), name));
            let list = found.map(|shown| shown.map(|s| json_of(&s))).collect::<Result<Vec<_>>>()?;
            println!("{}", serde_json::to_string_pretty(&list)?);
        }
        Verb::Rm { names } => {
            for name in names {
                networks::remove(run.path(), name)?;
                println!("{name}");
            }
        }
        Verb::Connect(asked) => connect(asked, &run)?,
        Verb::Disconnect { network, machine } => {
            let name = run.find(machine)?.name;
            net::connect::disconnect(run.path(), network, &name)?;
        }
        Verb::Cut { a, b } => networks::cut(run.path(), a, b, false)?,
        Verb::Degrade(asked) => degrade(&asked.machine, Some(asked.degraded()), &run)?,
        Verb::Heal { a, b: Some(b) } => networks::cut(run.path(), a, b, true)?,
        Verb::Heal { a, b: None } => degrade(a, None, &run)?,
        Verb::Prune => {
            let unused = networks::list(run.path()).into_iter();
            for shown in unused.filter(|shown| shown.made && shown.members.is_empty()) {
                // A machine may have come meanwhile.
                if networks::remove(run.path(), &shown.name).is_ok() {
                    println!("{}", shown.name);
                }
            }
        }
    }
    Ok(0)
}

const HEADING: [&str; 5] = ["NAME", "KIND", "NETWORK", "MACHINES", "CREATED"];

fn row(shown: &Shown) -> Vec<String> {
    let age = || quantity::show_age(state::now().saturating_sub(shown.created));
    vec![
        shown.name.clone(),
        if shown.internal { "internal" } else { "bridge" }.to_owned(),
        shown.subnet.map(|(first, prefix)| format!("{first}/{prefix}")).unwrap_or_default(),
        shown.members.len().to_string(),
        if shown.made { age() } else { String::new() },
    ]
}

fn json_of(shown: &Shown) -> serde_json::Value {
    let member = |m: &net::lease::Member| {
        json!({
            "Name": m.machine, "Id": m.id, "IPv4Address": m.ip, "IPv6Address": m.ip6,
            "MacAddress": m.mac.to_string(), "Names": m.names,
        })
    };
    json!({
        "Name": shown.name,
        "Driver": "bridge",
        "Internal": shown.internal,
        "Created": shown.created,
        "Bridge": shown.bridge,
        "Subnet": shown.subnet.map(|(first, prefix)| format!("{first}/{prefix}")),
        "Machines": shown.members.iter().map(member).collect::<Vec<_>>(),
    })
}

/// A private network that has room for machines, and begins where it says.
fn subnet(text: &str) -> Result<(Ipv4Addr, u8), String> {
    let parsed = text.split_once('/').and_then(|(first, prefix)| {
        Some((first.parse::<Ipv4Addr>().ok()?, prefix.parse::<u8>().ok()?))
    });
    let Some((first, prefix)) = parsed else {
        return Err(format!("{text:?} is no network, such as 10.9.0.0/24"));
    };
    if !(8..=29).contains(&prefix) {
        return Err("the prefix is from 8 to 29 bits long".into());
    }
    let start = u32::from(first) & (u32::MAX << (32 - prefix));
    if start != u32::from(first) {
        return Err(format!("{text} begins at {}", Ipv4Addr::from(start)));
    }
    Ok((first, prefix))
}

/// List the ports that lead into a machine
#[derive(Debug, clap::Args)]
pub(super) struct PortArgs {
    /// Name or id
    machine: String,
    /// Only that of this port inside
    #[arg(value_name = "PORT[/PROTOCOL]")]
    port: Option<String>,
}

pub(super) fn port(args: &PortArgs, here: &Here) -> Result<u8> {
    let record = here.run_directory()?.find(&args.machine)?;
    let ports: &[Port] = match record.plan.as_ref().map(|plan| &plan.network) {
        Some(Network::Attached(attachment)) => &attachment.ports,
        _ => &[],
    };
    let wanted = args.port.as_ref().map(|text| match text.contains('/') {
        true => text.clone(),
        false => format!("{text}/tcp"),
    });
    let inside = |port: &Port| format!("{}/{}", port.inside, port.protocol);
    let shown: Vec<&Port> =
        ports.iter().filter(|port| wanted.as_ref().is_none_or(|w| *w == inside(port))).collect();
    if let (Some(wanted), []) = (&wanted, &shown[..]) {
        return Err(anyhow::anyhow!("the machine {} publishes no port {wanted}", record.name));
    }
    for port in shown {
        let addresses = match port.address {
            Some(address) => vec![address],
            None => ["0.0.0.0", "::"].iter().filter_map(|text| text.parse().ok()).collect(),
        };
        for address in addresses {
            let host = std::net::SocketAddr::new(address, port.host);
            match wanted {
                Some(_) => println!("{host}"),
                None => println!("{} -> {host}", inside(port)),
            }
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_times_and_rates() {
        assert_eq!((loss("5%"), loss("0.1%"), loss("100")), (Ok(50_000), Ok(1_000), Ok(1_000_000)));
        assert_eq!(
            (delay("50ms"), delay("1.5s"), delay("20us")),
            (Ok(50_000), Ok(1_500_000), Ok(20))
        );
        assert_eq!((rate("10mbit"), rate("1Gbit")), (Ok(1_250_000), Ok(125_000_000)));
        for bad in ["", "%", "101%", "0", "-1%", "1..2%", "x"] {
            assert!(loss(bad).is_err(), "{bad}");
        }
        assert!(delay("50").is_err() && delay("61s").is_err());
        assert!(rate("10").is_err() && rate("1tbit").is_err() && rate("0mbit").is_err());
    }

    #[test]
    fn subnets_begin_where_they_say() {
        assert_eq!(subnet("10.9.0.0/24"), Ok((Ipv4Addr::new(10, 9, 0, 0), 24)));
        for bad in ["", "10.9.0.0", "10.9.0.1/24", "10.9.0.0/30", "10.9.0.0/0", "x/24"] {
            assert!(subnet(bad).is_err(), "{bad}");
        }
    }
}
