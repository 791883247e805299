//! One grammar of image references for every verb.
//!
//! | text | meaning |
//! |---|---|
//! | `debian-12`, `os:debian-12` | a label of the catalog |
//! | `debian:12`, `docker://quay.io/a/b@sha256:…` | a registry's image |
//! | `./x.tar.xz`, `/srv/root`, `../x` | a path, sniffed by content |
//! | `tar:PATH`, `dir:PATH` | the same, said outright |
//! | `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]` | an image of an OCI layout, or of one in a tar archive |
//! | `https://HOST/rootfs.tar.xz` | an archive of a root at an address |
//! | `docker-archive:FILE[:NAME]` | an image of what `docker save` writes |
//! | `dir:PATH` | what `skopeo copy … dir:PATH` wrote is an image too |
//! | `containers-storage:[STORE]IMAGE` | an image in the store of podman and buildah |
//! | `disk:PATH[?partition=P]` | an image of a disk (qcow2, VMDK and the like), a box, an `.ova` |
//! | `vagrant:NAME[@VERSION]` | a box of Vagrant's catalog |
//! | `host` | the running system, under a throw-away layer |
//!
//! A bare name is a label where the catalog has it and a registry's short name
//! elsewhere: `hello-world` is Docker's image, `debian-12` is ours. Of `oci:` and its like the path ends at the
//! first colon, as skopeo has it.

mod disk;

use std::fmt;
use std::path::PathBuf;

pub use disk::{DiskReference, VagrantReference};

/// A parsed image reference.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reference {
    /// A label of the catalog, as the user spelled it.
    Catalog(String),
    /// An image in a registry.
    Registry(RegistryReference),
    /// A path whose kind is told by its content.
    Path(PathBuf),
    /// A tar archive, compressed or not.
    Tar(PathBuf),
    /// The address of one: `https://…` or `http://…`.
    Web(String),
    /// A directory that holds a root file system.
    Directory(PathBuf),
    /// An image of an OCI layout or an archive.
    Layout(LayoutReference),
    /// An image of a disk.
    Disk(DiskReference),
    /// A box of Vagrant's catalog.
    Vagrant(VagrantReference),
    /// The running host.
    Host,
}

/// An image of several that may be in one place.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LayoutReference {
    /// What the place is.
    pub kind: LayoutKind,
    /// Where it is.
    pub path: PathBuf,
    /// Which image; the only one where not given.
    pub name: Option<String>,
}

/// A way to keep images in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LayoutKind {
    /// A directory (image-spec 1.1, image-layout.md).
    Oci,
    /// A tar archive of such a directory.
    OciArchive,
    /// A tar archive of `docker save`.
    DockerArchive,
    /// A directory of skopeo's; only its content tells it from a root.
    Directory,
    /// The store of podman and its like: its path is what stands in brackets, empty for the user's own.
    ContainersStorage,
}

impl LayoutKind {
    /// Every kind that is told by its scheme.
    pub const ALL: [Self; 4] =
        [Self::Oci, Self::OciArchive, Self::DockerArchive, Self::ContainersStorage];

    /// As it is spelled before the colon.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Oci => "oci",
            Self::OciArchive => "oci-archive",
            Self::DockerArchive => "docker-archive",
            Self::Directory => "dir",
            Self::ContainersStorage => "containers-storage",
        }
    }
}

impl fmt::Display for LayoutReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (LayoutKind::ContainersStorage, Some(name)) = (self.kind, &self.name) {
            let place = self.path.display().to_string();
            let place = if place.is_empty() { place } else { format!("[{place}]") };
            return write!(f, "{}:{place}{name}", self.kind.scheme());
        }
        write!(f, "{}:{}", self.kind.scheme(), self.path.display())?;
        self.name.iter().try_for_each(|name| write!(f, ":{name}"))
    }
}

