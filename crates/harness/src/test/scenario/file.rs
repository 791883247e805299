//! The format of `*.test.toml`. What is wrong is told with the file, the line and the column.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use regex_lite::Regex;
use serde::Deserialize;
use toml::Spanned;

use super::{Act, Content, FileOf, MachineOf, SUFFIX, Scenario, StepOf};
use crate::probe::check;
use crate::test::{Kind, Test};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    description: String,
    #[serde(default)]
    image: Many,
    #[serde(default)]
    tags: Many,
    timeout: Option<u64>,
    network: Option<String>,
    #[serde(default)]
    fast: bool,
    #[serde(default)]
    without: Option<Spanned<Many>>,
    skip: Option<String>,
    may_fail: Option<String>,
    #[serde(default)]
    machine: BTreeMap<Spanned<String>, RawMachine>,
    #[serde(default)]
    file: Vec<Spanned<RawFile>>,
    #[serde(default)]
    step: Vec<Spanned<RawStep>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMachine {
    image: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    machine: Option<Spanned<String>>,
    path: Spanned<String>,
    content: Option<String>,
    source: Option<Spanned<String>>,
    mode: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawStep {
    #[serde(default)]
    name: String,
    machine: Option<Spanned<String>>,
    timeout: Option<u64>,
    run: Option<String>,
    exit: Option<i32>,
    output: Option<Spanned<String>>,
    user: Option<String>,
    install: Option<Many>,
    #[serde(default)]
    reboot: bool,
    check_unit: Option<Spanned<Many>>,
    check_service: Option<Spanned<Many>>,
    check_network: Option<Spanned<Many>>,
    check_file: Option<Spanned<Many>>,
    check_cmd: Option<Spanned<Many>>,
    check_journal: Option<Spanned<Many>>,
}

/// One or several.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(untagged)]
enum Many {
    #[default]
    None,
    One(String),
    List(Vec<String>),
}

impl Many {
    fn list(self) -> Vec<String> {
        match self {
            Self::None => Vec::new(),
            Self::One(text) => vec![text],
            Self::List(list) => list,
        }
    }
}

/// What is wrong, and where in the text.
struct Wrong(Option<Range<usize>>, String);

impl Wrong {
    fn at(place: Range<usize>, what: impl Into<String>) -> Self {
        Self(Some(place), what.into())
    }
}

/// Reads a test.
///
/// # Errors
/// `FILE:LINE:COLUMN: what is wrong`.
pub(in crate::test) fn read(path: &Path) -> Result<Test> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text, path).map_err(|Wrong(place, what)| {
        let start = place.map_or(0, |place| place.start).min(text.len());
        let before = text.get(..start).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        anyhow!("{}:{line}:{column}: {what}", path.display())
    })
}

fn parse(text: &str, path: &Path) -> Result<Test, Wrong> {
    let raw: Raw = toml::from_str(text).map_err(|error| {
        Wrong(error.span(), error.message().lines().collect::<Vec<_>>().join(" "))
    })?;
    if raw.step.is_empty() {
        return Err(Wrong(None, "the test has no [[step]]".into()));
    }
    let machines: Vec<MachineOf> = match raw.machine.len() {
        0 => vec![MachineOf { name: String::new(), image: None }],
        _ => {
            let named = raw.machine.into_iter().map(|(name, raw)| {
                is_host_name(name.get_ref())
                    .then(|| MachineOf { name: name.get_ref().clone(), image: raw.image })
                    .ok_or_else(|| {
                        Wrong::at(name.span(), format!("{:?} is no name of a host", name.get_ref()))
                    })
            });
            named.collect::<Result<_, _>>()?
        }
    };
    let beside = path.parent().unwrap_or(Path::new("."));
    let files = raw.file.into_iter().map(|raw| file(raw, &machines, beside));
    let files = files.collect::<Result<_, _>>()?;
    let steps = raw.step.into_iter().map(|raw| step(raw, &machines, beside));
    let steps = steps.collect::<Result<_, _>>()?;
    let mut without_units = false;
    for (name, place) in raw.without.into_iter().flat_map(spread) {
        if name != "failed-units" {
            return Err(Wrong::at(place, format!("{name:?} cannot be left out: failed-units can")));
        }
        without_units = true;
    }
    let mut boot: Vec<String> =
        raw.network.into_iter().flat_map(|mode| ["--network".into(), mode]).collect();
    boot.extend(raw.fast.then(|| "--fast".into()));
    let timeout = raw.timeout;
    let scenario = Scenario { machines, files, steps, boot, timeout, without_units };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(Test {
        name: name.strip_suffix(SUFFIX).unwrap_or(&name).to_owned(),
        description: raw.description,
        tags: raw.tags.list(),
        source: path.to_owned(),
        images: raw.image.list(),
        timeout: 0,
        may_fail: raw.may_fail,
        skip: raw.skip,
        required_tag: None,
        kind: Kind::Scenario(scenario),
    })
}

