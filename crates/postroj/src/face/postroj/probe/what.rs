//! What is probed: options, or a table of a file, and the cells that come of that.

use anyhow::{Context, Result, bail};
use bakery::source::bootstrap::addition::Asked;
use harness::probe::{Phase, Wish, cell as cells, check};

use super::How;
use super::shared::Systems;
use super::variant::{self, Variant, Various, besides, instead};

/// What is probed; also a `[[probe]]` of a file.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct What {
    /// An image to probe on
    #[arg(long, value_name = "REF", required = true)]
    image: Vec<String>,
    /// A package: a name in the distribution's archive, a path or a URL
    #[arg(long, value_name = "NAME|PATH|URL")]
    package: Vec<String>,
    /// Install all packages on one machine instead of each on its own
    #[arg(long)]
    together: bool,
    /// An older version to upgrade from
    #[arg(long, value_name = "PATH|URL")]
    from_version: Vec<String>,
    /// What to do with the packages [default: install; and upgrade, with --from-version]
    #[arg(long, value_name = "install,upgrade,reinstall,remove,purge", value_delimiter = ',')]
    phase: Vec<String>,
    /// A unit that has to be active
    #[arg(long, value_name = "UNIT")]
    check_unit: Vec<String>,
    /// A service that has to run, whatever the init
    #[arg(long, value_name = "SERVICE")]
    check_service: Vec<String>,
    /// A server that has to answer: tcp://HOST:PORT, udp://HOST:PORT, http(s)://HOST/PATH?status=200&body~=RE
    #[arg(long, value_name = "URL")]
    check_network: Vec<String>,
    /// A file that has to be there, or with a ! before it, not
    #[arg(long, value_name = "[!]PATH")]
    check_file: Vec<String>,
    /// A command that has to succeed inside
    #[arg(long, value_name = "COMMAND")]
    check_cmd: Vec<String>,
    /// What a line of the journal has to match, or with a ! before it, none
    #[arg(long, value_name = "[!]PATTERN")]
    check_journal: Vec<String>,
    /// A built-in check to leave out: failed-units, ports, errors, processes or files
    #[arg(long, value_name = "CHECK")]
    without: Vec<String>,
    /// A port that may be listened on though no check names it
    #[arg(long, value_name = "PORT")]
    allow_port: Vec<u16>,
    /// Take machines out of pools of the images, as these made them, where there are any
    ///
    /// For packages a pool must have been made with --packages.
    #[arg(long)]
    pool: bool,
    #[command(flatten)]
    systems: Systems,
    /// Another way to do all of it, each of which is a cell: a name, and options besides or instead of the others
    #[arg(long, value_name = "NAME=OPTIONS", value_parser = variant::parse::<What>)]
    variant: Vec<Variant<What>>,
}

impl Various for What {
    fn with(&self, own: &Self) -> Self {
        Self {
            image: instead(&self.image, &own.image),
            package: instead(&self.package, &own.package),
            together: self.together || own.together,
            from_version: instead(&self.from_version, &own.from_version),
            phase: instead(&self.phase, &own.phase),
            check_unit: besides(&self.check_unit, &own.check_unit),
            check_service: besides(&self.check_service, &own.check_service),
            check_network: besides(&self.check_network, &own.check_network),
            check_file: besides(&self.check_file, &own.check_file),
            check_cmd: besides(&self.check_cmd, &own.check_cmd),
            check_journal: besides(&self.check_journal, &own.check_journal),
            without: besides(&self.without, &own.without),
            allow_port: besides(&self.allow_port, &own.allow_port),
            pool: self.pool || own.pool,
            systems: self.systems.with(&own.systems),
            variant: Vec::new(),
        }
    }

    fn variants(&self) -> &[Variant<Self>] {
        &self.variant
    }

    fn variants_mut(&mut self) -> &mut Vec<Variant<Self>> {
        &mut self.variant
    }
}