/// The name of an image in a registry, normalised as docker does
/// (distribution/reference, `ParseNormalizedNamed`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RegistryReference {
    /// Host name or address with its port, such as `docker.io` or `[::1]:5000`.
    pub registry: String,
    /// Path without the host, such as `library/debian`.
    pub repository: String,
    /// Tag; `latest` where neither tag nor digest was given.
    pub tag: Option<String>,
    /// `algorithm:hex`.
    pub digest: Option<String>,
}

/// Why a text is no reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceError {
    text: String,
    why: String,
}

impl fmt::Display for ReferenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid image reference {:?}: {}", self.text, self.why)
    }
}

impl std::error::Error for ReferenceError {}

/// The registry that a short name means.
pub const DEFAULT_REGISTRY: &str = "docker.io";

const AN_ID: &str =
    "it is an id: those are for images that are here already (`postroj images`), and none has this one";

/// Longest accepted text; the longest valid name is far shorter
/// (255 for the path, 128 for the tag, 135 for a SHA-512 digest).
const MAX_LENGTH: usize = 4096;

impl Reference {
    /// Reads a reference; `is_label` knows the catalog.
    ///
    /// # Errors
    /// Says which part is wrong and what is allowed there.
    pub fn parse(text: &str, is_label: impl Fn(&str) -> bool) -> Result<Self, ReferenceError> {
        let fail = |why: String| ReferenceError { text: shorten(text), why };
        if text.is_empty() {
            return Err(fail("it is empty".into()));
        }
        if text.len() > MAX_LENGTH {
            return Err(fail(format!("it is longer than {MAX_LENGTH} bytes")));
        }
        if let Some(control) = text.chars().find(|c| c.is_control()) {
            return Err(fail(format!("it contains the control character {control:?}")));
        }
        if text == "host" {
            return Ok(Self::Host);
        }
        if looks_like_a_path(text) {
            return Ok(Self::Path(text.into()));
        }
        if let Some(found) = layout(text) {
            return found.map(Self::Layout).map_err(fail);
        }
        match text.split_once(':') {
            Some((kind @ ("tar" | "dir"), "")) => Err(fail(format!("{kind}: needs a path"))),
            Some(("tar", path)) => Ok(Self::Tar(path.into())),
            Some(("dir", path)) => Ok(Self::Directory(path.into())),
            Some(("disk", text)) if !text.starts_with("//") => {
                DiskReference::parse(text).map(Self::Disk).map_err(fail)
            }
            Some(("vagrant", text)) if !text.starts_with("//") => {
                VagrantReference::parse(text).map(Self::Vagrant).map_err(fail)
            }
            Some(("sha256", _)) => Err(fail(AN_ID.into())),
            Some(("os", label)) if is_label(label) => Ok(Self::Catalog(label.into())),
            Some(("os", label)) => Err(fail(format!("the catalog has no {label:?}"))),
            Some(("docker", rest)) if rest.starts_with("//") => {
                RegistryReference::parse(&rest[2..]).map(Self::Registry).map_err(fail)
            }
            Some(("https" | "http", rest)) if rest.starts_with("//") => match web(&rest[2..]) {
                Some(why) => Err(fail(why.into())),
                None => Ok(Self::Web(text.into())),
            },
            Some((scheme, rest)) if rest.starts_with("//") => Err(fail(format!(
                "unknown transport {scheme:?}; known are docker://, https://, oci:, oci-archive:, docker-archive:, containers-storage:, tar:, dir:, disk:, vagrant: and os:"
            ))),
            _ if is_label(text) => Ok(Self::Catalog(text.into())),
            // As docker has it (distribution/reference, `anchoredIdentifierRegexp`).
            _ if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) => {
                Err(fail(AN_ID.into()))
            }
            _ => RegistryReference::parse(text).map(Self::Registry).map_err(fail),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Catalog(label) => f.write_str(label),
            Self::Registry(reference) => reference.fmt(f),
            Self::Path(path) => path.display().fmt(f),
            Self::Tar(path) => write!(f, "tar:{}", path.display()),
            Self::Web(address) => f.write_str(address),
            Self::Directory(path) => write!(f, "dir:{}", path.display()),
            Self::Layout(layout) => layout.fmt(f),
            Self::Disk(disk) => disk.fmt(f),
            Self::Vagrant(vagrant) => vagrant.fmt(f),
            Self::Host => f.write_str("host"),
        }
    }
}

