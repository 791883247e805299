//! A sandbox's first process: from new namespaces to the command.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::process::{Gid, Pid, Signal, Uid};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};
use spec::sandbox::{Operation, Sandbox, Upper};
use sys::mount::{self, Attributes};
use sys::process;
use sys::seccomp::Filter;

use super::root::Builder;
use super::{Step, because, enter, failed, read_one};
use crate::container::filter::compile;

/// What the launcher leaves to its child.
pub(super) struct Inherited {
    /// Readable when the launcher has done its part.
    pub(super) go: OwnedFd,
    /// Where a failure is told, or that the command is about to be executed.
    pub(super) report: OwnedFd,
    /// Where process 1 tells the command's exit code.
    pub(super) done: Option<OwnedFd>,
    /// Where the process that will run the command says which one it is.
    pub(super) intermediate: Option<OwnedFd>,
    /// The launcher's ids.
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// What may be kept of the capabilities.
    pub(super) kept: u64,
}

/// That nothing failed until the command is executed.
pub(super) const REACHED: u8 = 0;

/// Never returns.
pub(super) fn run(sandbox: &Sandbox, inherited: Inherited) -> ! {
    let mut child = Child { sandbox, inherited };
    let code = child.set_up().unwrap_or_else(|text| child.tell(&text));
    process::exit_now(code)
}

struct Child<'a> {
    sandbox: &'a Sandbox,
    inherited: Inherited,
}

