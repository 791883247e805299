//! The names of all files of a machine, but for those that live in memory or come and go.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result};

/// What is no part of what a package brings: in memory, caches, logs of the system's own, the
/// package manager's book-keeping, and what user management and the linker rewrite.
const PASSED_OVER: [&str; 22] = [
    "/dev",
    "/etc/.pwd.lock",
    "/etc/group-",
    "/etc/gshadow-",
    "/etc/ld.so.cache",
    "/etc/mtab",
    "/etc/passwd-",
    "/etc/shadow-",
    "/etc/subgid-",
    "/etc/subuid-",
    "/proc",
    "/run",
    "/sys",
    "/tmp",
    "/usr/share/mime",
    "/var/cache",
    "/var/lib/apt",
    "/var/lib/dpkg",
    "/var/lib/systemd",
    "/var/log/apt",
    "/var/log/journal",
    "/var/tmp",
];

/// Names that anything may leave anywhere, and that mean nothing.
const MEANINGLESS: [&str; 1] = ["__pycache__"];

pub(super) fn all() -> Result<Vec<String>> {
    let mut files = Vec::new();
    below(Path::new("/"), &mut files).context("cannot list the machine's files")?;
    files.sort();
    Ok(files)
}

fn below(directory: &Path, files: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        let text = path.to_string_lossy();
        let name = entry.file_name();
        if PASSED_OVER.contains(&&*text) || MEANINGLESS.iter().any(|other| name == *other) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            // What goes away at this very moment is not there.
            match below(&path, files) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        } else {
            files.push(text.into_owned());
        }
    }
    Ok(())
}
