//! Networks that somebody makes: kept until they are removed, or the host restarts.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use spec::network::{DEFAULT, INTERNAL, checked_name};

use crate::faults::{self, Degraded};
use crate::holder;
use crate::lease::{Config, Directory, Member, directories};
use crate::network::Target;
use crate::network::bridge;

/// A network as it is shown.
#[derive(Debug)]
pub struct Shown {
    /// Its name.
    pub name: String,
    /// Its machines reach each other only.
    pub internal: bool,
    /// Made by somebody, not there by itself.
    pub made: bool,
    /// Seconds since the epoch; 0 where it is there by itself.
    pub created: u64,
    /// The bridge's name, while there is one.
    pub bridge: Option<String>,
    /// Addresses: as they are, or as they were asked for.
    pub subnet: Option<(Ipv4Addr, u8)>,
    /// Machines on it.
    pub members: Vec<Member>,
}

/// Makes a network. Its bridge comes with the first machine.
///
/// # Errors
/// Where the name is taken, or networks cannot be had here.
pub fn create(run: &Path, name: &str, config: &Config) -> Result<()> {
    checked_name(name).map_err(|error| anyhow!(error))?;
    if [DEFAULT, INTERNAL, "none", "host", "user", "container", "ns"].contains(&name) {
        bail!("{name} is a word of --network: choose another name");
    }
    if let Some((first, _)) = config.subnet.filter(|_| crate::survey::bridge().is_err())
        && !first.is_private()
    {
        bail!("{first} is no private address (RFC 1918), as those of a user's network are");
    }
    let directory = Directory::new(run, name);
    let _lock = directory.lock()?;
    if directory.config().is_some() {
        bail!("there is a network {name} already (`postroj network inspect {name}` shows it)");
    }
    directory.set_config(config)
}

/// Removes one that no machine uses.
///
/// # Errors
/// Where there is none, or machines use it.
pub fn remove(run: &Path, name: &str) -> Result<()> {
    let directory = find(run, name)?;
    if directory.config().is_none() {
        bail!("the network {name} is there by itself, and cannot be removed");
    }
    let _lock = directory.lock()?;
    if let [first, ..] = &directory.living()[..] {
        bail!("the network {name} is used by the machine {}: stop it first", first.machine);
    }
    bridge::tidy(&directory);
    bridge::take_down(&directory)?;
    // Its addresses may be the next network's, which somebody has to answer at.
    let _silent = holder::silence(&directory)?;
    directory.remove()
}

/// Cuts two machines off from each other, or heals that, on each network that both are on.
///
/// # Errors
/// Where there is no such network.
pub fn cut(run: &Path, a: &str, b: &str, heal: bool) -> Result<()> {
    let mut found = false;
    for directory in directories(run) {
        let is_on = |name: &str, members: &[Member]| members.iter().any(|m| m.machine == name);
        let members = directory.living();
        if a == b || !is_on(a, &members) || !is_on(b, &members) {
            continue;
        }
        found = true;
        let _lock = directory.lock()?;
        let mut cuts = directory.cuts();
        cuts.retain(|(x, y)| (x != a || y != b) && (x != b || y != a));
        if !heal {
            cuts.push((a.to_owned(), b.to_owned()));
        }
        faults::cut(&directory, &cuts)?;
    }
    if !found {
        bail!("{a} and {b} are on no network together (`postroj network inspect` shows who is)");
    }
    Ok(())
}

/// Makes a machine's packets fare badly, or (`None`) well again, on each network that it is on: then
/// all cuts between it and others are healed as well.
///
/// # Errors
/// Where it is on none, or the kernel lacks what that takes.
pub fn degrade(
    run: &Path,
    machine: &str,
    degraded: Option<Degraded>,
    target: &Target<'_>,
) -> Result<()> {
    let mut found = false;
    for directory in directories(run) {
        let members = directory.living();
        let Some(member) = members.iter().find(|member| member.machine == machine) else {
            continue;
        };
        found = true;
        let _lock = directory.lock()?;
        if degraded.is_none() {
            let mut cuts = directory.cuts();
            cuts.retain(|(a, b)| a != machine && b != machine);
            directory.set_cuts(&cuts)?;
        }
        faults::degrade(&directory, member, degraded.unwrap_or_default(), target)?;
    }
    if !found {
        bail!("{machine} is on no network of machines (`postroj network inspect` shows who is)");
    }
    Ok(())
}

/// All there are, those that are there by themselves first.
#[must_use]
pub fn list(run: &Path) -> Vec<Shown> {
    let others = directories(run).into_iter().filter(|directory| directory.config().is_some());
    let own = [DEFAULT, INTERNAL].map(|name| Directory::new(run, name));
    own.into_iter().chain(others).map(|directory| shown(&directory)).collect()
}

/// One of them.
///
/// # Errors
/// Where there is none of that name.
pub fn inspect(run: &Path, name: &str) -> Result<Shown> {
    find(run, name).map(|directory| shown(&directory))
}

pub(crate) fn find(run: &Path, name: &str) -> Result<Directory> {
    let directory = checked_name(name).ok().map(|name| Directory::new(run, name));
    directory.filter(|d| name == DEFAULT || name == INTERNAL || d.config().is_some()).with_context(
        || format!("there is no network {name:?} (`postroj network ls` lists what is there)"),
    )
}

fn shown(directory: &Directory) -> Shown {
    let (config, up) = (directory.config(), directory.up());
    Shown {
        name: directory.name().to_owned(),
        internal: bridge::is_internal(directory),
        made: config.is_some(),
        created: config.as_ref().map_or(0, |config| config.created),
        subnet: up.as_ref().map(|up| up.subnet).or(config.and_then(|config| config.subnet)),
        bridge: up.map(|up| up.bridge),
        members: directory.living(),
    }
}
