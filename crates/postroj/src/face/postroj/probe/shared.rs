//! Options that `probe`, `test` and commands in many images have in common.

use std::path::PathBuf;

use anyhow::{Error, Result, bail};
use harness::probe::repository::Repository;
use harness::probe::{self, Wish};
use spec::platform::Platform;

use super::variant::{besides, instead, or};
use crate::face::postroj::options::isolation;

/// What the machines are.
#[derive(Debug, Clone, Default, clap::Args)]
pub(in crate::face::postroj) struct Machines {
    /// A processor, such as linux/arm64; every image on each of these [default: the host's]
    #[arg(long, value_name = "OS/ARCH")]
    pub(in crate::face::postroj) platform: Vec<String>,
    /// The machines' network, as `boot` and `run` take it; packages need none [default: none, or for tests that need the internet `boot`'s]
    #[arg(long, value_name = "MODE")]
    pub(in crate::face::postroj) network: Option<String>,
    /// What a machine is: container, or vm with a kernel of its own [default: container]
    #[arg(long, value_name = "ENGINE", value_parser = isolation)]
    pub(in crate::face::postroj) isolation: Option<String>,
}

impl Machines {
    pub(super) fn with(&self, own: &Self) -> Self {
        Self {
            platform: instead(&self.platform, &own.platform),
            network: or(&own.network, &self.network),
            isolation: or(&own.isolation, &self.isolation),
        }
    }

    /// `None` stands for what an image is for by itself.
    pub(in crate::face::postroj) fn platforms(&self) -> Result<Vec<Option<String>>> {
        if self.platform.is_empty() {
            return Ok(vec![None]);
        }
        let parsed = self.platform.iter().map(|text| Platform::parse(text).map_err(Error::msg));
        parsed.map(|platform| Ok(Some(platform?.to_string()))).collect()
    }

    /// Options of `boot` and `run`; `network` is what it is where nobody said.
    pub(in crate::face::postroj) fn options(&self, network: Option<&str>) -> Vec<String> {
        let network = self.network.as_deref().or(network);
        let network = network.map(|mode| ["--network".to_owned(), mode.to_owned()]);
        let isolation = self.isolation.iter().map(|one| ["--isolation".to_owned(), one.clone()]);
        network.into_iter().chain(isolation).flatten().collect()
    }

    /// Those of them that were given.
    pub(super) fn given(&self) -> [(&'static str, bool); 3] {
        [
            ("--platform", !self.platform.is_empty()),
            ("--network", self.network.is_some()),
            ("--isolation", self.isolation.is_some()),
        ]
    }
}

/// What is done in machines that are booted.
#[derive(Debug, Clone, Default, clap::Args)]
pub(in crate::face::postroj) struct Systems {
    /// A repository besides the image's own: an address or a directory, for apt with suite and components
    ///
    /// Before it may stand, as in apt's sources.list, [signed-by=FILE] or, of what is not signed, [trusted=yes].
    #[arg(long, value_name = "[OPTIONS] URL|DIR [SUITE [COMPONENT]…]")]
    pub(super) repo: Vec<String>,
    /// The key of repositories that name none, in ASCII armour
    #[arg(long, value_name = "FILE")]
    repo_key: Option<PathBuf>,
    /// Seconds for each check and step [default: 30]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Seconds for each phase of a package, and for each test that has no limit itself [default: 600]
    #[arg(long, value_name = "SECONDS")]
    phase_timeout: Option<u64>,
    /// Seconds until a system has to be up; a pull counts [default: 600]
    #[arg(long, value_name = "SECONDS")]
    boot_timeout: Option<u64>,
    /// Boot without what only people at a console and long-lived machines need
    #[arg(long)]
    pub(super) fast: bool,
    #[command(flatten)]
    pub(in crate::face::postroj) machines: Machines,
}

impl Systems {
    pub(in crate::face::postroj) fn with(&self, own: &Self) -> Self {
        Self {
            repo: besides(&self.repo, &own.repo),
            repo_key: or(&own.repo_key, &self.repo_key),
            timeout: own.timeout.or(self.timeout),
            phase_timeout: own.phase_timeout.or(self.phase_timeout),
            boot_timeout: own.boot_timeout.or(self.boot_timeout),
            fast: self.fast || own.fast,
            machines: self.machines.with(&own.machines),
        }
    }

    /// A wish of that image with all of this, but for the platform; `network` as for [`Machines::options`].
    ///
    /// # Errors
    /// A repository is none, or there is a key and nothing that it is for.
    pub(in crate::face::postroj) fn wish(
        &self,
        image: &str,
        network: Option<&str>,
    ) -> Result<Wish> {
        if self.repo.is_empty() && self.repo_key.is_some() {
            bail!("--repo-key is for repositories: give --repo");
        }
        let key = self.repo_key.as_deref();
        let repositories = self.repo.iter().map(|text| Repository::parse(text, key));
        let fast = self.fast.then_some("--fast".to_owned());
        Ok(Wish {
            repositories: repositories.collect::<Result<_>>().map_err(|e| e.context("--repo"))?,
            timeout: self.timeout.unwrap_or(probe::TIMEOUT),
            phase_timeout: self.phase_timeout.unwrap_or(probe::PHASE_TIMEOUT),
            boot_timeout: self.boot_timeout.unwrap_or(probe::BOOT_TIMEOUT),
            boot: self.machines.options(network).into_iter().chain(fast).collect(),
            ..Wish::new(image)
        })
    }
}
