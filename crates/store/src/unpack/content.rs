//! The content of files, with its holes.

use std::io::Read;
use std::os::fd::OwnedFd;

use anyhow::{Result, ensure};
use rustix::fs::ftruncate;
use rustix::io::{Errno, pwrite, write};

use super::failed;
use crate::archive::{Archive, Member};

/// Whatever has the content of a file.
pub(super) trait WriteContent {
    /// Writes it to an empty file; says how many bytes without holes.
    fn write(&mut self, member: &Member, fd: &OwnedFd) -> Result<u64>;
}

impl<R: Read> WriteContent for Archive<R> {
    fn write(&mut self, member: &Member, fd: &OwnedFd) -> Result<u64> {
        let Some(extents) = &member.extents else { return write_content(self, fd) };
        let mut sum = 0;
        for extent in extents {
            sum += write_extent(self, fd, extent.offset, extent.length)?;
        }
        ftruncate(fd, member.size).map_err(|e| failed("writing", e))?;
        Ok(sum)
    }
}

fn write_content(archive: &mut Archive<impl Read>, fd: &OwnedFd) -> Result<u64> {
    let mut sum = 0;
    loop {
        let mut chunk = archive.chunk()?;
        if chunk.is_empty() {
            return Ok(sum);
        }
        sum += chunk.len() as u64;
        while !chunk.is_empty() {
            match write(fd, chunk) {
                Ok(written) => chunk = &chunk[written..],
                Err(Errno::INTR) => {}
                Err(error) => return Err(failed("writing", error)),
            }
        }
    }
}

fn write_extent(
    archive: &mut Archive<impl Read>,
    fd: &OwnedFd,
    offset: u64,
    length: u64,
) -> Result<u64> {
    let mut done = 0;
    while done < length {
        let chunk = archive.chunk_of(length - done)?;
        ensure!(!chunk.is_empty(), "its content is shorter than its extents");
        write_at(fd, offset + done, chunk)?;
        done += chunk.len() as u64;
    }
    Ok(length)
}

/// Writes all of it from `offset` on.
pub(super) fn write_at(fd: &OwnedFd, mut offset: u64, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match pwrite(fd, bytes, offset) {
            Ok(written) => {
                offset += written as u64;
                bytes = &bytes[written..];
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(failed("writing", error)),
        }
    }
    Ok(())
}
