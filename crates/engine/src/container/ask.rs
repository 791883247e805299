//! Asking a booted machine's systemd how it is, from inside: its private socket answers
//! only to root of its own namespaces (systemd, src/core/dbus.c, `bus_on_connection`).

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Pid;
use sys::process::{self, Namespaces};

use super::door::Door;
use crate::bus::Bus;
use crate::ready::{Helper, Question};

/// A manager that is busy answers late; one that hangs never does.
const PATIENCE: Duration = Duration::from_secs(20);

/// Starts a helper that asks at `socket`, and writes the state and what has failed, a line each.
pub(super) fn ask(pid: Pid, socket: &str) -> Result<Question> {
    let door = Door::open(pid).context("cannot enter the machine")?;
    let (answer, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let path = socket.to_owned();
    let helper = process::spawn(Namespaces::NONE, None, || {
        if door.enter().is_err() {
            return;
        }
        // In the machine's process ids are only the children of whoever enters.
        match process::fork() {
            Ok(None) => {
                let _ = tell(&path, File::from(writer));
                process::exit_now(0)
            }
            Ok(Some(child)) => {
                drop(writer);
                let _ =
                    rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty());
            }
            Err(_) => {}
        }
    })
    .context("cannot enter the machine")?;
    Ok(Question { answer: File::from(answer), helper: Helper::Process(helper) })
}

fn tell(path: &str, mut writer: File) -> io::Result<()> {
    sys::userns::become_root()?;
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut bus = Bus::connect(stream)?;
    writer.write_all(bus.state_and_failures()?.as_bytes())
}
