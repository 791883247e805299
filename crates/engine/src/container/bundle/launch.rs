//! From prepared steps to a process that waits to be started, or that runs in a container.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;
use spec::runtime::{IdMapping, Linux, Namespace, NamespaceKind};
use sys::process::{self, Child, Namespaces};
use sys::signals;
use sys::socket::{self, Channel};
use sys::userns::{self, Range};

use super::super::child::{self, Inherited, bundle::Own};
use super::super::explain;
use super::super::step::Step;
use super::{Ids, Prepared, Wanted, bit};
use crate::Streams;

/// First byte of a helper's message with the id of the process that it made.
const MADE: u8 = b'P';

/// A child of this process that is killed when this is dropped, unless it is let go.
pub(crate) struct Launched {
    child: Child,
    channel: Channel,
    terminal: Option<OwnedFd>,
    /// Trees that it is sent.
    given: Vec<OwnedFd>,
    kept: bool,
}

/// A container's first process.
pub(crate) fn create(prepared: &Prepared, linux: &Linux, start: OwnedFd) -> Result<Launched> {
    let Prepared { namespaces, joined, steps, trees } = prepared;
    let (ours, theirs) = socket::pair().context("cannot make a socket for the container")?;
    let run = |theirs: OwnedFd, start: OwnedFd| {
        let own = own(Some(start));
        let streams = Streams::default();
        let launcher = Some(theirs.into());
        child::run(steps, Inherited { launcher, streams, notify: None, own })
    };
    let theirs = OwnedFd::from(theirs);
    let child = if joined.is_empty() {
        let spawned = process::spawn(*namespaces, None, || {
            ours.close_copy();
            run(theirs, start)
        });
        spawned.context("cannot make the container's namespaces")?
    } else {
        let files = joined.iter().map(open).collect::<Result<Vec<_>>>()?;
        through_helper(&ours, || join(&files), *namespaces, || run(theirs, start))?
    };
    let mut launched =
        Launched { child, channel: ours, terminal: None, given: Vec::new(), kept: false };
    if namespaces.contains(Namespaces::USER) {
        let (uids, gids) = (ranges(&linux.uid_mappings), ranges(&linux.gid_mappings));
        userns::write_maps(launched.pid(), &uids, &gids).map_err(explain::map)?;
    }
    if trees.len() > socket::MAX_DESCRIPTORS {
        bail!("the container has more than {} mounts", socket::MAX_DESCRIPTORS);
    }
    launched.given = trees.iter().map(|tree| launched.tree(tree)).collect::<Result<_>>()?;
    Ok(launched)
}

/// A further process in the namespaces of a container's first one.
pub(crate) fn inside(pid: Pid, steps: &[Step]) -> Result<Launched> {
    let door = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
        .context("the container's process has ended")?;
    let wanted = super::super::door::differing(pid).with_context(|| {
        format!("cannot look at the namespaces of the process {}", pid.as_raw_nonzero())
    })?;
    let (ours, theirs) = socket::pair().context("cannot make a socket for the process")?;
    let enter = || process::enter(door.as_fd(), wanted);
    let run = || {
        let (launcher, streams) = (Some(theirs), Streams::default());
        child::run(steps, Inherited { launcher, streams, notify: None, own: own(None) })
    };
    let child = through_helper(&ours, enter, Namespaces::NONE, run)?;
    Ok(Launched { child, channel: ours, terminal: None, given: Vec::new(), kept: false })
}

fn own(start: Option<OwnedFd>) -> Own {
    let mut own = Own::default();
    (own.start, own.worded) = (start, true);
    own
}

