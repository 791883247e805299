//! Images in files and in podman's store.

use std::fmt;
use std::path::PathBuf;

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

impl LayoutReference {
    /// `None` where the text has another scheme, or none; `oci` is also a tag's repository in `oci:1`,
    /// which nobody means.
    pub(super) fn parse(text: &str) -> Option<Result<Self, String>> {
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
        Some(Ok(Self { kind, path, name }))
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
