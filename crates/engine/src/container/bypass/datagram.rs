//! Datagrams that name where they go. A socket of the host's would carry them anywhere, so the
//! monitor sends them itself, from copies.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Instant;

use rustix::io::Errno;
use sys::inet;
use sys::notify::{Call, Listener, Verdict};

use super::socket::{Place, Socket};
use super::{Bypass, Outcome, Waiting, What, address, is_unspecified, left, options};

/// A copy of what a caller sends.
pub(super) struct Message {
    /// Empty: to where the socket is connected.
    to: Vec<u8>,
    data: Vec<u8>,
    control: Vec<u8>,
    flags: i32,
}

/// What a datagram of IP can hold at most, and what one call may segment (`UDP_SEGMENT`, udp(7)).
const LONGEST: usize = 65_535;
/// As the kernel has it (linux/uio.h, `UIO_MAXIOV`).
const MOST_PARTS: u64 = 1024;
/// Beyond anything that is allowed below.
const LONGEST_CONTROL: u64 = 1024;

/// MSG_ZEROCOPY (linux/socket.h): the data is a copy already.
const ZERO_COPY: i32 = 0x400_0000;
/// MSG_DONTWAIT.
const DO_NOT_WAIT: i32 = 0x40;

// `struct msghdr` and `struct mmsghdr` of a 64-bit program (sendmsg(2), sendmmsg(2)).
const HEADER: usize = 56;
const HEADER_OF_MANY: u64 = 64;
const LENGTH_IN_MANY: u64 = 56;

impl Message {
    pub(super) fn send(&self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        inet::send(socket, &self.to, &self.data, &self.control, self.flags)
    }

    /// By a `struct msghdr` of the caller's.
    fn read(call: &Call, header: &[u8], flags: i32) -> io::Result<Self> {
        let number = |at: usize| header[at..at + 8].try_into().map_or(0, u64::from_ne_bytes);
        let (name, length, parts, count) = (number(0), number(8), number(16), number(24));
        let (control, control_length) = (number(32), number(40));
        if count > MOST_PARTS || control_length > LONGEST_CONTROL {
            return Err(if count > MOST_PARTS { Errno::MSGSIZE } else { Errno::NOBUFS }.into());
        }
        let to = if name == 0 { Vec::new() } else { address(call, name, length)? };
        let mut data = Vec::new();
        for part in call.read(parts, count as usize * 16)?.chunks_exact(16) {
            let number = |at: usize| part[at..at + 8].try_into().map_or(0, u64::from_ne_bytes);
            let length = number(8).try_into().unwrap_or(usize::MAX);
            if length > LONGEST || data.len() + length > LONGEST {
                return Err(Errno::MSGSIZE.into());
            }
            data.extend(call.read(number(0), length)?);
        }
        let control = if control == 0 { 0 } else { control_length };
        let control = control_of(&call.read(number(32), control as usize)?)?;
        Ok(Self { to, data, control, flags })
    }
}

/// What control messages of the caller's are sent on (cmsg(3)). An address or an interface to send
/// from is one of the machine's, and means nothing outside: the kernel chooses.
fn control_of(messages: &[u8]) -> io::Result<Vec<u8>> {
    const PACKET_INFO: [(i32, i32); 2] = [(0, 8), (41, 50)];
    // IP_TOS, IP_TTL, IPV6_HOPLIMIT, IPV6_DONTFRAG, IPV6_TCLASS, UDP_SEGMENT.
    const KEPT: [(i32, i32); 6] = [(0, 1), (0, 2), (41, 52), (41, 62), (41, 67), (17, 103)];
    let mut kept = Vec::new();
    let mut rest = messages;
    while let Some(header) = rest.get(..16) {
        let length = header[..8].try_into().map_or(0, u64::from_ne_bytes) as usize;
        let number = |at: usize| header[at..at + 4].try_into().map_or(0, i32::from_ne_bytes);
        let Some(message) = rest.get(..length).filter(|_| length >= 16) else {
            return Err(Errno::INVAL.into());
        };
        let name = (number(8), number(12));
        if KEPT.contains(&name) {
            kept.extend(message);
            kept.resize(kept.len().next_multiple_of(8), 0);
        } else if !PACKET_INFO.contains(&name) {
            return Err(Errno::INVAL.into());
        }
        rest = rest.get(length.next_multiple_of(8)..).unwrap_or_default();
    }
    Ok(kept)
}

