//! LVM2: logical volumes that are linear (lvm2's `lib/format_text/layout.h`; lvm(8)).

mod text;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};

use super::{Partition, Role};
use crate::Blocks;
use crate::bytes::{is_zero, le32, le64};
use crate::span::{Joined, Part, inside};
use text::{Section, Value};

const SECTOR: u64 = 512;
const MAGIC: &[u8] = b" LVM2 x[5A%r0N*>";
/// Bytes before the text in its area.
const HEADER: u64 = 512;
/// Far beyond every real group: bytes.
const MAX_TEXT: u64 = 16 << 20;
const MAX_SEGMENTS: u64 = 1 << 16;

/// A physical volume.
struct Physical {
    id: String,
    blocks: Arc<dyn Blocks>,
    /// What it says of its group; `None` where others do.
    text: Option<String>,
}

/// The logical volumes in these partitions; those that are not linear are left out.
///
/// # Errors
/// A group's text is broken, or a part of it is missing.
pub fn read(partitions: &[Partition]) -> Result<Vec<Partition>> {
    let mut all = Vec::new();
    for partition in partitions {
        let found = physical(&partition.blocks);
        all.extend(found.with_context(|| format!("partition {}", partition.number))?);
    }
    // Every physical volume may hold the text, and the newest counts.
    let mut groups: BTreeMap<String, (u64, Section)> = BTreeMap::new();
    for text in all.iter().filter_map(|physical| physical.text.as_deref()) {
        let whole = text::parse(text)?;
        let mut sections = whole.sections();
        let (name, group) = sections.next().context("it describes no group")?;
        let sequence = group.number("seqno")?;
        if groups.get(name).is_none_or(|(known, _)| *known < sequence) {
            groups.insert(name.to_owned(), (sequence, group.clone()));
        }
    }
    let mut found = Vec::new();
    for (name, (_, group)) in &groups {
        let group = Group::read(name, group, &all).with_context(|| format!("group {name}"))?;
        found.extend(group.volumes()?);
    }
    Ok(found)
}

/// `None` where there is no label.
fn physical(blocks: &Arc<dyn Blocks>) -> Result<Option<Physical>> {
    for sector in 0..4 {
        let mut label = [0; SECTOR as usize];
        if blocks.size() < (sector + 1) * SECTOR {
            break;
        }
        blocks.read_at(sector * SECTOR, &mut label)?;
        if !label.starts_with(b"LABELONE") || &label[24..32] != b"LVM2 001" {
            continue;
        }
        let header = label.get(le32(&label, 20) as usize..).filter(|header| header.len() >= 40);
        let header = header.context("its label is damaged")?;
        let id = std::str::from_utf8(&header[..32]).context("its id is no text")?.to_owned();
        let areas: Vec<&[u8]> = header[40..].chunks_exact(16).collect();
        // First those of the data, then, after an empty one, those of the text.
        let mut lists = areas.split(|area| is_zero(area));
        lists.next();
        let area = lists.next().and_then(<[_]>::first);
        let text = area.map(|area| metadata(&**blocks, le64(area, 0))).transpose()?.flatten();
        return Ok(Some(Physical { id, blocks: blocks.clone(), text }));
    }
    Ok(None)
}

fn metadata(blocks: &dyn Blocks, at: u64) -> Result<Option<String>> {
    let mut header = [0; HEADER as usize];
    inside(at, HEADER, blocks.size())?;
    blocks.read_at(at, &mut header)?;
    ensure!(&header[4..20] == MAGIC, "its text's header is damaged");
    let area = le64(&header, 32);
    let (offset, length) = (le64(&header, 40), le64(&header, 48));
    if offset == 0 {
        return Ok(None);
    }
    ensure!(length <= MAX_TEXT && length < area && offset < area, "its text has {length} bytes");
    ensure!(offset >= HEADER, "its text is at {offset}");
    inside(at, area, blocks.size())?;
    let mut text = vec![0; length as usize];
    // It goes round in its area.
    let (first, rest) = text.split_at_mut((area - offset).min(length) as usize);
    blocks.read_at(at + offset, first)?;
    blocks.read_at(at + HEADER, rest)?;
    Ok(Some(String::from_utf8(text).context("its text is none")?))
}

struct Group<'a> {
    name: &'a str,
    /// Bytes.
    extent: u64,
    /// By their names in the text: where the extents begin.
    physical: BTreeMap<&'a str, (u64, &'a Physical)>,
    volumes: Option<&'a Section>,
}

impl<'a> Group<'a> {
    fn read(name: &'a str, text: &'a Section, all: &'a [Physical]) -> Result<Self> {
        let mut physical = BTreeMap::new();
        let stated = text.section("physical_volumes").context("it has no physical volumes")?;
        for (pv, section) in stated.sections() {
            let id = section.text("id").context("a physical volume has no id")?.replace('-', "");
            let start = section.number("pe_start")?.checked_mul(SECTOR).context("pe_start")?;
            if let Some(known) = all.iter().find(|known| known.id == id) {
                physical.insert(pv, (start, known));
            }
        }
        let extent = text.number("extent_size")?.checked_mul(SECTOR).context("extent_size")?;
        ensure!(extent > 0, "its extents have no bytes");
        Ok(Self { name, extent, physical, volumes: text.section("logical_volumes") })
    }

    fn volumes(&self) -> Result<Vec<Partition>> {
        let mut found = Vec::new();
        for (name, section) in self.volumes.into_iter().flat_map(Section::sections) {
            let full = format!("{}/{name}", self.name);
            let blocks = self.linear(section).with_context(|| format!("logical volume {full}"))?;
            found.extend(blocks.map(|blocks| Partition {
                number: 0,
                volume: Some(full),
                uuid: String::new(),
                label: String::new(),
                role: Role::Other,
                blocks,
            }));
        }
        Ok(found)
    }

    /// `None` for what is no linear volume that is to be seen.
    fn linear(&self, volume: &Section) -> Result<Option<Arc<dyn Blocks>>> {
        let status = volume.list("status").unwrap_or_default();
        if !status.contains(&Value::Text("VISIBLE".into())) {
            return Ok(None);
        }
        let count = volume.number("segment_count")?;
        ensure!(count <= MAX_SEGMENTS, "it has {count} segments");
        let mut joined = Joined::default();
        for index in 1..=count {
            let segment = volume.section(&format!("segment{index}"));
            let segment = segment.with_context(|| format!("segment {index} is missing"))?;
            if segment.text("type") != Some("striped") || segment.number("stripe_count")? != 1 {
                return Ok(None);
            }
            let bytes = |extents: u64| extents.checked_mul(self.extent).context("it is too large");
            let start = bytes(segment.number("start_extent")?)?;
            ensure!(start == joined.size(), "segment {index} is not where the one before ends");
            let length = bytes(segment.number("extent_count")?)?;
            let Some([Value::Text(pv), Value::Number(from)]) = segment.list("stripes") else {
                bail!("segment {index} is nowhere");
            };
            let known = self.physical.get(&pv[..]);
            let (first, on) = known.with_context(|| format!("its disk {pv} is missing"))?;
            let from = bytes(u64::try_from(*from).context("it begins before its disk")?)?;
            let from = from.checked_add(*first).context("it is too large")?;
            joined.push(Arc::new(Part::new(on.blocks.clone(), from, length)?))?;
        }
        Ok(Some(Arc::new(joined)))
    }
}
