//! `boot --firmware`: a disk that starts by its own boot loader.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use engine::state::RunDirectory;
use engine::vm::accelerator;
use engine::vm::hardware::Architecture;
use engine::vm::qemu::Ended;
use harness::kernel::{self, Wish};
use harness::whole_disk::{self, Outcome, Until, WholeDisk};
use spec::exit;
use store::Store;

use super::Here;
use super::options;
use super::progress::Progress;

#[derive(Debug, clap::Args)]
pub(super) struct ByFirmware {
    /// Boot a disk whole, by this firmware and its own boot loader, as a virtual machine
    ///
    /// IMAGE is the disk's file, raw, qcow2, VMDK, VDI, VHD or VHDX, perhaps after `disk:`. Its first serial
    /// console is on the standard output.
    #[arg(long, value_enum, value_name = "KIND", conflicts_with_all = UNFIT)]
    firmware: Option<Firmware>,
    /// Keep what is written to the disk; else it is gone with the machine
    #[arg(long, requires = "firmware")]
    keep_writes: bool,
    /// Settings for cloud-init: a directory with user-data, meta-data, vendor-data or network-config
    #[arg(long, value_name = "DIR", requires = "firmware")]
    cloud_init: Option<PathBuf>,
    /// User data for cloud-init
    #[arg(long, value_name = "FILE", requires = "firmware")]
    user_data: Option<PathBuf>,
    /// Until when the machine runs: its own end, or cloud-init's, whose status is the exit code then
    #[arg(long, value_enum, value_name = "WHEN", requires = "firmware", default_value = "end")]
    until: When,
}

/// What nothing of ours inside could see to.
const UNFIT: [&str; 36] = [
    "init",
    "fast",
    "mask",
    "credential",
    "pool",
    "from_pool",
    "no_wait",
    "detach",
    "rm",
    "env",
    "env_file",
    "volume",
    "mount",
    "tmpfs",
    "hostname",
    "name",
    "cidfile",
    "install",
    "read_only",
    "cap_add",
    "cap_drop",
    "security_opt",
    "privileged",
    "nested",
    "pids_limit",
    "ulimit",
    "userns",
    "platform",
    "pull",
    "publish",
    "publish_all",
    "dns",
    "add_host",
    "ip",
    "mac_address",
    "network_alias",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Firmware {
    /// What a disk with an EFI system partition wants
    Uefi,
    /// A PC's old one, which starts a disk's boot sector
    Bios,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum When {
    End,
    CloudInit,
}

/// What a machine has where nothing is said.
const MEMORY: u64 = 1 << 30;
const MOST_CPUS: usize = 2;

impl ByFirmware {
    /// Whether a disk is to be booted whole.
    pub(super) fn is_wanted(&self) -> bool {
        self.firmware.is_some()
    }
}

/// Boots a disk in the foreground; gives the exit code.
pub(super) fn boot(
    here: &Here,
    wanted: &ByFirmware,
    options: &options::Options,
    (name, arguments): (&str, &[String]),
) -> Result<u8> {
    ensure!(
        arguments.is_empty(),
        "a disk that boots by its own loader takes no arguments for its init"
    );
    let file = PathBuf::from(name.strip_prefix("disk:").unwrap_or(name));
    let network = match options.network.chosen() {
        None => true,
        Some(spec::network::Mode::None) => false,
        Some(spec::network::Mode::User(..)) => true,
        Some(_) => bail!("a disk that boots by its own loader has the network user, or none"),
    };
    let deadline = options
        .timeout()
        .and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds)));
    let settings = whole_disk::settings(wanted.cloud_init.as_deref(), wanted.user_data.as_deref())?;
    // Before anything is found out, which may take long.
    std::fs::metadata(&file).with_context(|| format!("cannot boot {}", file.display()))?;
    let cpus = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_CPUS);
    let outcome = whole_disk::boot(
        &WholeDisk {
            file: &file,
            keep: wanted.keep_writes,
            bios: wanted.firmware == Some(Firmware::Bios),
            accelerator: &|| accelerator(here),
            cpus: options.whole_cpus().unwrap_or(cpus as u32),
            memory: options.memory().unwrap_or(MEMORY),
            network,
            settings,
            until: match wanted.until {
                When::End => Until::End,
                When::CloudInit => Until::CloudInit,
            },
            deadline,
        },
        &mut std::io::stdout(),
    )?;
    tell(outcome, wanted.until)
}

fn accelerator(here: &Here) -> Result<engine::vm::hardware::Accelerator> {
    let places = here.places()?;
    let run = RunDirectory::open(&places.run)?;
    let architecture =
        Architecture::host().context("there are no machines of this architecture")?;
    let found = accelerator::find_with(run.path(), architecture, || {
        let store = Store::open(&places.store)?;
        let (options, tell) = (Default::default(), Progress::new());
        let wish = Wish { file: None, image: None, store: &store, options: &options, tell: &tell };
        Ok(kernel::find(&wish)?.file)
    })?;
    if let Some(remark) = found.remark {
        eprintln!("postroj: note: {remark}");
    }
    Ok(found.accelerator)
}

fn tell(outcome: Outcome, until: When) -> Result<u8> {
    match outcome {
        Outcome::CloudInit(status, said) => {
            if status != 0 {
                eprintln!("postroj: cloud-init failed: {}", said.replace('\n', "; "));
            }
            Ok(status)
        }
        Outcome::Ended(_) if until == When::CloudInit => {
            eprintln!("postroj: the machine ended before cloud-init did");
            Ok(exit::FAILED)
        }
        Outcome::Ended(Ended::PoweredOff | Ended::Reset | Ended::Told) => Ok(0),
        Outcome::Ended(Ended::Panicked) => {
            eprintln!("postroj: the machine's kernel gave up");
            Ok(exit::FAILED)
        }
        Outcome::Ended(Ended::Killed(signal)) => Ok(128_u8.saturating_add(signal)),
        Outcome::Ended(Ended::Failed(why)) => bail!("the machine ended: {why}"),
        Outcome::TimedOut => {
            eprintln!("postroj: the machine was killed after its time");
            Ok(128 + 9)
        }
    }
}
