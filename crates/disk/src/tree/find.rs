//! Which partition is the root, and what is mounted in it: by the user's word, by the types of partitions (UAPI
//! Group, "Discoverable Partitions Specification"), by what is in them, and by the root's own fstab(5).

use std::sync::Arc;

use anyhow::{Context, Result, bail};

use super::fstab::{Line, lines};
use super::{Mount, Tree, Wishes, lookup, read_small};
use crate::table::{self, Partition, Role, lvm};
use crate::volume::{self, Format, Identity};
use crate::{Blocks, Kind, Volume};

/// A file system that was found.
struct Found {
    /// From 0; that of a logical volume does not count.
    disk: usize,
    partition: Partition,
    format: &'static dyn Format,
    identity: Identity,
}

/// Finds the tree on some disks.
///
/// # Errors
/// There is no file system, or more than one that could be the root: they are listed.
pub fn find(disks: &[Arc<dyn Blocks>], wishes: &Wishes) -> Result<Tree> {
    let all = file_systems(disks)?;
    if let Some(wanted) = &wishes.partition {
        let found = chosen(&all, wanted, disks.len() > 1)?;
        let (volume, top) = open(found).context("opening what was asked for")?;
        let mount = Mount { place: Vec::new(), what: found.shown(disks.len() > 1), volume, top };
        return Ok(Tree { mounts: vec![mount], notes: Vec::new() });
    }
    let (index, volume, top) = root(&all, disks.len() > 1)?;
    let what = all[index].shown(disks.len() > 1);
    let root = Mount { place: Vec::new(), what, volume, top };
    let mut tree = Tree { mounts: vec![root], notes: Vec::new() };
    tree.add_from_fstab(&all)?;
    tree.add_discoverable(&all, index)?;
    // Outer ones first.
    tree.mounts.sort_by_key(|mount| mount.place.len());
    Ok(tree)
}

fn file_systems(disks: &[Arc<dyn Blocks>]) -> Result<Vec<Found>> {
    let mut all = Vec::new();
    for (index, disk) in disks.iter().enumerate() {
        let partitions = table::partitions(disk).with_context(|| format!("disk {}", index + 1))?;
        all.extend(partitions.into_iter().map(|partition| (index, partition)));
    }
    let partitions: Vec<Partition> = all.iter().map(|(_, partition)| partition.clone()).collect();
    let volumes = lvm::read(&partitions).context("reading LVM's metadata")?;
    all.extend(volumes.into_iter().map(|volume| (0, volume)));
    let mut found = Vec::new();
    for (disk, partition) in all {
        if let Some(format) = volume::recognise(&*partition.blocks)? {
            let identity = format.identity(&*partition.blocks)?;
            found.push(Found { disk, partition, format, identity });
        }
    }
    Ok(found)
}

impl Found {
    /// For people; as it can be asked for, too.
    fn shown(&self, several: bool) -> String {
        let name = match &self.partition.volume {
            Some(name) => name.clone(),
            None if several => format!("{}:{}", self.disk + 1, self.partition.number),
            None => self.partition.number.to_string(),
        };
        let labels = [&self.partition.label, &self.identity.label];
        let label = labels.into_iter().find(|label| !label.is_empty());
        let label = label.map_or(String::new(), |label| format!(", {label:?}"));
        format!("{name} ({}{label})", self.format.name())
    }

    fn is_called(&self, wanted: &str, several: bool) -> bool {
        let Partition { volume, number, uuid, label, .. } = &self.partition;
        let numbered = match wanted.split_once(':') {
            Some((disk, rest)) => {
                disk.parse() == Ok(self.disk + 1) && rest.parse() == Ok(*number) && volume.is_none()
            }
            None => !several && wanted.parse() == Ok(*number) && volume.is_none(),
        };
        let names = [uuid, label, &self.identity.uuid, &self.identity.label];
        numbered
            || volume.as_deref() == Some(wanted)
            || names.into_iter().any(|name| !name.is_empty() && name.eq_ignore_ascii_case(wanted))
    }
}

fn list<'a>(found: impl IntoIterator<Item = &'a Found>, several: bool) -> String {
    let shown: Vec<String> = found.into_iter().map(|found| found.shown(several)).collect();
    shown.join(", ")
}

fn chosen<'a>(all: &'a [Found], wanted: &str, several: bool) -> Result<&'a Found> {
    match all.iter().find(|found| found.is_called(wanted, several)) {
        Some(found) => Ok(found),
        None if all.is_empty() => bail!("it holds no file system that is known"),
        None => bail!("there is no partition {wanted:?}; there are {}", list(all, several)),
    }
}

