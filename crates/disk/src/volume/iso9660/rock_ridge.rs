//! Rock Ridge (IEEE P1282) in the system use fields (IEEE P1281, SUSP) of records, and zisofs (zisofs-tools).

use anyhow::{Context, Result, ensure};

use super::{SECTOR, days};
use crate::bytes::le32;
use crate::span::inside;
use crate::{Blocks, Piece};

/// Areas that a record may go on in.
const MAX_AREAS: usize = 64;
/// As many as PATH_MAX allows.
const MAX_TEXT: usize = 4096;

/// What one record says more than ECMA-119 knows.
#[derive(Debug, Clone, Default)]
pub(super) struct Extra {
    pub(super) name: Option<Vec<u8>>,
    /// With the bits of the kind.
    pub(super) mode: Option<u32>,
    pub(super) links: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) inode: Option<u32>,
    pub(super) mtime: Option<i64>,
    pub(super) device: (u32, u32),
    pub(super) target: Vec<u8>,
    /// The block of the directory that has its place here.
    pub(super) moved_from: Option<u32>,
    pub(super) packed: Option<Packed>,
}

/// The root's own record begins with `SP`: how many bytes to skip in all others.
pub(super) fn begins(room: &[u8]) -> Option<usize> {
    // Those of CD-ROM XA come before.
    [0, 14].into_iter().find_map(|at| {
        let entry = room.get(at..at + 7)?;
        (entry[..2] == *b"SP" && entry[4..6] == [0xbe, 0xef]).then(|| usize::from(entry[6]))
    })
}

/// Whether this is where a directory was put that is shown elsewhere.
pub(super) fn is_moved_away(room: &[u8]) -> bool {
    entries(room).any(|entry| entry.starts_with(b"RE"))
}

fn entries(room: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = room;
    std::iter::from_fn(move || {
        let length = usize::from(*rest.get(2)?);
        let entry = rest.get(..length).filter(|entry| entry.len() >= 4)?;
        rest = &rest[length..];
        Some(entry)
    })
}

/// Where an area goes on: block, offset, bytes.
type Next = Option<(u32, u32, u32)>;

impl Extra {
    pub(super) fn read(room: &[u8], blocks: &dyn Blocks) -> Result<Self> {
        let mut extra = Self::default();
        let mut link = Link::default();
        let mut next = extra.area(room, &mut link)?;
        let mut count = 0;
        while let Some((block, offset, length)) = next {
            count += 1;
            ensure!(count <= MAX_AREAS, "a record goes on in a loop");
            ensure!(length <= 64 << 10, "a record goes on for {length} bytes");
            let at = u64::from(block) * SECTOR + u64::from(offset);
            inside(at, length.into(), blocks.size())?;
            let mut area = vec![0; length as usize];
            blocks.read_at(at, &mut area)?;
            next = extra.area(&area, &mut link)?;
        }
        extra.target = link.text;
        Ok(extra)
    }

    fn area(&mut self, room: &[u8], link: &mut Link) -> Result<Next> {
        let mut next = None;
        for entry in entries(room) {
            let word = |at: usize| match entry.get(at..at + 4) {
                Some(_) => Ok(le32(entry, at)),
                None => Err(anyhow::anyhow!("an entry is cut short")),
            };
            match &entry[..2] {
                b"CE" => next = Some((word(4)?, word(12)?, word(20)?)),
                b"ST" => break,
                b"PX" => {
                    self.mode = Some(word(4)?);
                    (self.links, self.uid, self.gid) = (word(12)?, word(20)?, word(28)?);
                    // Of the newer version only.
                    self.inode = entry.get(36..40).map(|bytes| le32(bytes, 0));
                }
                b"PN" => {
                    // Linux's makedev, in two halves or in the lower one alone.
                    let (high, low) = (word(4)?, word(12)?);
                    self.device = match high {
                        0 if low > 0xff => {
                            (low >> 8 & 0xfff, (low & 0xff) | (low >> 12 & 0xf_ff00))
                        }
                        high => (high, low),
                    };
                }
                b"NM" if entry.len() >= 5 && entry[4] & 6 == 0 => {
                    let name = self.name.get_or_insert_default();
                    name.extend_from_slice(&entry[5..]);
                    ensure!(name.len() <= 255, "a name has {} bytes", name.len());
                }
                b"SL" if entry.len() >= 5 => link.add(&entry[5..])?,
                b"TF" if entry.len() >= 5 => self.mtime = time(entry).or(self.mtime),
                b"CL" => self.moved_from = Some(word(4)?),
                b"ZF" if entry.len() >= 16 && entry[4..6] == *b"pz" => {
                    self.packed = Some(Packed { size: word(8)?.into() });
                }
                _ => {}
            }
        }
        Ok(next)
    }
}

