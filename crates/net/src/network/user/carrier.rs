//! A program that carries packets: started, heard until it is ready, and ended with the machine.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStderr, Command, Stdio};

use anyhow::{Context, Result, anyhow};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::forward::Forwarder;
use crate::network::{Attached, Target};

/// What is started once there is a machine.
pub(super) trait Program {
    /// Starts it, and waits until it carries.
    ///
    /// # Errors
    /// What it said.
    fn start(self: Box<Self>, target: &Target<'_>) -> Result<Carrier>;
}

/// A running one; killed when it is dropped.
pub(super) struct Carrier {
    child: Child,
    /// It ends when this does, even where this process is killed.
    _leash: Option<OwnedFd>,
    forwarder: Option<Forwarder>,
}

impl Carrier {
    /// Starts a command that dies with this process.
    pub(super) fn start(command: &mut Command, leash: Option<OwnedFd>) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let name = command.get_program().to_string_lossy().into_owned();
        sys::process::die_with_parent(command);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { child, _leash: leash, forwarder: None })
    }

    /// Goes with a process that leads to the machine's ports.
    pub(super) fn ports(&mut self, forwarder: Forwarder) {
        self.forwarder = Some(forwarder);
    }

    /// Waits for a byte, which says that it is ready.
    pub(super) fn await_byte(&mut self, ready: OwnedFd, name: &str) -> Result<()> {
        let mut byte = [0];
        match File::from(ready).read(&mut byte) {
            Ok(1) => Ok(()),
            _ => Err(self.failure(name)),
        }
    }

    /// Waits until something holds, and asks for it every millisecond.
    pub(super) fn await_that(&mut self, holds: impl Fn() -> bool, name: &str) -> Result<()> {
        while !holds() {
            let stderr = self.child.stderr.as_ref().context("it has no output")?;
            // Its end closes this; what it says does not end it.
            let mut poll = [PollFd::new(stderr, PollFlags::empty())];
            let moment = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
            match rustix::event::poll(&mut poll, Some(&moment)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                _ => return Err(self.failure(name)),
            }
        }
        Ok(())
    }

    /// What it said before it ended.
    fn failure(&mut self, name: &str) -> anyhow::Error {
        let mut said = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            let _ = ChildStderr::read_to_string(stderr, &mut said);
        }
        let lines: Vec<&str> = said.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        let last = lines.len().saturating_sub(3);
        anyhow!("{name} failed: {}", lines[last..].join("; "))
    }
}

impl Attached for Carrier {
    fn processes(&self) -> Vec<i32> {
        let forwarder = self.forwarder.as_ref().map(Forwarder::process_id);
        i32::try_from(self.child.id()).into_iter().chain(forwarder).collect()
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