/// `None` where the text has another scheme, or none; `oci` is also a tag's repository in `oci:1`,
/// which nobody means.
fn layout(text: &str) -> Option<Result<LayoutReference, String>> {
    let (scheme, rest) = text.split_once(':')?;
    let kind = LayoutKind::ALL.into_iter().find(|kind| kind.scheme() == scheme)?;
    if rest.starts_with("//") {
        return None;
    }
    if kind == LayoutKind::ContainersStorage {
        return Some(stored(kind, rest));
    }
    let (path, name) = match rest.split_once(':') {
        Some((path, name)) => (path, Some(name)),
        None => (rest, None),
    };
    if path.is_empty() {
        return Some(Err(format!("{scheme}: needs a path")));
    }
    if name == Some("") {
        return Some(Err(format!("no image is named after {scheme}:{path}:")));
    }
    let (path, name) = (path.into(), name.map(str::to_owned));
    Some(Ok(LayoutReference { kind, path, name }))
}

/// What is wrong with an address, given without its scheme.
fn web(rest: &str) -> Option<&'static str> {
    let Some((host, path)) = rest.split_once('/') else { return Some("it names no file") };
    if host.is_empty() {
        Some("it names no host")
    } else if host.contains('@') {
        Some("it holds a name or a password, which would be kept: leave them out")
    } else if path.is_empty() || path.ends_with('/') {
        Some("it names no file")
    } else {
        None
    }
}

/// `[DRIVER@ROOT+RUN]IMAGE` (containers-transports(5)), of which the brackets may be left out.
fn stored(kind: LayoutKind, rest: &str) -> Result<LayoutReference, String> {
    let (path, name) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']').ok_or("the bracket of its store is not closed")?,
        None => ("", rest),
    };
    if name.is_empty() || name.starts_with('[') {
        return Err(format!("{}: needs an image", kind.scheme()));
    }
    Ok(LayoutReference { kind, path: path.into(), name: Some(name.to_owned()) })
}

fn looks_like_a_path(text: &str) -> bool {
    text.starts_with('/')
        || text.starts_with("./")
        || text.starts_with("../")
        || matches!(text, "." | "..")
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl RegistryReference {
    fn parse(text: &str) -> Result<Self, String> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(check_digest(digest)?)),
            None => (text, None),
        };
        let (registry, remainder) = split_registry(rest);
        let (path, tag) = match remainder.rsplit_once(':') {
            Some((path, tag)) => (path, Some(check_tag(tag)?)),
            None => (remainder, None),
        };
        check_registry(registry)?;
        check_repository(path)?;
        let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        // Docker counts the prefix too; else the name could not be read again.
        check_repository(&repository)?;
        let tag = match (&tag, &digest) {
            (None, None) => Some("latest".to_owned()),
            _ => tag,
        };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }
}

impl fmt::Display for RegistryReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// The first component is a host where it could not be a repository's:
/// with a dot, a colon or a bracket, or `localhost`, or an upper-case letter.
fn split_registry(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some(("index.docker.io", rest)) => (DEFAULT_REGISTRY, rest),
        Some((first, rest))
            if first == "localhost"
                || first.contains(['.', ':', '['])
                || first.contains(|c: char| c.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_REGISTRY, text),
    }
}

