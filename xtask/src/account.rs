//! The ordinary user that root runs the tests as, and its place to do so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::{find, run};

/// The user's name.
pub(crate) const NAME: &str = "postroj-test";

/// Ids in a subordinate range, as shadow's default (SUB_UID_COUNT of login.defs(5)).
const RANGE: u64 = 65_536;

/// Its account in passwd(5).
pub(crate) struct Account {
    /// A directory of its own that holds nothing but the current run's files.
    pub(crate) work: PathBuf,
}

impl Account {
    /// Makes the user, its subordinate ids and its empty working directory where they are missing.
    ///
    /// # Errors
    /// Where useradd(8) or usermod(8) fails or is missing, or its home directory cannot be used.
    pub(crate) fn ensure() -> Result<Self> {
        if home()?.is_none() {
            run(Command::new("useradd").args(["--create-home", "--shell", "/bin/sh", NAME]))?;
        }
        let home = home()?.with_context(|| format!("useradd made no user {NAME}"))?;
        for (file, option) in [("/etc/subuid", "--add-subuids"), ("/etc/subgid", "--add-subgids")] {
            let text = read_or_empty(file)?;
            if !has_range(&text) {
                let start = free_start(&text);
                let range = format!("{start}-{}", start + RANGE - 1);
                run(Command::new("usermod").args([option, &range, NAME]))?;
            }
        }
        let account = Self { work: home.join("work") };
        account.clear()?;
        for dir in ["bin", "home", "run"] {
            let dir = account.work.join(dir);
            fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        }
        Ok(account)
    }

    /// Removes the working directory.
    ///
    /// # Errors
    /// Names what cannot be removed, such as a mount that was left in it.
    pub(crate) fn clear(&self) -> Result<()> {
        match fs::remove_dir_all(&self.work) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", self.work.display()))
            }
            _ => Ok(()),
        }
    }

    /// Gives all that is in the working directory to the user, and to nobody else.
    ///
    /// # Errors
    /// As chown(1) and chmod(1).
    pub(crate) fn own(&self) -> Result<()> {
        let work = self.work.as_os_str();
        run(Command::new("chown").args(["-R", "--no-dereference", &format!("{NAME}:")]).arg(work))?;
        run(Command::new("chmod").args(["-R", "u+rwX,go="]).arg(work))
    }

    /// A command that the user runs in an environment like that after a login.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args([&format!("--reuid={NAME}"), &format!("--regid={NAME}"), "--init-groups", "--"])
            .arg(program)
            .stdin(std::process::Stdio::null());
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            let ours = ["CARGO", "RUSTUP", "RUSTC", "XDG_", "TMPDIR"];
            if ours.iter().any(|prefix| text.starts_with(prefix)) {
                command.env_remove(&name);
            }
        }
        let bin = self.work.join("bin");
        command
            .env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", bin.display()))
            .env("HOME", self.work.join("home"))
            .env("XDG_RUNTIME_DIR", self.work.join("run"))
            .env("USER", NAME)
            .env("LOGNAME", NAME)
            .env("SHELL", "/bin/sh");
        command
    }

    /// Makes a program of root's, such as one in its home directory, the user's.
    ///
    /// # Errors
    /// Where it is not in PATH or cannot be copied.
    pub(crate) fn lend(&self, program: &str) -> Result<PathBuf> {
        let from = find(program).with_context(|| format!("{program} is not in PATH"))?;
        let to = self.work.join("bin").join(program);
        fs::copy(&from, &to).with_context(|| format!("copying {}", from.display()))?;
        Ok(to)
    }
}

/// The user's home directory; `None` where there is no such user.
fn home() -> Result<Option<PathBuf>> {
    let text = read_or_empty("/etc/passwd")?;
    let Some(line) = text.lines().find(|line| line.starts_with(&format!("{NAME}:"))) else {
        return Ok(None);
    };
    match line.split(':').nth(5) {
        Some(home) if home.starts_with('/') && home.len() > 1 => Ok(Some(home.into())),
        _ => bail!("the user {NAME} has no home directory"),
    }
}

fn read_or_empty(path: &str) -> Result<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        read => read.with_context(|| format!("reading {path}")),
    }
}

/// Whether subuid(5) or subgid(5) has a range for the user.
fn has_range(text: &str) -> bool {
    text.lines().any(|line| line.starts_with(&format!("{NAME}:")))
}

/// The first id that is in no range, at least shadow's default SUB_UID_MIN.
fn free_start(text: &str) -> u64 {
    let ends = text.lines().filter_map(|line| {
        let mut numbers = line.split(':').skip(1).map(|field| field.trim().parse::<u64>());
        Some(numbers.next()?.ok()? + numbers.next()?.ok()?)
    });
    ends.max().unwrap_or(0).max(100_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_that_nobody_has() {
        assert_eq!(free_start(""), 100_000);
        assert_eq!(free_start("ann:100000:65536\nbob:165536:65536\n"), 231_072);
        assert_eq!(free_start("bob:300000:1000\nann:100000:65536\nrubbish\n:x:\n"), 301_000);
        assert!(has_range("ann:1:2\npostroj-test:100000:65536\n"));
        assert!(!has_range("postroj-tester:100000:65536\n"));
    }
}
