//! Where what is copied comes from and goes: docker's rules (docker-container-cp(1)).

use std::io;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::FileType;
use serde::{Deserialize, Serialize};
use sys::rooted::Root;

/// A path that was looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CopyPath {
    /// As the user spelled it.
    shown: String,
    /// From the root on, without `.` and empty components; empty for the root itself.
    path: String,
    /// It ends in a slash: only a directory is meant.
    slash: bool,
    /// It ends in `/.`: what is in the directory is meant.
    content: bool,
    kind: Kind,
}

/// What is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    Missing,
    Directory,
    Other,
}

/// What exactly is to be packed, and where it is to be unpacked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plan {
    /// Path in the source's root.
    pub(super) source: Vec<u8>,
    /// What it is called in the archive; empty for what is in a directory.
    pub(super) name: Vec<u8>,
    /// The directory to unpack in, in the target's root.
    pub(super) into: Vec<u8>,
}

/// Symbolic links that are followed at a path's end, as the kernel's own limit (path_resolution(7)).
const MAX_LINKS: usize = 40;

impl CopyPath {
    /// `absolute` starts at the root that it will be looked for in.
    pub(super) fn new(shown: &str, absolute: &str) -> Self {
        let path = clean(absolute);
        let content = absolute.ends_with("/.");
        let slash = absolute.ends_with('/') || content;
        Self { shown: shown.to_owned(), path, slash, content, kind: Kind::Missing }
    }

    /// Looks what is there; `follow`s a link at its end.
    pub(super) fn look(&mut self, root: &Root, follow: bool) -> Result<()> {
        let what = || format!("cannot look at {}", self.shown);
        let mut path = self.path.clone();
        for _ in 0..MAX_LINKS {
            let stat = match root.symlink_metadata(format!("/{path}")) {
                Ok(stat) => stat,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.path = path;
                    self.kind = Kind::Missing;
                    return Ok(());
                }
                Err(error) => return Err(error).with_context(what),
            };
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind != FileType::Symlink || !(follow || self.slash) {
                self.kind = if kind == FileType::Directory { Kind::Directory } else { Kind::Other };
                self.path = path;
                return Ok(());
            }
            let text = root.read_link(format!("/{path}")).with_context(what)?;
            let text = text.to_str().context("a link in it is not UTF-8").with_context(what)?;
            path = match (text.strip_prefix('/'), path.rsplit_once('/')) {
                (Some(absolute), _) => absolute.to_owned(),
                (None, Some((parent, _))) => format!("{parent}/{text}"),
                (None, None) => text.to_owned(),
            };
            path = path.trim_end_matches('/').to_owned();
        }
        bail!("cannot look at {}: too many links", self.shown)
    }

    fn name(&self) -> &str {
        self.path.rsplit_once('/').map_or(&self.path[..], |(_, name)| name)
    }

    fn parent(&self) -> String {
        format!("/{}", self.path.rsplit_once('/').map_or("", |(parent, _)| parent))
    }
}

/// Decides; where one side is a stream, it is not given.
pub(super) fn plan(source: Option<&CopyPath>, target: Option<&CopyPath>) -> Result<Plan> {
    let bytes = |text: &str| text.as_bytes().to_vec();
    if let Some(source) = source {
        ensure!(source.kind != Kind::Missing, "there is no {}", source.shown);
        ensure!(
            !source.slash || source.kind == Kind::Directory,
            "{} is no directory",
            source.shown
        );
    }
    let whole = |source: &CopyPath| match source.content || source.path.is_empty() {
        true => Vec::new(),
        false => bytes(source.name()),
    };
    let Some(target) = target else {
        let source = source.context("there is nothing to copy")?;
        return Ok(Plan { source: bytes(&source.path), name: whole(source), into: Vec::new() });
    };
    let Some(source) = source else {
        ensure!(
            target.kind == Kind::Directory,
            "{} is no directory, and an archive is unpacked in one",
            target.shown
        );
        return Ok(Plan {
            source: Vec::new(),
            name: Vec::new(),
            into: bytes(&format!("/{}", target.path)),
        });
    };
    let is_directory = source.kind == Kind::Directory;
    let (name, into) = match target.kind {
        Kind::Directory => (whole(source), format!("/{}", target.path)),
        Kind::Other if is_directory => {
            bail!("{} is a directory, and {} is none", source.shown, target.shown)
        }
        Kind::Other if target.slash => bail!("{} is no directory", target.shown),
        Kind::Missing if target.slash && !is_directory => {
            bail!("there is no directory {}", target.shown)
        }
        Kind::Other | Kind::Missing => (bytes(target.name()), target.parent()),
    };
    Ok(Plan { source: bytes(&source.path), name, into: bytes(&into) })
}

