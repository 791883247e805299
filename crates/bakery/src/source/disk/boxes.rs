//! Archives that hold disks: boxes of Vagrant's providers (its documentation, "Box File Format"), and `.ova`
//! (DMTF, DSP0243, 5.1).

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::disk::Blocks;
use ::disk::image;
use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{Mode, OFlags};
use serde::Deserialize;
use spec::event::Event;
use spec::image::Origin;
use spec::reference::Reference;
use store::NewLayer;
use store::archive::{Archive, Kind};
use store::unpack::{Ids, Limits, Options, Style, unpack_with};

use super::{draft, finished};
use crate::compression::Compression;
use crate::source::{Context, Pulled, tar};

/// What a box says of itself in `metadata.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    provider: String,
    disks: Vec<Disk>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Disk {
    path: String,
}

/// Far beyond every real description: bytes.
const MAX_TEXT: u64 = 4 << 20;
const DISKS: [&str; 8] = ["vmdk", "vhd", "vhdx", "vdi", "qcow2", "img", "raw", "avhdx"];
const SCRIPTS: [&str; 4] = ["metadata.json", "Vagrantfile", "info.json", "lxc-config"];

fn extension(path: &Path) -> String {
    path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase()
}

/// Whether the archive that begins so is one: by its first file, for the rest may be far away.
pub(super) fn begins(compression: Compression, start: &[u8]) -> bool {
    let Ok(decoder) = compression.decoder(io::Cursor::new(start.to_vec())) else { return false };
    let mut archive = Archive::new(decoder, &Limits::default());
    while let Ok(Some(member)) = archive.next() {
        if member.kind == Kind::Directory {
            continue;
        }
        let Ok(name) = str::from_utf8(&member.path) else { return false };
        let name = name.trim_start_matches("./");
        let extension = extension(Path::new(name));
        let of_machine = ["ovf", "mf", "vmx", "vmsd", "nvram", "vmxf", "vmcx", "xml"];
        let known = SCRIPTS.contains(&name)
            || DISKS.contains(&&extension[..])
            || (of_machine.contains(&&extension[..]) && name.matches('/').count() <= 1);
        return known && member.kind == Kind::File;
    }
    false
}

/// Takes the root out of the disks in an archive.
pub(super) fn pull(
    file: File,
    compression: Compression,
    origin: Origin,
    context: &Context<'_>,
) -> Result<Pulled> {
    context.tell.tell(Event::Phase { name: "unpacking the box".into() });
    let unpacked = context.store.new_layer()?;
    let files = unpack(compression.decoder(file)?, &unpacked)?;
    let content = Box { unpacked: &unpacked, files };
    let metadata: Metadata = match content.text("metadata.json")? {
        Some(text) => serde_json::from_str(&text).context("reading its metadata.json")?,
        None => Metadata::default(),
    };
    match &metadata.provider[..] {
        "lxc" => return content.pull_archive(origin, context),
        "docker" => return content.pull_named(context),
        _ => {}
    }
    let names = content.disks(&metadata)?;
    let mut disks: Vec<Arc<dyn Blocks>> = Vec::new();
    for name in &names {
        let path = unpacked.path().join(name);
        let opened = image::open(&path, &image::Options::default());
        disks.push(opened.with_context(|| format!("its disk {}", name.display()))?.blocks);
    }
    draft(&disks, origin, context)
}

/// Nothing but files and directories: what is opened by its path later cannot lead out.
fn unpack(decoder: impl Read, into: &NewLayer) -> Result<Vec<PathBuf>> {
    let options = Options { style: Style::Plain, ids: Ids::Mine, limits: Limits::default() };
    let (mut files, mut other) = (Vec::new(), None);
    unpack_with(decoder, into.root(), &options, &mut |entry| match entry.kind {
        Kind::File => files.push(entry.path.to_owned()),
        Kind::Directory => {}
        _ => other = Some(entry.path.to_owned()),
    })?;
    if let Some(path) = other {
        bail!("{} is neither a file nor a directory: no box has such a thing", path.display());
    }
    files.sort();
    files.dedup();
    Ok(files)
}

struct Box<'a> {
    unpacked: &'a NewLayer,
    files: Vec<PathBuf>,
}

