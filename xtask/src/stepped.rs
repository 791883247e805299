//! Which code a program runs, by ptrace(2): every instruction of it and of the processes that it
//! makes, until these execute something else.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use nix::sys::ptrace::{self, Event, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::order::surroundings;

/// Code is noted in pieces of this many bytes.
const PIECE: u64 = 16;

/// Where code was run, from where the program lies in memory, in the order of the first time.
///
/// # Errors
/// Where the program cannot be followed, or fails.
pub(crate) fn follow(program: &Path, line: &str, work: &Path) -> Result<Vec<u64>> {
    let seen = work.join("seen");
    // A process of its own: the kernel lets go of all that is still followed when that ends.
    let mut tracer = Command::new(std::env::current_exe()?);
    tracer.args(["follow".as_ref(), seen.as_os_str(), program.as_os_str()]);
    tracer.args(line.split(' ')).stdout(Stdio::null());
    let status = surroundings(&mut tracer, work).status()?;
    if !status.success() {
        bail!("`postroj {line}`: {status}");
    }
    let text = fs::read_to_string(&seen).with_context(|| format!("reading {}", seen.display()))?;
    text.lines().map(|line| Ok(line.parse()?)).collect()
}

/// The process that follows. Its exit code is the program's.
///
/// # Errors
/// ptrace(2)'s, and those of starting it.
pub(crate) fn tracer(seen: &str, program: &str, arguments: &[&str]) -> Result<ExitCode> {
    let mut tracer = Tracer::start(program, arguments)?;
    let code = tracer.run()?;
    let lines: Vec<String> = tracer.order.iter().map(u64::to_string).collect();
    fs::write(seen, lines.join("\n")).with_context(|| format!("writing {seen}"))?;
    Ok(ExitCode::from(code))
}

struct Tracer {
    main: Pid,
    base: u64,
    seen: Vec<bool>,
    order: Vec<u64>,
}

impl Tracer {
    /// Leaves it stopped at its first instruction.
    fn start(program: &str, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", "kill -STOP $$; exec \"$0\" \"$@\"", program]).args(arguments);
        let main = Pid::from_raw(command.spawn().context("starting sh")?.id().try_into()?);
        waitpid(main, Some(WaitPidFlag::WUNTRACED))?;
        ptrace::attach(main).context("following it")?;
        waitpid(main, None)?;
        let options = Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACEEXEC;
        ptrace::setoptions(main, options)?;
        kill(main, Signal::SIGCONT)?;
        loop {
            ptrace::cont(main, None)?;
            match waitpid(main, None)? {
                WaitStatus::PtraceEvent(..) => break,
                WaitStatus::Stopped(..) => {}
                other => bail!("{program} was not executed: {other:?}"),
            }
        }
        let pieces =
            fs::metadata(program).with_context(|| format!("looking at {program}"))?.len() / PIECE;
        let base = base(main, program)?;
        Ok(Self { main, base, seen: vec![false; usize::try_from(pieces)? + 1], order: vec![] })
    }

    fn run(&mut self) -> Result<u8> {
        ptrace::step(self.main, None)?;
        loop {
            match waitpid(None, Some(WaitPidFlag::__WALL))? {
                WaitStatus::Exited(pid, code) if pid == self.main => return Ok(code.try_into()?),
                WaitStatus::Signaled(pid, signal, _) if pid == self.main => bail!("{signal}"),
                WaitStatus::Stopped(pid, signal) => {
                    self.note(pid);
                    let ours = matches!(signal, Signal::SIGTRAP | Signal::SIGSTOP);
                    go_on(ptrace::step(pid, (!ours).then_some(signal)))?;
                }
                WaitStatus::PtraceEvent(pid, _, event)
                    if event == Event::PTRACE_EVENT_EXEC as i32 =>
                {
                    go_on(ptrace::detach(pid, None))?;
                }
                WaitStatus::PtraceEvent(pid, ..) => go_on(ptrace::step(pid, None))?,
                _ => {}
            }
        }
    }

    fn note(&mut self, pid: Pid) {
        let Ok(registers) = ptrace::getregs(pid) else { return };
        #[cfg(target_arch = "x86_64")]
        let counter = registers.rip;
        #[cfg(not(target_arch = "x86_64"))]
        let counter = registers.pc;
        let offset = counter.wrapping_sub(self.base);
        let seen = usize::try_from(offset / PIECE).ok().and_then(|at| self.seen.get_mut(at));
        if let Some(seen) = seen.filter(|seen| !**seen) {
            *seen = true;
            self.order.push(offset);
        }
    }
}

/// It may have been killed just now.
fn go_on(done: nix::Result<()>) -> Result<()> {
    match done {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(error) => Err(error).context("going on"),
    }
}

fn base(pid: Pid, program: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/maps");
    let maps = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let line = maps.lines().find(|line| line.ends_with(program)).context("it is not mapped")?;
    let (start, _) = line.split_once('-').context("a map without addresses")?;
    Ok(u64::from_str_radix(start, 16)?)
}
