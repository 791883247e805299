//! `test`: the tests that a project has, on every system that it wants to run on.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use harness::probe::Wish;
use harness::test::{self, Kind, Selection, Test};

use super::probe::shared::Systems;
use super::probe::variant::{self, Variant, Various, besides, instead, or};
use super::probe::{self, How};
use super::{Here, table};

/// Run a project's tests: *.test.toml, kola's external tests, autopkgtest's
///
/// Every test on every image is a cell, as with `probe`: a machine of its own. Exit status: 0
/// all is well, 1 something failed, 2 usage, 3 something could not be tested, 77 everything was skipped.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    what: What,
    #[command(flatten)]
    how: How,
    /// List the tests instead
    #[arg(long)]
    list: bool,
    /// List them as JSON
    #[arg(long, requires = "list")]
    json: bool,
    /// As kola: try what failed once more; it counts as failed even so
    #[arg(long, conflicts_with = "retry")]
    rerun: bool,
    /// With --rerun: what passed then has passed
    #[arg(long, requires = "rerun", value_name = "tags=all", num_args = 0..=1, require_equals = true)]
    allow_rerun_success: Option<Option<String>>,
}

/// What is run; also a `[[test]]` of a file.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct What {
    /// Files and trees with tests [default: here], and names or patterns of tests; with a ! before it, what is left out
    #[arg(value_name = "PATH|NAME|!NAME")]
    tests: Vec<String>,
    /// An image to test on, instead of those that a test names
    #[arg(long, value_name = "REF")]
    image: Vec<String>,
    /// Tests with this tag, or with a ! before it, without
    #[arg(long, value_name = "[!]TAG")]
    tag: Vec<String>,
    /// A project with kola's external tests
    #[arg(short = 'E', long, visible_alias = "kola", value_name = "DIR")]
    exttest: Vec<PathBuf>,
    /// A source package with autopkgtest's tests
    #[arg(long, value_name = "DIR")]
    autopkgtest: Vec<PathBuf>,
    /// A package to test, instead of the archive's: for autopkgtest's tests
    #[arg(long, value_name = "NAME|PATH|URL")]
    package: Vec<String>,
    /// The user of autopkgtest's tests that need not be root; root is one [default: the image's first, or one that is made]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// What kola's tests shall take the image for, such as fcos
    #[arg(long, value_name = "NAME")]
    distro: Option<String>,
    /// Tests of kola's that are known to be broken [default: kola-denylist.yaml of the project]
    #[arg(long, value_name = "FILE")]
    denylist: Option<PathBuf>,
    /// The stream that the image is of, for entries of the denylist that are for some
    #[arg(long, value_name = "NAME")]
    denylist_stream: Option<String>,
    #[command(flatten)]
    systems: Systems,
    /// Another way to do all of it, each of which is a cell: a name, and options besides or instead of the others
    #[arg(long, value_name = "NAME=OPTIONS", value_parser = variant::parse::<What>)]
    variant: Vec<Variant<What>>,
}

