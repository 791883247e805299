//! Disks that are divided: partition tables and logical volumes.

pub mod gpt;
pub mod lvm;
pub mod mbr;

use std::sync::Arc;

use anyhow::{Context, Result, bail};

use crate::Blocks;
use crate::span::Part;

/// What a partition is for, as far as its type says so (UAPI Group, "Discoverable Partitions Specification").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The root of an architecture, in Go's words.
    Root(&'static str),
    /// `/usr` of an architecture.
    Usr(&'static str),
    /// The EFI system partition.
    Esp,
    /// The extended boot loader partition, `/boot`.
    Boot,
    /// `/home`.
    Home,
    /// `/srv`.
    Srv,
    /// `/var`.
    Var,
    /// `/var/tmp`.
    Tmp,
    /// Swap.
    Swap,
    /// A physical volume of LVM.
    Lvm,
    /// Nothing that is read: hash trees, boot code, reserved room.
    Nothing,
    /// Anything.
    Other,
}

/// A part of a disk that may hold a file system.
#[derive(Clone)]
pub struct Partition {
    /// Its number as the kernel counts, from 1; 0 for the whole disk.
    pub number: u32,
    /// For a logical volume, its `group/name`.
    pub volume: Option<String>,
    /// `PARTUUID` as udev writes it; empty for none.
    pub uuid: String,
    /// Its name in a GPT.
    pub label: String,
    /// What it is for.
    pub role: Role,
    /// Its bytes.
    pub blocks: Arc<dyn Blocks>,
}

/// The partitions of a disk; the whole disk where it is not divided.
///
/// # Errors
/// A table is there and cannot be read.
pub fn partitions(disk: &Arc<dyn Blocks>) -> Result<Vec<Partition>> {
    // A CD that starts from a disk, too, has a table that shows parts of its own file system.
    if crate::volume::recognise(&**disk)?.is_some_and(|format| format.name() == "iso9660") {
        return Ok(vec![whole(disk)]);
    }
    Ok(match gpt::read(disk).context("reading the GPT")? {
        Some(found) => found,
        // Many a file system has something like an MBR in its first sector.
        None if crate::volume::recognise(&**disk)?.is_some() => vec![whole(disk)],
        None => match mbr::read(disk).context("reading the MBR")? {
            Some(found) => found,
            None => vec![whole(disk)],
        },
    })
}

/// Whether the first bytes of a file, some hundred kilobytes, are those of a disk: an image in some format, a
/// divided disk, or a file system.
pub fn begins_a_disk(start: &[u8]) -> bool {
    let head = crate::span::Memory(start.to_vec());
    let known = crate::image::format_of(&head).is_ok_and(|format| format.is_some());
    let volume = || crate::volume::recognise(&head).is_ok_and(|format| format.is_some());
    let at = |offset: usize, magic: &[u8]| {
        start.get(offset..).is_some_and(|rest| rest.starts_with(magic))
    };
    let divided = at(512, b"EFI PART") || at(4096, b"EFI PART") || at(512, b"LABELONE");
    known || divided || volume() || mbr::begins(start)
}

fn whole(disk: &Arc<dyn Blocks>) -> Partition {
    Partition {
        number: 0,
        volume: None,
        uuid: String::new(),
        label: String::new(),
        role: Role::Other,
        blocks: disk.clone(),
    }
}

/// Sectors of a disk as a partition; one that reaches beyond the end is cut, as by the kernel, or none.
fn part(disk: &Arc<dyn Blocks>, start: u64, length: u64) -> Result<Arc<dyn Blocks>> {
    if start >= disk.size() {
        bail!("a partition begins at {start}, beyond the disk's end at {}", disk.size());
    }
    Ok(Arc::new(Part::new(disk.clone(), start, length.min(disk.size() - start))?))
}
