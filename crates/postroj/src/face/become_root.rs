//! become-root: a command as root of a user namespace that has all of the user's ids.

use std::ffi::{CStr, OsString};
use std::io;
use std::ops::ControlFlow::{self, Break, Continue};
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result, bail};
use engine::init::{self, Habits};
use rustix::process::{Pid, WaitStatus};
use rustix::thread::UnshareFlags;
use sys::mount::{self, Attributes};
use sys::signals::{self, Set};

use super::{Face, reason};

/// The face.
pub(crate) struct BecomeRoot;

impl Face for BecomeRoot {
    fn names(&self) -> &'static [&'static str] {
        &["become-root"]
    }

    fn run(&self, args: Vec<OsString>) -> u8 {
        let name = args.first().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        match parse(&args[1..]) {
            Ok(Asked::Help) => {
                print!("{}", usage(&name));
                0
            }
            Ok(Asked::Run(it)) => it.run().unwrap_or_else(|error| {
                eprintln!("{name}: {error:#}");
                1
            }),
            Err(letter) => {
                eprint!("{name}: unknown option: {letter}\n{}", usage(&name));
                1
            }
        }
    }
}

#[derive(Debug)]
enum Asked {
    Help,
    Run(Session),
}

/// What is to be done before the command.
#[derive(Debug, PartialEq, Eq)]
struct Session {
    namespaces: UnshareFlags,
    proc: bool,
    sys: bool,
    cgroup: bool,
    keeps_groups: bool,
    reaps: bool,
    network: bool,
    command: Vec<OsString>,
}

const ALL: [UnshareFlags; 6] = [
    UnshareFlags::NEWNS,
    UnshareFlags::NEWNET,
    UnshareFlags::NEWIPC,
    UnshareFlags::NEWPID,
    UnshareFlags::NEWCGROUP,
    UnshareFlags::NEWUTS,
];

/// Gives back the letter that is no option.
fn parse(args: &[OsString]) -> Result<Asked, char> {
    let options = args.iter().take_while(|arg| arg.as_bytes().starts_with(b"-")).count();
    let mut it = Session {
        namespaces: UnshareFlags::empty(),
        proc: false,
        sys: false,
        cgroup: false,
        keeps_groups: false,
        reaps: false,
        network: false,
        command: args[options..].to_vec(),
    };
    for option in &args[..options] {
        if option == "--help" || option == "-h" {
            return Ok(Asked::Help);
        }
        for letter in option.to_string_lossy().chars().skip(1) {
            it.option(letter)?;
        }
    }
    Ok(Asked::Run(it))
}

impl Session {
    fn option(&mut self, letter: char) -> Result<(), char> {
        match letter {
            'A' => {
                (self.proc, self.sys) = (true, true);
                self.namespaces.extend(ALL);
            }
            'a' => self.namespaces.extend(ALL),
            'c' => self.namespaces |= UnshareFlags::NEWCGROUP,
            'i' => self.namespaces |= UnshareFlags::NEWIPC,
            'm' => self.namespaces |= UnshareFlags::NEWNS,
            'n' => self.namespaces |= UnshareFlags::NEWNET,
            'p' => self.namespaces |= UnshareFlags::NEWPID,
            'u' => self.namespaces |= UnshareFlags::NEWUTS,
            'r' => {
                self.reaps = true;
                self.namespaces |= UnshareFlags::NEWPID;
            }
            'N' => self.network = true,
            'P' => self.proc = true,
            'S' => self.sys = true,
            'C' => self.cgroup = true,
            'k' => self.keeps_groups = true,
            other => return Err(other),
        }
        Ok(())
    }

    fn run(mut self) -> Result<u8> {
        if self.network {
            bail!(
                "-N needs a network that is made outside, which this has not yet: -n does without one"
            );
        }
        if self.command.is_empty() {
            let shell = std::env::var_os("SHELL").filter(|shell| !shell.is_empty());
            self.command.push(shell.context("please specify a command")?);
        }
        let uid = rustix::process::geteuid();
        harness::host::unshare(self.namespaces)?;
        if !self.keeps_groups {
            rustix::thread::set_thread_groups(&[]).context("cannot drop supplementary groups")?;
        }
        rustix::thread::set_no_new_privs(true).context("cannot set no_new_privs")?;
        // By these podman knows that it need not make a namespace (podman, pkg/rootless).
        for (name, value) in
            [("_LIBPOD_USERNS_CONFIGURED", "init"), ("_LIBPOD_ROOTLESS_UID", &uid.to_string())]
        {
            sys::process::set_environment(name, value)?;
        }
        if !self.namespaces.contains(UnshareFlags::NEWPID) {
            self.mount()?;
            signals::inherit_pipe();
            let error = sys::process::execvp(&self.command);
            bail!("cannot exec {}: {}", self.command[0].display(), reason(&error));
        }
        self.in_processes_of_its_own()
    }

