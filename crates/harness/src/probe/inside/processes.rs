//! The machine's processes, and who of them waits for whom on the network: by the machine's own
//! `/proc` (proc(5)), which the kernel makes.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// A process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// In the machine's ids.
    pub pid: u32,
    /// Clock ticks from the boot to its start: with the id, what tells it from all others.
    pub start: u64,
    /// Its short name.
    pub name: String,
    /// Its program; empty for a kernel's thread.
    pub program: String,
    /// Its command line.
    pub command: String,
}

/// A socket that waits for somebody.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Listener {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Where it listens.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Whose it is: a process's short name; empty where no process has it.
    pub owner: String,
}

impl std::fmt::Display for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let socket = std::net::SocketAddr::new(self.address, self.port);
        write!(f, "{} {socket}", self.protocol)?;
        if self.owner.is_empty() { Ok(()) } else { write!(f, " ({})", self.owner) }
    }
}

/// All but this one, and what has no program (kernel threads are not in a machine, zombies are none).
pub(super) fn all() -> Result<Vec<Process>> {
    let mut processes = Vec::new();
    for entry in std::fs::read_dir("/proc").context("cannot list the machine's processes")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        // It ends at this very moment, perhaps.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let Some((name, start, state)) = fields(&stat) else { continue };
        if pid == std::process::id() || state == 'Z' {
            continue;
        }
        let program = std::fs::read_link(format!("/proc/{pid}/exe"))
            .map(|path| path.to_string_lossy().into_owned())
            .unwrap_or_default();
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ").trim_end().to_owned();
        processes.push(Process { pid, start, name, program, command });
    }
    processes.sort_by_key(|process| process.pid);
    Ok(processes)
}

/// Name, start time and state; the name stands in parentheses, and may contain some.
fn fields(stat: &str) -> Option<(String, u64, char)> {
    let (head, rest) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let mut rest = rest.split_whitespace();
    let state = rest.next()?.chars().next()?;
    Some((name, rest.nth(18)?.parse().ok()?, state))
}

/// `st` of a TCP socket that listens (include/net/tcp_states.h), and of a UDP socket that is bound
/// and not connected.
const LISTENS: &str = "0A";
const UNCONNECTED: &str = "07";

pub(super) fn listeners(processes: &[Process]) -> Vec<Listener> {
    let owners = owners(processes);
    let mut listeners = Vec::new();
    for (file, protocol, state) in [
        ("tcp", "tcp", LISTENS),
        ("tcp6", "tcp", LISTENS),
        ("udp", "udp", UNCONNECTED),
        ("udp6", "udp", UNCONNECTED),
    ] {
        // Where the kernel has no IPv6 there is no such file.
        let text = std::fs::read_to_string(format!("/proc/self/net/{file}")).unwrap_or_default();
        for (address, port, inode) in sockets(&text, state) {
            let owner = owners.get(&inode).cloned().unwrap_or_default();
            listeners.push(Listener { protocol: protocol.into(), address, port, owner });
        }
    }
    listeners.sort();
    listeners.dedup();
    listeners
}

/// Addresses, ports and inodes of the sockets in a state.
fn sockets(text: &str, state: &str) -> Vec<(IpAddr, u16, u64)> {
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (address, port) = fields.get(1)?.split_once(':')?;
            if *fields.get(3)? != state {
                return None;
            }
            let port = u16::from_str_radix(port, 16).ok()?;
            Some((address_of(address)?, port, fields.get(9)?.parse().ok()?))
        })
        .collect()
}

/// Words of 32 bits in the machine's byte order, in hex.
fn address_of(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = u32::from_str_radix(text.get(at * 8..at * 8 + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            Some(Ipv6Addr::from(<[u8; 16]>::try_from(words).ok()?).into())
        }
        _ => None,
    }
}

/// Names of processes by the inodes of their sockets.
fn owners(processes: &[Process]) -> HashMap<u64, String> {
    let mut owners = HashMap::new();
    for process in processes {
        let Ok(entries) = std::fs::read_dir(format!("/proc/{}/fd", process.pid)) else { continue };
        for entry in entries.flatten() {
            let Ok(target) = std::fs::read_link(entry.path()) else { continue };
            let target = target.to_string_lossy();
            let inode = target.strip_prefix("socket:[").and_then(|t| t.strip_suffix(']'));
            if let Some(inode) = inode.and_then(|inode| inode.parse().ok()) {
                // systemd holds the sockets that it passes on, and is the last to be named for them.
                if process.pid == 1 {
                    owners.entry(inode).or_insert_with(|| process.name.clone());
                } else {
                    owners.insert(inode, process.name.clone());
                }
            }
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_read() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n   \
            1: 0100007F:1F91 00000000:0000 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0\n";
        assert_eq!(sockets(text, LISTENS), [(Ipv4Addr::LOCALHOST.into(), 8080, 4711)]);
        let six = "00000000000000000000000001000000";
        assert_eq!(address_of(six), Some(Ipv6Addr::LOCALHOST.into()));
        assert_eq!(address_of("x"), None);
    }

    #[test]
    fn a_name_may_contain_anything() {
        let stat = "7 (a) b) (c) S 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 12345 0 0";
        assert_eq!(fields(stat), Some(("a) b) (c".into(), 12345, 'S')));
        assert!(
            all().unwrap().iter().any(|process| process.pid == std::os::unix::process::parent_id())
        );
    }
}
