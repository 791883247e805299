//! Descriptors on their way to sockets of other programs: terminals, and the listeners of filters.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::{Pid, PidfdFlags};
use serde_json::json;
use spec::runtime::{Seccomp, State};

/// Connects to a socket, and sends one descriptor with a message.
pub(super) fn send(path: &Path, message: &[u8], descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let socket = UnixStream::connect(path)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    rustix::net::sendmsg(&socket, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Takes the listener that a process has under this number, and sends it to `listenerPath` with the
/// container process state (runtime-spec 1.2, `config-linux.md`, "The Container Process State").
pub(super) fn hand_on(
    profile: Option<&Seccomp>,
    pid: Pid,
    number: i32,
    state: &State,
) -> Result<()> {
    let profile = profile.context("the container has no system call filter")?;
    let path = profile.listener_path.as_deref().context("linux.seccomp has no listenerPath")?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let listener = sys::process::descriptor(pidfd.as_fd(), number)
        .context("cannot take the filter's listener")?;
    let message = json!({
        "ociVersion": state.oci_version,
        "fds": ["seccompFd"],
        "pid": pid.as_raw_nonzero(),
        "metadata": profile.listener_metadata.clone().unwrap_or_default(),
        "state": state,
    });
    send(path.as_ref(), message.to_string().as_bytes(), listener.as_fd()).with_context(|| {
        format!("failed to connect with seccomp agent specified in the seccomp profile: {path}")
    })
}
