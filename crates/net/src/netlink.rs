//! Netlink messages (netlink(7)): as little of the protocol as links and rules need. What is
//! asked for is a batch, sent at once; the kernel answers before the sending call returns.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

/// linux/netlink.h.
pub(crate) const REQUEST: u16 = 1;
pub(crate) const ACK: u16 = 4;
pub(crate) const REPLACE: u16 = 0x100;
pub(crate) const DUMP: u16 = 0x300;
pub(crate) const EXCL: u16 = 0x200;
pub(crate) const CREATE: u16 = 0x400;
pub(crate) const APPEND: u16 = 0x800;
const NESTED: u16 = 0x8000;
const HEADER: usize = 16;
const ERROR: u16 = 2;

/// Messages, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    /// Where the message that is being written begins.
    message: usize,
    count: u32,
}

impl Batch {
    /// Begins a message with its family's own header.
    pub(crate) fn message(&mut self, kind: u16, flags: u16, header: &[u8]) -> &mut Self {
        self.message = self.bytes.len();
        self.count += 1;
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((REQUEST | flags).to_ne_bytes());
        self.bytes.extend(self.count.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.raw(header)
    }

    /// Bytes without an attribute around them.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        let length = (self.bytes.len() - self.message) as u32;
        self.bytes[self.message..self.message + 4].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// An attribute.
    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = (4 + value.len()) as u16;
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.raw(value)
    }

    /// A text with its end.
    pub(crate) fn text(&mut self, kind: u16, text: &str) -> &mut Self {
        self.attribute(kind, &[text.as_bytes(), &[0]].concat())
    }

    /// A number in this machine's byte order, as links have it.
    pub(crate) fn native(&mut self, kind: u16, number: u32) -> &mut Self {
        self.attribute(kind, &number.to_ne_bytes())
    }

    /// A number in the network's, as rules have it.
    pub(crate) fn big(&mut self, kind: u16, number: u32) -> &mut Self {
        self.attribute(kind, &number.to_be_bytes())
    }

    /// An attribute that holds others.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend((kind | NESTED).to_ne_bytes());
        fill(self.raw(&[]));
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }
}

/// A socket to one part of the kernel, in the network namespace where it was made.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

impl Socket {
    /// A protocol, or that of links where none is given.
    ///
    /// # Errors
    /// socket(2)'s and bind(2)'s.
    pub(crate) fn new(protocol: Option<Protocol>) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
        let socket = rustix::net::socket_with(family, kind, flags, protocol)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self(socket))
    }

    /// Sends a batch, and takes the answers.
    ///
    /// # Errors
    /// The first of them, as an errno.
    pub(crate) fn carry_out(&self, batch: &Batch) -> io::Result<()> {
        self.ask(batch).map(drop)
    }

    /// The same, where something is told: each message without netlink's header.
    ///
    /// # Errors
    /// As [`Socket::carry_out`].
    pub(crate) fn ask(&self, batch: &Batch) -> io::Result<Vec<Vec<u8>>> {
        // Named, so that this process's own rights are what counts (see `site`).
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(&self.0, &batch.bytes, SendFlags::empty(), &kernel)?;
        let mut buffer = vec![0; 16 << 10];
        let mut first = None;
        let mut told = Vec::new();
        loop {
            let length = match rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => length,
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for (kind, body) in Messages(&buffer[..length]) {
                let errno = body.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                if kind == ERROR && errno != 0 && first.is_none() {
                    first = Some(io::Error::from_raw_os_error(-errno));
                } else if kind != ERROR {
                    told.push(body.to_vec());
                }
            }
        }
        first.map_or(Ok(told), Err)
    }
}

/// The attributes of a message, after its family's own header.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let whole = bytes.get(..length).filter(|whole| whole.len() >= 4)?;
        let kind = u16::from_ne_bytes([whole[2], whole[3]]) & !NESTED;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, &whole[4..]))
    })
}

/// One that another process made.
impl From<Socket> for OwnedFd {
    fn from(socket: Socket) -> Self {
        socket.0
    }
}

impl From<OwnedFd> for Socket {
    fn from(socket: OwnedFd) -> Self {
        Self(socket)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What was received: each message's kind and what follows its header.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = u32::from_ne_bytes(*self.0.first_chunk()?) as usize;
        let message = self.0.get(..length).filter(|message| message.len() >= HEADER)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        let kind = u16::from_ne_bytes([message[4], message[5]]);
        Some((kind, &message[HEADER..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_of_what_is_inside() {
        let mut batch = Batch::default();
        batch.message(16, ACK, &[0; 16]).text(3, "a").nest(18, |b| {
            b.text(1, "veth");
        });
        // 16 + 16 + (4 + 2 → 8) + (4 + (4 + 5 → 12))
        assert_eq!(batch.bytes.len(), 56);
        assert_eq!(u32::from_ne_bytes(*batch.bytes.first_chunk().unwrap()), 56);
        assert_eq!(&batch.bytes[32..40], [6, 0, 3, 0, b'a', 0, 0, 0]);
        assert_eq!(&batch.bytes[40..44], [16, 0, 18, 0x80]);
        batch.message(17, 0, &[]);
        let kinds: Vec<u16> = Messages(&batch.bytes).map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [16, 17]);
    }
}