impl Various for What {
    fn with(&self, own: &Self) -> Self {
        Self {
            tests: instead(&self.tests, &own.tests),
            image: instead(&self.image, &own.image),
            tag: besides(&self.tag, &own.tag),
            exttest: instead(&self.exttest, &own.exttest),
            autopkgtest: instead(&self.autopkgtest, &own.autopkgtest),
            package: instead(&self.package, &own.package),
            user: or(&own.user, &self.user),
            distro: or(&own.distro, &self.distro),
            denylist: or(&own.denylist, &self.denylist),
            denylist_stream: or(&own.denylist_stream, &self.denylist_stream),
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

pub(super) fn run(args: &Args, here: &Here) -> Result<u8> {
    if args.list {
        return match found(&args.what) {
            Ok(tests) => list(&tests, args.json),
            Err(error) => Ok(probe::usage(&error)),
        };
    }
    let mut how = args.how.clone();
    if args.rerun {
        how.retry = 1;
        how.flaky_fails = args.allow_rerun_success.is_none();
    }
    probe::go(&how, here, |_| wishes(&args.what, &how))
}

/// The tests that are asked for.
fn found(what: &What) -> Result<Vec<Test>> {
    let is_path = |word: &&String| !word.starts_with('!') && Path::new(word).exists();
    let (paths, names): (Vec<&String>, Vec<&String>) = what.tests.iter().partition(is_path);
    let mut tests = Vec::new();
    for path in &paths {
        tests.extend(test::find(Path::new(path), None)?);
    }
    for directory in &what.exttest {
        tests.extend(test::find(directory, Some("kola"))?);
    }
    for directory in &what.autopkgtest {
        tests.extend(test::find(directory, Some("autopkgtest"))?);
    }
    if paths.is_empty() && what.exttest.is_empty() && what.autopkgtest.is_empty() {
        tests.extend(test::find(Path::new("."), None)?);
    }
    let names = names.into_iter().cloned().collect();
    let selection = Selection { names, tags: what.tag.clone() };
    let known: Vec<&str> = tests.iter().map(|test| test.name.as_str()).take(10).collect();
    let known = known.join(", ");
    tests.retain(|test| selection.takes(test));
    if tests.is_empty() {
        bail!("none of the tests is asked for: there are {known}");
    }
    test::deny(&mut tests, what.denylist.as_deref(), what.denylist_stream.as_deref())?;
    for test in &mut tests {
        match &mut test.kind {
            Kind::Kola(external) => external.distro.clone_from(&what.distro),
            Kind::Autopkgtest(package) => package.user.clone_from(&what.user),
            Kind::Scenario(_) | Kind::Command(_) => {}
        }
    }
    Ok(tests)
}

/// Every test on every image, in every way.
pub(super) fn wishes(what: &What, how: &How) -> Result<Vec<Wish>> {
    let mut all = Vec::new();
    for (variant, what) in what.all() {
        let one = |wish| Wish { variant: variant.clone(), ..wish };
        all.extend(in_one_way(&what, how)?.into_iter().map(one));
    }
    Ok(all)
}

fn in_one_way(what: &What, how: &How) -> Result<Vec<Wish>> {
    let packages =
        what.package.iter().map(|package| probe::absolute(package)).collect::<Result<Vec<_>>>()?;
    let platforms = what.systems.machines.platforms()?;
    let mut wishes = Vec::new();
    for test in found(what)? {
        let images = if what.image.is_empty() { &test.images } else { &what.image };
        if images.is_empty() {
            bail!("the test {} names no image: give --image", test.name);
        }
        for image in images {
            for platform in &platforms {
                wishes.push(wish(what, how, image, &packages, &test)?.on(platform.as_deref()));
            }
        }
    }
    Ok(wishes)
}

fn wish(what: &What, how: &How, image: &str, packages: &[String], test: &Test) -> Result<Wish> {
    // What needs the internet has the best network that there is.
    let needs = test.tags.iter().any(|tag| tag == "needs-internet");
    Ok(Wish {
        packages: packages.to_vec(),
        test: Some(test.clone()),
        keep: how.keep_on_failure || how.shell_on_failure,
        always_evidence: how.evidence.is_some(),
        ..what.systems.wish(image, (!needs).then_some("none"))?
    })
}

fn list(tests: &[Test], json: bool) -> Result<u8> {
    if json {
        let all: Vec<_> = tests
            .iter()
            .map(|test| {
                serde_json::json!({
                    "name": test.name, "kind": test.kind(), "tags": test.tags,
                    "description": test.description, "source": test.source, "images": test.images,
                    "skip": test.skip, "mayFail": test.may_fail,
                })
            })
            .collect();
        let text = serde_json::to_string_pretty(&all).context("cannot write JSON")?;
        println!("{text}");
        return Ok(0);
    }
    let mut rows = vec![["NAME", "KIND", "TAGS", "NOTE"].map(String::from).to_vec()];
    for test in tests {
        let skipped = test.skip.as_ref().map(|why| format!("skipped: {why}"));
        let note = skipped.unwrap_or_else(|| test.description.clone());
        rows.push(vec![test.name.clone(), test.kind().into(), test.tags.join(" "), note]);
    }
    print!("{}", table::render(&rows));
    Ok(0)
}
