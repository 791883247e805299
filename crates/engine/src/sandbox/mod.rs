//! Sandboxes: a command in a root put together from the launcher's own files, as bubblewrap has
//! it. Its launcher stays as the monitor, and writes nothing down: when all that runs has ended,
//! there is nothing left.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, PollFd, PollFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use rustix::thread::LinkNameSpaceType;
use spec::sandbox::{Namespaces, Sandbox, Variable};
use sys::process;

mod child;
mod root;

/// What failed, in words, on one line.
pub type Step<T = ()> = Result<T, String>;

/// Runs it until its command has ended; gives the command's exit code.
///
/// # Errors
/// Says what failed before the command was executed, or that it could not be.
pub fn run(sandbox: &Sandbox) -> Step<u8> {
    rustix::thread::set_no_new_privs(true).map_err(failed("prctl(PR_SET_NO_NEW_PRIVS) failed"))?;
    // Where it is ignored, nobody is told of an end (wait(2)).
    sys::signals::Disposition::change(sys::signals::SIGCHLD, false)
        .map_err(because(|| "sigaction".to_owned()))?;
    change_environment(&sandbox.environment).map_err(because(|| "setenv failed".to_owned()))?;
    let ids = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let kept = kept(sandbox, ids.0)?;
    let launcher = Launcher::new(sandbox)?;
    let (launcher, pid, pidfd) = launcher.spawn(sandbox, ids, kept)?;
    launcher.tell(sandbox, pid)?;
    launcher.wait(sandbox, pid, &pidfd)
}

/// Capabilities that are kept: root's own, unless something else is asked for.
fn kept(sandbox: &Sandbox, uid: u32) -> Step<u64> {
    if let Some(set) = sandbox.capabilities {
        return Ok(set);
    }
    if uid != 0 {
        return Ok(0);
    }
    let now = rustix::thread::capabilities(None).map_err(failed("capget (for uid == 0) failed"))?;
    Ok(now.effective.bits())
}

/// The launcher's ends of what it shares with its child.
struct Launcher {
    go: (OwnedFd, OwnedFd),
    report: (OwnedFd, OwnedFd),
    done: Option<OwnedFd>,
    intermediate: Option<(OwnedFd, OwnedFd)>,
}

