//! Whether the host's processor can run guests. `/dev/kvm` being there says little: in a machine that
//! is itself virtual it may open, and every kernel hang. So a kernel is started, and has to come to its
//! end within a deadline.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, access};
use sys::clock;

use super::hardware::{Accelerator, Architecture, Board, Boot, Hardware, Line};
use super::qemu::{Ended, Qemu};

/// What was found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What to use.
    pub accelerator: Accelerator,
    /// Why it is not the host's processor, where it was found out just now: to be said once.
    pub remark: Option<String>,
}

/// How long the kernel may take that is started as a trial. On a loaded host it takes two seconds.
const TRIAL: Duration = Duration::from_secs(15);

/// What a kernel says that has found no root: it has come to the end of its own start.
const END: &[u8] = b"VFS: Unable to mount root fs";

/// Finds out how guests are run, and writes it down in `directory` until the host starts anew.
///
/// # Errors
/// Where the trial cannot be made or written down; that it fails is none.
pub fn find(directory: &Path, architecture: Architecture, kernel: &Path) -> Result<Found> {
    find_with(directory, architecture, || Ok(kernel.to_owned()))
}

/// As [`find`], with a kernel that is only brought where a trial is made.
///
/// # Errors
/// As there, and where there is no kernel.
pub fn find_with(
    directory: &Path,
    architecture: Architecture,
    kernel: impl FnOnce() -> Result<PathBuf>,
) -> Result<Found> {
    if Architecture::host() != Some(architecture) {
        return Ok(Found { accelerator: Accelerator::Tcg, remark: None });
    }
    let boot = boot_id()?;
    let file = directory.join("accelerator");
    let known = std::fs::read_to_string(&file).unwrap_or_default();
    let known: Vec<&str> = known.split_whitespace().collect();
    match known[..] {
        [of, "kvm"] if of == boot && usable().is_ok() => {
            return Ok(Found { accelerator: Accelerator::Kvm, remark: None });
        }
        [of, "tcg"] if of == boot => {
            return Ok(Found { accelerator: Accelerator::Tcg, remark: None });
        }
        _ => {}
    }
    let remark = why_not(directory, architecture, kernel)?;
    let accelerator = if remark.is_none() { Accelerator::Kvm } else { Accelerator::Tcg };
    let word = if remark.is_none() { "kvm" } else { "tcg" };
    replace(&file, &format!("{boot} {word}\n"))
        .with_context(|| format!("cannot write {}", file.display()))?;
    let remark =
        remark.map(|reason| format!("virtual machines are emulated, which is slow: {reason}"));
    Ok(Found { accelerator, remark })
}

fn why_not(
    directory: &Path,
    architecture: Architecture,
    kernel: impl FnOnce() -> Result<PathBuf>,
) -> Result<Option<String>> {
    match usable() {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let text =
                "this user may not use /dev/kvm: who is in the group kvm may, on most systems";
            return Ok(Some(text.into()));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Some("this host has no /dev/kvm".into()));
        }
        Err(error) => return Ok(Some(format!("/dev/kvm cannot be used: {error}"))),
    }
    let console = directory.join(format!("trial-{}", std::process::id()));
    let tried = try_kvm(architecture, &kernel()?, &console);
    let said = std::fs::read(&console).unwrap_or_default();
    let _ = std::fs::remove_file(&console);
    Ok(match tried {
        Ok(Some(_)) if said.windows(END.len()).any(|part| part == END) => None,
        Ok(Some(ended)) => Some(format!("a kernel in KVM ends too early ({ended:?})")),
        Ok(None) => {
            let seconds = TRIAL.as_secs();
            Some(format!(
                "a kernel in KVM does not start within {seconds} s, as where KVM is nested"
            ))
        }
        Err(error) => Some(format!("KVM cannot be used: {error:#}")),
    })
}

fn usable() -> io::Result<()> {
    Ok(access("/dev/kvm", Access::READ_OK | Access::WRITE_OK)?)
}

