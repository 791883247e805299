//! A tar archive as a stream of members. Parses, and touches no file system.
//!
//! Understood are the formats V7, ustar, star, GNU and PAX (POSIX.1-2024, pax; GNU tar manual,
//! "Basic Tar Format", "Sparse Formats"). Sizes that an archive claims are checked against
//! [`Limits`] before anything is allocated for them.

mod input;
mod member;
mod sparse;

use std::io::Read;

use anyhow::{Context, Result, bail, ensure};

use crate::header::{BLOCK, Header};
use crate::pax::Extensions;
use input::Input;
pub use member::{Extent, Kind, Member, Time};

/// How much an archive may claim.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Headers, those of extensions included.
    pub max_entries: u64,
    /// Bytes of content, as stored in the archive, of all members together.
    pub max_bytes: u64,
    /// Bytes of one file with its holes.
    pub max_file: u64,
    /// Bytes of a path or of a link's target.
    pub max_path: usize,
    /// Bytes of the extended headers of one member.
    pub max_extension: usize,
    /// Bytes of names that may have to be remembered until the end.
    pub max_remembered: usize,
}

impl Default for Limits {
    /// Beyond every real system: 16 million entries, 1 TiB, files of 8 TiB with their
    /// holes, Linux's `PATH_MAX`, 1 MiB of extended headers, 256 MiB of names.
    fn default() -> Self {
        Self {
            max_entries: 1 << 24,
            max_bytes: 1 << 40,
            max_file: 1 << 43,
            max_path: 4095,
            max_extension: 1 << 20,
            max_remembered: 1 << 28,
        }
    }
}

/// Reads members one after the other.
pub struct Archive<R> {
    input: Input<R>,
    limits: Limits,
    global: Extensions,
    entries: u64,
    bytes: u64,
    /// Of the current member's content.
    left: u64,
    padding: u64,
    /// The current member's path, for errors.
    name: Vec<u8>,
}

/// Greatest amount that is read at once.
const BUFFER: usize = 128 * 1024;

impl<R: Read> Archive<R> {
    /// Reads an uncompressed archive. No other buffer is needed around `reader`.
    pub fn new(reader: R, limits: &Limits) -> Self {
        Self {
            input: Input::new(reader, BUFFER),
            limits: limits.clone(),
            global: Extensions::default(),
            entries: 0,
            bytes: 0,
            left: 0,
            padding: 0,
            name: Vec::new(),
        }
    }