fn check_registry(registry: &str) -> Result<(), String> {
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => {
            let (host, after) =
                rest.split_once(']').ok_or_else(|| format!("{registry:?} lacks its ]"))?;
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(format!("{host:?} is no IPv6 address"));
            }
            match after.strip_prefix(':') {
                Some(port) => (None, Some(port)),
                None if after.is_empty() => (None, None),
                None => return Err(format!("{after:?} follows the address {host:?}")),
            }
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(registry), None),
        },
    };
    if let Some(port) = port
        && !(port.parse::<u16>().is_ok_and(|n| n > 0) && port.bytes().all(|b| b.is_ascii_digit()))
    {
        return Err(format!("{port:?} is no port"));
    }
    let good_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    match host {
        Some(host) if !host.split('.').all(good_label) => {
            Err(format!("{host:?} is no host name of a registry"))
        }
        _ => Ok(()),
    }
}

/// distribution-spec 1.1: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/…)*`, up to 255 bytes.
fn check_repository(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Err("the repository's name is missing".into());
    }
    if path.len() > 255 {
        return Err("the repository's name is longer than 255 bytes".into());
    }
    for component in path.split('/') {
        let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = component.as_bytes();
        let ends_well = bytes.first().is_some_and(|&b| alphanumeric(b))
            && bytes.last().is_some_and(|&b| alphanumeric(b));
        let separators_well = component
            .split(|c: char| alphanumeric(c as u8) && c.is_ascii())
            .all(|s| matches!(s, "" | "." | "_" | "__") || s.bytes().all(|b| b == b'-'));
        if !ends_well || !separators_well {
            return Err(format!(
                "{component:?} is no repository name: lower-case letters and digits, joined by one of . _ __ or dashes"
            ));
        }
    }
    Ok(())
}

/// distribution-spec 1.1: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
fn check_tag(tag: &str) -> Result<String, String> {
    let first = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let good = tag.len() <= 128
        && tag.bytes().next().is_some_and(first)
        && tag.bytes().all(|b| first(b) || b == b'.' || b == b'-');
    if good { Ok(tag.to_owned()) } else { Err(format!("{tag:?} is no tag")) }
}

