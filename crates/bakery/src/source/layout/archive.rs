//! A tar archive whose files are read in any order.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::OFlags;
use spec::reference::LayoutKind;
use store::Store;
use store::archive::{Kind, Limits, show};

use super::Place;
use crate::compression::Compression;

/// Where each file of an archive is.
pub(super) struct Archive {
    file: File,
    entries: HashMap<String, Entry>,
}

enum Entry {
    File {
        offset: u64,
        size: u64,
    },
    /// Docker once wrote a layer that is there already as a link.
    Link(String),
}

/// Files in an archive: far more than an image has layers.
const MAX_ENTRIES: u64 = 1 << 16;

impl Archive {
    /// Reads the headers of an archive; one that is compressed is decompressed first.
    ///
    /// # Errors
    /// It is no archive, or damaged.
    pub(super) fn open(path: &Path, store: &Store) -> Result<Self> {
        let mut file = open(path)?;
        let compression = compression(&file)?;
        if compression != Compression::None {
            let mut plain = super::scratch(store)?;
            io::copy(&mut compression.decoder(file)?, &mut plain)
                .with_context(|| format!("decompressing it ({compression})"))?;
            file = plain;
        }
        let mut entries = HashMap::new();
        let limits = Limits { max_entries: MAX_ENTRIES, ..Limits::default() };
        let mut archive = store::archive::Archive::new(Section::new(&file, 0, u64::MAX), &limits);
        while let Some(member) = archive.next()? {
            let Some(name) = clean(&member.path) else { continue };
            let entry = match member.kind {
                Kind::File if member.extents.is_none() => {
                    Entry::File { offset: archive.offset(), size: member.size }
                }
                Kind::Symlink | Kind::HardLink => match target(&name, &member.link, member.kind) {
                    Some(target) => Entry::Link(target),
                    None => bail!("{} leads out of the archive", show(&member.path)),
                },
                _ => continue,
            };
            entries.insert(name, entry);
        }
        Ok(Self { file, entries })
    }
}

impl Place for Archive {
    fn file<'s>(&'s self, name: &str) -> Result<(Box<dyn Read + Send + 's>, u64)> {
        let mut name = name;
        for _ in 0..8 {
            match self.entries.get(name) {
                None => bail!("the archive has no {name}"),
                Some(Entry::Link(target)) => name = target,
                Some(&Entry::File { offset, size }) => {
                    return Ok((Box::new(Section::new(&self.file, offset, size)), size));
                }
            }
        }
        bail!("{name} is a link in a circle");
    }
}

/// Whose archive it is, by the first names in it; `None` for one of a root file system.
pub(super) fn sniff(path: &Path) -> Result<Option<LayoutKind>> {
    let file = open(path)?;
    let decoder = compression(&file)?.decoder(file)?;
    let mut archive = store::archive::Archive::new(decoder, &Limits::default());
    let mut kind = None;
    // What is wrong with it, who reads it as a whole will say.
    for _ in 0..MAX_ENTRIES {
        let Ok(Some(member)) = archive.next() else { break };
        let Some(name) = clean(&member.path) else { return Ok(None) };
        match &name[..] {
            "manifest.json" => return Ok(Some(LayoutKind::DockerArchive)),
            "oci-layout" | "index.json" => kind = Some(LayoutKind::OciArchive),
            "" | "repositories" | "blobs" | "blobs/sha256" => {}
            other if is_of_image(other) => {}
            _ => return Ok(None),
        }
    }
    Ok(kind)
}

/// `blobs/sha256/HEX`, `HEX.json`, `HEX.tar`, `HEX/layer.tar` and the like.
fn is_of_image(name: &str) -> bool {
    let name = name.strip_prefix("blobs/sha256/").unwrap_or(name);
    let (hex, rest) = name.split_at_checked(64).unwrap_or((name, "x"));
    let is_hex = hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    is_hex && matches!(rest, "" | ".json" | ".tar" | "/" | "/layer.tar" | "/VERSION" | "/json")
}

fn open(path: &Path) -> Result<File> {
    let mut options = File::options();
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, OFlags::NONBLOCK.bits() as i32);
    let file = options.read(true).open(path)?;
    ensure!(file.metadata()?.is_file(), "{} is no regular file", path.display());
    Ok(file)
}

fn compression(file: &File) -> Result<Compression> {
    let mut start = [0; 6];
    let known = file.read_at(&mut start, 0)?;
    Ok(Compression::of_content(&start[..known]))
}

/// Relative, without `.`; `None` where it leads out or is no text.
fn clean(name: &[u8]) -> Option<String> {
    resolve(&[], std::str::from_utf8(name).ok()?.trim_start_matches('/'))
}

fn target(name: &str, link: &[u8], kind: Kind) -> Option<String> {
    let link = std::str::from_utf8(link).ok()?;
    let base: Vec<&str> = match kind {
        Kind::Symlink if link.starts_with('/') => return None,
        Kind::Symlink => {
            name.split('/').rev().skip(1).collect::<Vec<_>>().into_iter().rev().collect()
        }
        _ => Vec::new(),
    };
    resolve(&base, link)
}

fn resolve(base: &[&str], path: &str) -> Option<String> {
    let mut parts = base.to_vec();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            _ => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// A part of a file, read without moving the file's own position, which others share.
struct Section<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl<'a> Section<'a> {
    fn new(file: &'a File, offset: u64, size: u64) -> Self {
        Self { file, at: offset, end: offset.saturating_add(size) }
    }
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        let count = self.file.read_at(&mut buffer[..length], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_links_stay_in_the_archive() {
        assert_eq!(clean(b"./a//b/../c/").as_deref(), Some("a/c"));
        assert_eq!(clean(b"/x").as_deref(), Some("x"));
        assert_eq!(clean(b"../x"), None);
        assert_eq!(clean(b"\xff"), None);
        let link = |text: &str| target("a/layer.tar", text.as_bytes(), Kind::Symlink);
        assert_eq!(link("../b/layer.tar").as_deref(), Some("b/layer.tar"));
        assert_eq!(link("../../b"), None);
        assert_eq!(link("/etc/passwd"), None);
        assert_eq!(target("a/b", b"c/d", Kind::HardLink).as_deref(), Some("c/d"));
    }

    #[test]
    fn names_in_archives_of_images() {
        let hex = "0123456789abcdef".repeat(4);
        for name in ["{}", "{}.json", "{}.tar", "{}/layer.tar", "blobs/sha256/{}"] {
            assert!(is_of_image(&name.replace("{}", &hex)), "{name}");
        }
        for name in ["etc", "bin/sh", "{}x", "x{}", "blobs/{}", "a.json"] {
            assert!(!is_of_image(&name.replace("{}", &hex)), "{name}");
        }
    }
}