    /// The next member; `None` at the archive's end mark. What was not read of the content of the one before is
    /// passed over.
    ///
    /// # Errors
    /// Where the archive is damaged, truncated or beyond the limits; names the member.
    // Not an iterator: the content must be read in between, and errors end it.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Member>> {
        self.skip_content()?;
        let mut extensions = self.global.clone();
        let mut budget = self.limits.max_extension as u64;
        let mut extended = false;
        loop {
            let Some(header) = self.header()? else {
                ensure!(!extended, "the archive ends after an extended header: it is truncated");
                return Ok(None);
            };
            self.entries += 1;
            ensure!(
                self.entries <= self.limits.max_entries,
                "the archive has more than {} entries",
                self.limits.max_entries
            );
            match header.kind() {
                kind @ (b'x' | b'X' | b'g' | b'L' | b'K') => {
                    extended |= kind != b'g';
                    let data = self.extension(header.size()?, &mut budget)?;
                    match kind {
                        b'L' => extensions.path = Some(until_nul(data)),
                        b'K' => extensions.link = Some(until_nul(data)),
                        b'g' => {
                            self.global.read_global(&data)?;
                            extensions.read_global(&data)?;
                        }
                        _ => {
                            extensions.read(&data).with_context(|| self.after())?;
                        }
                    }
                }
                // GNU tar's volume label.
                b'V' => {
                    self.begin_content(header.size()?)?;
                    self.skip_content()?;
                }
                _ => return self.member(&header, extensions).map(Some),
            }
        }
    }

    /// Where in the archive the current member's content begins, before any of it was read.
    pub fn offset(&self) -> u64 {
        self.input.offset()
    }

    /// The next piece of the current member's content; empty at its end.
    ///
    /// # Errors
    /// Where the archive is truncated or cannot be read.
    pub fn chunk(&mut self) -> Result<&[u8]> {
        self.chunk_of(u64::MAX)
    }

    /// As [`Archive::chunk`], at most so many bytes.
    ///
    /// # Errors
    /// As [`Archive::chunk`].
    pub fn chunk_of(&mut self, at_most: u64) -> Result<&[u8]> {
        let left = usize::try_from(self.left.min(at_most)).unwrap_or(usize::MAX);
        if left == 0 {
            return Ok(&[]);
        }
        // Waiting for a good piece makes for few and large writes.
        let available = self.input.fill(left.min(BUFFER / 2)).context("reading the archive")?;
        if available == 0 {
            return Err(self.truncated());
        }
        let taken = available.min(left);
        self.left -= taken as u64;
        Ok(self.input.take(taken))
    }

    fn truncated(&self) -> anyhow::Error {
        anyhow::anyhow!(
            "the archive is truncated within {} at byte {}",
            show(&self.name),
            self.input.offset()
        )
    }

    /// Where we are, for errors of a header.
    fn after(&self) -> String {
        if self.name.is_empty() {
            return "at the beginning of the archive".into();
        }
        format!("in the header that follows {}", show(&self.name))
    }

    fn header(&mut self) -> Result<Option<Header>> {
        let available = self.input.fill(BLOCK).context("reading the archive")?;
        if available < BLOCK {
            ensure!(self.input.offset() > 0 || available > 0, "the archive is empty: 0 bytes");
            bail!(
                "the archive is truncated: it ends at byte {} without an end mark, {}",
                self.input.offset() + available as u64,
                self.after()
            );
        }
        let offset = self.input.offset();
        let block = self.input.take(BLOCK).first_chunk().expect("as many as were asked for");
        if block.iter().all(|&b| b == 0) {
            return Ok(None);
        }
        let header = Header::parse(block);
        if header.is_none() && offset == 0 {
            bail!("this is no tar archive: its first header has a wrong checksum");
        }
        header.map(Some).with_context(|| {
            format!("the archive is damaged at byte {offset}: wrong checksum {}", self.after())
        })
    }

    /// Reads an extended header's content.
    fn extension(&mut self, size: u64, budget: &mut u64) -> Result<Vec<u8>> {
        ensure!(
            size <= *budget,
            "extended headers of {size} bytes, of which {} are allowed, {}",
            *budget,
            self.after()
        );
        *budget -= size;
        self.begin_content(size)?;
        let mut data = Vec::with_capacity(usize::try_from(size)?);
        loop {
            let chunk = self.chunk()?;
            if chunk.is_empty() {
                break;
            }
            data.extend_from_slice(chunk);
        }
        self.skip_content()?;
        Ok(data)
    }

    fn begin_content(&mut self, size: u64) -> Result<()> {
        ensure!(size <= i64::MAX as u64, "a size of {size} bytes is no size");
        self.bytes = self.bytes.saturating_add(size);
        ensure!(
            self.bytes <= self.limits.max_bytes,
            "the archive claims {} bytes up to here, of which {} are allowed",
            self.bytes,
            self.limits.max_bytes
        );
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    fn skip_content(&mut self) -> Result<()> {
        self.left += std::mem::take(&mut self.padding);
        while !self.chunk()?.is_empty() {}
        Ok(())
    }

    fn member(&mut self, header: &Header, mut extensions: Extensions) -> Result<Member> {
        let sparse_name = extensions.sparse.name.take();
        let path = sparse_name.or(extensions.path.take()).unwrap_or_else(|| header.path());
        self.name.clone_from(&path);
        self.named_member(path, header, extensions)
            .with_context(|| format!("entry {}", show(&self.name)))
    }

    fn named_member(
        &mut self,
        path: Vec<u8>,
        header: &Header,
        extensions: Extensions,
    ) -> Result<Member> {
        let kind = kind(header.kind(), &path)?;
        let is_link = matches!(kind, Kind::HardLink | Kind::Symlink);
        let link = match extensions.link {
            _ if !is_link => Vec::new(),
            Some(link) => link,
            None => header.link(),
        };
        ensure!(path.len() <= self.limits.max_path, "its name has {} bytes", path.len());
        ensure!(link.len() <= self.limits.max_path, "its target has {} bytes", link.len());
        let stored = match extensions.size {
            Some(size) => size,
            None => header.size()?,
        };
        // The size of a directory is an allocation limit, and that of a link perhaps
        // its target's: no content follows either (POSIX.1-2024, pax, "ustar Interchange Format").
        let has_content = kind == Kind::File || header.kind() == b'D';
        self.begin_content(if has_content { stored } else { 0 })?;
        let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        let mut member = Member {
            path,
            kind,
            link,
            mode: header.mode()?,
            uid: id("user", extensions.uid.map_or_else(|| header.uid(), Ok)?)?,
            gid: id("group", extensions.gid.map_or_else(|| header.gid(), Ok)?)?,
            mtime: extensions.mtime.map_or_else(|| header.mtime(), Ok)?,
            size: if kind == Kind::File { stored } else { 0 },
            device: if is_device { header.device()? } else { (0, 0) },
            xattrs: extensions.xattrs,
            extents: None,
            skipped_attributes: extensions.acls,
        };
        if kind == Kind::File {
            self.sparse(&mut member, header, extensions.sparse).context("its sparse map")?;
        }
        ensure!(
            member.size <= self.limits.max_file,
            "it claims {} bytes, of which {} are allowed",
            member.size,
            self.limits.max_file
        );
        Ok(member)
    }
}

/// A name of an archive, fit for an error message whatever it is.
pub fn show(name: &[u8]) -> String {
    let lossy = String::from_utf8_lossy(name);
    let mut text = String::new();
    for c in lossy.chars().take(300) {
        if c.is_control() {
            text.extend(c.escape_default());
        } else {
            text.push(c);
        }
    }
    if text.is_empty() { "(no name)".into() } else { text }
}

fn kind(flag: u8, path: &[u8]) -> Result<Kind> {
    Ok(match flag {
        // V7 had no directories, only names that end in a slash.
        b'0' | 0 | b'7' if path.ends_with(b"/") => Kind::Directory,
        b'0' | 0 | b'7' | b'S' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::CharDevice,
        b'4' => Kind::BlockDevice,
        b'5' | b'D' => Kind::Directory,
        b'6' => Kind::Fifo,
        b'M' => bail!("it is the continuation of an archive of several volumes"),
        other => bail!("its type {:?} is not known", char::from(other)),
    })
}

fn id(whose: &str, id: u64) -> Result<u32> {
    let small = u32::try_from(id).ok().filter(|&id| id != u32::MAX);
    small.with_context(|| format!("its {whose} id {id} is beyond what Linux can have"))
}

fn until_nul(mut data: Vec<u8>) -> Vec<u8> {
    data.truncate(data.iter().position(|&b| b == 0).unwrap_or(data.len()));
    data
}