/// A process that enters namespaces makes a child that this process is the parent of, since it is
/// born in what cannot be left again. The helper is heard on a channel of its own: the child may speak
/// on `ours` before it.
fn through_helper(
    ours: &Channel,
    enter: impl FnOnce() -> std::io::Result<()>,
    namespaces: Namespaces,
    run: impl FnOnce(),
) -> Result<Child> {
    let what = "cannot enter the container's namespaces";
    let (hears, tells) = socket::pair().context(what)?;
    let helper = process::spawn(Namespaces::NONE, None, || {
        [ours, &hears].into_iter().for_each(Channel::close_copy);
        let made = enter().and_then(|()| {
            process::spawn_sibling(namespaces, || {
                tells.close_copy();
                run();
            })
        });
        let message = match made {
            Ok(child) => [&[MADE], &child.pid().as_raw_nonzero().get().to_le_bytes()[..]].concat(),
            Err(error) => [&[child::bundle::WORDS], error.to_string().as_bytes()].concat(),
        };
        let _ = tells.send(&message, &[]);
        process::exit_now(0)
    })
    .context("cannot make a process")?;
    drop(tells);
    let mut message = [0; 256];
    let (length, _) = hears.receive(&mut message).context(what)?;
    helper.wait().context(what)?;
    match message[..length].split_first() {
        Some((&MADE, id)) => {
            let id = id.try_into().map_or(0, i32::from_le_bytes);
            let pid = Pid::from_raw(id).context(what)?;
            Child::of(pid).context(what)
        }
        Some((_, words)) => Err(anyhow!("{what}: {}", String::from_utf8_lossy(words))),
        None => Err(anyhow!(what)),
    }
}

fn open(namespace: &Namespace) -> Result<(NamespaceKind, OwnedFd)> {
    let path = namespace.path.as_deref().unwrap_or_default();
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::empty())
        .with_context(|| format!("cannot open the {:?} namespace {path}", namespace.kind))?;
    Ok((namespace.kind, file))
}

/// What this user may not enter before it is in the user namespace, it may after that.
fn join(files: &[(NamespaceKind, OwnedFd)]) -> std::io::Result<()> {
    let (users, others): (Vec<_>, Vec<_>) =
        files.iter().partition(|(kind, _)| *kind == NamespaceKind::User);
    let mut later = Vec::new();
    for (kind, file) in others {
        match process::enter(file.as_fd(), bit(*kind)) {
            Err(error)
                if error.kind() == std::io::ErrorKind::PermissionDenied && !users.is_empty() =>
            {
                later.push((kind, file));
            }
            other => other?,
        }
    }
    for (_, file) in users {
        // One's own cannot be entered once more (setns(2)).
        if !is_own_user_namespace(file.as_fd()) {
            process::enter(file.as_fd(), Namespaces::USER)?;
        }
    }
    later.into_iter().try_for_each(|(kind, file)| process::enter(file.as_fd(), bit(*kind)))
}

fn is_own_user_namespace(file: BorrowedFd<'_>) -> bool {
    match (rustix::fs::fstat(file), rustix::fs::stat("/proc/self/ns/user")) {
        (Ok(theirs), Ok(own)) => (theirs.st_dev, theirs.st_ino) == (own.st_dev, own.st_ino),
        _ => false,
    }
}

fn ranges(mappings: &[IdMapping]) -> Vec<Range> {
    let range = |m: &IdMapping| Range { inside: m.container_id, outside: m.host_id, count: m.size };
    mappings.iter().map(range).collect()
}

impl Launched {
    pub(crate) fn pid(&self) -> Pid {
        self.child.pid()
    }

    /// The other end of the terminal that it made.
    pub(crate) fn terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// Lets it set itself up: its ids and control groups are what they will be.
    pub(crate) fn go(&self) -> Result<()> {
        let given: Vec<BorrowedFd<'_>> = self.given.iter().map(AsFd::as_fd).collect();
        // Where it failed before this, it says why when it is heard next.
        let _ = self.channel.send(&[child::GO], &given);
        Ok(())
    }

