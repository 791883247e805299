//! Programs that are run at points of a container's life, with its state on their standard input
//! (runtime-spec 1.2, `config.md`, "POSIX-platform Hooks").

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};
use spec::runtime::Hook;

/// Runs them one after the other; the first that fails ends it.
///
/// # Errors
/// Names the hook, and how it ended.
pub(crate) fn run(hooks: &[Hook], state: &[u8]) -> io::Result<()> {
    hooks.iter().try_for_each(|hook| one(hook, state))
}

/// The same, but that each is run whatever the others do: what failed is given to `warn`.
pub(crate) fn run_all(hooks: &[Hook], state: &[u8], warn: &mut dyn FnMut(String)) {
    for hook in hooks {
        if let Err(error) = one(hook, state) {
            warn(error.to_string());
        }
    }
}

fn one(hook: &Hook, state: &[u8]) -> io::Result<()> {
    let failed = |why: String| io::Error::other(format!("the hook {} {why}", hook.path));
    let mut command = Command::new(&hook.path);
    if let Some((name, rest)) = hook.args.split_first() {
        command.arg0(name).args(rest);
    }
    command.env_clear().envs(hook.env.iter().filter_map(|variable| variable.split_once('=')));
    command.stdin(Stdio::piped());
    let mut child =
        command.spawn().map_err(|error| failed(format!("could not be run: {error}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        // It need not read it.
        let _ = stdin.write_all(state);
    }
    if let Some(seconds) = hook.timeout
        && !ends_within(&child, seconds)?
    {
        child.kill()?;
        child.wait()?;
        return Err(failed(format!("took longer than its timeout of {seconds} s")));
    }
    let status = child.wait()?;
    match status.success() {
        true => Ok(()),
        false => Err(failed(format!("failed: {status}"))),
    }
}

fn ends_within(child: &Child, seconds: i64) -> io::Result<bool> {
    let pid = Pid::from_raw(child.id() as i32).ok_or(io::ErrorKind::NotFound)?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let end = Instant::now() + std::time::Duration::from_secs(seconds.unsigned_abs());
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut polled = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
        match rustix::event::poll(&mut polled, Some(&left)) {
            Ok(found) => return Ok(found > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
