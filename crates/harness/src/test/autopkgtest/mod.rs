//! autopkgtest's tests: `debian/tests/control` of a source package (autopkgtest's `README.package-tests.rst`).

use std::path::Path;

use anyhow::{Context, Result, bail};
use bakery::source::bootstrap::deb822::{self, Stanza};
use serde::{Deserialize, Serialize};

use super::{Kind, Suite, Test};

mod depends;
mod run;
mod satisfy;

pub(super) use run::run;

/// One test of a source package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// What is executed: a file of the tree, or a command for bash.
    pub program: Program,
    /// As it stands in the control file; `@` where it does not.
    pub depends: String,
    /// What it may do, and what it needs.
    pub restrictions: Vec<String>,
    /// Architectures that it is for, in Debian's words; all where there is none.
    pub architectures: Vec<String>,
    /// Who runs it where it need not be root; else somebody ordinary.
    #[serde(default)]
    pub user: Option<String>,
}

/// What a test executes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Program {
    /// `Tests:`, from the top of the tree.
    File(String),
    /// `Test-Command:`.
    Command(String),
}

impl Package {
    fn has(&self, restriction: &str) -> bool {
        self.restrictions.iter().any(|own| own == restriction)
    }

    /// Why it cannot be run here on any image.
    fn obstacle(&self) -> Option<String> {
        let unknown = self.restrictions.iter().find(|own| !KNOWN.contains(&own.as_str()));
        if let Some(unknown) = unknown {
            return Some(match &unknown[..] {
                "hint-testsuite-triggers" => "it is no test: hint-testsuite-triggers".into(),
                other => format!("the restriction {other} is not known"),
            });
        }
        None
    }
}

/// Restrictions that a machine of ours can heed. Each test has one of its own, so that it can break it.
const KNOWN: [&str; 15] = [
    "allow-stderr",
    "breaks-testbed",
    "build-needed",
    "flaky",
    "isolation-container",
    "isolation-machine",
    "needs-internet",
    "needs-reboot",
    "needs-recommends",
    "needs-root",
    "needs-sudo",
    "rw-build-tree",
    "skip-not-installable",
    "skippable",
    "superficial",
];

const FIELDS: [&str; 8] = [
    "Tests",
    "Test-Command",
    "Restrictions",
    "Features",
    "Depends",
    "Tests-Directory",
    "Classes",
    "Architecture",
];

/// Finds the tests of a source package.
pub(super) struct Autopkgtest;

const CONTROL: &str = "debian/tests/control";

impl Suite for Autopkgtest {
    fn name(&self) -> &'static str {
        "autopkgtest"
    }

    fn recognises(&self, directory: &Path) -> bool {
        directory.join(CONTROL).is_file()
    }

    fn find(&self, directory: &Path) -> Result<Vec<Test>> {
        let path = directory.join(CONTROL);
        let source = read(&directory.join("debian/control"), |stanzas| {
            let source = stanzas.first().and_then(|stanza| stanza.get("Source"));
            source.map(str::to_owned).context("it names no source package")
        })?;
        read(&path, |stanzas| {
            let mut tests = Vec::new();
            let mut commands = 0;
            for stanza in stanzas {
                tests.extend(of_stanza(stanza, &source, directory, &mut commands)?);
            }
            Ok(tests)
        })
    }
}