impl Child<'_> {
    /// Returns only on failure.
    fn set_up(&mut self) -> Step<u8> {
        let sandbox = self.sandbox;
        if sandbox.pidns.is_some() {
            self.enter_processes()?;
        }
        for fd in [sandbox.info, sandbox.status].into_iter().flatten() {
            // It is the launcher's alone.
            drop(process::take_inherited(fd));
        }
        if rustix::io::read(&self.inherited.go, &mut [0; 1]) != Ok(1) {
            // The launcher is gone, or says itself what failed.
            process::exit_now(1);
        }
        let proc = self.become_privileged()?;
        let umask = rustix::process::umask(Mode::empty());
        let operations = resolved(&sandbox.operations)?;
        let here = rustix::process::getcwd(Vec::new()).ok();
        self.new_root(&proc, &operations)?;
        self.second_namespace(&proc)?;
        self.drop_privileges()?;
        if let Some(fd) = sandbox.block {
            read_one(fd);
        }
        let filters = self.filters()?;
        rustix::process::umask(umask);
        self.change_directory(here.map(|h| {
            PathBuf::from(<OsString as std::os::unix::ffi::OsStringExt>::from_vec(h.into_bytes()))
        }))?;
        if sandbox.new_session {
            rustix::process::setsid().map_err(failed("setsid"))?;
        }
        let stays = !sandbox.as_pid_1
            && (sandbox.namespaces.pid || !sandbox.locks.is_empty() || sandbox.sync.is_some());
        if stays
            && let Some(command) =
                process::fork().map_err(because(|| "Can't fork for pid 1".to_owned()))?
        {
            self.stay(command, &filters);
        }
        drop(proc);
        self.execute(&filters)
    }

    /// Moves on into other namespaces of process ids, each of which only a child is in, and says
    /// which process it became.
    fn enter_processes(&mut self) -> Step {
        let sandbox = self.sandbox;
        if let Some(fd) = sandbox.pidns {
            enter(fd, LinkNameSpaceType::ProcessID).map_err(failed("Setting pidns failed"))?;
            leave_intermediate()?;
        }
        if sandbox.namespaces.pid {
            process::unshare(UnshareFlags::NEWPID)
                .map_err(because(|| "unshare pid ns".to_owned()))?;
            leave_intermediate()?;
        }
        let Some(socket) = self.inherited.intermediate.take() else { return Ok(()) };
        super::tell_own_pid(&socket).map_err(because(|| "Can't send pid".to_owned()))
    }

    /// All that is needed for setting up; gives `/proc`, as it is outside.
    fn become_privileged(&self) -> Step<OwnedFd> {
        let (sandbox, inherited) = (self.sandbox, &self.inherited);
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let proc =
            rustix::fs::open("/proc", flags, Mode::empty()).map_err(failed("Can't open /proc"))?;
        if sandbox.namespaces.user || sandbox.userns.is_some() {
            // The bounding set of a new namespace is full again.
            self.bound()?;
        }
        if sandbox.userns.is_some() {
            let (uid, gid) = (Uid::from_raw(sandbox.uid), Gid::from_raw(sandbox.gid));
            if sandbox.uid != inherited.uid {
                rustix::thread::set_thread_res_uid(uid, uid, uid)
                    .map_err(failed(format!("unable to switch to uid {}", sandbox.uid)))?;
            }
            if sandbox.gid != inherited.gid {
                rustix::thread::set_thread_res_gid(gid, gid, gid)
                    .map_err(failed(format!("unable to switch to gid {}", sandbox.gid)))?;
            }
        }
        if sandbox.namespaces.net {
            sys::loopback::up().map_err(because(|| "loopback: Failed RTM_NEWADDR".to_owned()))?;
        }
        if sandbox.namespaces.user && sandbox.userns_block.is_none() {
            let (uid, gid) = self.first_ids();
            write_maps(&proc, (uid, inherited.uid), (gid, inherited.gid), true)?;
        }
        Ok(proc)
    }

    /// Ids of the first user namespace. A terminal of its own can only be mounted where there is an id 0;
    /// the ids that were asked for are then those of a second one.
    fn first_ids(&self) -> (u32, u32) {
        let dev = |operation: &Operation| matches!(operation, Operation::Dev(_));
        match self.sandbox.operations.iter().any(dev) {
            true => (0, 0),
            false => (self.sandbox.uid, self.sandbox.gid),
        }
    }

    fn bound(&self) -> Step {
        match sys::caps::bound(sys::caps::Set::from_bits(self.inherited.kept)) {
            Err(error) if Errno::from_io_error(&error) != Some(Errno::PERM) => {
                Err(because(|| "Dropping capability from bounds".to_owned())(error))
            }
            _ => Ok(()),
        }
    }

    /// Two changes of the root: the first puts the launcher's files at `/oldroot` beside the new root
    /// at `/newroot`, so that anything may be mounted over anything; the second leaves only that.
    fn new_root(&self, proc: &OwnedFd, operations: &[Operation]) -> Step {
        let below = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", below).map_err(failed("Failed to make / slave"))?;
        let attributes = Attributes { nosuid: true, nodev: true, ..Attributes::default() };
        mount::filesystem(c"tmpfs", c"/tmp", attributes, c"")
            .map_err(because(|| "Failed to mount tmpfs".to_owned()))?;
        rustix::process::chdir("/tmp").map_err(failed("chdir base_path"))?;
        let directory = |name: &str| rustix::fs::mkdir(name, Mode::from_raw_mode(0o755));
        directory("newroot").map_err(failed("Creating newroot failed"))?;
        mount::bind(c"newroot", c"newroot")
            .map_err(because(|| "setting up newroot bind".to_owned()))?;
        directory("oldroot").map_err(failed("Creating oldroot failed"))?;
        let memory = |o: &&Operation| matches!(o, Operation::Overlay { upper: Upper::Memory, .. });
        for number in 0..operations.iter().filter(memory).count() {
            for kind in ["upper", "work"] {
                directory(&format!("tmp-overlay-{kind}-{number}"))
                    .map_err(failed(format!("Creating --tmp-overlay {kind}dir failed")))?;
            }
        }
        rustix::process::pivot_root("/tmp", "oldroot").map_err(failed("pivot_root"))?;
        rustix::process::chdir("/").map_err(failed("chdir / (base path)"))?;
        let own = self.sandbox.namespaces.pid || self.sandbox.pidns.is_some();
        Builder::new(proc, own, self.sandbox.console.as_deref()).build(operations)?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("oldroot", private)
            .map_err(failed("Failed to make old root rprivate"))?;
        rustix::mount::unmount("oldroot", UnmountFlags::DETACH)
            .map_err(failed("unmount old root"))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let base = rustix::fs::open("/", flags, Mode::empty()).map_err(failed("can't open /"))?;
        rustix::process::chdir("/newroot").map_err(failed("chdir /newroot"))?;
        rustix::process::pivot_root(".", ".").map_err(failed("pivot_root(/newroot)"))?;
        rustix::process::fchdir(base).map_err(failed("fchdir to oldroot"))?;
        rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(failed("umount old root"))?;
        rustix::process::chdir("/").map_err(failed("chdir /"))
    }

    /// For other ids than setting up needed, and so that a limit on namespaces cannot be lifted inside.
    fn second_namespace(&self, proc: &OwnedFd) -> Step {
        let sandbox = self.sandbox;
        if let Some(fd) = sandbox.second_userns {
            enter(fd, LinkNameSpaceType::User).map_err(failed("Setting userns2 failed"))?;
        }
        let (uid, gid) = self.first_ids();
        let others = (uid, gid) != (sandbox.uid, sandbox.gid);
        if sandbox.namespaces.user
            && sandbox.userns_block.is_none()
            && (others || sandbox.disable_userns)
        {
            if sandbox.disable_userns {
                let limit = "cannot open /proc/sys/user/max_user_namespaces";
                write_at(proc, "sys/user/max_user_namespaces", "1").map_err(failed(limit))?;
            }
            process::unshare(UnshareFlags::NEWUSER)
                .map_err(because(|| "unshare user ns".to_owned()))?;
            self.bound()?;
            write_maps(proc, (sandbox.uid, uid), (sandbox.gid, gid), false)?;
        }
        if (sandbox.disable_userns || sandbox.assert_userns_disabled)
            && process::unshare(UnshareFlags::NEWUSER).is_ok()
        {
            return Err("creation of new user namespaces was not disabled as requested".into());
        }
        Ok(())
    }

    fn drop_privileges(&self) -> Step {
        if self.sandbox.capabilities.is_some() || self.inherited.uid != 0 {
            let kept = sys::caps::Set::from_bits(self.inherited.kept);
            sys::caps::set_inheritable(kept).map_err(because(|| "capset failed".to_owned()))?;
        }
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)
            .map_err(failed("can't set dumpable"))
    }

    fn filters(&self) -> Step<Vec<Filter>> {
        let mut programs = self.sandbox.filters.clone();
        if let Some(fd) = self.sandbox.late_filter {
            programs.push(super::read_filter(fd)?);
        }
        let given = programs.iter().map(|program| filter(program));
        Ok(self.sandbox.seccomp.iter().map(compile).chain(given).collect())
    }

    fn change_directory(&self, here: Option<PathBuf>) -> Step {
        let home = || std::env::var_os("HOME").map(PathBuf::from);
        let reached = match &self.sandbox.directory {
            Some(path) => {
                rustix::process::chdir(path)
                    .map_err(failed(format!("Can't chdir to {}", path.display())))?;
                Some(path.clone())
            }
            None => {
                let enter = |path: &PathBuf| rustix::process::chdir(path).is_ok();
                here.filter(&enter).or_else(|| home().filter(&enter))
            }
        };
        let reached = reached.unwrap_or_else(|| Path::new("/").to_owned());
        process::set_environment("PWD", Some(reached))
            .map_err(because(|| "setenv failed".to_owned()))
    }

    /// Process 1: reaps until nothing runs any more, and holds what is to be held so long.
    fn stay(&self, command: Pid, filters: &[Filter]) -> ! {
        let code = self.hold(command, filters).unwrap_or_else(|text| self.tell(&text));
        // Descriptors are closed already that have owners here.
        process::exit_now(code)
    }

    fn hold(&self, command: Pid, filters: &[Filter]) -> Step<u8> {
        let (sandbox, inherited) = (self.sandbox, &self.inherited);
        sys::caps::set(sys::caps::Set::default())
            .map_err(because(|| "capset failed".to_owned()))?;
        let done = inherited.done.as_ref().map(AsRawFd::as_raw_fd);
        let report = inherited.report.as_raw_fd();
        let keep: Vec<i32> = [done, sandbox.sync, Some(report)].into_iter().flatten().collect();
        process::close_others(&keep).map_err(because(|| "cannot close descriptors".to_owned()))?;
        let _locks = sandbox.locks.iter().map(|path| lock(path)).collect::<Step<Vec<OwnedFd>>>()?;
        self.die_with_parent()?;
        install(filters)?;
        // What fails from here on is the command's own affair.
        process::close_copy(inherited.report.as_fd());
        let mut code = 1;
        loop {
            match rustix::process::wait(rustix::process::WaitOptions::empty()) {
                Ok(Some((pid, status))) if pid == command => {
                    code = crate::init::code(status);
                    if let Some(done) = &inherited.done {
                        // Whoever does not read it any more does not need it.
                        let _ = rustix::io::write(done, &(u64::from(code) + 1).to_ne_bytes());
                    }
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return Ok(code),
            }
        }
    }

    /// Tells the launcher what failed; gives the exit code.
    fn tell(&self, text: &str) -> u8 {
        // Without a launcher there is nobody to tell.
        let _ = rustix::io::write(&self.inherited.report, text.as_bytes());
        1
    }

    fn die_with_parent(&self) -> Step {
        if !self.sandbox.die_with_parent {
            return Ok(());
        }
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(failed("prctl"))
    }

    fn execute(&self, filters: &[Filter]) -> Step<u8> {
        let sandbox = self.sandbox;
        if let Some(fd) = sandbox.sync.filter(|_| !sandbox.as_pid_1) {
            drop(process::take_inherited(fd));
        }
        sys::signals::unblock(sys::signals::SIGCHLD);
        sys::signals::inherit_pipe();
        self.die_with_parent()?;
        sys::caps::raise_ambient(sys::caps::Set::from_bits(self.inherited.kept))
            .map_err(because(|| "Adding ambient capability".to_owned()))?;
        install(filters)?;
        let _ = rustix::io::write(&self.inherited.report, &[REACHED]);
        let program = &sandbox.command[0];
        let mut args = sandbox.command.clone();
        if let Some(name) = &sandbox.name {
            args[0].clone_from(name);
        }
        Err(because(|| format!("execvp {}", program.display()))(process::execvp(program, &args)))
    }
}