/// Where a message went.
enum Sent {
    Bytes(usize),
    /// Not yet.
    Later(OwnedFd, Message),
}

impl Bypass {
    pub(super) fn send_to(&mut self, listener: &Listener, call: &Call) -> io::Result<Outcome> {
        let [_, data, length, flags, name, name_length] = call.args;
        let Some(socket) = self.datagrams(listener, call)? else { return left() };
        if length > LONGEST as u64 {
            return Err(Errno::MSGSIZE.into());
        }
        let to = address(call, name, name_length)?;
        let data = call.read(data, length as usize)?;
        let message = Message { to, data, control: Vec::new(), flags: flags as i32 };
        self.send(listener, call, socket, message)
    }

    pub(super) fn send_message(&mut self, listener: &Listener, call: &Call) -> io::Result<Outcome> {
        let Some(socket) = self.datagrams(listener, call)? else { return left() };
        if call.foreign {
            return foreign(&socket);
        }
        let header = call.read(call.args[1], HEADER)?;
        if socket.place == Place::Machine && header.starts_with(&[0; 8]) {
            return left();
        }
        let message = Message::read(call, &header, call.args[2] as i32)?;
        self.send(listener, call, socket, message)
    }

    /// Stops at the first that fails, which is an error only if none was sent (sendmmsg(2)).
    pub(super) fn send_messages(
        &mut self,
        listener: &Listener,
        call: &Call,
    ) -> io::Result<Outcome> {
        let Some(mut socket) = self.datagrams(listener, call)? else { return left() };
        if call.foreign {
            return foreign(&socket);
        }
        let [_, at, count, flags, ..] = call.args;
        let count = (count & u64::from(u32::MAX)).min(MOST_PARTS);
        let headers = call.read(at, (count * HEADER_OF_MANY) as usize)?;
        let headers = headers.chunks_exact(HEADER_OF_MANY as usize).zip(0..);
        let names_nobody = |(header, _): (&[u8], _)| header.starts_with(&[0; 8]);
        if socket.place == Place::Machine && headers.clone().all(names_nobody) {
            return left();
        }
        let mut sent = 0;
        for (header, nth) in headers {
            let length = at + nth * HEADER_OF_MANY + LENGTH_IN_MANY;
            let message = Message::read(call, &header[..HEADER], flags as i32);
            let done =
                message.and_then(|message| self.deliver(listener, call, &mut socket, message));
            let bytes = match done {
                Ok(Sent::Bytes(bytes)) => bytes,
                Ok(Sent::Later(..)) | Err(_) if sent > 0 => break,
                Ok(Sent::Later(fd, message)) => {
                    return Ok(waits_to_send(call, fd, message, Some(length)));
                }
                Err(error) => return Err(error),
            };
            told(call, bytes, Some(length))?;
            sent += 1;
        }
        Ok(Outcome::Answered(Verdict::Done(sent)))
    }

    fn datagrams(&self, listener: &Listener, call: &Call) -> io::Result<Option<Socket>> {
        let socket = Socket::of(listener, call, call.args[0] as RawFd, &self.places)?;
        // A stream does not look at the address.
        Ok(socket.filter(|socket| !socket.kind.is_tcp() && socket.place != Place::Inner))
    }

    fn send(
        &mut self,
        listener: &Listener,
        call: &Call,
        mut socket: Socket,
        message: Message,
    ) -> io::Result<Outcome> {
        match self.deliver(listener, call, &mut socket, message)? {
            Sent::Bytes(bytes) => Ok(Outcome::Answered(Verdict::Done(bytes as i64))),
            Sent::Later(fd, message) => Ok(waits_to_send(call, fd, message, None)),
        }
    }

