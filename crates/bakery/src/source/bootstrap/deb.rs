//! The .deb format: deb(5), version 2.

use std::collections::BTreeMap;
use std::io::Read;

use anyhow::{Context as _, Result, bail, ensure};

use super::ar::{Archive, Member};
use super::{deb822, packages, relation, version};
use crate::compression::Compression;

/// A package whose control part was read and whose data comes next.
pub struct Deb<R> {
    archive: Archive<R>,
    compression: Compression,
    /// The control part.
    pub control: Control,
}

/// The control part of a package: deb-control(5) and the files beside it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Control {
    /// The `control` file itself, one stanza, with a line end at its end.
    pub text: String,
    /// Maintainer scripts, `md5sums`, `conffiles`, `triggers` and so on, by name.
    pub files: BTreeMap<String, File>,
    /// `Package`.
    pub name: String,
    /// `Version`.
    pub version: String,
    /// `Architecture`.
    pub architecture: String,
    /// `Multi-Arch: same`: several architectures of it can be installed at once.
    pub multi_arch_same: bool,
}

/// A file of the control part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its content.
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// Most bytes that a control part may have, unpacked. The largest of Debian has 5 MiB.
const MAX_CONTROL: u64 = 64 << 20;
/// Most files that a control part may have.
const MAX_CONTROL_FILES: usize = 200;

impl<R: Read + Send> Deb<R> {
    /// Reads everything up to the data.
    ///
    /// # Errors
    /// It is no .deb of format 2, is damaged, or has a member or a compression that is not
    /// known, which is named.
    pub fn open(reader: R) -> Result<Self> {
        let mut archive = Archive::new(reader)?;
        let format = next(&mut archive)?.context("the package is an empty ar archive")?;
        ensure!(
            format.name == "debian-binary",
            "the package begins with {:?} instead of debian-binary",
            format.name
        );
        let mut text = String::new();
        archive.by_ref().take(64).read_to_string(&mut text).context("reading debian-binary")?;
        let number = text.lines().next().unwrap_or_default();
        ensure!(
            number.split_once('.').is_some_and(|(major, _)| major == "2"),
            "the package has format {number:?}; only 2.x is known"
        );
        let (_, compression) = member_of(&mut archive, "control.tar")?;
        let control = read_control(compression, &mut archive)?;
        let (_, compression) = member_of(&mut archive, "data.tar")?;
        Ok(Self { archive, compression, control })
    }

    /// Reads the data, a tar archive, with `read`, then the rest of the package.
    ///
    /// # Errors
    /// Those of `read`; the decompressor cannot begin; the package ends too early.
    pub fn read_data<T>(mut self, read: impl FnOnce(&mut dyn Read) -> Result<T>) -> Result<(T, R)> {
        let mut decoder =
            self.compression.decoder(&mut self.archive).context("reading data.tar")?;
        let result = read(&mut decoder)?;
        // Padding behind the end of a tar archive is of no interest, but must be sound.
        std::io::copy(&mut decoder, &mut std::io::sink()).context("reading data.tar")?;
        drop(decoder);
        while next(&mut self.archive)?.is_some() {}
        Ok((result, self.archive.into_inner()))
    }
}

fn next<R: Read>(archive: &mut Archive<R>) -> Result<Option<Member>> {
    Ok(archive.next_member()?)
}

/// The next member, which must be the one that deb(5) wants there. Members that begin
/// with an underscore are to be ignored.
fn member_of<R: Read>(archive: &mut Archive<R>, stem: &str) -> Result<(Member, Compression)> {
    loop {
        let Some(member) = next(archive)? else { bail!("the package has no {stem}") };
        if member.name.starts_with('_') {
            continue;
        }
        let Some(suffix) = member.name.strip_prefix(stem) else {
            bail!("the package has {:?} where {stem} should be", member.name);
        };
        match Compression::of_suffix(suffix) {
            Some(compression) => return Ok((member, compression)),
            None => {
                bail!("the package's {:?} is compressed in a way that is not known", member.name)
            }
        }
    }
}

fn read_control<R: Read + Send>(
    compression: Compression,
    archive: &mut Archive<R>,
) -> Result<Control> {
    let decoder = compression.decoder(archive).context("reading control.tar")?;
    let mut tar = tar::Archive::new(decoder.take(MAX_CONTROL));
    let mut files = BTreeMap::new();
    for entry in tar.entries().context("reading control.tar")? {
        let mut entry = entry.context("reading control.tar")?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let name = path.strip_prefix("./").unwrap_or(&path).to_owned();
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b".+-_".contains(&b);
        ensure!(
            !name.is_empty()
                && name.len() <= 64
                && name.bytes().all(allowed)
                && !name.starts_with('.'),
            "control.tar has a file with the unusable name {:?}",
            path.chars().take(100).collect::<String>()
        );
        ensure!(
            files.len() < MAX_CONTROL_FILES,
            "control.tar has more than {MAX_CONTROL_FILES} files"
        );
        let mode = entry.header().mode().unwrap_or(0o644) & 0o777;
        let mut content = Vec::new();
        entry
            .read_to_end(&mut content)
            .with_context(|| format!("reading {name} of control.tar"))?;
        files.insert(name, File { content, mode });
    }
    let control = files.remove("control").context("control.tar has no control file")?;
    of_text(String::from_utf8(control.content).context("the control file is no UTF-8")?, files)
}