/// Starts a kernel that finds no root, gives up, and so switches the machine off.
fn try_kvm(architecture: Architecture, kernel: &Path, console: &Path) -> Result<Option<Ended>> {
    let board = match architecture {
        Architecture::X86_64 => Board::Microvm,
        Architecture::Aarch64 => Board::Pci,
    };
    let qemu = Qemu::start(
        Hardware {
            name: "postroj-trial".into(),
            architecture,
            accelerator: Accelerator::Kvm,
            board,
            cpus: 1,
            memory: 256 << 20,
            boot: Boot::Kernel {
                kernel: kernel.to_owned(),
                initramfs: None,
                command_line: format!("console={} panic=-1", architecture.console()),
            },
            disks: Vec::new(),
            console: Some(Line::File(console.to_owned())),
            ports: Vec::new(),
            nics: Vec::new(),
            shares: Vec::new(),
            monitor: Line::Descriptor(-1),
        },
        Vec::new(),
    )?;
    match has_ended(&qemu, Instant::now() + TRIAL)? {
        true => qemu.wait().map(Some),
        false => Ok(None),
    }
}

fn has_ended(qemu: &Qemu, until: Instant) -> Result<bool> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).context("a deadline too far away")?;
        let mut polled = [PollFd::from_borrowed_fd(qemu.ended(), PollFlags::IN)];
        match poll(&mut polled, Some(&left)) {
            Ok(count) => return Ok(count > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("waiting for QEMU"),
        }
    }
}

/// Words for the command line of a kernel, by which it starts soonest and most surely.
#[must_use]
pub fn command_line(accelerator: Accelerator, architecture: Architecture) -> String {
    // A kernel that gives up ends its machine. Its self-tests of ciphers were done where it was built.
    let mut words = "panic=-1 cryptomgr.notests".to_owned();
    if accelerator == Accelerator::Tcg {
        // What guards against a processor's speculation costs a fifth of the start where there is no
        // such processor, and guards nothing.
        words.push_str(" mitigations=off");
        if architecture == Architecture::X86_64 {
            words.push_str(" no_timer_check tsc=reliable");
            // The guest's counter is the host's (cpus_get_elapsed_ticks() of QEMU); to measure it against an
            // emulated timer hangs where the host is loaded.
            if let Some(khz) = clock::counter_khz() {
                words.push_str(&format!(" tsc_early_khz={khz}"));
            }
        }
    }
    words
}

fn boot_id() -> Result<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    Ok(text.context("cannot read the id of this boot")?.trim().to_owned())
}

/// By a rename, so that a reader sees the whole or nothing.
fn replace(file: &Path, content: &str) -> io::Result<()> {
    let new = file.with_extension(std::process::id().to_string());
    std::fs::write(&new, content)?;
    std::fs::rename(&new, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_processors_are_always_emulated() {
        let other = match Architecture::host() {
            Some(Architecture::X86_64) => Architecture::Aarch64,
            _ => Architecture::X86_64,
        };
        let found = find("/nonexistent".as_ref(), other, "/nonexistent".as_ref()).unwrap();
        assert_eq!(found, Found { accelerator: Accelerator::Tcg, remark: None });
    }

    #[test]
    fn what_was_found_out_is_not_found_out_again() {
        let Some(host) = Architecture::host() else { return };
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("accelerator");
        std::fs::write(&file, format!("{} tcg\n", boot_id().unwrap())).unwrap();
        let found = find(directory.path(), host, "/nonexistent".as_ref()).unwrap();
        assert_eq!(found, Found { accelerator: Accelerator::Tcg, remark: None });
        // Of another boot it says nothing: then a kernel that is not there cannot be tried with success.
        std::fs::write(&file, "other kvm\n").unwrap();
        let found = find(directory.path(), host, "/nonexistent".as_ref()).unwrap();
        assert_eq!(found.accelerator, Accelerator::Tcg);
        assert!(found.remark.unwrap().contains("emulated"));
        let written = std::fs::read_to_string(&file).unwrap();
        assert_eq!(written, format!("{} tcg\n", boot_id().unwrap()));
    }
}