    /// Sends a message on the right side, and moves the socket there if need be.
    fn deliver(
        &mut self,
        listener: &Listener,
        call: &Call,
        socket: &mut Socket,
        mut message: Message,
    ) -> io::Result<Sent> {
        if !listener.is_waiting(call) {
            return Err(Errno::INTR.into());
        }
        if is_unspecified(&message.to) && message.to.len() >= 2 {
            // As the kernel takes it (net/ipv4/udp.c, net/ipv6/udp.c).
            match socket.kind.is_v6() {
                true => message.to.clear(),
                false => message.to[..2].copy_from_slice(&2u16.to_ne_bytes()),
            }
        }
        if !message.to.is_empty() {
            let to = inet::decode(&message.to).ok_or(Errno::INVAL)?;
            let answers = socket.place == Place::Host && self.is_published(socket)?;
            if answers {
                // Whoever can send to it can be answered.
            } else if self.leads_outside(socket, to) {
                if let Some(moved) = self.outside(listener, call, socket)? {
                    socket.fd = moved;
                    socket.place = Place::Host;
                }
            } else if socket.place == Place::Host {
                return Err(Errno::NETUNREACH.into());
            }
        }
        let waits = message.flags & DO_NOT_WAIT == 0 && socket.waits()?;
        message.flags &= !ZERO_COPY;
        match message.send(socket.fd.as_fd()) {
            Err(error) if waits && error.kind() == io::ErrorKind::WouldBlock => {
                Ok(Sent::Later(socket.fd.try_clone()?, message))
            }
            sent => sent.map(Sent::Bytes),
        }
    }

    fn is_published(&self, socket: &Socket) -> io::Result<bool> {
        let local = inet::local(socket.fd.as_fd())?;
        Ok(self.published().stands_for(local, socket.kind).is_some())
    }
}

fn waits_to_send(call: &Call, socket: OwnedFd, message: Message, length: Option<u64>) -> Outcome {
    let until = options::patience(socket.as_fd()).and_then(|time| Instant::now().checked_add(time));
    let what = What::Sending { message, length };
    Outcome::Waits(Waiting { call: *call, socket, what }, until)
}

/// Tells the caller of a message that was sent, which may be the first of many.
pub(super) fn told(call: &Call, bytes: usize, length: Option<u64>) -> io::Result<Verdict> {
    let Some(length) = length else { return Ok(Verdict::Done(bytes as i64)) };
    call.write(length, &(bytes as u32).to_ne_bytes())?;
    Ok(Verdict::Done(1))
}

/// A 32-bit program's structures are others: what needs a look at them is refused.
fn foreign(socket: &Socket) -> io::Result<Outcome> {
    match socket.place {
        Place::Machine | Place::Inner => left(),
        Place::Host => Err(Errno::OPNOTSUPP.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(name: (i32, i32), data: &[u8]) -> Vec<u8> {
        let mut bytes = ((16 + data.len()) as u64).to_ne_bytes().to_vec();
        bytes.extend(name.0.to_ne_bytes());
        bytes.extend(name.1.to_ne_bytes());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    #[test]
    fn control_messages_that_mean_something_outside() {
        let (tos, info) = (message((0, 1), &[4]), message((0, 8), &[0; 12]));
        let segment = message((17, 103), &[0, 5]);
        let all = [&tos[..], &info, &segment].concat();
        assert_eq!(control_of(&all).unwrap(), [&tos[..], &segment].concat());
        assert!(control_of(&[]).unwrap().is_empty());
        // Descriptors, source routes, and what is cut off.
        for bad in [message((1, 1), &[0; 4]), message((0, 7), &[0; 8]), vec![9; 16]] {
            assert!(control_of(&bad).is_err());
        }
    }
}
