//! A disk that starts by its own boot loader, in a virtual machine that belongs to this process: nothing
//! of ours is inside, so it is known by its console, and by what cloud-init tells of itself.

use std::fs::File;
use std::io::{Read, Seek as _, Write};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use engine::vm::hardware::{
    Accelerator, Architecture, Board, Boot, Disk, Format, Hardware, Line, Link, Nic, Port, Writes,
};
use engine::vm::qemu::{self, Ended, Qemu};
use engine::vm::{firmware, seed};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;
use sys::signals::{self, Signals};

/// A disk that is to be started.
pub struct WholeDisk<'a> {
    /// Its file.
    pub file: &'a Path,
    /// What is written stays.
    pub keep: bool,
    /// Started by a PC's old firmware instead of UEFI.
    pub bios: bool,
    /// Who executes its instructions; asked once all else is known, for finding out takes long.
    pub accelerator: &'a dyn Fn() -> Result<Accelerator>,
    /// Processors.
    pub cpus: u32,
    /// Bytes.
    pub memory: u64,
    /// It has a network card.
    pub network: bool,
    /// What cloud-init is told.
    pub settings: Option<Settings>,
    /// When it ends, apart from by itself.
    pub until: Until,
    /// It is killed then.
    pub deadline: Option<Instant>,
}

/// Files of a seed for cloud-init ("Datasources", NoCloud), by name.
pub type Settings = Vec<(String, Vec<u8>)>;

/// When a machine is to be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// It ends itself.
    End,
    /// cloud-init has done all that it was told.
    CloudInit,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// By itself, or because it was told.
    Ended(Ended),
    /// cloud-init has: this is the exit status of `cloud-init status --wait`, and what it says.
    CloudInit(u8, String),
    /// It was killed after its time.
    TimedOut,
}

/// Names of a seed's files that there may be.
const SETTINGS: [&str; 4] = ["meta-data", "user-data", "vendor-data", "network-config"];

/// Largest file of a seed: bytes.
const LARGEST: u64 = 16 << 20;

/// The port by which cloud-init's end is told.
const PORT: &str = "postroj.cloud-init";

/// Most that is taken of what it tells.
const LONGEST: usize = 64 << 10;

/// What a system may take to switch itself off when it is told; emulated, one takes a minute.
const GRACE: Duration = Duration::from_secs(150);

/// Runs with the rest of what vendors may let cloud-init do, in its last stage; waits beside it, since it
/// would otherwise wait for itself.
const REPORT: &str = "#!/bin/sh\n\
    port=/dev/virtio-ports/postroj.cloud-init\n\
    [ -c \"$port\" ] || exit 0\n\
    setsid sh -c 'cloud-init status --wait --long; echo \"exit $?\"' >\"$port\" 2>&1 </dev/null &\n";

/// Reads settings: a directory of them, or user data alone.
///
/// # Errors
/// Names what cannot be read, or is nothing of cloud-init's.
pub fn settings(directory: Option<&Path>, user_data: Option<&Path>) -> Result<Option<Settings>> {
    let mut settings = Settings::new();
    if let Some(directory) = directory {
        let what = || format!("cannot read the settings for cloud-init in {}", directory.display());
        for entry in std::fs::read_dir(directory).with_context(what)? {
            let entry = entry.with_context(what)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            ensure!(
                SETTINGS.contains(&&name[..]),
                "{name:?} in {} is nothing of cloud-init's: there may be {}",
                directory.display(),
                SETTINGS.join(", ")
            );
            settings.push((name, read(&entry.path())?));
        }
    }
    if let Some(file) = user_data {
        settings.retain(|(name, _)| name != "user-data");
        settings.push(("user-data".into(), read(file)?));
    }
    Ok((directory.is_some() || user_data.is_some()).then_some(settings))
}

