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
mod layout;
mod registry;

use std::fmt;
use std::path::PathBuf;

pub use disk::{DiskReference, VagrantReference};
pub use layout::{LayoutKind, LayoutReference};
pub use registry::{DEFAULT_REGISTRY, RegistryReference};

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

const AN_ID: &str = "it is an id: those are for images that are here already (`postroj images`), and none has this one";

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
        if let Some(found) = LayoutReference::parse(text) {
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