impl Launcher {
    fn new(sandbox: &Sandbox) -> Step<Self> {
        let done = match sandbox.namespaces.pid && !sandbox.as_pid_1 {
            true => Some(eventfd(EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?),
            false => None,
        };
        let go = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(failed("pipe2()"))?;
        let report = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
            .map_err(failed("pipe2()"))?;
        if let Some(fd) = sandbox.userns {
            enter(fd, LinkNameSpaceType::User).map_err(|error| match error {
                Errno::INVAL => "Joining the specified user namespace failed, it might not be a \
                                 descendant of the current user namespace."
                    .into(),
                other => failed("Joining specified user namespace failed")(other),
            })?;
        }
        let intermediate = match sandbox.pidns {
            Some(_) => Some(Self::for_intermediates()?),
            None => None,
        };
        Ok(Self { go, report, done, intermediate })
    }

    /// The process that will be the command is no child of this one then, but will be given to it.
    fn for_intermediates() -> Step<(OwnedFd, OwnedFd)> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType};
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(failed("prctl(PR_SET_CHILD_SUBREAPER)"))?;
        let (flags, kind) = (SocketFlags::CLOEXEC, SocketType::SEQPACKET);
        let pair = rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None)
            .map_err(failed("socketpair"))?;
        rustix::net::sockopt::set_socket_passcred(&pair.0, true).map_err(failed("setsockopt"))?;
        Ok(pair)
    }

    fn spawn(
        mut self,
        sandbox: &Sandbox,
        ids: (u32, u32),
        kept: u64,
    ) -> Step<(Self, Pid, OwnedFd)> {
        let copy = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(failed("dup"));
        let inherited = child::Inherited {
            go: copy(&self.go.0)?,
            report: copy(&self.report.1)?,
            done: self.done.as_ref().map(copy).transpose()?,
            intermediate: self.intermediate.as_ref().map(|(_, theirs)| copy(theirs)).transpose()?,
            uid: ids.0,
            gid: ids.1,
            kept,
        };
        let namespaces = namespaces(sandbox);
        let tells = self.go.1.as_fd();
        let child = process::spawn(namespaces, None, move || {
            // Else it would not see that the launcher is gone.
            process::close_copy(tells);
            child::run(sandbox, inherited)
        })
        .map_err(|error| refused(&error, sandbox.namespaces.user))?;
        let pid = match self.intermediate.take() {
            Some((ours, theirs)) => {
                drop(theirs);
                hear_pid(&ours).map_err(because(|| "Can't read pid".to_owned()))?
            }
            None => child.pid(),
        };
        let pidfd =
            rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(failed("pidfd_open"))?;
        Ok((self, pid, pidfd))
    }

    /// Says what there is, and lets the child go on.
    fn tell(&self, sandbox: &Sandbox, pid: Pid) -> Step {
        let numbers = namespace_numbers(sandbox.namespaces, pid);
        if let Some(fd) = sandbox.second_userns {
            enter(fd, LinkNameSpaceType::User).map_err(failed("Setting userns2 failed"))?;
        }
        match sys::caps::set(sys::caps::Set::default()) {
            Err(error) if Errno::from_io_error(&error) != Some(Errno::PERM) => {
                return Err(because(|| "capset failed".to_owned())(error));
            }
            _ => {}
        }
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)
            .map_err(failed("can't set dumpable"))?;
        if sandbox.die_with_parent {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
                .map_err(failed("prctl"))?;
        }
        let facts = |between: &str| -> String {
            numbers.iter().map(|(name, n)| format!(",{between}\"{name}-namespace\": {n}")).collect()
        };
        if let Some(fd) = sandbox.info {
            let info =
                process::take_inherited(fd).map_err(because(|| "Write to info_fd".to_owned()))?;
            write(&info, &format!("{{\n    \"child-pid\": {pid}{}\n}}\n", facts("\n    ")))?;
        }
        if let Some(fd) = sandbox.status {
            let text = format!("{{ \"child-pid\": {pid}{} }}\n", facts(" "));
            borrowed(fd, |status| write(status, &text))?;
        }
        if let Some(fd) = sandbox.userns_block {
            read_one(fd);
        }
        // Where the child ended meanwhile, that is seen next.
        let _ = rustix::io::write(&self.go.1, &[1]);
        Ok(())
    }

    fn wait(self, sandbox: &Sandbox, pid: Pid, pidfd: &OwnedFd) -> Step<u8> {
        let Self { go, report: (report, other_end), done, intermediate: _ } = self;
        drop((go, other_end));
        let keep: Vec<i32> = [Some(pidfd.as_raw_fd()), Some(report.as_raw_fd()), sandbox.status]
            .into_iter()
            .chain([done.as_ref().map(AsRawFd::as_raw_fd)])
            .flatten()
            .collect();
        // Whoever waits for the end of what was passed on would wait for this process too.
        process::close_others(&keep).map_err(because(|| "cannot close descriptors".to_owned()))?;
        let code = wait(pidfd, done.as_ref(), pid)?;
        let mut said = Vec::new();
        // It ends where nobody has the other end, or nothing more is in it.
        let _ = std::fs::File::from(report).read_to_end(&mut said);
        // Process 1 may fail before its child, which is the command, has come as far, or after.
        let reached = said.contains(&child::REACHED);
        said.retain(|byte| *byte != child::REACHED);
        if !said.is_empty() {
            return Err(String::from_utf8_lossy(&said).into_owned());
        }
        if let Some(fd) = sandbox.status.filter(|_| reached) {
            // As for the original, nobody need read it.
            let _ = borrowed(fd, |status| write(status, &format!("{{ \"exit-code\": {code} }}\n")));
        }
        Ok(code)
    }
}

/// Process 1 tells the command's exit code before it ends itself, which may be much later.
fn wait(pidfd: &OwnedFd, done: Option<&OwnedFd>, pid: Pid) -> Step<u8> {
    loop {
        let mut polled = vec![PollFd::new(pidfd, PollFlags::IN)];
        polled.extend(done.map(|done| PollFd::new(done, PollFlags::IN)));
        match rustix::event::poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(failed("poll")(error)),
        }
        let mut word = [0; 8];
        if let Some(done) = done
            && rustix::io::read(done, &mut word) == Ok(8)
        {
            return Ok((u64::from_ne_bytes(word) - 1) as u8);
        }
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match rustix::process::waitid(WaitId::Pid(pid), ended) {
            Ok(Some(status)) => {
                return Ok(match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => code as u8,
                    (None, Some(signal)) => 128 + signal as u8,
                    (None, None) => 255,
                });
            }
            // An intermediate parent has not ended yet.
            Ok(None) | Err(Errno::INTR | Errno::CHILD) => {}
            Err(error) => return Err(failed("waitid")(error)),
        }
    }
}

fn eventfd(flags: EventfdFlags) -> Step<OwnedFd> {
    rustix::event::eventfd(0, flags).map_err(failed("eventfd()"))
}

fn namespaces(sandbox: &Sandbox) -> process::Namespaces {
    let Namespaces { user, pid, net, ipc, uts, cgroup } = sandbox.namespaces;
    let mut all = process::Namespaces::MOUNT;
    for (new, namespace) in [
        (user, process::Namespaces::USER),
        (pid && sandbox.pidns.is_none(), process::Namespaces::PID),
        (net, process::Namespaces::NET),
        (ipc, process::Namespaces::IPC),
        (uts, process::Namespaces::UTS),
        (cgroup, process::Namespaces::CGROUP),
    ] {
        if new {
            all |= namespace;
        }
    }
    all
}

