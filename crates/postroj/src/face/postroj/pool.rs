//! `pool`: booted machines that wait for somebody to take them.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;
use engine::pool::{self, Wanted};
use engine::record::Record;
use engine::state::{self, RunDirectory};
use harness::pool::{Hold, Membership};
use spec::request::MountRequest;

use super::boot::System;
use super::options::Options;
use super::run::Rest;
use super::start::{self, MONITOR, write_cidfile};
use super::table::Listing;
use super::{Here, quantity};

/// Machines that are booted already, and wait for `boot --from-pool`
///
/// A pool keeps so many machines of an image booted and stopped, and boots the next one when one is
/// taken. Each has a host name, a machine id and an address of its own from the start. One small process
/// holds a pool, and it goes with that.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Boot machines of an image, and keep them ready
    ///
    /// Options end at IMAGE; they are those of `boot`, and hold for each machine. Returns when
    /// the pool is full, and prints its name, which is the image's where no other is given.
    #[command(
        disable_help_flag = true,
        disable_help_subcommand = true,
        override_usage = "postroj pool create [OPTIONS] IMAGE [ARG]...",
        subcommand_value_name = "IMAGE",
        subcommand_help_heading = "Image"
    )]
    Create(Box<Create>),
    /// List pools
    #[command(visible_alias = "list")]
    Ls(Listing),
    /// Remove pools, and the machines that wait in them
    #[command(visible_alias = "remove")]
    Rm {
        /// Names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Create {
    /// How many machines are kept ready
    #[arg(long, value_name = "NUMBER", value_parser = size, default_value = "1")]
    size: usize,
    /// With the store's downloads, so that `probe --pool` can install packages
    #[arg(long)]
    packages: bool,
    #[command(flatten)]
    system: System,
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    rest: Rest,
}

pub(super) fn size(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|size| (1..=1000).contains(size)).ok_or("1 to 1000".to_owned())
}

pub(super) fn run(verb: &Verb, here: &Here) -> Result<u8> {
    match verb {
        Verb::Create(args) => {
            let (name, words) = args.rest.split().context("no image is given")?;
            let downloads = args.packages.then(|| downloads(here)).transpose()?;
            create(here, args.size, name, &args.options, || {
                super::boot::boot(
                    here,
                    &args.system,
                    &args.options,
                    (name, words),
                    downloads.as_slice(),
                    true,
                )
            })
        }
        Verb::Ls(listing) => list(here, listing),
        Verb::Rm { names } => super::stop::each(names, |name| remove(here, name)),
    }
}

/// Where a probe looks for packages.
fn downloads(here: &Here) -> Result<MountRequest> {
    let cache = here.store()?.cache().path().to_owned();
    std::fs::create_dir_all(&cache).context("cannot make the store's cache")?;
    Ok(MountRequest::Bind {
        source: cache.to_str().context("the store's path is not UTF-8")?.to_owned(),
        target: harness::probe::CACHE.to_owned(),
        read_only: true,
        recursive: false,
        create_source: false,
    })
}

/// Tells the program that it holds a pool, and by whom it was started.
const HOLDER: &str = "POSTROJ_POOL_HOLDER";

/// Tells a monitor what its machine is booted for.
const MEMBER: &str = "POSTROJ_POOL_MEMBER";

/// What this process is booting a machine for, where that is for a pool.
pub(super) fn membership() -> Result<Option<Membership>> {
    let text = std::env::var(MEMBER).ok();
    text.map(|text| serde_json::from_str(&text).context("no pool is told so")).transpose()
}

/// Makes a pool. This runs in three processes: whoever asks for it, the one that holds it, and the monitor of
/// each machine, which `boots` it. All have the same command line.
pub(super) fn create(
    here: &Here,
    size: usize,
    image: &str,
    options: &Options,
    boots: impl FnOnce() -> Result<u8>,
) -> Result<u8> {
    if std::env::var_os(MEMBER).is_some() {
        return boots();
    }
    if let Some(option) = options.unique() {
        bail!("no two machines may have the same {option}: leave it out for a pool");
    }
    if std::env::var_os(HOLDER).is_none() {
        return start::in_background(HOLDER, "the pool was removed before it was full");
    }
    let name = options.name.clone().unwrap_or_else(|| name_of(image));
    let run = RunDirectory::open(&here.places()?.run)?;
    start::leave(HOLDER)?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let mut starter = File::from(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?);
    rustix::stdio::dup2_stdout(&null)?;
    let boot = |membership: &Membership| {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("postroj").args(std::env::args_os().skip(1));
        command.env_remove(HOLDER).env(MEMBER, serde_json::to_string(membership)?);
        command.env(MONITOR, std::process::id().to_string());
        Ok(command)
    };
    harness::pool::hold(Hold {
        run: &run,
        name: &name,
        image,
        size,
        boot: &boot,
        filled: &mut || {
            rustix::process::set_parent_process_death_signal(None)?;
            // It may be gone at this very moment; the pool stays.
            let _ = starter.write_all(format!("{name}\n").as_bytes());
            starter = null.try_clone()?;
            Ok(rustix::stdio::dup2_stderr(&null)?)
        },
    })?;
    Ok(0)
}

