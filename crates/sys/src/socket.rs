//! A pair of sockets between launcher and child: small messages, with descriptors.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// Descriptors that fit into one message; the kernel's limit is 253 (`SCM_MAX_FD`).
pub const MAX_DESCRIPTORS: usize = 250;

/// One end of the pair. Close-on-exec.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// A connected pair.
///
/// # Errors
/// socketpair(2)'s.
pub fn pair() -> io::Result<(Channel, Channel)> {
    let (a, b) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    Ok((Channel(a), Channel(b)))
}

impl Channel {
    /// Closes this process's copy. For a forked child, which has a copy of the launcher's
    /// end too, and would not see that the launcher is gone while it is open.
    pub fn close_copy(&self) {
        // SAFETY: the child never uses or drops this value: it executes or exits.
        unsafe { libc::close(std::os::fd::AsRawFd::as_raw_fd(&self.0)) };
    }

    /// Sends one message. Without descriptors it is made without sendmsg(2), which a filter may
    /// have handed over to the one who is to hear it.
    ///
    /// # Errors
    /// sendmsg(2)'s; `EPIPE` when the other end is gone.
    pub fn send(&self, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        if descriptors.is_empty() {
            rustix::net::send(&self.0, message, SendFlags::NOSIGNAL)?;
            return Ok(());
        }
        let mut space =
            vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::ErrorKind::ArgumentListTooLong.into());
        }
        rustix::net::sendmsg(&self.0, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Receives one message into `buffer`; 0 bytes mean that the other end is closed.
    ///
    /// # Errors
    /// recvmsg(2)'s.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        let mut space =
            vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let message = loop {
            match rustix::net::recvmsg(
                &self.0,
                &mut [IoSliceMut::new(buffer)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            ) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other?,
            }
        };
        let descriptors = control
            .drain()
            .filter_map(|m| match m {
                RecvAncillaryMessage::ScmRights(rights) => Some(rights),
                _ => None,
            })
            .flatten()
            .collect();
        Ok((message.bytes, descriptors))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.0
    }
}

impl From<OwnedFd> for Channel {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}
