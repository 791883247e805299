//! Why a package manager failed, by what it printed.

/// A part of a line that a manager prints where it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sign {
    /// The part, as it is printed in the C locale.
    pub says: &'static str,
    /// What it means.
    pub means: Cause,
}

/// A kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A package needs one that there is not.
    Dependency,
    /// Two packages have the same file, or say that they do not go together.
    Conflict,
    /// It is not signed, by a key that is not trusted, or was changed since.
    Signature,
    /// It is not whole, or is no package.
    Damaged,
    /// No repository has it.
    NotFound,
    /// A script of it failed.
    Script,
    /// The disk is full.
    DiskFull,
    /// A repository cannot be reached.
    Unreachable,
}

impl Cause {
    /// Of an explanation's beginning.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Dependency => "dependency missing",
            Self::Conflict => "file conflict",
            Self::Signature => "not trusted",
            Self::Damaged => "damaged package",
            Self::NotFound => "no such package",
            Self::Script => "script failed",
            Self::DiskFull => "the machine's disk is full",
            Self::Unreachable => "a repository cannot be reached",
        }
    }

    /// It is the package's fault, not that of where it was to be installed.
    #[must_use]
    pub fn is_of_package(self) -> bool {
        !matches!(self, Self::DiskFull | Self::Unreachable)
    }
}

/// Why a package manager failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// One line, or that and what a script printed.
    pub text: String,
    /// What kind of failure it is.
    pub cause: Cause,
}

impl Explanation {
    pub(super) fn new(cause: Cause, line: &str) -> Self {
        Self { text: format!("{}: {}", cause.words(), line.trim()), cause }
    }
}

/// What all of them print (strerror(3), ENOSPC).
const FULL: &str = "No space left on device";

/// The lines that a script may have printed before it failed.
const QUOTED: usize = 5;

pub(super) fn by_signs(signs: &[Sign], output: &str) -> Option<Explanation> {
    if output.contains(FULL) {
        let cause = Cause::DiskFull;
        return Some(Explanation { text: cause.words().to_owned(), cause });
    }
    first(signs.iter(), output)
}

/// The same of scripts only.
pub(super) fn of_scripts(signs: &[Sign], output: &str) -> Option<Explanation> {
    first(signs.iter().filter(|sign| sign.means == Cause::Script), output)
}

fn first<'a>(mut signs: impl Iterator<Item = &'a Sign>, output: &str) -> Option<Explanation> {
    let lines: Vec<&str> = output.lines().collect();
    signs.find_map(|sign| {
        let at = lines.iter().position(|line| line.contains(sign.says))?;
        let mut explanation = Explanation::new(sign.means, lines[at]);
        if sign.means == Cause::Script {
            let before = &lines[at.saturating_sub(QUOTED)..at];
            explanation.text =
                format!("{}; printed before:\n{}", lines[at].trim(), before.join("\n"));
        }
        Some(explanation)
    })
}