/// image-spec 1.1, descriptor.md: the registered algorithms and their lengths.
fn check_digest(digest: &str) -> Result<String, String> {
    let wanted = match digest.split_once(':') {
        Some(("sha256", hex)) => (hex, 64),
        Some(("sha512", hex)) => (hex, 128),
        Some((algorithm, _)) => {
            return Err(format!("the digest algorithm {algorithm:?} is not known"));
        }
        None => return Err(format!("{digest:?} is no digest: algorithm:hex")),
    };
    let (hex, length) = wanted;
    if hex.len() != length || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(format!("the digest needs {length} lower-case hex digits"));
    }
    Ok(digest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Reference, ReferenceError> {
        Reference::parse(text, |label| matches!(label, "debian-12" | "debian-bookworm"))
    }

    fn registry(text: &str) -> String {
        match parse(text) {
            Ok(Reference::Registry(reference)) => reference.to_string(),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn labels_paths_and_the_host() {
        assert_eq!(parse("debian-12"), Ok(Reference::Catalog("debian-12".into())));
        assert_eq!(parse("os:debian-12"), Ok(Reference::Catalog("debian-12".into())));
        assert_eq!(parse("host"), Ok(Reference::Host));
        assert_eq!(parse("./x.tar.xz"), Ok(Reference::Path("./x.tar.xz".into())));
        assert_eq!(parse("/srv/x"), Ok(Reference::Path("/srv/x".into())));
        assert_eq!(parse("tar:x y.tar"), Ok(Reference::Tar("x y.tar".into())));
        assert_eq!(parse("dir:/"), Ok(Reference::Directory("/".into())));
    }

    #[test]
    fn layouts() {
        for (text, kind, path, name) in [
            ("oci:dir", LayoutKind::Oci, "dir", None),
            ("oci:/a/b:tag", LayoutKind::Oci, "/a/b", Some("tag")),
            ("oci-archive:x.tar", LayoutKind::OciArchive, "x.tar", None),
            (
                "docker-archive:./x.tar:debian:12",
                LayoutKind::DockerArchive,
                "./x.tar",
                Some("debian:12"),
            ),
            (
                "containers-storage:localhost/a:1",
                LayoutKind::ContainersStorage,
                "",
                Some("localhost/a:1"),
            ),
            (
                "containers-storage:[vfs@/srv/s+/run/s]a",
                LayoutKind::ContainersStorage,
                "vfs@/srv/s+/run/s",
                Some("a"),
            ),
        ] {
            let name = name.map(str::to_owned);
            let layout = LayoutReference { kind, path: path.into(), name };
            assert_eq!(layout.to_string(), text);
            assert_eq!(parse(text), Ok(Reference::Layout(layout)));
        }
    }

    #[test]
    fn addresses() {
        for text in ["https://example.org/a/rootfs.tar.xz", "http://[::1]:80/x"] {
            assert_eq!(parse(text), Ok(Reference::Web(text.into())));
        }
    }

    #[test]
    fn registry_names_are_normalised_as_docker_does() {
        let hex = "a".repeat(64);
        for (text, full) in [
            ("hello-world", "docker.io/library/hello-world:latest"),
            ("debian:12", "docker.io/library/debian:12"),
            ("docker://debian:12", "docker.io/library/debian:12"),
            ("index.docker.io/debian", "docker.io/library/debian:latest"),
            ("user/app", "docker.io/user/app:latest"),
            ("quay.io/centos/centos:stream9", "quay.io/centos/centos:stream9"),
            ("localhost/x", "localhost/x:latest"),
            ("localhost:5000/a/b:t", "localhost:5000/a/b:t"),
            ("[::1]:5000/a:t", "[::1]:5000/a:t"),
            ("HOST/a", "HOST/a:latest"),
            ("a/b__c/d-e.f--g", "docker.io/a/b__c/d-e.f--g:latest"),
        ] {
            assert_eq!(registry(text), full);
        }
        assert_eq!(
            registry(&format!("a@sha256:{hex}")),
            format!("docker.io/library/a@sha256:{hex}")
        );
        assert_eq!(
            registry(&format!("localhost:5000/a:t@sha256:{hex}")),
            format!("localhost:5000/a:t@sha256:{hex}")
        );
    }

    #[test]
    fn what_is_no_reference_is_told_why() {
        for (text, part) in [
            ("", "empty"),
            ("Debian", "no repository name"),
            ("a//b", "no repository name"),
            ("a/../b", "no repository name"),
            ("-a", "no repository name"),
            ("a..b", "no repository name"),
            ("a___b", "no repository name"),
            ("a:", "no tag"),
            ("a:b c", "no tag"),
            ("a:b:c", "no repository name"),
            ("x.y:70000/a", "no port"),
            ("x.y:+5/a", "no port"),
            ("[::1/a", "lacks its ]"),
            ("[zz]/a", "no IPv6 address"),
            ("exa_mple.com/a", "no host name"),
            ("a@sha256:12", "64 lower-case hex"),
            ("a@md5:12", "not known"),
            ("tar:", "needs a path"),
            ("oci:", "needs a path"),
            ("oci-archive::x", "needs a path"),
            ("docker-archive:x:", "no image is named"),
            ("containers-storage:", "needs an image"),
            ("containers-storage:[x]", "needs an image"),
            ("containers-storage:[x", "is not closed"),
            ("https://example.org", "names no file"),
            ("https://example.org/a/", "names no file"),
            ("http://a:b@example.org/c", "leave them out"),
            ("os:debian-1", "catalog has no"),
            ("oci://x", "unknown transport"),
            ("sha256:0123456789ab", "it is an id"),
            (&"ab".repeat(32), "it is an id"),
            ("a\nb", "control character"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(part), "{text:?}: {error}");
        }
        assert!(parse(&"a".repeat(300)).is_err());
        assert!(parse(&"a".repeat(248)).is_err());
        assert!(parse(&"a".repeat(247)).is_ok());
        assert!(parse(&"a".repeat(5000)).unwrap_err().to_string().len() < 400);
    }
}