/// A name of a machine's kind.
fn name_of(image: &str) -> String {
    let good = |c: char| if c.is_ascii_alphanumeric() || "_.-".contains(c) { c } else { '-' };
    let name: String = image.chars().map(good).take(100).collect();
    let name = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    if name.is_empty() { "pool".to_owned() } else { name.to_owned() }
}

/// `boot --from-pool`.
pub(super) fn boot(here: &Here, text: &str, options: &Options) -> Result<u8> {
    let run = here.run_directory()?;
    // Whose holder was killed is none.
    run.reap();
    let found = pool::find(&run, text)?;
    let hostname = options.hostname.as_deref().map(plan::checked_hostname).transpose()?;
    let keep = !options.rm;
    let wanted = Wanted { name: options.name.clone(), hostname, keep, tether: None };
    let machine = pool::take(&run, &found, &wanted, || {
        eprintln!("postroj: note: the pool {} is empty: this takes as long as a boot", found.name);
    })?;
    let hostname = wanted.hostname.as_deref();
    net::networks::rename(run.path(), machine.id(), &machine.name, hostname)?;
    if let Some(path) = &options.cidfile {
        write_cidfile(path, machine.id())?;
    }
    println!("{}", machine.id());
    Ok(0)
}

fn list(here: &Here, listing: &Listing) -> Result<u8> {
    let run = here.run_directory()?;
    let pools = pool::pools(&run)?;
    pools.reap();
    run.reap();
    let mut all = pools.machines();
    all.retain(|pool| pool.pool.is_some());
    let shown: Vec<Shown<'_>> = all.iter().map(|pool| Shown::new(&run, pool)).collect();
    let heading = ["NAME", "IMAGE", "READY", "CREATED", "STATUS"];
    listing.print(&shown, |shown| &shown.pool.name, Shown::json, heading, Shown::row)?;
    Ok(0)
}

struct Shown<'a> {
    pool: &'a Record,
    ready: usize,
    booting: usize,
}

impl<'a> Shown<'a> {
    fn new(run: &RunDirectory, pool: &'a Record) -> Self {
        let members = pool::members(run, pool);
        let is_ready = |m: &&Record| m.member.as_ref().is_some_and(|member| member.ready);
        let ready = members.iter().filter(is_ready).count();
        Self { pool, ready, booting: members.len() - ready }
    }

    fn size(&self) -> usize {
        self.pool.pool.as_ref().map_or(0, |pool| pool.size)
    }

    fn trouble(&self) -> Option<&str> {
        self.pool.pool.as_ref().and_then(|pool| pool.trouble.as_deref())
    }

    fn image(&self) -> &str {
        self.pool.about.as_ref().map_or("", |about| &about.image)
    }

    fn created(&self) -> u64 {
        self.pool.about.as_ref().map_or(0, |about| about.created)
    }

    fn row(&self) -> Vec<String> {
        let status = match (self.trouble(), self.ready >= self.size()) {
            (_, true) => "Full".to_owned(),
            (Some(trouble), _) => format!("Cannot boot: {trouble}"),
            (None, false) => "Filling".to_owned(),
        };
        vec![
            self.pool.name.clone(),
            self.image().to_owned(),
            format!("{}/{}", self.ready, self.size()),
            quantity::show_age(state::now().saturating_sub(self.created())),
            status,
        ]
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "Name": self.pool.name,
            "Image": self.image(),
            "Size": self.size(),
            "Ready": self.ready,
            "Booting": self.booting,
            "Created": self.created(),
            "Pid": self.pool.monitor.map(|(pid, _)| pid),
            "Trouble": self.trouble(),
        })
    }
}

fn remove(here: &Here, name: &str) -> Result<()> {
    let run = here.run_directory()?;
    let pools = pool::pools(&run)?;
    pools.reap();
    run.reap();
    let found = pools.machines().into_iter().find(|pool| pool.name == name);
    let found =
        found.with_context(|| format!("there is no pool {name} (`postroj pool ls` lists them)"))?;
    pools.signal_monitor(&found, sys::signals::SIGTERM)?;
    pools.wait_for_monitor(&found, PATIENCE);
    ensure!(
        !pools.machines().iter().any(|pool| pool.monitor == found.monitor),
        "the pool {name} does not end"
    );
    println!("{name}");
    Ok(())
}

/// How long a pool's machines may take to end.
const PATIENCE: Duration = Duration::from_secs(30);