fn read(file: &Path) -> Result<Vec<u8>> {
    let what = || format!("cannot read the settings for cloud-init in {}", file.display());
    let mut bytes = Vec::new();
    let opened = File::open(file).with_context(what)?;
    opened.take(LARGEST + 1).read_to_end(&mut bytes).with_context(what)?;
    ensure!(bytes.len() as u64 <= LARGEST, "{} is too large for cloud-init", file.display());
    Ok(bytes)
}

/// The format of a disk's image, by its first bytes.
///
/// # Errors
/// Where it cannot be read.
pub fn format(file: &Path) -> Result<Format> {
    let what = || format!("cannot read the disk {}", file.display());
    let mut start = Vec::new();
    let mut opened = File::open(file).with_context(what)?;
    Read::by_ref(&mut opened).take(512).read_to_end(&mut start).with_context(what)?;
    let at = |at: usize, magic: &[u8]| start.get(at..at + magic.len()) == Some(magic);
    if at(0, b"QFI\xfb") {
        return Ok(Format::Qcow2);
    }
    if at(0, b"KDMV") || at(0, b"COWD") || at(0, b"# Disk DescriptorFile") {
        return Ok(Format::Vmdk);
    }
    if at(0, b"vhdxfile") {
        return Ok(Format::Vhdx);
    }
    if at(0x40, &0xbeda_107f_u32.to_le_bytes()) {
        return Ok(Format::Vdi);
    }
    // Of a fixed size it is known by its end only.
    let mut end = [0; 8];
    let there =
        opened.seek(std::io::SeekFrom::End(-512)).is_ok() && opened.read_exact(&mut end).is_ok();
    if at(0, b"conectix") || (there && end == *b"conectix") {
        return Ok(Format::Vpc);
    }
    Ok(Format::Raw)
}

/// Starts a disk and waits for its end, or cloud-init's; what its console shows is written to `out`.
///
/// SIGINT, SIGTERM and SIGHUP switch it off as by its power button; a second one kills it. Nothing remains
/// but what is written to the disk itself.
///
/// # Errors
/// Where it cannot be started.
pub fn boot(disk: &WholeDisk<'_>, out: &mut dyn Write) -> Result<Outcome> {
    let machine =
        Machine::start(disk).with_context(|| format!("cannot boot {}", disk.file.display()))?;
    machine.attend(disk, out)
}

struct Machine {
    qemu: Qemu,
    console: Option<UnixStream>,
    port: Option<UnixStream>,
    told: Vec<u8>,
    signals: Signals,
}

impl Machine {
    fn start(disk: &WholeDisk<'_>) -> Result<Self> {
        let architecture =
            Architecture::host().context("there are no machines of this architecture")?;
        qemu::readable(disk.file, "the disk")?;
        let mut inherited = Vec::new();
        let boot = match disk.bios {
            true => Boot::Bios,
            false => uefi(architecture, &mut inherited)?,
        };
        let file = std::path::absolute(disk.file)?;
        let (format, serial) = (format(&file)?, "disk".to_owned());
        let writes = if disk.keep { Writes::Kept } else { Writes::Forgotten };
        let mut disks = vec![Disk { file, format, writes, serial }];
        let wants = disk.settings.is_some() || disk.until == Until::CloudInit;
        if wants {
            let image = seed_of(disk)?;
            let file = in_memory(c"seed", &image, &mut inherited)?;
            let (format, writes) = (Format::Raw, Writes::Refused);
            disks.push(Disk { file, format, writes, serial: "cidata".into() });
        }
        let (console, theirs, line) = qemu::line()?;
        inherited.push(theirs);
        let (port, theirs, port_line) = qemu::line()?;
        inherited.push(theirs);
        let link = Link::User { forwards: Vec::new(), isolated: false };
        // Locally administered (IEEE 802), and the machine is alone on its network.
        let nic = Nic { mac: [0x52, 0x54, 0, 0x12, 0x34, 0x56], link };
        let hardware = Hardware {
            name: "postroj-disk".into(),
            architecture,
            accelerator: (disk.accelerator)()?,
            board: Board::Pci,
            cpus: disk.cpus,
            memory: disk.memory,
            boot,
            disks,
            console: Some(line),
            ports: vec![Port { name: PORT.into(), line: port_line, console: false }],
            nics: disk.network.then_some(nic).into_iter().collect(),
            shares: Vec::new(),
            monitor: Line::Descriptor(-1),
        };
        let wanted = [signals::SIGINT, signals::SIGTERM, signals::SIGHUP];
        let signals = Signals::block(&wanted).context("cannot wait for signals")?;
        let qemu = Qemu::start(hardware, inherited)?;
        for stream in [&console, &port] {
            stream.set_nonblocking(true)?;
        }
        Ok(Self { qemu, console: Some(console), port: Some(port), told: Vec::new(), signals })
    }