/// Goes on as a child; the process that is left behind ends.
fn leave_intermediate() -> Step {
    match process::fork().map_err(because(|| "Can't fork".to_owned()))? {
        Some(_) => process::exit_now(0),
        None => Ok(()),
    }
}

fn lock(path: &Path) -> Step<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())
        .map_err(failed(format!("Unable to open lock file {}", path.display())))?;
    rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::NonBlockingLockShared)
        .map_err(failed(format!("Unable to lock file {}", path.display())))?;
    Ok(file)
}

const NO_FILTER: &str = "Unable to set up system call filtering as requested: \
    prctl(PR_SET_SECCOMP) reported EINVAL. (Hint: this requires a kernel configured with \
    CONFIG_SECCOMP and CONFIG_SECCOMP_FILTER.)";

fn install(filters: &[Filter]) -> Step {
    filters.iter().try_for_each(|filter| {
        filter.install_by_prctl().map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::INVAL) => NO_FILTER.to_owned(),
            _ => because(|| "prctl(PR_SET_SECCOMP)".to_owned())(error),
        })
    })
}

/// As the kernel has it (linux/filter.h): eight bytes an instruction.
fn filter(program: &[u8]) -> Filter {
    let instruction = |b: &[u8]| {
        let code = u16::from_ne_bytes([b[0], b[1]]);
        (code, b[2], b[3], u32::from_ne_bytes([b[4], b[5], b[6], b[7]]))
    };
    Filter::from_instructions(&program.chunks_exact(8).map(instruction).collect::<Vec<_>>())
}

