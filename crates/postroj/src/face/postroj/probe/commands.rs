//! Commands in many images: `matrix -- COMMAND`, and the `[[run]]` tables of its file.

use anyhow::{Result, bail};
use harness::probe::{self, Wish};
use harness::test::Command;

use super::How;
use super::shared::Machines;
use super::variant::{self, Variant, Various, besides, instead, or};

/// What is run; also a `[[run]]` of a file.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct What {
    /// An image to run the command in, instead of going through a file
    #[arg(long, value_name = "REF")]
    pub(super) image: Vec<String>,
    #[command(flatten)]
    machines: Machines,
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
    variant: Vec<Variant<What>>,
    /// The command, instead of the image's own
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Various for What {
    fn with(&self, own: &Self) -> Self {
        Self {
            image: instead(&self.image, &own.image),
            machines: self.machines.with(&own.machines),
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

    fn variants_mut(&mut self) -> &mut Vec<Variant<Self>> {
        &mut self.variant
    }
}

/// An option that means nothing without an image.
pub(super) fn idle(what: &What) -> Option<&'static str> {
    let given = [
        ("--env", !what.env.is_empty()),
        ("--output", what.output.is_some()),
        ("--timeout", what.timeout.is_some()),
        ("--variant", !what.variant.is_empty()),
        ("a command", !what.command.is_empty()),
    ];
    let given = what.machines.given().into_iter().chain(given);
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
        let mut options = what.machines.options(Some("none"));
        options.extend(what.env.iter().flat_map(|one| ["-e".to_owned(), one.clone()]));
        for image in &what.image {
            for platform in what.machines.platforms()? {
                let wish = Wish {
                    variant: variant.clone(),
                    phase_timeout: what.timeout.unwrap_or(probe::PHASE_TIMEOUT),
                    boot: options.clone(),
                    test: Some(test.clone()),
                    always_evidence: how.evidence.is_some(),
                    ..Wish::new(image)
                };
                wishes.push(wish.on(platform.as_deref()));
            }
        }
    }
    Ok(wishes)
}
