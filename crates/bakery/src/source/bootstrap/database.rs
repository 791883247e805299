//! dpkg's database (dpkg(1), "FILES"), written as dpkg itself leaves it after
//! `dpkg --unpack` of all packages.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use rustix::fs::Mode;
use sys::rooted::Root;

use super::deb::Control;
use super::relation;
use super::unpacking::Unpacked;

const DIRECTORY: &str = "var/lib/dpkg";

/// Writes the database of a system of one architecture.
///
/// # Errors
/// A file cannot be written; it is named.
pub(crate) fn write(
    root: &Root,
    architecture: &str,
    packages: &[Unpacked],
    lost: &[(usize, Vec<u8>)],
) -> Result<()> {
    let directory = |name: &str| {
        let path = format!("{DIRECTORY}/{name}");
        let made = root.create_dir_all(&path, Mode::from_raw_mode(0o755));
        made.map(drop).with_context(|| format!("creating /{path} in the image"))
    };
    for name in ["alternatives", "info", "parts", "triggers", "updates"] {
        directory(name)?;
    }
    let mut status = String::new();
    let mut triggers = Triggers::default();
    for (index, package) in packages.iter().enumerate() {
        let lost: HashSet<&[u8]> =
            lost.iter().filter(|(loser, _)| *loser == index).map(|(_, path)| &path[..]).collect();
        write_info(root, package, &lost)?;
        status.push_str(&stanza(package));
        triggers.add(&package.control);
    }
    put(root, "status", status.as_bytes(), 0o644)?;
    put(root, "arch", format!("{architecture}\n").as_bytes(), 0o644)?;
    put(root, "info/format", b"1\n", 0o644)?;
    put(root, "triggers/Unincorp", b"", 0o644)?;
    put(root, "triggers/File", triggers.files.as_bytes(), 0o644)?;
    for (name, text) in &triggers.named {
        put(root, &format!("triggers/{name}"), text.as_bytes(), 0o644)?;
    }
    Ok(())
}

fn put(root: &Root, name: &str, content: &[u8], mode: u32) -> Result<()> {
    let path = format!("{DIRECTORY}/{name}");
    root.write(&path, content, Mode::from_raw_mode(mode))
        .with_context(|| format!("writing /{path} in the image"))
}

/// The files `info/NAME.*`: what the control part holds but the stanza, and the list.
fn write_info(root: &Root, package: &Unpacked, lost: &HashSet<&[u8]>) -> Result<()> {
    let name = package.control.info_name();
    for (kind, file) in &package.control.files {
        put(root, &format!("info/{name}.{kind}"), &file.content, file.mode)?;
    }
    let mut list = Vec::new();
    if package.control.files.contains_key("preinst") {
        stage(root, &name, &package.control)?;
    }
    for item in package.items.iter().filter(|item| !lost.contains(&item.path[..])) {
        list.push(b'/');
        list.extend(if item.path.is_empty() { b"." } else { &item.path[..] });
        list.push(b'\n');
    }
    put(root, &format!("info/{name}.list"), &list, 0o644)?;
    if !package.control.files.contains_key("md5sums") {
        put(root, &format!("info/{name}.md5sums"), &md5sums(package), 0o644)?;
    }
    Ok(())
}

/// A package's control part as dpkg has it in `tmp.ci` while it runs the preinst script, for
/// the recipe to run it from there.
fn stage(root: &Root, name: &str, control: &Control) -> Result<()> {
    let directory = format!("{DIRECTORY}/tmp.preinst/{name}");
    root.create_dir_all(&directory, Mode::from_raw_mode(0o755))
        .with_context(|| format!("creating /{directory} in the image"))?;
    put(root, &format!("tmp.preinst/{name}/control"), control.text.as_bytes(), 0o644)?;
    for (kind, file) in &control.files {
        put(root, &format!("tmp.preinst/{name}/{kind}"), &file.content, file.mode)?;
    }
    Ok(())
}

/// What dpkg writes for a package that brings no list of its own (its `write_filehash_except`).
fn md5sums(package: &Unpacked) -> Vec<u8> {
    let conffiles: HashSet<&[u8]> = package.control.conffiles().collect();
    let mut text = Vec::new();
    for item in package.items.iter().filter(|item| !conffiles.contains(&item.path[..])) {
        if let Some(digest) = package.digests.get(&item.path) {
            text.extend([digest.as_bytes(), b"  ", &item.path, b"\n"].concat());
        }
    }
    text
}

/// The stanza in `status` of a package that is unpacked.
///
/// Conffiles are in place under their own names and listed with their digests, as they are after
/// configuration. dpkg takes one that has no `.dpkg-new` beside it as dealt with (its
/// `deferred_configure_conffile`), and what it records then is what is recorded here.
fn stanza(package: &Unpacked) -> String {
    let control = &package.control;
    let mut text = String::with_capacity(control.text.len() + 200);
    let after_name = control.text.find('\n').map_or(control.text.len(), |at| at + 1);
    let (first, rest) = if control.text.starts_with("Package:") {
        control.text.split_at(after_name)
    } else {
        ("", &control.text[..])
    };
    text.push_str(first);
    text.push_str("Status: install ok unpacked\n");
    text.push_str(rest);
    let conffiles: Vec<String> = control
        .conffiles()
        .filter_map(|path| {
            let digest = package.digests.get(path)?;
            Some(format!(" /{} {digest}\n", String::from_utf8_lossy(path)))
        })
        .collect();
    if !conffiles.is_empty() {
        let _ = write!(text, "Conffiles:\n{}", conffiles.concat());
    }
    text.push('\n');
    text
}

/// Which packages are interested in which triggers (deb-triggers(5), dpkg's
/// lib/dpkg/triglib.c). What is activated meanwhile counts for nothing: those interested
/// are yet to be configured.
#[derive(Debug, Default, PartialEq, Eq)]
struct Triggers {
    /// `triggers/File`: paths.
    files: String,
    /// `triggers/NAME`: explicit triggers.
    named: BTreeMap<String, String>,
}

impl Triggers {
    fn add(&mut self, control: &Control) {
        let Some(file) = control.files.get("triggers") else { return };
        for line in String::from_utf8_lossy(&file.content).lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let (Some(directive), Some(trigger)) = (words.next(), words.next()) else { continue };
            let suffix = match directive {
                "interest" | "interest-await" => "",
                "interest-noawait" => "/noawait",
                _ => continue,
            };
            let name =
                if control.multi_arch_same { control.info_name() } else { control.name.clone() };
            if trigger.starts_with('/') {
                let _ = writeln!(self.files, "{trigger} {name}{suffix}");
            } else if relation::is_package_name(trigger) {
                let _ =
                    writeln!(self.named.entry(trigger.to_owned()).or_default(), "{name}{suffix}");
            }
        }
    }
}