/// Lexically, as docker cleans paths.
fn clean(path: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            _ => names.push(name),
        }
    }
    names.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &str, kind: Kind) -> CopyPath {
        CopyPath { kind, ..CopyPath::new(path, path) }
    }

    #[test]
    fn docker_s_table() {
        use Kind::{Directory, Missing, Other};
        // Source, target; then the name in the archive and where it is unpacked, or what is said.
        for (source, target, wanted) in [
            (("/a/f", Other), ("/d", Directory), Ok(("f", "/d"))),
            (("/a/f", Other), ("/d/g", Missing), Ok(("g", "/d"))),
            (("/a/f", Other), ("/d/g", Other), Ok(("g", "/d"))),
            (("/a/f", Other), ("/d/g/", Missing), Err("there is no directory /d/g/")),
            (("/a/f", Other), ("/d/g/", Other), Err("/d/g/ is no directory")),
            (("/a/f/", Other), ("/d", Directory), Err("/a/f/ is no directory")),
            (("/a/d", Directory), ("/d", Directory), Ok(("d", "/d"))),
            (("/a/d/", Directory), ("/d/", Directory), Ok(("d", "/d"))),
            (("/a/d/.", Directory), ("/d", Directory), Ok(("", "/d"))),
            (("/a/d", Directory), ("/d/e", Missing), Ok(("e", "/d"))),
            (("/a/d", Directory), ("/d/e/", Missing), Ok(("e", "/d"))),
            (("/a/d/.", Directory), ("/d/e", Missing), Ok(("e", "/d"))),
            (("/a/d", Directory), ("/f", Other), Err("/a/d is a directory, and /f is none")),
            (("/", Directory), ("/d", Directory), Ok(("", "/d"))),
            (("/a", Missing), ("/d", Directory), Err("there is no /a")),
            (("/a/../b", Other), ("/", Directory), Ok(("b", "/"))),
            (("/f", Other), ("/g", Missing), Ok(("g", "/"))),
        ] {
            let got = plan(Some(&at(source.0, source.1)), Some(&at(target.0, target.1)));
            let got = got.map_err(|error| error.to_string()).map(|plan| {
                (String::from_utf8(plan.name).unwrap(), String::from_utf8(plan.into).unwrap())
            });
            let wanted = wanted.map_err(str::to_owned).map(|(a, b)| (a.to_owned(), b.to_owned()));
            assert_eq!(got, wanted, "{source:?} to {target:?}");
        }
    }

    #[test]
    fn links_are_followed_within_the_root() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("root/etc")).unwrap();
        std::fs::write(temp.path().join("secret"), "").unwrap();
        std::fs::write(temp.path().join("root/etc/x"), "").unwrap();
        for (name, to) in [("up", "../../secret"), ("abs", "/etc"), ("x", "abs/x"), ("me", "me")] {
            std::os::unix::fs::symlink(to, temp.path().join("root").join(name)).unwrap();
        }
        let root = Root::open(&temp.path().join("root")).unwrap();
        let look = |path: &str, follow| {
            let mut found = CopyPath::new(path, path);
            found.look(&root, follow).map(|()| (found.path, found.kind))
        };
        assert_eq!(look("/x", false).unwrap(), ("x".into(), Kind::Other));
        assert_eq!(look("/x", true).unwrap(), ("abs/x".into(), Kind::Other));
        assert_eq!(look("/abs/", false).unwrap(), ("etc".into(), Kind::Directory));
        assert_eq!(look("/up", true).unwrap().1, Kind::Missing);
        assert!(look("/me", true).is_err());
    }
}
