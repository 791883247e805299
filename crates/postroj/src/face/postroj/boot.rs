//! `boot`: a whole operating system.

use anyhow::{Context, Result, ensure};
use distro::init::Wish;
use harness::network::Default;
use spec::request::{MountRequest, Request};

use super::options::Options;
use super::run::Rest;
use super::start::{self, Start};
use super::{Here, pool, whole_disk};

/// Boot an image: its own init as process 1, with all that starts
///
/// Options end at IMAGE; everything after it is given to the init. In the foreground the
/// system's console is on the terminal, and `^]` three times within a second powers off, as do
/// SIGINT and SIGTERM; a second one kills. In the background (-d) the command returns when
/// the system is up.
#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    disable_help_subcommand = true,
    override_usage = "postroj boot [OPTIONS] IMAGE [ARG]...",
    subcommand_value_name = "IMAGE",
    subcommand_help_heading = "Image"
)]
pub(super) struct Args {
    #[command(flatten)]
    system: System,
    #[command(flatten)]
    disk: whole_disk::ByFirmware,
    /// Do not wait until the system is up
    #[arg(long, requires = "detach")]
    no_wait: bool,
    /// Keep so many machines of the image ready, instead of one: as `pool create --size`
    #[arg(long, value_name = "NUMBER", value_parser = pool::size, conflicts_with = "no_wait")]
    pool: Option<usize>,
    /// Take a machine that is ready out of a pool; IMAGE is the pool's name, or its image
    ///
    /// What else can be said of a machine was said to `pool create`.
    #[arg(long, requires = "detach", conflicts_with_all = SETTLED)]
    from_pool: bool,
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    rest: Rest,
}

/// What cannot be said any more of a machine that is up.
const SETTLED: [&str; 30] = [
    "init",
    "fast",
    "mask",
    "credential",
    "pool",
    "env",
    "env_file",
    "volume",
    "mount",
    "tmpfs",
    "read_only",
    "cap_add",
    "cap_drop",
    "security_opt",
    "privileged",
    "memory",
    "cpus",
    "pids_limit",
    "ulimit",
    "userns",
    "timeout",
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

/// How a system is booted.
#[derive(Debug, clap::Args)]
pub(super) struct System {
    /// Init: auto, systemd, openrc, sysvinit, runit, s6, busybox, finit, or a path in the image
    #[arg(long, value_name = "INIT", default_value = "auto")]
    init: String,
    /// Leave out what only people at a console and long-lived machines need
    #[arg(long)]
    fast: bool,
    /// A unit that shall not start
    #[arg(long, value_name = "UNIT")]
    mask: Vec<String>,
    /// Pass a credential on (systemd.exec(5), "Credentials")
    #[arg(long, value_name = "NAME=VALUE", value_parser = credential)]
    credential: Vec<(String, String)>,
}

pub(super) fn run(args: &Args, here: &Here) -> Result<u8> {
    let (name, init_args) = args.rest.split().context("no image is given")?;
    if args.disk.is_wanted() {
        return whole_disk::boot(here, &args.disk, &args.options, (name, init_args));
    }
    if let Some(size) = args.pool {
        return pool::create(here, size, name, &args.options, || {
            boot(here, &args.system, &args.options, (name, init_args), &[], true)
        });
    }
    if args.from_pool {
        ensure!(init_args.is_empty(), "a machine out of a pool has its init's arguments already");
        ensure!(
            !args.options.network.is_chosen(),
            "a machine out of a pool has its network already: give --network to `pool create`"
        );
        return pool::boot(here, name, &args.options);
    }
    boot(here, &args.system, &args.options, (name, init_args), &[], !args.no_wait)
}

/// Boots an image, of which its name and the init's arguments are given; `more` is mounted besides what
/// the options say.
pub(super) fn boot(
    here: &Here,
    system: &System,
    options: &Options,
    (name, init_args): (&str, &[String]),
    more: &[MountRequest],
    waits: bool,
) -> Result<u8> {
    let wish = Wish {
        fast: system.fast,
        mask: system.mask.clone(),
        credentials: system.credential.clone(),
    };
    let interactive = !options.detach && sys::pty::is_terminal(rustix::stdio::stdin());
    start::start(here, options, name, system.init == "auto", |image, run| {
        let network = options.network.request(options.default_network(Default::System), run)?;
        let startup = harness::startup(&image.facts, &system.init, &wish)
            .with_context(|| format!("cannot boot {name}"))?;
        let mut request = Request {
            command: init_args.to_vec(),
            boot: Some(startup),
            network,
            ..options.request()?
        };
        request.mounts.extend_from_slice(more);
        Ok(Start { request, interactive, waits })
    })
}

/// A name that can be a file's (systemd, src/shared/creds-util.c, `credential_name_valid`).
fn credential(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value))
            if !name.is_empty() && !name.contains('/') && !name.starts_with('.') =>
        {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err("a credential is NAME=VALUE, and its name that of a file".into()),
    }
}