/// Maps one id of each kind to one outside; each pair is (inside, outside).
fn write_maps(proc: &OwnedFd, uid: (u32, u32), gid: (u32, u32), deny_groups: bool) -> Step {
    let map = |(inside, outside): (u32, u32)| format!("{inside} {outside} 1\n");
    write_at(proc, "self/uid_map", &map(uid)).map_err(failed("setting up uid map"))?;
    if deny_groups {
        // Without this a group map of one's own is refused (user_namespaces(7), CVE-2014-8989).
        write_at(proc, "self/setgroups", "deny\n").map_err(failed("error writing to setgroups"))?;
    }
    write_at(proc, "self/gid_map", &map(gid)).map_err(failed("setting up gid map"))
}

fn write_at(proc: &OwnedFd, path: &str, text: &str) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(proc, path, flags, Mode::empty())?;
    rustix::io::write(file.as_fd(), text.as_bytes()).map(drop)
}

/// The same with what is the launcher's named by absolute paths without links.
fn resolved(operations: &[Operation]) -> Step<Vec<Operation>> {
    let mut operations = operations.to_vec();
    for operation in &mut operations {
        let mut paths: Vec<&mut PathBuf> = Vec::new();
        let mut may_miss = false;
        match operation {
            Operation::Bind { source, optional, .. } => {
                may_miss = *optional;
                paths.push(source);
            }
            Operation::Overlay { lower, upper, .. } => {
                paths.extend(lower);
                if let Upper::Directories(upper, work) = upper {
                    paths.extend([upper, work]);
                }
            }
            _ => {}
        }
        for path in paths {
            match std::fs::canonicalize(&*path) {
                Ok(found) => *path = found,
                Err(error) if may_miss && error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(because(|| format!("Can't find source path {}", path.display()))(
                        error,
                    ));
                }
            }
        }
    }
    Ok(operations)
}
