//! Fills a root with what comes from elsewhere than an archive, but is no less hostile.

use std::os::fd::OwnedFd;

use anyhow::{Context, Result, ensure};
use rustix::fs::ftruncate;

use super::content::{WriteContent, write_at};
use super::unpacker::Unpacker;
use super::{Options, Summary, failed};
use crate::archive::{Limits, Member, show};
use sys::rooted::Root;

/// Gives a file's content to what it is given: offsets and bytes. What it leaves out are holes.
pub type Content<'a> = dyn FnMut(&mut dyn FnMut(u64, &[u8]) -> Result<()>) -> Result<()> + 'a;

/// A root that is being filled, with all the care of [`super::unpack`].
pub struct Filler<'a> {
    unpacker: Unpacker<'a>,
    limits: &'a Limits,
    path: Vec<u8>,
}

impl<'a> Filler<'a> {
    /// Begins with `root`.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn new(root: &'a Root, options: &'a Options) -> Result<Self> {
        let unpacker = Unpacker::new(root, options, None)?;
        Ok(Self { unpacker, limits: &options.limits, path: Vec::new() })
    }

    /// Adds an entry. `content` is asked only for that of a file; `extents` of the member mean nothing.
    ///
    /// # Errors
    /// As [`super::unpack_with`].
    pub fn add(&mut self, member: &Member, content: &mut Content<'_>) -> Result<()> {
        let adding = || format!("unpacking {}", show(&member.path));
        self.check(member).with_context(adding)?;
        let left = self.limits.max_bytes.saturating_sub(self.unpacker.summary.bytes);
        let mut path = std::mem::take(&mut self.path);
        let mut given = Given { content, left };
        let done = self.unpacker.entry(&mut given, member, &mut path);
        self.path = path;
        done.with_context(adding)?;
        self.unpacker.summary.entries += 1;
        Ok(())
    }

    fn check(&self, member: &Member) -> Result<()> {
        let limits = self.limits;
        let most = limits.max_entries;
        ensure!(self.unpacker.summary.entries < most, "there are more than {most} entries");
        for text in [&member.path, &member.link] {
            ensure!(text.len() <= limits.max_path, "a name has {} bytes", text.len());
            ensure!(!text.contains(&0), "a name holds a NUL byte");
        }
        ensure!(member.size <= limits.max_file, "it has {} bytes", member.size);
        // chown(2) takes it for "unchanged".
        ensure!(member.uid != u32::MAX && member.gid != u32::MAX, "it is nobody's");
        Ok(())
    }

    /// Finishes directories; says what was added.
    ///
    /// # Errors
    /// The system refuses.
    pub fn finish(self) -> Result<Summary> {
        self.unpacker.finish()
    }
}

struct Given<'a, 'b> {
    content: &'a mut Content<'b>,
    /// Bytes that may still come.
    left: u64,
}

impl WriteContent for Given<'_, '_> {
    fn write(&mut self, member: &Member, fd: &OwnedFd) -> Result<u64> {
        let left = self.left;
        let (mut sum, mut end) = (0, 0);
        (self.content)(&mut |offset, bytes| {
            ensure!(offset >= end, "its content is not in order");
            end = offset.saturating_add(bytes.len() as u64);
            ensure!(end <= member.size, "its content is longer than its size");
            sum += bytes.len() as u64;
            ensure!(sum <= left, "there are more bytes than any system has");
            write_at(fd, offset, bytes)
        })?;
        if end < member.size {
            ftruncate(fd, member.size).map_err(|e| failed("writing", e))?;
        }
        Ok(sum)
    }
}