fn refused(error: &io::Error, user: bool) -> String {
    match Errno::from_io_error(error) {
        Some(Errno::INVAL) if user => "Creating new namespace failed, likely because the kernel does \
            not support user namespaces."
            .into(),
        Some(Errno::PERM) if user => "No permissions to create a new namespace, likely because the \
            kernel does not allow non-privileged user namespaces. On e.g. debian this can be enabled \
            with 'sysctl kernel.unprivileged_userns_clone=1'."
            .into(),
        Some(Errno::NOSPC) => "Creating new namespace failed: nesting depth or \
            /proc/sys/user/max_*_namespaces exceeded (ENOSPC)"
            .into(),
        _ => because(|| "Creating new namespace failed".to_owned())(io::Error::from_raw_os_error(
            error.raw_os_error().unwrap_or(0),
        )),
    }
}

/// Of those that are new: names, and the numbers by which the kernel knows them.
fn namespace_numbers(new: Namespaces, pid: Pid) -> Vec<(&'static str, u64)> {
    [
        ("cgroup", new.cgroup),
        ("ipc", new.ipc),
        ("mnt", true),
        ("net", new.net),
        ("pid", new.pid),
        ("uts", new.uts),
    ]
    .into_iter()
    .filter(|(_, is_new)| *is_new)
    .filter_map(|(name, _)| {
        let path = format!("/proc/{}/ns/{name}", pid.as_raw_nonzero());
        Some((name, rustix::fs::stat(path).ok()?.st_ino))
    })
    .collect()
}

fn change_environment(changes: &[Variable]) -> io::Result<()> {
    changes.iter().try_for_each(|change| match change {
        Variable::Clear => process::clear_environment(),
        Variable::Set(name, value) => process::set_environment(name, Some(value)),
        Variable::Unset(name) => process::set_environment(name, None::<&str>),
    })
}

/// Enters a namespace that the launcher has a descriptor of. That stays open.
fn enter(fd: i32, kind: LinkNameSpaceType) -> Result<(), Errno> {
    let entered = borrowed(fd, |namespace| {
        Ok(rustix::thread::move_into_link_name_space(namespace, Some(kind)))
    });
    entered.unwrap_or(Err(Errno::BADF))
}

/// Does something with an inherited descriptor that stays open.
fn borrowed<T>(fd: i32, act: impl FnOnce(BorrowedFd<'_>) -> Step<T>) -> Step<T> {
    let owned = process::take_inherited(fd).map_err(because(|| format!("descriptor {fd}")))?;
    let done = act(owned.as_fd());
    // Its number is the caller's.
    let _ = std::os::fd::IntoRawFd::into_raw_fd(owned);
    done
}

/// Waits until there is something to read, or nobody who could write, and closes it.
fn read_one(fd: i32) {
    let Ok(owned) = process::take_inherited(fd) else { return };
    while rustix::io::read(&owned, &mut [0; 1]) == Err(Errno::INTR) {}
}

/// A seccomp filter as the kernel takes it, from a descriptor that is closed then.
fn read_filter(fd: i32) -> Step<Vec<u8>> {
    let mut program = Vec::new();
    let given = process::take_inherited(fd);
    given
        .and_then(|fd| std::fs::File::from(fd).read_to_end(&mut program))
        .map_err(because(|| "Can't read seccomp data".to_owned()))?;
    match program.len() % 8 {
        0 => Ok(program),
        _ => Err("Invalid seccomp data, must be multiple of 8".into()),
    }
}

fn write(to: impl AsFd, text: &str) -> Step {
    let mut left = text.as_bytes();
    while !left.is_empty() {
        match rustix::io::write(&to, left) {
            Ok(written) => left = &left[written..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(failed("Write to info_fd")(error)),
        }
    }
    Ok(())
}

/// Sends which process this is; the kernel translates it for the reader's namespace (unix(7)).
fn tell_own_pid(socket: &OwnedFd) -> io::Result<()> {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, UCred};
    let own = UCred {
        pid: rustix::process::getpid(),
        uid: rustix::process::geteuid(),
        gid: rustix::process::getegid(),
    };
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut message = SendAncillaryBuffer::new(&mut space);
    message.push(SendAncillaryMessage::ScmCredentials(own));
    let data = [io::IoSlice::new(&[0])];
    rustix::net::sendmsg(socket, &data, &mut message, SendFlags::empty())?;
    Ok(())
}

fn hear_pid(socket: &OwnedFd) -> io::Result<Pid> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut message = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut data = [io::IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(socket, &mut data, &mut message, RecvFlags::CMSG_CLOEXEC)?;
    let pid = message.drain().find_map(|part| match part {
        RecvAncillaryMessage::ScmCredentials(credentials) => Some(credentials.pid),
        _ => None,
    });
    pid.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Text before a reason, as the C library says that.
fn because(what: impl Fn() -> String) -> impl Fn(io::Error) -> String {
    move |error| {
        let reason = error.to_string();
        format!("{}: {}", what(), reason.split(" (os error ").next().unwrap_or_default())
    }
}

fn failed(what: impl Into<String>) -> impl FnOnce(Errno) -> String {
    let what = what.into();
    move |error| because(|| what.clone())(error.into())
}