/// The modification among the times of an entry, whose order is fixed.
fn time(entry: &[u8]) -> Option<i64> {
    let flags = entry[4];
    if flags & 2 == 0 {
        return None;
    }
    let index = usize::from(flags & 1);
    if flags & 0x80 != 0 {
        let long = entry.get(5 + 17 * index..)?.get(..17)?;
        let digits = |range: std::ops::Range<usize>| {
            std::str::from_utf8(&long[range]).ok()?.parse::<i64>().ok()
        };
        let day = days(digits(0..4)?, digits(4..6)? as u8, digits(6..8)? as u8);
        let seconds = digits(8..10)? * 3600 + digits(10..12)? * 60 + digits(12..14)?;
        let zone = i64::from(long[16].cast_signed()) * 15 * 60;
        return Some(day * 86_400 + seconds - zone);
    }
    Some(short_time(entry.get(5 + 7 * index..)?.get(..7)?))
}

/// Seven bytes: years since 1900, month, day, hours, minutes, seconds, quarters of an hour from UTC (9.1.5).
pub(super) fn short_time(bytes: &[u8]) -> i64 {
    let day = days(1900 + i64::from(bytes[0]), bytes[1], bytes[2]);
    let clock = i64::from(bytes[3]) * 3600 + i64::from(bytes[4]) * 60 + i64::from(bytes[5]);
    day * 86_400 + clock - i64::from(bytes[6].cast_signed()) * 15 * 60
}

/// A symbolic link, put together of components.
#[derive(Default)]
struct Link {
    text: Vec<u8>,
    /// The component goes on in the next one.
    goes_on: bool,
}

impl Link {
    fn add(&mut self, mut components: &[u8]) -> Result<()> {
        while let [flags, length, rest @ ..] = components {
            let (own, rest) =
                rest.split_at_checked(usize::from(*length)).context("a link is cut short")?;
            components = rest;
            if !self.text.is_empty() && !self.goes_on && !self.text.ends_with(b"/") {
                self.text.push(b'/');
            }
            match flags & 0x0e {
                2 => self.text.push(b'.'),
                4 => self.text.extend_from_slice(b".."),
                8 => self.text = b"/".to_vec(),
                _ => self.text.extend_from_slice(own),
            }
            self.goes_on = flags & 1 != 0;
            ensure!(self.text.len() < MAX_TEXT, "the target of a link is too long");
        }
        Ok(())
    }
}

/// A file that zisofs packed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packed {
    /// Bytes of what is packed.
    pub(super) size: u64,
}

const MAGIC: &[u8] = &[0x37, 0xe4, 0x53, 0x96, 0xc9, 0xdb, 0xd6, 0x07];

impl Packed {
    pub(super) fn unpack(
        self,
        blocks: &dyn Blocks,
        at: u64,
        length: u64,
        piece: &mut Piece<'_>,
    ) -> Result<()> {
        inside(at, length, blocks.size())?;
        ensure!(length >= 16, "it is packed, and cut short");
        let mut head = [0; 16];
        blocks.read_at(at, &mut head)?;
        ensure!(head.starts_with(MAGIC), "it is packed in a way that is not known");
        ensure!(u64::from(le32(&head, 8)) == self.size, "two sizes of it are stated");
        let (header, shift) = (u64::from(head[12]) * 4, head[13]);
        ensure!((15..=17).contains(&shift), "its blocks have 2^{shift} bytes");
        let count = self.size.div_ceil(1 << shift);
        ensure!(header + (count + 1) * 4 <= length, "its table is too long");
        let mut pointers = vec![0; (count as usize + 1) * 4];
        blocks.read_at(at + header, &mut pointers)?;
        for index in 0..count {
            let place = index as usize * 4;
            let (start, end) = (le32(&pointers, place), le32(&pointers, place + 4));
            let offset = index << shift;
            let plain = (self.size - offset).min(1 << shift);
            // An empty one is zeros.
            if start == end {
                continue;
            }
            ensure!(start < end && u64::from(end) <= length, "a block of it lies outside");
            ensure!(u64::from(end - start) <= 2 << shift, "a block of it is too long");
            let mut packed = vec![0; (end - start) as usize];
            blocks.read_at(at + u64::from(start), &mut packed)?;
            let mut bytes = vec![0; plain as usize];
            std::io::Read::read_exact(&mut flate2::read::ZlibDecoder::new(&packed[..]), &mut bytes)
                .context("unpacking it")?;
            piece(offset, &bytes)?;
        }
        Ok(())
    }
}
