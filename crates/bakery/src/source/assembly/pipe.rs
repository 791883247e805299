//! A stream from one thread to another, in pieces whose memory goes round.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

/// Bytes of a piece.
const PIECE: usize = 256 << 10;
/// Pieces that may wait.
const WAITING: usize = 8;

/// The end that is written to.
pub(super) struct Sink {
    filled: SyncSender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
    made: usize,
}

/// The end that is read from; at its end too where the other broke off.
pub(super) struct Stream {
    filled: Receiver<Vec<u8>>,
    empty: Sender<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
}

pub(super) fn pipe() -> (Sink, Stream) {
    let (filled, reading) = sync_channel(WAITING);
    let (returning, empty) = channel();
    let stream = Stream { filled: reading, empty: returning, piece: Vec::new(), at: 0 };
    (Sink { filled, empty, made: 0 }, stream)
}

impl Sink {
    /// Takes everything that a reader has, as long as it is wanted; says how many bytes that were.
    pub(super) fn copy(&mut self, reader: &mut dyn Read, limit: u64) -> io::Result<u64> {
        let mut sum = 0;
        loop {
            let mut piece = self.piece();
            piece.resize(PIECE, 0);
            let mut length = 0;
            while length < PIECE {
                match reader.read(&mut piece[length..]) {
                    Ok(0) => break,
                    Ok(count) => length += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            sum += length as u64;
            if sum > limit {
                return Err(io::Error::other(format!("it unpacks to more than {limit} bytes")));
            }
            piece.truncate(length);
            if length == 0 || self.filled.send(piece).is_err() {
                return Ok(sum);
            }
        }
    }

    fn piece(&mut self) -> Vec<u8> {
        if let Ok(piece) = self.empty.try_recv() {
            return piece;
        }
        if self.made <= WAITING {
            self.made += 1;
            return Vec::with_capacity(PIECE);
        }
        self.empty.recv().unwrap_or_default()
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            let Ok(next) = self.filled.recv() else { return Ok(0) };
            let used = std::mem::replace(&mut self.piece, next);
            self.at = 0;
            if used.capacity() > 0 {
                // The other end may be gone already.
                let _ = self.empty.send(used);
            }
        }
        let count = buffer.len().min(self.piece.len() - self.at);
        buffer[..count].copy_from_slice(&self.piece[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        let content: Vec<u8> = (0..5_000_000u32).map(|n| (n / 7) as u8).collect();
        let (mut sink, mut stream) = pipe();
        let read = std::thread::scope(|scope| {
            scope.spawn(|| {
                assert_eq!(sink.copy(&mut &content[..], u64::MAX).unwrap(), 5_000_000);
                drop(sink);
            });
            let mut read = Vec::new();
            stream.read_to_end(&mut read).unwrap();
            read
        });
        assert!(read == content);
    }

    #[test]
    fn it_ends_where_nobody_reads_on_and_where_it_is_too_much() {
        let (mut sink, stream) = pipe();
        drop(stream);
        assert!(sink.copy(&mut io::repeat(0), u64::MAX).is_ok());
        let (mut sink, stream) = pipe();
        let reader = std::thread::spawn(move || io::copy(&mut { stream }, &mut io::sink()));
        let error = sink.copy(&mut io::repeat(0), 3_000_000).unwrap_err();
        assert!(error.to_string().contains("more than 3000000 bytes"));
        drop(sink);
        assert!(reader.join().unwrap().unwrap() <= 3_000_000);
    }
}