fn read<T>(path: &Path, of: impl FnOnce(&[Stanza<'_>]) -> Result<T>) -> Result<T> {
    let what = || format!("{} is wrong", path.display());
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    of(&deb822::parse(&text).with_context(what)?).with_context(what)
}

/// Words with commas or spaces between.
fn words(stanza: &Stanza<'_>, field: &str) -> Vec<String> {
    let value = stanza.get(field).unwrap_or_default().replace(',', " ");
    deb822::words(&value).map(str::to_owned).collect()
}

fn of_stanza(
    stanza: &Stanza<'_>,
    source: &str,
    directory: &Path,
    commands: &mut usize,
) -> Result<Vec<Test>> {
    let (restrictions, features) = (words(stanza, "Restrictions"), words(stanza, "Features"));
    let named = features.iter().find_map(|feature| feature.strip_prefix("test-name="));
    let programs: Vec<(String, Program)> = match (stanza.get("Tests"), stanza.get("Test-Command")) {
        (Some(_), None) if named.is_some() => bail!("test-name is for Test-Command only"),
        (Some(_), None) => {
            let within = stanza.get("Tests-Directory").unwrap_or("debian/tests");
            let file = |name: String| (name.clone(), Program::File(format!("{within}/{name}")));
            words(stanza, "Tests").into_iter().map(file).collect()
        }
        (None, Some(command)) => {
            if named.is_none() {
                *commands += 1;
            }
            let name = named.map_or_else(|| format!("command{commands}"), str::to_owned);
            vec![(name, Program::Command(unfolded(command)))]
        }
        (Some(_), Some(_)) => bail!("a test has either Tests or Test-Command"),
        (None, None) => bail!("a test has neither Tests nor Test-Command"),
    };
    if programs.is_empty() {
        bail!("the field Tests is empty");
    }
    let unknown = stanza
        .fields()
        .iter()
        .find(|(name, _)| !FIELDS.iter().any(|known| known.eq_ignore_ascii_case(name)));
    let tests = programs.into_iter().map(|(name, program)| {
        let package = Package {
            program,
            depends: stanza.get("Depends").map_or_else(|| "@".into(), unfolded),
            restrictions: restrictions.clone(),
            architectures: words(stanza, "Architecture"),
            user: None,
        };
        let unknown = unknown.map(|(field, _)| format!("the field {field} is not known"));
        Test {
            name: format!("{source}/{name}"),
            description: String::new(),
            tags: [restrictions.clone(), words(stanza, "Classes"), features.clone()].concat(),
            source: directory.to_owned(),
            images: Vec::new(),
            timeout: TIMEOUT,
            may_fail: None,
            skip: unknown.or_else(|| package.obstacle()),
            required_tag: None,
            kind: Kind::Autopkgtest(package),
        }
    });
    Ok(tests.collect())
}

/// Seconds (autopkgtest(1), `--timeout-test`).
const TIMEOUT: u64 = 10_000;

/// On one line, without comments.
fn unfolded(value: &str) -> String {
    let lines = value.lines().filter(|line| !line.starts_with('#')).map(str::trim);
    lines.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_files_are_read() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("debian/tests")).unwrap();
        std::fs::write(temp.path().join("debian/control"), "Source: greet\n\nPackage: greet\n")
            .unwrap();
        let find = |text: &str| {
            std::fs::write(temp.path().join(CONTROL), text).unwrap();
            Autopkgtest.find(temp.path())
        };
        let tests = find(
            "Tests: a, b\nRestrictions: needs-root, superficial\nClasses: quick\n\n\
             Test-Command: x\n y\nDepends: @,\n# no\n z\n\nTest-Command: w\nFeatures: test-name=named\n\n\
             Tests: c\nRestrictions: hint-testsuite-triggers\n\nTests: d\nColour: red\n",
        )
        .unwrap();
        let names: Vec<&str> = tests.iter().map(|test| test.name.as_str()).collect();
        assert_eq!(
            names,
            ["greet/a", "greet/b", "greet/command1", "greet/named", "greet/c", "greet/d"]
        );
        let Kind::Autopkgtest(package) = &tests[2].kind else { panic!() };
        assert_eq!(package.program, Program::Command("x y".into()));
        assert_eq!(package.depends, "@, z");
        assert_eq!(tests[0].tags, ["needs-root", "superficial", "quick"]);
        assert!(tests[4].skip.as_deref().unwrap().contains("it is no test"));
        assert!(tests[5].skip.as_deref().unwrap().contains("Colour"));
        for (text, part) in [
            ("Restrictions: x\n", "neither Tests"),
            ("Tests: a\nTest-Command: b\n", "either Tests"),
            ("Tests: a\nx\n", "line 2"),
        ] {
            let error = format!("{:#}", find(text).unwrap_err());
            assert!(error.contains(part) && error.contains("debian/tests/control"), "{error}");
        }
    }
}