/// Every image with every package, in every way.
pub(super) fn wishes(what: &[What], how: &How) -> Result<Vec<Wish>> {
    let mut wishes: Vec<Wish> = Vec::new();
    for (variant, what) in what.iter().flat_map(Various::all) {
        let what = &what;
        check_together(what)?;
        let groups: Vec<Vec<String>> = match (&what.package[..], what.together) {
            ([], _) => vec![Vec::new()],
            (packages, true) => vec![packages.to_vec()],
            (packages, false) => packages.iter().map(|package| vec![package.clone()]).collect(),
        };
        let phases = phases(what)?;
        let platforms = what.systems.machines.platforms()?;
        for image in &what.image {
            for platform in &platforms {
                for packages in &groups {
                    let wish = wish(what, how, image, packages, &phases)?;
                    wishes.push(Wish { variant: variant.clone(), ..wish.on(platform.as_deref()) });
                }
            }
        }
    }
    Ok(wishes)
}

/// What goes only with something else, or not with it.
fn check_together(what: &What) -> Result<()> {
    if what.image.is_empty() {
        bail!("a probe has no image");
    }
    if what.package.is_empty() {
        let asked = [("--from-version", &what.from_version), ("--repo", &what.systems.repo)];
        if let Some((option, _)) = asked.iter().find(|(_, given)| !given.is_empty()) {
            bail!("{option} is for packages: give --package");
        }
    }
    let made = [("--fast", what.systems.fast), ("--repo", !what.systems.repo.is_empty())];
    let made = what.systems.machines.given().into_iter().chain(made);
    if let Some((option, _)) = made.into_iter().find(|(_, given)| what.pool && *given) {
        bail!("{option} does not go with --pool, whose machines are made already");
    }
    Ok(())
}

fn wish(
    what: &What,
    how: &How,
    image: &str,
    packages: &[String],
    phases: &[Phase],
) -> Result<Wish> {
    let given = |kind: &'static str, texts: &[String]| -> Vec<(String, String)> {
        texts.iter().map(|text| (kind.to_owned(), text.clone())).collect()
    };
    for name in &what.without {
        if !check::BUILT_IN.iter().any(|(known, _)| known == name) {
            let known: Vec<&str> = check::BUILT_IN.iter().map(|(name, _)| *name).collect();
            bail!("no built-in check is called {name:?}: there are {}", known.join(", "));
        }
    }
    let wish = Wish {
        packages: packages.iter().map(|p| absolute(p)).collect::<Result<_>>()?,
        from: what.from_version.iter().map(|p| absolute(p)).collect::<Result<_>>()?,
        phases: if packages.is_empty() { Vec::new() } else { phases.to_vec() },
        checks: [
            given("unit", &what.check_unit),
            given("service", &what.check_service),
            given("cmd", &what.check_cmd),
            given("network", &what.check_network),
            given("file", &what.check_file),
            given("journal", &what.check_journal),
        ]
        .concat(),
        without: what.without.clone(),
        allowed_ports: what.allow_port.clone(),
        pool: what.pool,
        keep: how.keep_on_failure || how.shell_on_failure,
        always_evidence: how.evidence.is_some(),
        ..what.systems.wish(image, Some("none"))?
    };
    cells::checks(&wish)?;
    Ok(wish)
}

/// A file's path as it is wherever this program is started from.
pub(in crate::face::postroj) fn absolute(package: &str) -> Result<String> {
    if !matches!(Asked::parse(package), Asked::File(_)) {
        return Ok(package.to_owned());
    }
    let path = std::fs::canonicalize(package)
        .with_context(|| format!("cannot find the package {package}"))?;
    path.into_os_string().into_string().ok().context("the package's path is not UTF-8")
}

fn phases(what: &What) -> Result<Vec<Phase>> {
    let upgrades = !what.from_version.is_empty();
    if what.phase.is_empty() {
        return Ok(match upgrades {
            true => vec![Phase::Install, Phase::Upgrade],
            false => vec![Phase::Install],
        });
    }
    let mut phases = Vec::new();
    for word in &what.phase {
        let known = Phase::ALL.into_iter().find(|phase| phase.word() == word);
        phases.push(known.with_context(|| {
            format!("no phase is called {word:?}: there are install, upgrade, reinstall, remove and purge")
        })?);
    }
    if phases[0] != Phase::Install {
        bail!("the first phase has to be install");
    }
    if phases.contains(&Phase::Upgrade) && !upgrades {
        bail!("there is nothing to upgrade from: give --from-version");
    }
    if upgrades && !phases.contains(&Phase::Upgrade) {
        bail!("--from-version is for the phase upgrade, which is not among those that are given");
    }
    Ok(phases)
}