fn of_text(text: String, files: BTreeMap<String, File>) -> Result<Control> {
    let stanzas = deb822::parse(&text).context("reading the control file")?;
    let [stanza] = &stanzas[..] else {
        bail!("the control file has {} stanzas instead of one", stanzas.len());
    };
    let field = |name: &str, good: fn(&str) -> bool| {
        let value = stanza.get(name).filter(|value| good(value));
        value.map(String::from).with_context(|| format!("the control file has no valid {name}"))
    };
    let name = field("Package", relation::is_package_name)?;
    let version = field("Version", version::is_valid)?;
    let architecture = field("Architecture", packages::is_architecture)?;
    let multi_arch_same = stanza.get("Multi-Arch") == Some("same");
    // Written anew, so that comments and empty lines cannot get into dpkg's database.
    let mut text = String::with_capacity(text.len());
    for (name, value) in stanza.fields() {
        text.push_str(&format!("{name}: "));
        let mut lines = value.lines().filter(|line| !line.starts_with('#'));
        text.push_str(lines.next().unwrap_or_default());
        lines.for_each(|line| text.push_str(&format!("\n{line}")));
        text.push('\n');
    }
    Ok(Control { text, files, name, version, architecture, multi_arch_same })
}

impl Control {
    /// A field of the control file.
    pub fn field(&self, name: &str) -> Option<&str> {
        deb822::parse(&self.text).ok()?.first()?.get(name)
    }

    /// The paths of its conffiles, relative. Those that are only to be removed on an upgrade
    /// (deb-conffiles(5)) are not among them.
    pub fn conffiles(&self) -> impl Iterator<Item = &[u8]> {
        let text = self.files.get("conffiles").map_or(&[][..], |file| &file.content);
        text.split(|b| *b == b'\n').filter_map(|line| line.trim_ascii_end().strip_prefix(b"/"))
    }

