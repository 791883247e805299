//! A virtualisation server of autopkgtest: its tests, and sbuild's, on any image that boots.
//!
//! The other side speaks first in nothing: this one says `ok`, and then answers a line each
//! (autopkgtest's `doc/README.virtualisation-server.rst`).

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use engine::Waited;
use engine::record::Record;
use engine::state::RunDirectory;
use harness::places::Places;
use spec::boot::Condition;

use super::Face;

/// `autopkgtest … -- postroj IMAGE` looks for the first name.
pub(crate) struct AutopkgtestVirt;

const USAGE: &str = "usage: autopkgtest … -- postroj [OPTIONS OF BOOT] IMAGE, where autopkgtest-virt-postroj is a link to \
                     postroj (`postroj install-faces`), or: autopkgtest-virt [OPTIONS OF BOOT] IMAGE";

/// "testbed failure" (autopkgtest(1), EXIT STATUS).
const TESTBED_FAILED: u8 = 16;

/// What the testbed can do.
const CAPABILITIES: &str = "isolation-container reboot revert revert-full-system root-on-testbed";

/// Where the testbed's directory waits for a restart: `/tmp` may be in memory.
const SAVED: &str = "/var/cache/autopkgtest-tmpdir.tar";

impl Face for AutopkgtestVirt {
    fn names(&self) -> &'static [&'static str] {
        &["autopkgtest-virt-postroj"]
    }

    fn verbs(&self) -> &'static [&'static str] {
        &["autopkgtest-virt"]
    }

    fn run(&self, args: Vec<OsString>) -> u8 {
        let options: Vec<OsString> =
            args.into_iter().skip(1).filter(|a| a != "-d" && a != "--debug").collect();
        match options.last() {
            Some(last) if last != "--help" && last != "-h" => {}
            last => {
                eprintln!("{USAGE}");
                return if last.is_some() { 0 } else { TESTBED_FAILED };
            }
        }
        let mut server = Server { options, testbed: None, scratch: None, number: 0 };
        match server.serve() {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("autopkgtest-virt-postroj: {error:#}");
                TESTBED_FAILED
            }
        }
    }
}

struct Server {
    /// Of `boot`, and the image.
    options: Vec<OsString>,
    testbed: Option<Testbed>,
    /// Its directory, which has the same path after a revert.
    scratch: Option<String>,
    number: u32,
}

/// A machine that is gone when this process is.
struct Testbed {
    name: String,
    monitor: Child,
}

impl Drop for Testbed {
    fn drop(&mut self) {
        let _ = itself(&["rm", "-f", &self.name]).stdout(Stdio::null()).status();
        let _ = self.monitor.wait();
    }
}

/// For a test that restarts its testbed itself.
const PATIENCE: Duration = Duration::from_secs(300);

/// Where the verbs that are started here record their machines.
fn run_directory() -> Result<RunDirectory> {
    let place = match std::env::var_os("POSTROJ_RUNROOT") {
        Some(place) => place.into(),
        None => Places::of_user(|name| std::env::var(name).ok())?.run,
    };
    RunDirectory::open(&place)
}

/// This program.
fn itself(words: &[&str]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    // By the link\'s name it would be what its parent is called.
    command.arg0("postroj");
    command.args(words).stdin(Stdio::null());
    command
}

impl Server {
    fn serve(&mut self) -> Result<()> {
        println!("ok");
        for line in std::io::stdin().lock().lines() {
            let line = line?;
            let words: Vec<String> = line.split_whitespace().map(unquoted).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let answer = match words[..] {
                [] => continue,
                ["capabilities"] => CAPABILITIES.to_owned(),
                ["open"] if self.testbed.is_none() => self.open()?,
                ["revert"] if self.testbed.is_some() => {
                    self.testbed = None;
                    self.open()?
                }
                ["close"] => {
                    self.testbed = None;
                    self.scratch = None;
                    String::new()
                }
                ["reboot"] => self.reboot(false)?,
                ["reboot", "prepare-only"] => self.reboot(true)?,
                ["quit"] => return Ok(()),
                ["print-execute-command"] => self.execute_command()?,
                ["copydown", from, to] => self.copy_down(from, to)?,
                ["copyup", from, to] => self.copy_up(from, to)?,
                ["shell", directory, ..] => self.shell(directory)?,
                ["auxverb-debug-fail"] => String::new(),
                _ => bail!("cannot do {line:?} now, or ever"),
            };
            println!("{}", format!("ok {answer}").trim_end());
        }
        Ok(())
    }

    fn open(&mut self) -> Result<String> {
        self.number += 1;
        let name = format!("autopkgtest-{}-{}", std::process::id(), self.number);
        let mut command = itself(&["boot", "--detach", "--rm", "--name", &name]);
        // As a probe's: see `harness::probe`.
        command.args(&self.options).env("POSTROJ_TETHER", "1");
        command.env("POSTROJ_MONITOR", std::process::id().to_string()).stdout(Stdio::piped());
        let mut monitor = command.spawn().context("cannot start a monitor")?;
        let report = monitor.stdout.take().context("the monitor has no output")?;
        let mut line = String::new();
        BufReader::new(report).read_line(&mut line)?;
        if !line.ends_with('\n') {
            let _ = monitor.wait();
            bail!("the testbed does not boot");
        }
        self.testbed = Some(Testbed { name, monitor });
        let made = match &self.scratch {
            Some(path) => self.inside(&["mkdir", "--mode=1777", "--parents", path])?,
            None => self.inside(&["mktemp", "--directory", "--tmpdir", "autopkgtest.XXXXXX"])?,
        };
        let path = self.scratch.get_or_insert(made).clone();
        self.inside(&["chmod", "1777", &path])?;
        Ok(path)
    }

