//! Who has which address: a file for each, in the run directory, locked by the machine's monitor.
//!
//! A network's directory holds `lock`, taken for every change; `config`, where somebody made
//! the network; `up`, what there is of it on this host, written before that is made; and
//! `leases`. A lease that nobody has locked is one of a monitor that was killed.

use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use spec::network::Mac;

use crate::faults::Degraded;

/// A network's directory.
#[derive(Debug, Clone)]
pub struct Directory {
    path: PathBuf,
    name: String,
}

/// What there is of a network on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Up {
    /// The device's name.
    pub(crate) bridge: String,
    /// Its hardware address, by which it is known to be ours.
    pub(crate) mac: Mac,
    /// First address, which is the network's own, and the length of the prefix.
    pub(crate) subnet: (Ipv4Addr, u8),
    /// Of IPv6: 64 bits.
    pub(crate) prefix: Option<Ipv6Addr>,
    /// Of packets, in bytes.
    pub(crate) mtu: u32,
    /// It is in a namespace of its own, which a process holds.
    #[serde(default)]
    pub(crate) held: bool,
}

/// What somebody said of a network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Config {
    /// Its machines reach each other only.
    pub internal: bool,
    /// Chosen addresses.
    pub subnet: Option<(Ipv4Addr, u8)>,
    /// Seconds since the epoch.
    pub created: u64,
}

/// A machine on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The machine's name.
    pub machine: String,
    /// Its id.
    pub id: String,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Of IPv6.
    pub ip6: Option<Ipv6Addr>,
    /// Hardware address.
    pub mac: Mac,
    /// The host's end of its pair of devices.
    pub device: String,
    /// What its peers know it by.
    pub names: Vec<String>,
}

/// An address that is a machine's until this is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    path: PathBuf,
    /// Its lock says that the machine lives.
    file: File,
}

impl Lease {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the address back. It may be another's already, where somebody else did so.
    pub(crate) fn remove(&self) {
        let (own, there) = (self.file.metadata(), std::fs::metadata(&self.path));
        if own.ok().zip(there.ok()).is_some_and(|(own, there)| own.ino() == there.ino()) {
            // One that stays is unlocked, and thus free.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl AsFd for Lease {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.remove();
    }
}

/// All networks of a run directory that there is something of.
pub fn directories(run: &Path) -> Vec<Directory> {
    let entries = std::fs::read_dir(run.join("networks")).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names.into_iter().map(|name| Directory::new(run, &name)).collect()
}

fn wait_for(lock: &File) -> rustix::io::Result<()> {
    loop {
        match rustix::fs::flock(lock, FlockOperation::LockExclusive) {
            Err(rustix::io::Errno::INTR) => {}
            other => return other,
        }
    }
}

impl Directory {
    /// Of a network by its name, which is checked elsewhere.
    #[must_use]
    pub fn new(run: &Path, name: &str) -> Self {
        Self { path: run.join("networks").join(name), name: name.to_owned() }
    }

    /// The run directory that it is in.
    pub(crate) fn run(&self) -> &Path {
        self.path.parent().and_then(Path::parent).unwrap_or(&self.path)
    }

