//! A test's data: projects share files between tests by links that lead out of its directory, so what those lead
//! to is copied.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Deeper is a loop of links.
const MAX_DEPTH: usize = 40;

/// The directory itself where nothing in it leads out, else a copy of it in `scratch`.
pub(super) fn whole(data: &Path, scratch: &Path) -> Result<PathBuf> {
    let outside =
        leads_out(data, data).with_context(|| format!("cannot read {}", data.display()))?;
    if !outside {
        return Ok(data.to_owned());
    }
    let copied = scratch.join("extdata");
    if copied.exists() {
        fs::remove_dir_all(&copied)?;
    }
    copy(data, data, &copied, 0)?;
    Ok(copied)
}

fn leads_out(path: &Path, root: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() && leads_out(&path, root)? || kind.is_symlink() && is_outside(&path, root)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a link's target is there, and elsewhere.
fn is_outside(link: &Path, root: &Path) -> bool {
    fs::canonicalize(link).is_ok_and(|target| !target.starts_with(root))
}

fn copy(from: &Path, root: &Path, to: &Path, depth: usize) -> Result<()> {
    let what = || format!("cannot copy {}", from.display());
    ensure!(depth < MAX_DEPTH, "{} leads into itself", from.display());
    let about = fs::symlink_metadata(from).with_context(what)?;
    if about.is_symlink() && !is_outside(from, root) {
        let target = fs::read_link(from).with_context(what)?;
        return std::os::unix::fs::symlink(target, to).with_context(what);
    }
    if !fs::metadata(from).with_context(what)?.is_dir() {
        return fs::copy(from, to).map(drop).with_context(what);
    }
    fs::create_dir(to).with_context(what)?;
    for entry in fs::read_dir(from).with_context(what)? {
        let entry = entry.with_context(what)?;
        copy(&entry.path(), root, &to.join(entry.file_name()), depth + 1)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_what_leads_out_is_copied() {
        let temp = tempfile::tempdir().unwrap();
        let (root, data) = (temp.path().canonicalize().unwrap(), temp.path().join("test/data"));
        fs::create_dir_all(&data).unwrap();
        let data = data.canonicalize().unwrap();
        fs::write(data.join("own"), "own").unwrap();
        symlink("own", data.join("inner")).unwrap();
        assert_eq!(whole(&data, &root).unwrap(), data);
        fs::create_dir(root.join("shared")).unwrap();
        fs::write(root.join("shared/lib.sh"), "shared").unwrap();
        symlink("../../shared/lib.sh", data.join("lib.sh")).unwrap();
        symlink("../../shared", data.join("all")).unwrap();
        symlink("nowhere", data.join("broken")).unwrap();
        let copied = whole(&data, &root).unwrap();
        assert_eq!(copied, root.join("extdata"));
        assert_eq!(fs::read_to_string(copied.join("lib.sh")).unwrap(), "shared");
        assert!(!fs::symlink_metadata(copied.join("lib.sh")).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(copied.join("all/lib.sh")).unwrap(), "shared");
        assert_eq!(fs::read_link(copied.join("inner")).unwrap(), Path::new("own"));
        assert_eq!(fs::read_link(copied.join("broken")).unwrap(), Path::new("nowhere"));
        // Once more, over what is left of the last time; then a loop.
        assert_eq!(whole(&data, &root).unwrap(), copied);
        symlink("../..", data.join("loop")).unwrap();
        let error = format!("{:#}", whole(&data, &root).unwrap_err());
        assert!(error.contains("leads into itself"), "{error}");
    }
}