    /// Only a child is in the new namespace of process ids. It mounts, for `/proc` shows its namespace.
    fn in_processes_of_its_own(&self) -> Result<u8> {
        let all = Set::all_but(&[]);
        let before = all.block();
        let exec = || {
            let failed = |error: &io::Error| self.fail(&format!("cannot exec: {}", reason(error)));
            let prepare = || {
                before.block();
                Continue(())
            };
            match init::start(&self.command, prepare, failed) {
                Ok(child) => Break(init::supervise(&all, &mut Waiting(child))),
                Err(error) => Break(self.fail(&format!("cannot fork: {}", reason(&error)))),
            }
        };
        let prepare = || {
            if let Err(error) = self.mount() {
                return Break(self.fail(&format!("{error:#}")));
            }
            if self.reaps {
                return exec();
            }
            before.block();
            Continue(())
        };
        let failed = |error: &io::Error| self.fail(&format!("cannot exec: {}", reason(error)));
        let child = init::start(&self.command, prepare, failed).context("cannot fork")?;
        Ok(init::supervise(&all, &mut Waiting(child)))
    }

    fn fail(&self, why: &str) -> u8 {
        eprintln!("become-root: {}: {why}", self.command[0].display());
        1
    }

    fn mount(&self) -> Result<()> {
        let inert = Attributes { read_only: false, nosuid: true, nodev: true, noexec: true };
        let mounts: [(bool, &CStr, &CStr); 3] = [
            (self.proc, c"proc", c"/proc"),
            (self.sys, c"sysfs", c"/sys"),
            (self.cgroup, c"cgroup2", c"/sys/fs/cgroup"),
        ];
        for (_, kind, target) in mounts.into_iter().filter(|(asked, ..)| *asked) {
            mount::filesystem(kind, target, inert, c"").map_err(|error| {
                let (kind, target) = (kind.to_string_lossy(), target.to_string_lossy());
                let hint = match self.namespaces.contains(UnshareFlags::NEWNS) {
                    true => "",
                    false => "; -m gives it mounts of its own",
                };
                anyhow::anyhow!("could not mount {kind} on {target}: {}{hint}", reason(&error))
            })?;
        }
        Ok(())
    }
}

/// Signals go to the command, and its end is the end.
struct Waiting(Pid);

impl Habits for Waiting {
    fn signal(&mut self, signal: i32) -> ControlFlow<u8> {
        // It may have ended just now; SIGCHLD follows.
        let _ = signals::send(self.0.as_raw_nonzero().get(), signal);
        Continue(())
    }

    fn reaped(&mut self, pid: Pid, status: WaitStatus) -> ControlFlow<u8> {
        if pid == self.0 { Break(init::code(status)) } else { Continue(()) }
    }
}

fn usage(name: &str) -> String {
    format!(
        "Usage: {name} -acikmnprPuASC COMMAND [ARGS]
  -A unshare all the namespaces and mount /proc and /sys
  -a unshare all the namespaces
  -c unshare the cgroup namespace
  -i unshare the IPC namespace
  -m unshare the mount namespace
  -n unshare the network namespace (no configuration performed)
  -p unshare the PID namespace
  -u unshare the UTS namespace
  -P mount a fresh /proc
  -S mount a fresh /sys
  -C mount cgroup2 on /sys/fs/cgroup
  -k do not drop secondary groups
  -r run a reaper as PID 1 (forces -p)
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_come_before_the_command() {
        let read = |words: &str| parse(&words.split(' ').map(OsString::from).collect::<Vec<_>>());
        let Ok(Asked::Run(it)) = read("-mP -r ls -l") else { panic!("no session") };
        assert_eq!(it.namespaces, UnshareFlags::NEWNS | UnshareFlags::NEWPID);
        assert!(it.proc && it.reaps && !it.sys);
        assert_eq!(it.command, ["ls", "-l"]);
        assert!(matches!(read("-m --help"), Ok(Asked::Help)));
        assert_eq!(read("-mx ls").unwrap_err(), 'x');
    }
}