    /// The network's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes the network's lock, and makes the directory where it is missing.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub(crate) fn lock(&self) -> Result<File> {
        let what = || format!("cannot open the network's directory {}", self.path.display());
        let file = match self.file("lock") {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                std::fs::create_dir_all(self.path.join("leases")).with_context(what)?;
                self.file("lock")
            }
            other => other,
        };
        let file = file.with_context(what)?;
        wait_for(&file).with_context(what)?;
        // Somebody may have removed the network meanwhile.
        let _ = std::fs::create_dir(self.path.join("leases"));
        Ok(file)
    }

    /// The right to take the network down later; nothing where somebody has it.
    pub(crate) fn sweep(&self) -> Option<File> {
        self.sole("sweeper")
    }

    fn sole(&self, name: &str) -> Option<File> {
        let file = self.file(name).ok()?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
        Some(file)
    }

    fn file(&self, name: &str) -> std::io::Result<File> {
        File::options().create(true).truncate(false).write(true).open(self.path.join(name))
    }

    /// The network's lock, unless somebody has it.
    pub(crate) fn lock_at_once(&self) -> Option<File> {
        self.sole("lock")
    }

    /// The same as [`Directory::speaker`], once whoever has it has ended; `end` is called until then.
    ///
    /// # Errors
    /// Where the file cannot be opened.
    pub(crate) fn next_speaker(&self, mut end: impl FnMut()) -> Result<File> {
        let file = self.file("speaker")?;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            end();
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// The right to answer for its names; nothing where somebody has it.
    pub(crate) fn speaker(&self) -> Option<File> {
        self.sole("speaker")
    }

    /// Whether somebody has it.
    pub(crate) fn is_spoken_for(&self) -> bool {
        self.exists() && self.speaker().is_none()
    }

    /// The process that holds its namespace, where it has one: its id and start time.
    pub(crate) fn holder(&self) -> Option<(i32, u64)> {
        self.read("holder")
    }

    /// Writes it down.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub(crate) fn set_holder(&self, holder: (i32, u64)) -> Result<()> {
        self.write("holder", &holder)
    }

    /// The other networks of this run directory.
    pub(crate) fn others(&self) -> Vec<Self> {
        let all = directories(self.run()).into_iter();
        all.filter(|other| other.name != self.name).collect()
    }

    /// What somebody said of it.
    #[must_use]
    pub fn config(&self) -> Option<Config> {
        self.read("config")
    }

    /// Writes down what somebody says of it.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub(crate) fn set_config(&self, config: &Config) -> Result<()> {
        self.write("config", config)
    }

    /// What there is of it.
    pub(crate) fn up(&self) -> Option<Up> {
        self.read("up")
    }

    /// Whether it is there at all.
    pub(crate) fn exists(&self) -> bool {
        self.path.exists()
    }

    /// Whether there is, or was, something of it.
    pub(crate) fn is_up(&self) -> bool {
        self.path.join("up").exists()
    }

    /// Writes down what is about to be made of it.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub(crate) fn set_up(&self, up: &Up) -> Result<()> {
        self.write("up", up)
    }

    /// Pairs of machines, by name, between which nothing passes.
    #[must_use]
    pub fn cuts(&self) -> Vec<(String, String)> {
        self.read("cuts").unwrap_or_default()
    }

    /// Writes them down.
    ///
    /// # Errors
    /// Where they cannot be written.
    pub(crate) fn set_cuts(&self, cuts: &[(String, String)]) -> Result<()> {
        self.write("cuts", &cuts)
    }

    /// Machines, by name, whose packets fare badly.
    pub(crate) fn degraded(&self) -> Vec<(String, Degraded)> {
        self.read("degraded").unwrap_or_default()
    }

    /// Writes them down.
    ///
    /// # Errors
    /// Where they cannot be written.
    pub(crate) fn set_degraded(&self, degraded: &[(String, Degraded)]) -> Result<()> {
        self.write("degraded", &degraded)
    }

    /// Nothing is left of it.
    pub(crate) fn clear_up(&self) {
        let _ = std::fs::remove_file(self.path.join("cuts"));
        let _ = std::fs::remove_file(self.path.join("degraded"));
        let _ = std::fs::remove_file(self.path.join("holder"));
        let _ = std::fs::remove_file(self.path.join("up"));
    }

    /// Removes the directory.
    ///
    /// # Errors
    /// Where it cannot be.
    pub(crate) fn remove(&self) -> Result<()> {
        std::fs::remove_dir_all(&self.path)
            .with_context(|| format!("cannot remove {}", self.path.display()))
    }

    fn read<T: for<'de> Deserialize<'de>>(&self, name: &str) -> Option<T> {
        serde_json::from_slice(&std::fs::read(self.path.join(name)).ok()?).ok()
    }

    /// Whole or not at all.
    fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        let new = self.path.join(format!("{name}.new"));
        let path = self.path.join(name);
        let written = std::fs::write(&new, serde_json::to_vec(value)?)
            .and_then(|()| std::fs::rename(&new, &path));
        written.with_context(|| format!("cannot write {}", path.display()))
    }

    /// Machines on it that live.
    #[must_use]
    pub fn living(&self) -> Vec<Member> {
        let living = self.leases().filter(|(.., lives)| *lives);
        let mut members: Vec<Member> =
            living.filter_map(|(_, file, _)| serde_json::from_reader(file).ok()).collect();
        members.sort_by_key(|member| member.ip);
        members
    }

    /// Removes the leases that nobody keeps any more, each once what there is of its machine is
    /// taken away; to be called with the lock held.
    pub(crate) fn tidy(&self, mut take_away: impl FnMut(&Member) -> bool) {
        for (path, file, _) in self.leases().filter(|(.., lives)| !lives) {
            // One that was never written whole stands for nothing.
            let member = serde_json::from_reader(file).ok();
            if member.is_none_or(|member| take_away(&member)) {
                let _ = std::fs::remove_file(path);
            }
        }
    }

    /// Each with its path, and whether somebody keeps it.
    fn leases(&self) -> impl Iterator<Item = (PathBuf, File, bool)> {
        let entries = std::fs::read_dir(self.path.join("leases")).into_iter().flatten().flatten();
        entries.filter_map(|entry| {
            let file = File::open(entry.path()).ok()?;
            let free = rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_ok();
            Some((entry.path(), file, !free))
        })
    }

    /// Gives a machine's address back, though somebody keeps it.
    ///
    /// # Errors
    /// unlink(2)'s.
    pub(crate) fn give_up(&self, ip: Ipv4Addr) -> Result<()> {
        let path = self.path.join("leases").join(ip.to_string());
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }

    /// Gives a machine an address: the one that it asks for, else one from `start` on. To be
    /// called with the lock held.
    ///
    /// # Errors
    /// Where it is taken, or none is free.
    pub(crate) fn lease(
        &self,
        up: &Up,
        wanted: Option<Ipv4Addr>,
        start: u32,
        fill: impl Fn(Ipv4Addr) -> Member,
    ) -> Result<(Lease, Member)> {
        let (first, prefix) = up.subnet;
        let size = 1_u32 << (32 - prefix);
        // The first is the network's, the second its bridge's, and the last everybody's.
        let usable = size - 3;
        let nth = |n: u32| Ipv4Addr::from(u32::from(first) + 2 + n % usable);
        if let Some(wanted) = wanted {
            let number = u32::from(wanted).wrapping_sub(u32::from(first));
            if !(2..size - 1).contains(&number) {
                bail!(
                    "{wanted} is no address of a machine of {first}/{prefix}, the network {}",
                    self.name
                );
            }
            let lease = self.take(wanted, &fill)?;
            return lease.with_context(|| {
                let holder = self.living().into_iter().find(|member| member.ip == wanted);
                let holder = holder.map_or("another machine".into(), |member| member.machine);
                format!("the address {wanted} is in use by {holder}")
            });
        }
        for n in 0..usable {
            if let Some(lease) = self.take(nth(start.wrapping_add(n)), &fill)? {
                return Ok(lease);
            }
        }
        bail!("all {usable} addresses of the network {} are in use", self.name)
    }

    fn take(
        &self,
        address: Ipv4Addr,
        fill: &impl Fn(Ipv4Addr) -> Member,
    ) -> Result<Option<(Lease, Member)>> {
        let path = self.path.join("leases").join(address.to_string());
        let what = || format!("cannot write the lease {}", path.display());
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(what)?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        let member = fill(address);
        file.set_len(0).with_context(what)?;
        file.write_all(&serde_json::to_vec(&member)?).with_context(what)?;
        Ok(Some((Lease { path, file }, member)))
    }
}

#[cfg(test)]
mod tests;
