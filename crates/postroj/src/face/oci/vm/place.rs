//! How a machine's process hears of its start, as a container's does: see [`engine::oci::Place::listen`].

use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use rustix::net::SocketFlags;

/// Where it does.
pub(super) struct Listener(pub(super) OwnedFd);

/// Who waits for a start to be over.
pub(super) struct Starter(sys::socket::Channel);

impl Listener {
    /// Waits for the start.
    pub(super) fn accept(&self) -> Result<Starter> {
        let what = "cannot hear of the container's start";
        let socket = rustix::net::accept_with(&self.0, SocketFlags::CLOEXEC).context(what)?;
        let starter = sys::socket::Channel::from(socket);
        // What is not read would be told as a failure.
        starter.receive(&mut [0]).context(what)?;
        Ok(Starter(starter))
    }
}

/// Longest answer to a start: bytes.
const LONGEST: usize = 4096;

impl Starter {
    /// Tells it why the command does not run; it may have gone. That it does is told by the socket's end.
    pub(super) fn fail(self, error: &anyhow::Error) {
        let text = format!("-{error:#}").into_bytes();
        let _ = self.0.send(&text[..text.len().min(LONGEST)], &[]);
    }
}
