//! rustfmt and clippy.

use anyhow::{Context, Result};

use crate::command::{cargo, run};

/// All three, of which each only runs where those before are content.
///
/// # Errors
/// Where one of them has something to say.
pub(crate) fn all() -> Result<()> {
    format()?;
    clippy()?;
    fuzz()
}

/// rustfmt.
///
/// # Errors
/// Where a file is not as it wants it.
pub(crate) fn format() -> Result<()> {
    run(cargo().args(["fmt", "--all", "--check"]))
}

/// clippy, warnings denied.
///
/// # Errors
/// Where it warns of something.
pub(crate) fn clippy() -> Result<()> {
    run(cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ]))
}

/// The fuzz targets, which are no part of the workspace, must compile.
///
/// # Errors
/// Where they do not, or fuzz/Cargo.lock is out of date.
pub(crate) fn fuzz() -> Result<()> {
    let mut check = cargo();
    check.args(["check", "--manifest-path", "fuzz/Cargo.toml", "--all-targets", "--locked"]);
    // Nothing is linked: so libFuzzer need not be compiled, nor a C++ compiler be there.
    run(check.env("CUSTOM_LIBFUZZER_PATH", "/dev/null/libfuzzer.a")).context(
        "if it is fuzz/Cargo.lock: cargo update --manifest-path fuzz/Cargo.toml --workspace",
    )
}
