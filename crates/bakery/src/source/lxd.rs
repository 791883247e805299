//! Images of LXD and Incus (their documentation, "Image format"): a unified one is an archive of the root in
//! `rootfs`, beside it `metadata.yaml` and perhaps `templates`.

use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, RawDir, Uid, fchmod, fchown, fstat, renameat, unlinkat,
};
use sys::rooted::Root;

const METADATA: &str = "metadata.yaml";
const ROOT: &str = "rootfs";
/// What the root is called while its content moves up.
const ASIDE: &str = ".postroj-rootfs";

/// Of an unpacked archive that is such an image, leaves the root alone.
///
/// # Errors
/// It is the metadata only, or cannot be changed.
pub(super) fn flatten(root: &Root) -> Result<()> {
    let directory = || root.open_in("/", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
    let names = names(directory()?)?;
    let all_known = names.iter().all(|n| [METADATA, ROOT, "templates"].contains(&&n[..]));
    if !all_known || !names.iter().any(|n| n == METADATA) {
        return Ok(());
    }
    ensure!(
        names.iter().any(|n| n == ROOT),
        "it is the metadata of an LXD image alone: take the rootfs.tar.xz beside it"
    );
    let top = directory()?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    renameat(&top, ROOT, &top, ASIDE)?;
    let inner = root.open_in(ASIDE, flags, Mode::empty()).context("its rootfs is no directory")?;
    for name in names.iter().filter(|n| *n != ROOT) {
        root.remove_all(name)?;
    }
    for name in self::names(root.open_in(ASIDE, flags, Mode::empty())?)? {
        renameat(&inner, &name, &top, &name).with_context(|| format!("moving {name}"))?;
    }
    let stat = fstat(&inner)?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    fchown(top.as_fd(), Some(uid), Some(gid))?;
    fchmod(top.as_fd(), Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    Ok(unlinkat(&top, ASIDE, AtFlags::REMOVEDIR)?)
}

fn names(directory: impl AsFd) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut buffer = vec![MaybeUninit::uninit(); 32 << 10];
    let mut entries = RawDir::new(directory, &mut buffer);
    while let Some(entry) = entries.next() {
        let name = entry?.file_name().to_str().context("a name at its top is no text")?.to_owned();
        if !matches!(&name[..], "." | "..") {
            names.push(name);
        }
    }
    Ok(names)
}