    /// The name that dpkg gives to its files about this package: with the architecture
    /// where several can be installed (dpkg's `pkg_infodb_get_file`).
    pub fn info_name(&self) -> String {
        if self.multi_arch_same {
            format!("{}:{}", self.name, self.architecture)
        } else {
            self.name.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTROL: &str = "Package: hello\nVersion: 1.0-1\nArchitecture: amd64\nMulti-Arch: same\n\
        Description: greets\n more\n .\n end\n";

    fn tar_of(files: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_gnu();
            header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_size(content.len() as u64);
            header.set_mode(0o755);
            header.set_cksum();
            builder.append(&header, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn ar_of(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = b"!<arch>\n".to_vec();
        for (name, content) in members {
            let size = content.len();
            bytes.extend(
                format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n", 0, 0, 0, 100644).bytes(),
            );
            bytes.extend_from_slice(content);
            bytes.extend(std::iter::repeat_n(b'\n', size % 2));
        }
        bytes
    }

    fn deb() -> Vec<u8> {
        let control = tar_of(&[
            ("./control", CONTROL),
            ("./preinst", "#!/bin/sh\n"),
            ("conffiles", "/etc/a\nremove-on-upgrade /etc/b\n/etc/c \n"),
        ]);
        let data = zstd::stream::encode_all(&tar_of(&[("./etc/a", "x")])[..], 1).unwrap();
        ar_of(&[
            ("debian-binary", b"2.0\n"),
            ("_gpgorigin", b"?"),
            ("control.tar", &control),
            ("_x", b""),
            ("data.tar.zst", &data),
        ])
    }

    #[test]
    fn control_and_data_are_read() {
        let bytes = deb();
        let deb = Deb::open(&bytes[..]).unwrap();
        let control = &deb.control;
        assert_eq!(control.text, CONTROL);
        assert_eq!((control.name.as_str(), control.version.as_str()), ("hello", "1.0-1"));
        assert_eq!(control.info_name(), "hello:amd64");
        assert_eq!(control.field("description"), Some("greets\n more\n .\n end"));
        assert_eq!(control.files.keys().collect::<Vec<_>>(), ["conffiles", "preinst"]);
        assert_eq!(control.files["preinst"].mode, 0o755);
        assert_eq!(control.conffiles().collect::<Vec<_>>(), [b"etc/a", b"etc/c"]);
        let (length, rest) = deb
            .read_data(|data| {
                let mut content = Vec::new();
                data.read_to_end(&mut content)?;
                Ok(content.len())
            })
            .unwrap();
        assert_eq!(length % 512, 0);
        assert!(rest.is_empty());
    }

    #[test]
    fn every_truncation_and_every_flipped_byte_is_survived() {
        let bytes = deb();
        let read = |bytes: &[u8]| -> Result<()> {
            let drain = |data: &mut dyn Read| Ok(std::io::copy(data, &mut std::io::sink())?);
            Deb::open(bytes)?.read_data(drain).map(drop)
        };
        read(&bytes).unwrap();
        for length in 0..bytes.len() - 1 {
            assert!(read(&bytes[..length]).is_err(), "cut at {length}");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x41;
            let _ = read(&damaged);
        }
    }

    #[test]
    fn what_is_no_package_of_format_2_is_named() {
        let control = tar_of(&[("./control", CONTROL)]);
        let open = |bytes: Vec<u8>| Deb::open(&bytes[..]).map(drop).map_err(|e| format!("{e:#}"));
        let with = |control: &[u8]| {
            ar_of(&[("debian-binary", b"2.0\n"), ("control.tar", control), ("data.tar", b"")])
        };
        open(with(&control)).unwrap();
        let control_of = |text: &str| with(&tar_of(&[("control", text)]));
        for (bytes, part) in [
            (b"PK\x03\x04 not at all".to_vec(), "!<arch>"),
            (ar_of(&[]), "empty"),
            (ar_of(&[("control.tar", &control)]), "instead of debian-binary"),
            (ar_of(&[("debian-binary", b"3.0\n")]), "format \"3.0\""),
            (ar_of(&[("debian-binary", b"20\n")]), "format \"20\""),
            (ar_of(&[("debian-binary", b"2.0\n")]), "no control.tar"),
            (
                ar_of(&[("debian-binary", b"2.0\n"), ("data.tar", b"")]),
                "\"data.tar\" where control.tar",
            ),
            (
                ar_of(&[("debian-binary", b"2.0\n"), ("control.tar.lzma", b"")]),
                "\"control.tar.lzma\" is compressed",
            ),
            (
                ar_of(&[
                    ("debian-binary", b"2.0\n"),
                    ("control.tar", &control),
                    ("data.tar.bz2", b""),
                ]),
                "data.tar.bz2",
            ),
            (ar_of(&[("debian-binary", b"2.0\n"), ("control.tar", &control)]), "no data.tar"),
            (with(&tar_of(&[("./postinst", "")])), "no control file"),
            (with(&tar_of(&[("./../evil", ""), ("./control", CONTROL)])), "unusable name"),
            (with(&tar_of(&[("./a/b", ""), ("./control", CONTROL)])), "unusable name"),
            (control_of("Package: ../x\nVersion: 1\nArchitecture: all\n"), "no valid Package"),
            (control_of("Package: aa\nVersion: 1/2\nArchitecture: all\n"), "no valid Version"),
            (
                control_of("Package: aa\nVersion: 1\nArchitecture: ../all\n"),
                "no valid Architecture",
            ),
            (
                control_of("Package: aa\nVersion: 1\nArchitecture: all\n\nPackage: bb\n"),
                "2 stanzas",
            ),
            (control_of("garbage"), "no colon"),
        ] {
            let error = open(bytes).unwrap_err();
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn a_bomb_is_bounded() {
        let many: Vec<(String, &str)> = (0..300).map(|n| (format!("./f{n}"), "")).collect();
        let many: Vec<(&str, &str)> =
            many.iter().map(|(name, text)| (name.as_str(), *text)).collect();
        let members: [(&str, &[u8]); 2] =
            [("debian-binary", b"2.0\n"), ("control.tar", &tar_of(&many))];
        let error = Deb::open(&ar_of(&members)[..]).map(drop).unwrap_err();
        assert!(format!("{error:#}").contains("more than 200 files"), "{error:#}");
        let mut huge = tar_of(&[("./control", "")]);
        huge[124..136].copy_from_slice(b"77777777777\0");
        let sum: u32 = huge[..512]
            .iter()
            .enumerate()
            .map(|(at, b)| if (148..156).contains(&at) { 32 } else { u32::from(*b) })
            .sum();
        huge[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let packed =
            zstd::stream::encode_all(huge.as_slice().chain(std::io::repeat(0).take(200 << 20)), 1)
                .unwrap();
        let members: [(&str, &[u8]); 2] =
            [("debian-binary", b"2.0\n"), ("control.tar.zst", &packed)];
        assert!(Deb::open(&ar_of(&members)[..]).is_err());
    }
}