/// What a network's other machines can call one (hostname(7)).
fn is_host_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty() && name.len() <= 40 && name.chars().all(plain) && !name.starts_with('-')
}

/// The machine that is named, or the only one.
fn machine(
    named: Option<Spanned<String>>,
    machines: &[MachineOf],
    place: Range<usize>,
) -> Result<String, Wrong> {
    let all = || machines.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", ");
    match named {
        None if machines.len() == 1 => Ok(machines[0].name.clone()),
        None => Err(Wrong::at(place, format!("`machine` is missing: it is one of {}", all()))),
        Some(name) if machines.iter().any(|m| m.name == *name.get_ref()) => Ok(name.into_inner()),
        Some(name) => {
            let what = match all() {
                known if known.is_empty() => "the test names no machines".into(),
                known => format!("there are {known}"),
            };
            Err(Wrong::at(
                name.span(),
                format!("no machine is called {:?}: {what}", name.get_ref()),
            ))
        }
    }
}

fn file(raw: Spanned<RawFile>, machines: &[MachineOf], beside: &Path) -> Result<FileOf, Wrong> {
    let place = raw.span();
    let raw = raw.into_inner();
    if !raw.path.get_ref().starts_with('/') {
        let what = format!("{:?} is not absolute", raw.path.get_ref());
        return Err(Wrong::at(raw.path.span(), what));
    }
    let content = match (raw.content, raw.source) {
        (Some(text), None) => Content::Text(text),
        (None, Some(source)) => {
            let path = beside.join(source.get_ref());
            if !path.exists() {
                let what = format!("there is no {}", path.display());
                return Err(Wrong::at(source.span(), what));
            }
            Content::Copy(path)
        }
        _ => return Err(Wrong::at(place, "a [[file]] has either `content` or `source`")),
    };
    let machine = machine(raw.machine, machines, place)?;
    Ok(FileOf { machine, path: raw.path.into_inner(), content, mode: raw.mode })
}

fn step(raw: Spanned<RawStep>, machines: &[MachineOf], beside: &Path) -> Result<StepOf, Wrong> {
    let place = raw.span();
    let raw = raw.into_inner();
    let checks = checks([
        ("unit", raw.check_unit),
        ("service", raw.check_service),
        ("cmd", raw.check_cmd),
        ("network", raw.check_network),
        ("file", raw.check_file),
        ("journal", raw.check_journal),
    ])?;
    if let Some(pattern) = &raw.output
        && let Err(error) = Regex::new(pattern.get_ref())
    {
        return Err(Wrong::at(pattern.span(), format!("no pattern: {error}")));
    }
    if raw.run.is_none() && (raw.exit.is_some() || raw.output.is_some() || raw.user.is_some()) {
        return Err(Wrong::at(place, "`exit`, `output` and `user` are for a step with `run`"));
    }
    let mut acts = Vec::new();
    if let Some(script) = raw.run {
        let (exit, output) = (raw.exit.unwrap_or(0), raw.output.map(Spanned::into_inner));
        acts.push(Act::Run { script, exit, output, user: raw.user });
    }
    acts.extend(raw.install.map(|packages| {
        let path = |package: String| match package.contains('/') && !package.contains("://") {
            true => beside.join(package).to_string_lossy().into_owned(),
            false => package,
        };
        Act::Install(packages.list().into_iter().map(path).collect())
    }));
    acts.extend(raw.reboot.then_some(Act::Reboot));
    acts.extend((!checks.is_empty()).then_some(Act::Check(checks)));
    let (Some(act), true) = (acts.pop(), acts.is_empty()) else {
        let what = "a [[step]] has one of `run`, `install`, `reboot` or checks (`check-unit`, …)";
        return Err(Wrong::at(place, what));
    };
    let machine = machine(raw.machine, machines, place)?;
    Ok(StepOf { name: raw.name, machine, act, timeout: raw.timeout })
}

