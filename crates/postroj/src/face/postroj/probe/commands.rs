//! Commands in many images: `matrix -- COMMAND`, and the `[[run]]` tables of its file.

use anyhow::{Result, bail};
use harness::probe::{self, Wish};
use harness::test::Command;
use serde::Deserialize;

use super::super::options::isolation;
use super::How;
use super::variant::{self, Variant, Various, besides, instead};
use super::what::platforms;

/// What is run; also a `[[run]]` of a file.
#[derive(Debug, Clone, Default, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct What {
    /// An image to run the command in, instead of going through a file
    #[arg(long, value_name = "REF")]
    pub(super) image: Vec<String>,
    /// A processor to run it on, such as linux/arm64; every image on each of these [default: the host's]
    #[arg(long, value_name = "OS/ARCH")]
    platform: Vec<String>,
    /// The machines' network, as `run` takes it [default: none]
    #[arg(long, value_name = "MODE")]
    network: Option<String>,
    /// What a machine is: container, or vm with a kernel of its own [default: container]
    #[arg(long, value_name = "ENGINE", value_parser = isolation)]
    isolation: Option<String>,
    /// A variable of the command
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// What its output has to match
    #[arg(long, value_name = "PATTERN")]
    output: Option<String>,
    /// Seconds for the command [default: 600]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Another way to do all of it, each of which is a cell: a name, and options besides or instead of the others
    #[arg(long, value_name = "NAME=OPTIONS", value_parser = variant::parse::<What>)]
    #[serde(deserialize_with = "variant::of_table")]
    variant: Vec<Variant<What>>,
    /// The command, instead of the image's own
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Various for What {
    fn with(&self, own: &Self) -> Self {
        let or =
            |own: &Option<String>, usual: &Option<String>| own.clone().or_else(|| usual.clone());
        Self {
            image: instead(&self.image, &own.image),
            platform: instead(&self.platform, &own.platform),
            network: or(&own.network, &self.network),
            isolation: or(&own.isolation, &self.isolation),
            env: besides(&self.env, &own.env),
            output: or(&own.output, &self.output),
            timeout: own.timeout.or(self.timeout),
            variant: Vec::new(),
            command: instead(&self.command, &own.command),
        }
    }

    fn variants(&self) -> &[Variant<Self>] {
        &self.variant
    }
}

/// An option that means nothing without an image.
pub(super) fn idle(what: &What) -> Option<&'static str> {
    let given = [
        ("--platform", !what.platform.is_empty()),
        ("--network", what.network.is_some()),
        ("--isolation", what.isolation.is_some()),
        ("--env", !what.env.is_empty()),
        ("--output", what.output.is_some()),
        ("--timeout", what.timeout.is_some()),
        ("--variant", !what.variant.is_empty()),
        ("a command", !what.command.is_empty()),
    ];
    given.into_iter().find_map(|(option, is_given)| is_given.then_some(option))
}

/// The command in every image, in every way.
pub(super) fn wishes(what: &What, how: &How) -> Result<Vec<Wish>> {
    if how.keep_on_failure || how.shell_on_failure {
        bail!(
            "--keep-on-failure and --shell-on-failure are for machines, and a command has none that stays"
        );
    }
    let mut wishes = Vec::new();
    for (variant, what) in what.all() {
        if what.image.is_empty() {
            bail!("a run has no image");
        }
        let command = Command { words: what.command.clone(), output: what.output.clone() };
        let test = command.test()?;
        let network = what.network.as_deref().unwrap_or("none");
        let mut options = vec!["--network".to_owned(), network.to_owned()];
        options.extend(what.isolation.iter().flat_map(|i| ["--isolation".into(), i.clone()]));
        options.extend(what.env.iter().flat_map(|one| ["-e".to_owned(), one.clone()]));
        for image in &what.image {
            for platform in platforms(&what.platform)? {
                let wish = Wish {
                    image: image.clone(),
                    variant: variant.clone(),
                    packages: Vec::new(),
                    from: Vec::new(),
                    repositories: Vec::new(),
                    phases: Vec::new(),
                    checks: Vec::new(),
                    without: Vec::new(),
                    allowed_ports: Vec::new(),
                    timeout: probe::TIMEOUT,
                    phase_timeout: what.timeout.unwrap_or(probe::PHASE_TIMEOUT),
                    boot_timeout: probe::BOOT_TIMEOUT,
                    boot: options.clone(),
                    test: Some(test.clone()),
                    pool: false,
                    keep: false,
                    evidence: Default::default(),
                    always_evidence: how.evidence.is_some(),
                };
                wishes.push(wish.on(platform.as_deref()));
            }
        }
    }
    Ok(wishes)
}