    /// Waits until it has come as far as this.
    pub(crate) fn hear(&mut self, wanted: u8) -> Result<()> {
        loop {
            let mut message = vec![0; child::bundle::LONGEST];
            let (length, mut descriptors) =
                self.channel.receive(&mut message).context("cannot hear from the container")?;
            match message[..length].split_first() {
                Some((&first, _)) if first == wanted => return Ok(()),
                // Both ends come; a terminal that this one has open too is never hung up.
                Some((&child::TERMINAL, _)) => {
                    descriptors.truncate(1);
                    self.terminal = descriptors.pop();
                }
                Some((&child::bundle::WORDS, words)) => {
                    bail!("{}", String::from_utf8_lossy(words));
                }
                _ => bail!("the container's process ended while it was set up"),
            }
        }
    }

    /// Lets it go on after it waited for this process's part.
    pub(crate) fn resume(&self, state: &[u8]) -> Result<()> {
        if state.len() >= child::bundle::LONGEST {
            bail!("the container's annotations are too long");
        }
        let message = [&[child::GO], state].concat();
        self.channel.send(&message, &[]).context("the container's process has ended")
    }

    /// Waits until it has executed its command, or said why not. `listener` is given that of its
    /// filter, where it has one.
    pub(crate) fn executed(
        &mut self,
        listener: &mut dyn FnMut(Pid, i32) -> Result<()>,
    ) -> Result<()> {
        executed(&self.channel, self.child.pid(), listener)
    }

    /// It lives on without this process.
    pub(crate) fn let_go(&mut self) {
        self.kept = true;
    }

    /// Waits for its end.
    pub(crate) fn wait(&self) -> Result<process::Status> {
        self.child.wait().context("cannot wait for the container's process")
    }

    fn tree(&self, wanted: &Wanted) -> Result<OwnedFd> {
        let path = wanted.path.to_string_lossy();
        let tree = sys::mount::copy_tree(rustix::fs::CWD, &wanted.path, wanted.recursive)
            .with_context(|| format!("cannot open {path}"))?;
        let (namespace, recursive) = match &wanted.ids {
            Ids::Own => return Ok(tree),
            Ids::Container(recursive) => (userns::of(self.pid())?, *recursive),
            Ids::Mapped(uids, gids, recursive) => {
                (namespace_with(&ranges(uids), &ranges(gids))?, *recursive)
            }
        };
        sys::mount::map_ids(tree.as_fd(), namespace.as_fd(), recursive)
            .map_err(|error| explain::idmap(error, &path))?;
        Ok(tree)
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        if !self.kept {
            // It may have ended by itself; then there is only a status to take.
            let _ = self.child.signal(signals::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

/// What a process says between its start and its command.
pub(crate) fn executed(
    channel: &Channel,
    pid: Pid,
    listener: &mut dyn FnMut(Pid, i32) -> Result<()>,
) -> Result<()> {
    loop {
        let mut message = [0; 4096];
        let (length, _) = match channel.receive(&mut message) {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(()),
            other => other.context("cannot hear from the container")?,
        };
        match message[..length].split_first() {
            None => return Ok(()),
            Some((&child::bundle::LISTENS, number)) => {
                listener(pid, number.try_into().map_or(-1, i32::from_le_bytes))?;
                channel.send(&[child::GO], &[]).context("the container's process has ended")?;
            }
            Some((_, words)) => bail!("{}", String::from_utf8_lossy(words)),
        }
    }
}

/// A user namespace that only lends its maps.
fn namespace_with(uids: &[Range], gids: &[Range]) -> Result<OwnedFd> {
    let what = "cannot make a user namespace for a mount's ids";
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let child = process::spawn(Namespaces::USER, None, || {
        process::close_copy(write.as_fd());
        let _ = rustix::io::read(&read, &mut [0]);
        process::exit_now(0)
    })
    .context(what)?;
    let made = userns::write_maps(child.pid(), uids, gids)
        .map_err(explain::map)
        .and_then(|()| userns::of(child.pid()).context(what));
    drop(write);
    child.wait().context(what)?;
    made
}
