//! GUID partition tables (UEFI specification 2.10, 5.3).

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};

use super::{Partition, Role, part};
use crate::Blocks;
use crate::bytes::{guid, is_zero, le16, le32, le64};

const SIGNATURE: &[u8] = b"EFI PART";
/// Sectors of disks, and of images of CDs that are none but claim so.
const SECTORS: [u64; 2] = [512, 4096];
/// Far beyond the 128 that every tool makes.
const MAX_ENTRIES: u32 = 4096;

/// `None` where there is no such table.
///
/// # Errors
/// Both copies of it are damaged.
pub fn read(disk: &Arc<dyn Blocks>) -> Result<Option<Vec<Partition>>> {
    for sector in SECTORS {
        if disk.size() < 3 * sector {
            continue;
        }
        // A disk that grew or was cut has its backup elsewhere; then only the first one counts.
        let last = (disk.size() / sector - 1) * sector;
        let (first, backup) = (header(disk, sector, sector), header(disk, last, sector));
        match (first, backup) {
            (Ok(Some(found)), _) | (_, Ok(Some(found))) => return Ok(Some(found)),
            (Err(error), _) => return Err(error),
            // An old table's backup may have survived a new MBR.
            (Ok(None), _) => {}
        }
    }
    Ok(None)
}

fn header(disk: &Arc<dyn Blocks>, at: u64, sector: u64) -> Result<Option<Vec<Partition>>> {
    let mut header = vec![0; sector as usize];
    disk.read_at(at, &mut header)?;
    if !header.starts_with(SIGNATURE) {
        return Ok(None);
    }
    if at > sector && !is_protected(disk)? {
        return Ok(None);
    }
    let length = le32(&header, 12) as usize;
    ensure!((92..=header.len()).contains(&length), "its header has {length} bytes");
    let stated = le32(&header, 16);
    header[16..20].fill(0);
    ensure!(crc(&header[..length]) == stated, "the checksum of its header is wrong");
    let (count, size) = (le32(&header, 80), le32(&header, 84));
    ensure!(
        count <= MAX_ENTRIES && (128..=4096).contains(&size) && size.is_multiple_of(8),
        "it has {count} entries of {size} bytes"
    );
    let at = le64(&header, 72).checked_mul(sector).context("its entries are nowhere")?;
    let mut entries = vec![0; count as usize * size as usize];
    disk.read_at(at, &mut entries).context("reading its entries")?;
    ensure!(crc(&entries) == le32(&header, 88), "the checksum of its entries is wrong");
    let numbered = entries.chunks(size as usize).zip(1..);
    let used = numbered.filter(|(entry, _)| !is_zero(&entry[..16]));
    let found: Result<Vec<_>> = used.map(|(entry, n)| partition(disk, entry, n, sector)).collect();
    Ok(Some(found?))
}

/// Whether the MBR says that there is a GPT.
fn is_protected(disk: &Arc<dyn Blocks>) -> Result<bool> {
    let mut mbr = [0; 512];
    disk.read_at(0, &mut mbr)?;
    Ok(mbr[510..] == [0x55, 0xaa] && mbr[446..510].chunks(16).any(|entry| entry[4] == 0xee))
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

fn partition(disk: &Arc<dyn Blocks>, entry: &[u8], number: u32, sector: u64) -> Result<Partition> {
    let (first, last) = (le64(entry, 32), le64(entry, 40));
    let bytes = || {
        let sectors = last.checked_sub(first)?.checked_add(1)?;
        Some((first.checked_mul(sector)?, sectors.checked_mul(sector)?))
    };
    let Some((start, length)) = bytes() else {
        bail!("partition {number} reaches from {first} to {last}")
    };
    let blocks = part(disk, start, length).with_context(|| format!("partition {number}"))?;
    let name: Vec<u16> =
        (0..36).map(|i| le16(entry, 56 + 2 * i)).take_while(|&unit| unit != 0).collect();
    Ok(Partition {
        number,
        volume: None,
        uuid: guid(&entry[16..]),
        label: String::from_utf16_lossy(&name),
        role: role(&guid(entry)),
        blocks,
    })
}

/// By the type (UAPI Group, "Discoverable Partitions Specification").
fn role(kind: &str) -> Role {
    let known = ROLES.iter().find(|(id, _)| *id == kind);
    known.map_or(Role::Other, |(_, role)| *role)
}

const ROLES: &[(&str, Role)] = &[
    ("4f68bce3-e8cd-4db1-96e7-fbcaf984b709", Role::Root("amd64")),
    ("44479540-f297-41b2-9af7-d131d5f0458a", Role::Root("386")),
    ("b921b045-1df0-41c3-af44-4c6f280d3fae", Role::Root("arm64")),
    ("69dad710-2ce4-4e3c-b16c-21a1d49abed3", Role::Root("arm")),
    ("72ec70a6-cf74-40e6-bd49-4bda08e8f224", Role::Root("riscv64")),
    ("c31c45e6-3f39-412e-80fb-4809c4980599", Role::Root("ppc64le")),
    ("5eead9a9-fe09-4a1e-a1d7-520d00531306", Role::Root("s390x")),
    ("8484680c-9521-48c6-9c11-b0720656f69e", Role::Usr("amd64")),
    ("75250d76-8cc6-458e-bd66-bd47cc81a812", Role::Usr("386")),
    ("b0e01050-ee5f-4390-949a-9101b17104e9", Role::Usr("arm64")),
    ("7d0359a3-02b3-4f0a-865c-654403e70625", Role::Usr("arm")),
    ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", Role::Esp),
    ("bc13c2ff-59e6-4262-a352-b275fd6f7172", Role::Boot),
    ("933ac7e1-2eb4-4f13-b844-0e14e2aef915", Role::Home),
    ("3b8f8425-20e0-4f3b-907f-1a25a76f98e8", Role::Srv),
    ("4d21b016-b534-45c2-a9fb-5c16e091fd2d", Role::Var),
    ("7ec6f557-3bc5-4aca-b293-16ef5df639d1", Role::Tmp),
    ("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f", Role::Swap),
    ("e6d6d379-f507-44c2-a23c-238f2a3df928", Role::Lvm),
    // Boot code of GRUB and of PReP, and Microsoft's reserved room.
    ("21686148-6449-6e6f-744e-656564454649", Role::Nothing),
    ("9e1a2d38-c612-4316-aa26-8b49521e5a8b", Role::Nothing),
    ("e3c9e316-0b5c-4db8-817d-f92df00215ae", Role::Nothing),
];