    fn attend(mut self, disk: &WholeDisk<'_>, out: &mut dyn Write) -> Result<Outcome> {
        let mut deadline = disk.deadline;
        let mut outcome = None;
        let mut told_to_end = false;
        loop {
            let ended = self.wait(deadline)?;
            pump(&mut self.console, &mut |bytes| {
                out.write_all(bytes)
                    .and_then(|()| out.flush())
                    .context("writing the console's output")
            })?;
            let told = &mut self.told;
            pump(&mut self.port, &mut |bytes| {
                let room = LONGEST.saturating_sub(told.len());
                told.extend_from_slice(&bytes[..bytes.len().min(room)]);
                Ok(())
            })?;
            // What it says of itself is of no interest, but is not to fill its socket.
            while let Ok(Some(_)) = self.qemu.monitor.poll_event() {}
            if ended {
                let ended = self.qemu.wait()?;
                return Ok(outcome.unwrap_or(Outcome::Ended(ended)));
            }
            if outcome.is_none()
                && disk.until == Until::CloudInit
                && let Some(report) = report(&self.told)
            {
                if !disk.keep {
                    // What could be flushed is forgotten anyway. Dropped, it is killed.
                    return Ok(report);
                }
                outcome = Some(report);
                deadline = Some(self.power_off()?);
                told_to_end = true;
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                // Dropped, it is killed.
                return Ok(outcome.unwrap_or(Outcome::TimedOut));
            }
            while let Some(signal) = self.signals.next()? {
                if told_to_end {
                    return Ok(Outcome::Ended(Ended::Killed(signal.unsigned_abs() as u8)));
                }
                deadline = Some(self.power_off()?);
                told_to_end = true;
            }
        }
    }

    /// Presses its power button; says by when it shall have ended.
    fn power_off(&mut self) -> Result<Instant> {
        let until = Instant::now() + GRACE;
        self.qemu.tell("system_powerdown", Value::Null, until)?;
        Ok(until)
    }

    /// Until there is something to do; whether it has ended.
    fn wait(&self, deadline: Option<Instant>) -> Result<bool> {
        let mut polled = vec![
            PollFd::from_borrowed_fd(self.qemu.ended(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.qemu.monitor.as_fd(), PollFlags::IN),
        ];
        let streams = [&self.console, &self.port];
        polled.extend(streams.into_iter().flatten().map(|s| PollFd::new(s, PollFlags::IN)));
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.map(Timespec::try_from).transpose().context("a deadline too far away")?;
        match poll(&mut polled, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(!polled[0].revents().is_empty()),
            Err(error) => Err(error).context("waiting for the machine"),
        }
    }
}

/// Reads what is there; forgets the stream at its end.
fn pump(stream: &mut Option<UnixStream>, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut buffer = [0; 16 << 10];
    while let Some(open) = stream {
        match open.read(&mut buffer) {
            Ok(0) => *stream = None,
            Ok(count) => take(&buffer[..count])?,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            // Where QEMU ends with bytes of ours unread.
            Err(_) => *stream = None,
        }
    }
    Ok(())
}

/// What was told, once it is whole.
fn report(told: &[u8]) -> Option<Outcome> {
    let text = String::from_utf8_lossy(told);
    let (before, after) = text.rsplit_once("exit ")?;
    let (status, _) = after.split_once('\n')?;
    // It is for a terminal.
    let plain: String = before.chars().filter(|c| *c == '\n' || !c.is_control()).collect();
    Some(Outcome::CloudInit(status.trim().parse().ok()?, plain.trim().to_owned()))
}

fn uefi(architecture: Architecture, inherited: &mut Vec<OwnedFd>) -> Result<Boot> {
    let found = firmware::find(architecture)?;
    let what = || format!("cannot read the firmware {}", found.variables.display());
    let variables = std::fs::read(&found.variables).with_context(what)?;
    let variables = in_memory(c"variables", &variables, inherited)?;
    Ok(Boot::Firmware { code: found.code, variables })
}

/// A file that is gone with the last process that has it open.
fn in_memory(
    name: &std::ffi::CStr,
    content: &[u8],
    inherited: &mut Vec<OwnedFd>,
) -> Result<PathBuf> {
    let fd = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)
        .context("cannot make a file in memory")?;
    let mut file = File::from(fd);
    file.write_all(content).context("cannot make a file in memory")?;
    let path = PathBuf::from(format!("/dev/fd/{}", file.as_raw_fd()));
    inherited.push(file.into());
    Ok(path)
}