impl Box<'_> {
    /// A small file's text; `None` where there is no such file.
    fn text(&self, name: impl AsRef<Path>) -> Result<Option<String>> {
        let name = name.as_ref();
        if !self.files.iter().any(|file| file == name) {
            return Ok(None);
        }
        let file = self.unpacked.root().open_in(name, OFlags::RDONLY, Mode::empty())?;
        let mut text = Vec::new();
        File::from(file).take(MAX_TEXT + 1).read_to_end(&mut text)?;
        ensure!(text.len() as u64 <= MAX_TEXT, "{} is too large", name.display());
        Ok(Some(String::from_utf8_lossy(&text).into_owned()))
    }

    fn of_extension(&self, wanted: &str) -> Option<&PathBuf> {
        self.files.iter().find(|file| extension(file) == wanted)
    }

    /// The disks in the order of the machine's description; else all that there are.
    fn disks(&self, metadata: &Metadata) -> Result<Vec<PathBuf>> {
        let mut named: Vec<String> = metadata.disks.iter().map(|disk| disk.path.clone()).collect();
        let mut beside = Path::new("");
        for kind in ["ovf", "vmx"] {
            if named.is_empty()
                && let Some(path) = self.of_extension(kind)
            {
                let text = self.text(path)?.unwrap_or_default();
                named = if kind == "ovf" { references(&text) } else { devices(&text) };
                beside = path.parent().unwrap_or(beside);
            }
        }
        let mut found = Vec::new();
        for name in named {
            let path = beside.join(&name);
            ensure!(
                self.files.contains(&path),
                "it names the disk {name:?}, which it does not hold"
            );
            found.push(path);
        }
        if found.is_empty() {
            let is_disk = |file: &&PathBuf| DISKS.contains(&&extension(file)[..]);
            found.extend(self.files.iter().filter(is_disk).cloned());
        }
        ensure!(!found.is_empty(), "it holds no disk");
        Ok(found)
    }

    /// LXC's: an archive of the root.
    fn pull_archive(&self, origin: Origin, context: &Context<'_>) -> Result<Pulled> {
        let is_root = |file: &&PathBuf| {
            let name = file.to_str().unwrap_or_default();
            name.starts_with("rootfs.tar")
        };
        let name = self.files.iter().find(is_root).context("it holds no rootfs.tar")?;
        let file = self.unpacked.root().open_in(name, OFlags::RDONLY, Mode::empty())?;
        let layer = context.store.new_layer()?;
        context.tell.tell(Event::Phase { name: "unpacking".into() });
        tar::fill(&layer, File::from(file), 0, &name.to_string_lossy(), context.tell)
            .with_context(|| format!("unpacking its {}", name.display()))?;
        Ok(finished(layer, origin))
    }

    /// Docker's: its Vagrantfile names an image of a registry.
    fn pull_named(&self, context: &Context<'_>) -> Result<Pulled> {
        let text = self.text("Vagrantfile")?.unwrap_or_default();
        let name = text.lines().find_map(image_of).context(
            "it is a box of docker's that names no image: only what says `image = \"…\"` is understood",
        )?;
        let reference = Reference::parse(&format!("docker://{name}"), |_| false)?;
        let source = crate::source::find(&reference).context("nobody has such an image")?;
        source.pull(&reference, context).with_context(|| format!("pulling its image {name}"))
    }
}

/// `d.image = "debian:12"`.
fn image_of(line: &str) -> Option<&str> {
    let (key, value) = line.split_once('=')?;
    let is_image = key.trim().ends_with(".image") && !key.trim_start().starts_with('#');
    let value = value.trim().trim_matches(['"', '\'']);
    (is_image && !value.is_empty()).then_some(value)
}

/// The disks among the files that an OVF names, in its order.
fn references(text: &str) -> Vec<String> {
    let hrefs = text.split("href=").skip(1).filter_map(|rest| {
        let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        rest[1..].split(quote).next()
    });
    hrefs.filter(|name| DISKS.contains(&&extension(Path::new(name))[..])).map(Into::into).collect()
}

/// The disks that a VMX names, in the order of their slots.
fn devices(text: &str) -> Vec<String> {
    let mut found: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| {
            let (key, value) = line.split_once('=')?;
            let value = value.trim().trim_matches('"');
            let is_disk = key.trim().to_ascii_lowercase().ends_with(".filename");
            (is_disk && extension(Path::new(value)) == "vmdk").then_some((key.trim(), value))
        })
        .collect();
    found.sort_unstable();
    found.into_iter().map(|(_, value)| value.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions() {
        let ovf = r#"<References><File ovf:href="b.vmdk" ovf:id="1"/><File ovf:href='a.vmdk'/>
            <File ovf:href="x.nvram"/></References><a href="http://example.org/">"#;
        assert_eq!(references(ovf), ["b.vmdk", "a.vmdk"]);
        let vmx = "scsi0:1.fileName = \"two.vmdk\"\nscsi0:0.filename=\"one.vmdk\"\nide1:0.fileName = \"x.iso\"\n";
        assert_eq!(devices(vmx), ["one.vmdk", "two.vmdk"]);
        assert_eq!(image_of("    d.image = \"debian:12\""), Some("debian:12"));
        assert_eq!(image_of("    # d.image = \"debian:12\""), None);
        assert_eq!(image_of("d.image = \"\""), None);
    }
}