fn open(found: &Found) -> Result<(Box<dyn Volume>, u64)> {
    let format = found.format;
    let volume = format.open(found.partition.blocks.clone());
    let volume = volume.with_context(|| format!("reading it as {}", format.name()))?;
    let top = volume.root();
    Ok((volume, top))
}

/// What a root has: enough that nothing else is taken for one.
const SIGNS: [&[u8]; 3] = [b"etc/os-release", b"usr/lib/os-release", b"etc/passwd"];
/// Directories of btrfs that hold the root where its top does not.
const SUBVOLUMES: [&[u8]; 4] = [b"root", b"@", b"@rootfs", b"@root"];

/// The directory of a volume that looks like a root.
fn root_in(volume: &mut dyn Volume) -> Result<Option<u64>> {
    let top = volume.root();
    let mut places = vec![top];
    for name in SUBVOLUMES {
        places.extend(lookup(volume, top, name)?);
    }
    for place in places {
        for sign in SIGNS {
            if lookup(volume, place, sign)?.is_some() {
                return Ok(Some(place));
            }
        }
    }
    Ok(None)
}

fn root(all: &[Found], several: bool) -> Result<(usize, Box<dyn Volume>, u64)> {
    let typed = |wanted: &dyn Fn(Role) -> bool| {
        let mut of_type = (0..all.len()).filter(|index| wanted(all[*index].partition.role));
        of_type.next().filter(|_| of_type.next().is_none())
    };
    let host = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let by_type = typed(&|role| role == Role::Root(host))
        .or_else(|| typed(&|role| matches!(role, Role::Root(_))));
    if let Some(index) = by_type {
        let (mut volume, top) = open(&all[index])?;
        let top = root_in(&mut *volume)?.unwrap_or(top);
        return Ok((index, volume, top));
    }
    let (mut roots, mut broken) = (Vec::new(), Vec::new());
    for (index, found) in all.iter().enumerate() {
        if matches!(found.partition.role, Role::Esp | Role::Boot | Role::Nothing) {
            continue;
        }
        let looked = open(found).and_then(|(mut volume, _)| Ok((root_in(&mut *volume)?, volume)));
        match looked.with_context(|| format!("looking for a root in {}", found.shown(several))) {
            Ok((Some(top), volume)) => roots.push((index, volume, top)),
            Ok((None, _)) => {}
            Err(error) => broken.push(error),
        }
    }
    match (roots.len(), all) {
        (1, _) => return roots.pop().context("there is one"),
        (0, _) if !broken.is_empty() => return Err(broken.remove(0)),
        (0, []) => bail!(
            "it holds no file system that is known: neither in a partition nor in a logical volume nor in the whole"
        ),
        (0, [only]) => return open(only).map(|(volume, top)| (0, volume, top)),
        _ => {}
    }
    let of = match roots.is_empty() {
        true => list(all, several),
        false => list(roots.iter().map(|(index, ..)| &all[*index]), several),
    };
    bail!("which partition is the root? Choose by --partition one of {of}")
}

impl Tree {
    fn has(&self, place: &[u8]) -> bool {
        self.mounts.iter().any(|mount| mount.place == place)
    }

    fn add_from_fstab(&mut self, all: &[Found]) -> Result<()> {
        let root = &mut self.mounts[0];
        let text = read_small(&mut *root.volume, root.top, b"etc/fstab").context("/etc/fstab")?;
        for line in lines(&text.unwrap_or_default()) {
            if self.has(&line.place) {
                continue;
            }
            let place = String::from_utf8_lossy(&line.place).into_owned();
            let Some(found) = all.iter().find(|found| found.is_named(&line.what)) else {
                if !line.optional {
                    let what = &line.what;
                    self.notes.push(format!("/{place} is left out: {what} is not on the disk"));
                }
                continue;
            };
            let mount = mount(found, &line).with_context(|| format!("opening /{place}"))?;
            self.mounts.push(mount);
        }
        Ok(())
    }