fn seed_of(disk: &WholeDisk<'_>) -> Result<Vec<u8>> {
    let mut files = disk.settings.clone().unwrap_or_default();
    let has = |files: &Settings, name: &str| files.iter().any(|(known, _)| known == name);
    for (name, content) in [
        // By another one, cloud-init would take the disk for a machine that it has seen already.
        ("meta-data", format!("instance-id: postroj-{:016x}\n", random()?)),
        ("user-data", String::new()),
    ] {
        if !has(&files, name) {
            files.push((name.into(), content.into_bytes()));
        }
    }
    if disk.until == Until::CloudInit {
        if has(&files, "vendor-data") {
            bail!(
                "the settings have vendor-data, which it takes to see the end of cloud-init: leave that out"
            )
        }
        files.push(("vendor-data".into(), REPORT.as_bytes().to_vec()));
    }
    let files: Vec<(&str, &[u8])> =
        files.iter().map(|(name, content)| (&name[..], &content[..])).collect();
    seed::image(&files)
}

fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_believed_once_it_is_whole() {
        assert_eq!(report(b"status: running\n"), None);
        assert_eq!(report(b"status: error\nexit 1"), None);
        let told = b"..\r\nstatus: error\n\x1b[1mwhy\nexit 1\n";
        let text = "..\nstatus: error\n[1mwhy".to_owned();
        assert_eq!(report(told), Some(Outcome::CloudInit(1, text)));
        assert_eq!(report(b"exit 300\n"), None);
    }

    #[test]
    fn formats_are_told_by_their_content() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        let of = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            format(&path).unwrap()
        };
        assert_eq!(of(b""), Format::Raw);
        assert_eq!(of(&[0; 2048]), Format::Raw);
        assert_eq!(of(b"QFI\xfb\0\0\0\x03"), Format::Qcow2);
        assert_eq!(of(b"KDMV"), Format::Vmdk);
        assert_eq!(of(b"vhdxfile"), Format::Vhdx);
        let fixed = [&[0; 512][..], b"conectix", &[0; 504]].concat();
        assert_eq!(of(&fixed), Format::Vpc);
    }

    #[test]
    fn settings_are_cloud_inits_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        std::fs::write(path.join("user-data"), "#cloud-config\n").unwrap();
        let one = path.join("user-data");
        let alone = settings(None, Some(&one)).unwrap().unwrap();
        assert_eq!(settings(Some(path), None).unwrap().unwrap(), alone);
        assert_eq!(settings(None, None).unwrap(), None);
        std::fs::write(path.join("passwords"), "").unwrap();
        let error = settings(Some(path), None).unwrap_err().to_string();
        assert!(error.contains("\"passwords\"") && error.contains("meta-data"), "{error}");
    }
}
