//! What an archive is read through: it waits for whole blocks, and copies none.

use std::io::{ErrorKind, Read};

/// A reader with a buffer that can be looked into.
pub(super) struct Input<R> {
    reader: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Of `start` in what is read.
    offset: u64,
}

impl<R: Read> Input<R> {
    /// With a buffer of so many bytes.
    pub(super) fn new(reader: R, size: usize) -> Self {
        let buffer = vec![0; size].into_boxed_slice();
        Self { reader, buffer, start: 0, end: 0, offset: 0 }
    }

    /// Bytes that were handed out so far.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads until so many bytes are there, or the end; says how many there are.
    pub(super) fn fill(&mut self, wanted: usize) -> std::io::Result<usize> {
        debug_assert!(wanted <= self.buffer.len());
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start + wanted > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        while self.end - self.start < wanted {
            match self.reader.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(read) => self.end += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.end - self.start)
    }

    /// Hands out bytes that are there.
    pub(super) fn take(&mut self, count: usize) -> &[u8] {
        let taken = &self.buffer[self.start..self.start + count];
        self.start += count;
        self.offset += count as u64;
        taken
    }
}