/// Reads them once, so that what is wrong is told before anything boots.
fn checks<const N: usize>(
    given: [(&'static str, Option<Spanned<Many>>); N],
) -> Result<Vec<(String, String)>, Wrong> {
    let mut checks = Vec::new();
    for (kind, texts) in given {
        let Some((_, parse)) = check::KINDS.iter().find(|(known, _)| *known == kind) else {
            continue;
        };
        for (text, place) in texts.into_iter().flat_map(spread) {
            parse(&text).map_err(|error| Wrong::at(place, format!("check-{kind}: {error:#}")))?;
            checks.push((kind.to_owned(), text));
        }
    }
    Ok(checks)
}

/// Each with the place of all.
fn spread(texts: Spanned<Many>) -> impl Iterator<Item = (String, Range<usize>)> {
    let place = texts.span();
    texts.into_inner().list().into_iter().map(move |text| (text, place.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> String {
        let path = tempfile::tempdir().unwrap();
        let file = path.path().join("x.test.toml");
        std::fs::write(&file, text).unwrap();
        let error = read(&file).expect_err(text).to_string();
        let directory = format!("{}/", path.path().display());
        error.strip_prefix(&directory).unwrap_or(&error).to_owned()
    }

    #[test]
    fn what_is_wrong_has_a_place() {
        for (text, expected) in [
            ("x", "x.test.toml:1:2: "),
            ("", "x.test.toml:1:1: the test has no [[step]]"),
            ("[[step]]\nruns = \"x\"\n", "x.test.toml:2:1: unknown field `runs`"),
            ("[[step]]\nname = \"x\"\n", "x.test.toml:1:1: a [[step]] has one of"),
            ("[[step]]\nrun = \"x\"\nreboot = true\n", "x.test.toml:1:1: a [[step]] has one of"),
            ("[[step]]\n  check-network = [\"tcp://x\"]\n", "x.test.toml:2:19: check-network: "),
            (
                "[[step]]\nrun = \"x\"\nmachine = \"m\"\n",
                "x.test.toml:3:11: no machine is called \"m\"",
            ),
            (
                "[machine.a]\n[machine.b]\n[[step]]\nrun = \"x\"\n",
                "x.test.toml:3:1: `machine` is missing: it is one of a, b",
            ),
            (
                "[machine.A]\n[[step]]\nrun = \"x\"\n",
                "x.test.toml:1:10: \"A\" is no name of a host",
            ),
            ("[[step]]\nrun = \"x\"\noutput = \"(\"\n", "x.test.toml:3:10: no pattern"),
            (
                "[[file]]\npath = \"x\"\ncontent = \"\"\n[[step]]\nrun = \"\"\n",
                "x.test.toml:2:8: \"x\" is not absolute",
            ),
            (
                "[[file]]\npath = \"/x\"\nsource = \"no\"\n[[step]]\nrun = \"\"\n",
                "x.test.toml:3:10: there is no ",
            ),
            (
                "[[step]]\ncheck-cmd = \"x\"\nexit = 1\n",
                "x.test.toml:1:1: `exit`, `output` and `user`",
            ),
        ] {
            let told = told(text);
            let begins = expected.trim_end();
            assert!(told.starts_with(begins) || told.contains(begins), "{text:?}: {told}");
        }
    }
}
