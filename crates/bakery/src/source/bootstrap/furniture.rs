//! Files of the image that belong to no package: apt's sources and marks, and what a
//! system without an installer needs in `/etc`.

use std::fmt::Write as _;
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result};
use distro::catalog::{Bootstrap, Family, SourcesStyle, Usr};
use rustix::fs::{Mode, symlinkat};
use sys::rooted::{Root, chmod_at};

use super::archive::{Archive, public};
use super::recipe::SCAFFOLD;

/// The links of a merged `/usr` on an architecture (debootstrap's `setup_merged_usr`).
pub(crate) fn usr_links(release: &Bootstrap, architecture: &str) -> Vec<String> {
    let libraries: &[&str] = match architecture {
        "amd64" | "ppc64el" | "loong64" | "x32" | "sparc64" | "ppc64" | "mips64el" => &["lib64"],
        _ => &[],
    };
    if release.usr == Usr::Split {
        return Vec::new();
    }
    ["bin", "lib", "sbin"].iter().chain(libraries).map(|name| (*name).to_owned()).collect()
}

/// Makes the links and the directories behind them, where no package ships them.
///
/// # Errors
/// One cannot be made.
pub(crate) fn make_usr_links(root: &Root, release: &Bootstrap, links: &[String]) -> Result<()> {
    if release.usr != Usr::LinksFirst {
        return Ok(());
    }
    let top = root.open_dir("/").context("opening the image's root")?;
    for link in links {
        let target = format!("usr/{link}");
        root.create_dir_all(&target, Mode::from_raw_mode(0o755))
            .with_context(|| format!("creating /{target} in the image"))?;
        symlinkat(&target, &top, link).with_context(|| format!("linking /{link} in the image"))?;
    }
    Ok(())
}

/// Writes the files, after all packages were unpacked.
///
/// # Errors
/// One cannot be written.
pub(crate) fn furnish(
    root: &Root,
    family: &Family,
    release: &Bootstrap,
    archives: &[&Archive],
) -> Result<()> {
    match release.sources {
        SourcesStyle::OneLine => put(root, "etc/apt/sources.list", &one_line(archives), 0o644)?,
        SourcesStyle::Deb822 => {
            let path = format!("etc/apt/sources.list.d/{}.sources", family.name);
            put(root, &path, &deb822(archives, &family.signed_by), 0o644)?;
        }
    }
    put(root, "etc/fstab", "# UNCONFIGURED FSTAB FOR BASE SYSTEM\n", 0o644)?;
    put(root, "etc/hosts", HOSTS, 0o644)?;
    // base-files' postinst makes it so, unless a script that runs systemd-tmpfiles comes first.
    make_lock_directory(root).context("creating /run/lock in the image")?;
    for (path, content) in SCAFFOLD {
        put(root, path, content, 0o755)?;
    }
    Ok(())
}

fn make_lock_directory(root: &Root) -> std::io::Result<()> {
    root.create_dir_all("run/lock", Mode::from_raw_mode(0o755))?;
    let (parent, name) = root.parent_of("run/lock")?;
    chmod_at(parent.as_fd(), &name, Mode::from_raw_mode(0o1777))
}

const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\t\tlocalhost ip6-localhost ip6-loopback\n";

fn one_line(archives: &[&Archive]) -> String {
    archives.iter().map(|archive| archive.line() + "\n").collect()
}

/// One stanza for all suites that are the same but for their names.
fn deb822(archives: &[&Archive], signed_by: &str) -> String {
    let mut stanzas: Vec<(&Archive, Vec<&str>)> = Vec::new();
    for archive in archives {
        let alike = stanzas
            .iter_mut()
            .find(|(first, _)| first.uri == archive.uri && first.components == archive.components);
        match alike {
            Some((_, suites)) => suites.push(&archive.suite),
            None => stanzas.push((archive, vec![&archive.suite])),
        }
    }
    let mut text = String::new();
    for (archive, suites) in stanzas {
        let gap = if text.is_empty() { "" } else { "\n" };
        let _ = write!(
            text,
            "{gap}Types: deb\nURIs: {}\nSuites: {}\nComponents: {}\nSigned-By: {signed_by}\n",
            public(&archive.uri),
            suites.join(" "),
            archive.components.join(" ")
        );
    }
    text
}

/// Writes apt's marks of the packages that nobody asked for (apt-mark(8)). apt counts those of
/// architecture `all` to the system's own.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn mark_automatic(root: &Root, names: &[String], architecture: &str) -> Result<()> {
    let stanza = |name: &String| {
        format!("Package: {name}\nArchitecture: {architecture}\nAuto-Installed: 1\n\n")
    };
    let text: String = names.iter().map(stanza).collect();
    put(root, "var/lib/apt/extended_states", &text, 0o644)
}

fn put(root: &Root, path: &str, content: &str, mode: u32) -> Result<()> {
    if let Some((directory, _)) = path.rsplit_once('/') {
        root.create_dir_all(directory, Mode::from_raw_mode(0o755))
            .with_context(|| format!("creating /{directory} in the image"))?;
    }
    root.write(path, content.as_bytes(), Mode::from_raw_mode(mode))
        .with_context(|| format!("writing /{path} in the image"))
}
