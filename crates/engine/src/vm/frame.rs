//! What goes over the port between the host and a guest: frames, each with a header of fixed length.
//!
//! Both ends take the other for hostile: what is longer than agreed, or unknown, ends the connection.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Bytes of a stream in flight that its receiver has not passed on yet: what each end holds of a
/// stream at most.
pub(super) const WINDOW: usize = 128 << 10;

/// Longest content of a frame: a plan with a long environment has to fit.
const LONGEST: usize = 256 << 10;

/// Longest content of a frame with data: others need not wait longer for their turn.
pub(super) const CHUNK: usize = 16 << 10;

/// Kind, stream, session, length of the content (little-endian).
const HEADER: usize = 10;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The guest is up.
    Hello,
    /// The host wants something new done; the content says what.
    Open,
    /// Something is said of the session itself.
    Tell,
    /// Bytes of a stream.
    Data,
    /// So many bytes of a stream were passed on.
    Credit,
    /// A stream's last byte was sent.
    End,
    /// Nobody reads a stream any more.
    Break,
    /// The host gives a session up.
    Close,
}

const KINDS: [Kind; 8] = [
    Kind::Hello,
    Kind::Open,
    Kind::Tell,
    Kind::Data,
    Kind::Credit,
    Kind::End,
    Kind::Break,
    Kind::Close,
];

/// One frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) stream: u8,
    pub(super) session: u32,
    pub(super) content: Vec<u8>,
}

/// One end of the port: what came in part, and what could not be sent yet.
pub(super) struct Link {
    port: OwnedFd,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
}

impl Link {
    /// The descriptor must not block.
    pub(super) fn new(port: OwnedFd) -> Self {
        Self { port, incoming: Vec::new(), outgoing: Vec::new() }
    }

    /// Whether something waits to be sent.
    pub(super) fn is_behind(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether so much waits that no stream should add to it.
    pub(super) fn is_full(&self) -> bool {
        self.outgoing.len() > WINDOW
    }

    /// Appends a frame to what is to be sent.
    pub(super) fn put(&mut self, kind: Kind, session: u32, stream: u8, content: &[u8]) {
        self.outgoing.extend_from_slice(&[kind as u8, stream]);
        self.outgoing.extend_from_slice(&session.to_le_bytes());
        self.outgoing.extend_from_slice(&(content.len() as u32).to_le_bytes());
        self.outgoing.extend_from_slice(content);
    }

    /// Sends what the port takes now.
    ///
    /// # Errors
    /// write(2)'s, but not that it would block.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let mut sent = 0;
        let done = loop {
            if sent == self.outgoing.len() {
                break Ok(());
            }
            match rustix::io::write(&self.port, &self.outgoing[sent..]) {
                Ok(length) => sent += length,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break Ok(()),
                Err(error) => break Err(error.into()),
            }
        };
        self.outgoing.drain(..sent);
        done
    }

    /// Reads what is there, and hands out the frames that are whole.
    ///
    /// # Errors
    /// read(2)'s; `UnexpectedEof` where the other end is gone, `InvalidData` where it sends nonsense.
    pub(super) fn receive(&mut self) -> io::Result<Vec<Frame>> {
        let mut buffer = vec![0; 64 << 10];
        match rustix::io::read(&self.port, &mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => self.incoming.extend_from_slice(&buffer[..length]),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut frames = Vec::new();
        let mut at = 0;
        while let Some((frame, length)) = parse(&self.incoming[at..])? {
            frames.push(frame);
            at += length;
        }
        self.incoming.drain(..at);
        Ok(frames)
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.port.as_fd()
    }
}

/// The first frame and its length, where it is whole.
fn parse(bytes: &[u8]) -> io::Result<Option<(Frame, usize)>> {
    let Some(header) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
    let number = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let nonsense = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let kind = *KINDS.get(usize::from(header[0])).ok_or_else(|| nonsense("an unknown frame"))?;
    let length = number(6) as usize;
    if length > LONGEST {
        return Err(nonsense("a frame that is too long"));
    }
    let Some(content) = bytes.get(HEADER..HEADER + length) else { return Ok(None) };
    let frame = Frame { kind, stream: header[1], session: number(2), content: content.to_vec() };
    Ok(Some((frame, HEADER + length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> (Link, OwnedFd) {
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        a.set_nonblocking(true).unwrap();
        (Link::new(a.into()), b.into())
    }

    #[test]
    fn frames_come_whole_however_they_are_cut() {
        let (mut link, other) = ends();
        let mut sender = Link::new(rustix::io::dup(&other).unwrap());
        sender.put(Kind::Open, 7, 0, b"{}");
        sender.put(Kind::Data, 7, 2, &[9; 300]);
        let bytes = std::mem::take(&mut sender.outgoing);
        let mut got = Vec::new();
        for piece in bytes.chunks(3) {
            rustix::io::write(&other, piece).unwrap();
            got.extend(link.receive().unwrap());
        }
        assert_eq!(got.len(), 2);
        assert_eq!((got[0].kind, got[0].session, &*got[0].content), (Kind::Open, 7, &b"{}"[..]));
        assert_eq!((got[1].kind, got[1].stream, got[1].content.len()), (Kind::Data, 2, 300));
    }

    #[test]
    fn nonsense_and_an_end_are_errors() {
        for bytes in [&[99, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &[3, 0, 0, 0, 0, 0, 255, 255, 255, 255]]
        {
            let (mut link, other) = ends();
            rustix::io::write(&other, bytes).unwrap();
            assert_eq!(link.receive().unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        let (mut link, other) = ends();
        drop(other);
        assert_eq!(link.receive().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_port_that_takes_nothing_is_no_error() {
        let (mut link, other) = ends();
        for _ in 0..100 {
            link.put(Kind::Data, 1, 1, &[0; CHUNK]);
        }
        link.flush().unwrap();
        assert!(link.is_behind() && link.is_full());
        drop(other);
        assert!(link.flush().is_err());
    }
}