    fn name(&self) -> Result<&str> {
        Ok(&self.testbed.as_ref().context("the testbed is not open")?.name)
    }

    fn exec(&self, command: &[&str]) -> Result<Command> {
        Ok(itself(&[&["exec", "-i", self.name()?], command].concat()))
    }

    /// Output of a command that has to succeed.
    fn inside(&self, command: &[&str]) -> Result<String> {
        let output = self.exec(command)?.stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            bail!("{} failed in the testbed: {}", command[0], output.status);
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// Restarts the testbed with all that was written in it; or lets a test do so, which waits for its
    /// mark to be gone.
    fn reboot(&self, by_itself: bool) -> Result<String> {
        let scratch = self.scratch.as_deref().context("the testbed is not open")?;
        let save = "tar --warning=none -c --absolute-names -f \"$0\" \"$1\"";
        self.inside(&["sh", "-ec", save, SAVED, scratch])?;
        let name = self.name()?;
        if by_itself {
            let run = run_directory()?;
            let before = run.find(name)?.pid;
            self.inside(&["rm", "-f", "/run/autopkgtest-reboot-prepare-mark"])?;
            let up = |now: &Record| {
                let ready =
                    matches!(now.condition, Some(Condition::Running | Condition::Degraded(_)));
                now.pid != before && ready
            };
            match run.wait(name, Some(PATIENCE), up)? {
                Waited::Holds(_) => {}
                Waited::Late => {
                    bail!("the testbed was not restarted after {} s", PATIENCE.as_secs())
                }
                Waited::Ended(_) => bail!("the testbed ended instead of starting again"),
            }
        } else if !itself(&["restart", name]).stdout(Stdio::null()).status()?.success() {
            bail!("the testbed does not restart");
        }
        let restore = "tar --warning=none -x --absolute-names -f \"$0\" && rm \"$0\"";
        self.inside(&["sh", "-ec", restore, SAVED])
    }

    /// For whoever asks to run commands by itself.
    fn execute_command(&self) -> Result<String> {
        let program = std::env::current_exe().context("cannot find oneself")?;
        let program = program.to_str().context("one's own path is not UTF-8")?;
        let words = [program, "exec", "-i", self.name()?].map(quoted);
        Ok(words.join(","))
    }

    fn copy_down(&self, from: &str, to: &str) -> Result<String> {
        let Some(directory) = from.strip_suffix('/') else {
            let file = File::open(from).with_context(|| format!("cannot open {from}"))?;
            let runs = file.metadata()?.permissions().mode() & 0o111 != 0;
            let script = if runs { "cat > \"$0\"; chmod +x -- \"$0\"" } else { "cat > \"$0\"" };
            return copied(self.exec(&["sh", "-ec", script, to])?.stdin(file).status()?.success());
        };
        let mut tar = Command::new("tar");
        tar.args(["-C", directory, "--warning=none", "-c", "-f", "-", "."]).stdout(Stdio::piped());
        let mut tar = tar.spawn().context("cannot start tar")?;
        let archive = tar.stdout.take().context("tar has no output")?;
        let script = "mkdir -p -- \"$0\"; cd \"$0\"; tar --warning=none --preserve-permissions --no-same-owner -xf -";
        let unpacked = self.exec(&["sh", "-ec", script, to])?.stdin(archive).status()?;
        copied(tar.wait()?.success() && unpacked.success())
    }

    fn copy_up(&self, from: &str, to: &str) -> Result<String> {
        let Some(directory) = to.strip_suffix('/') else {
            let file = File::create(to).with_context(|| format!("cannot make {to}"))?;
            return copied(self.exec(&["cat", from])?.stdout(file).status()?.success());
        };
        std::fs::create_dir_all(Path::new(directory))?;
        let script = "cd \"$0\"; tar --warning=none -c -f - .";
        let mut packing =
            self.exec(&["sh", "-ec", script, from])?.stdout(Stdio::piped()).spawn()?;
        let archive = packing.stdout.take().context("there is no output")?;
        let mut tar = Command::new("tar");
        tar.args([
            "-C",
            directory,
            "--warning=none",
            "--preserve-permissions",
            "--no-same-owner",
            "-xf",
            "-",
        ]);
        let unpacked = tar.stdin(archive).status().context("cannot start tar")?;
        copied(packing.wait()?.success() && unpacked.success())
    }

    fn shell(&self, directory: &str) -> Result<String> {
        // Standard input and output are the protocol's.
        let terminal = File::options().read(true).write(true).open("/dev/tty")?;
        let mut shell = itself(&["exec", "-it", "-w", directory, self.name()?, "bash", "-i"]);
        shell.stdin(terminal.try_clone()?).stdout(terminal.try_clone()?).stderr(terminal);
        shell.status().context("cannot open a shell")?;
        Ok(String::new())
    }
}

/// The other side decides what a failed copy means only where it is told of it by a word.
fn copied(well: bool) -> Result<String> {
    if well { Ok(String::new()) } else { bail!("copying failed") }
}

/// Decodes `%41`.
fn unquoted(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let code = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], code) {
            (b'%', Some(code)) => {
                out.push(code);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn quoted(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
    text.bytes()
        .map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back() {
        for text in ["/a b/c,d", "100%", "ä"] {
            assert_eq!(unquoted(&quoted(text)), text);
        }
        assert_eq!(unquoted("%2Ftmp%zz%"), "/tmp%zz%");
    }
}