    /// What has a place by its type, where the root has a directory for it.
    fn add_discoverable(&mut self, all: &[Found], root: usize) -> Result<()> {
        for (index, found) in all.iter().enumerate().filter(|(index, _)| *index != root) {
            let _ = index;
            let places: &[&[u8]] = match found.partition.role {
                Role::Boot => &[b"boot"],
                Role::Esp => &[b"boot/efi", b"efi", b"boot"],
                Role::Home => &[b"home"],
                Role::Srv => &[b"srv"],
                Role::Var => &[b"var"],
                Role::Tmp => &[b"var/tmp"],
                Role::Usr(_) => &[b"usr"],
                _ => continue,
            };
            let by_fstab = self.mounts.iter().any(|mount| mount.what == found.shown(false));
            let top = &mut self.mounts[0];
            let mut place = None;
            for known in places {
                let node = lookup(&mut *top.volume, top.top, known)?;
                if let Some(node) = node
                    && top.volume.attributes(node)?.kind == Kind::Directory
                    && top.volume.names(node)?.is_empty()
                {
                    place = Some(known.to_vec());
                    break;
                }
            }
            if let Some(place) = place.filter(|place| !by_fstab && !self.has(place)) {
                let line = Line { what: String::new(), place, subvolume: None, optional: true };
                match mount(found, &line) {
                    Ok(mount) => self.mounts.push(mount),
                    Err(error) => self.notes.push(format!("{}: {error:#}", found.shown(false))),
                }
            }
        }
        Ok(())
    }
}

fn mount(found: &Found, line: &Line) -> Result<Mount> {
    let (mut volume, mut top) = open(found)?;
    if let Some(name) = &line.subvolume {
        let node = lookup(&mut *volume, top, name.as_bytes())?;
        top = node.with_context(|| format!("it has no subvolume {name:?}"))?;
    }
    Ok(Mount { place: line.place.clone(), what: found.shown(false), volume, top })
}

impl Found {
    /// Whether fstab(5) means it.
    fn is_named(&self, what: &str) -> bool {
        let Partition { volume, number, uuid, label, .. } = &self.partition;
        let is = |name: &str, wanted: &str| !name.is_empty() && name.eq_ignore_ascii_case(wanted);
        if let Some((kind, wanted)) = what.split_once('=') {
            return match kind {
                "UUID" => is(&self.identity.uuid, wanted),
                "LABEL" => is(&self.identity.label, wanted),
                "PARTUUID" => is(uuid, wanted),
                "PARTLABEL" => is(label, wanted),
                _ => false,
            };
        }
        let Some(device) = what.strip_prefix("/dev/") else { return false };
        if let Some(rest) = device.strip_prefix("disk/") {
            return match rest.split_once('/') {
                Some(("by-uuid", wanted)) => is(&self.identity.uuid, wanted),
                Some(("by-label", wanted)) => is(&self.identity.label, wanted),
                Some(("by-partuuid", wanted)) => is(uuid, wanted),
                Some(("by-partlabel", wanted)) => is(label, wanted),
                _ => false,
            };
        }
        if let Some(name) = volume {
            // In a name of device mapper's, `-` divides, and is written twice elsewhere.
            let mapped = name.replace('-', "--").replace('/', "-");
            return device == name || device.strip_prefix("mapper/") == Some(&mapped);
        }
        of_device(device) == Some((self.disk, *number))
    }
}

/// Disk, from 0, and partition of `sda1`, `vdb2`, `xvda1`, `nvme0n1p1`, `mmcblk0p2`; 0 for the whole.
fn of_device(device: &str) -> Option<(usize, u32)> {
    let number = |text: &str| if text.is_empty() { Some(0) } else { text.parse().ok() };
    for prefix in ["xvd", "sd", "vd", "hd"] {
        if let Some(rest) = device.strip_prefix(prefix) {
            let letter = rest.bytes().next().filter(u8::is_ascii_lowercase)?;
            return Some((usize::from(letter - b'a'), number(&rest[1..])?));
        }
    }
    for (prefix, middle) in [("nvme", "n1"), ("mmcblk", "")] {
        if let Some(rest) = device.strip_prefix(prefix) {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let partition = rest[digits..].strip_prefix(middle)?;
            let partition = partition.strip_prefix('p').unwrap_or(partition);
            return Some((rest[..digits].parse().ok()?, number(partition)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices() {
        for (device, expected) in [
            ("sda1", Some((0, 1))),
            ("vdb", Some((1, 0))),
            ("xvda15", Some((0, 15))),
            ("nvme0n1p2", Some((0, 2))),
            ("mmcblk1p3", Some((1, 3))),
            ("sd", None),
            ("sda1x", None),
            ("mapper/x", None),
        ] {
            assert_eq!(of_device(device), expected, "{device}");
        }
    }
}
