//! A mount of `config.json` as a piece: options are those of mount(8), and more
//! (runtime-spec 1.2, `config.md`, "Linux mount options").

use std::ffi::CString;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use spec::runtime;
use sys::mount::{Change, flag};

use super::super::step::Tree;
use super::piece::{Kind, Mount};

/// What the options of one mount say.
#[derive(Debug, Default)]
pub(super) struct Options {
    pub(super) bind: Option<bool>,
    pub(super) remount: bool,
    /// Of mount(2).
    pub(super) flags: u64,
    pub(super) changes: [Change; 2],
    pub(super) propagation: Vec<(u64, bool)>,
    pub(super) data: Vec<String>,
    pub(super) copy_up: bool,
    /// Ids are mapped, with whether that goes for all mounts below.
    pub(super) idmap: Option<bool>,
}

/// An attribute (mount_setattr(2)), what it clears before, and the flag of mount(2).
struct Attribute {
    name: &'static str,
    set: u64,
    clear: u64,
    flag: u64,
}

const fn sets(name: &'static str, set: u64, flag: u64) -> Attribute {
    Attribute { name, set, clear: 0, flag }
}

const fn clears(name: &'static str, clear: u64) -> Attribute {
    Attribute { name, set: 0, clear, flag: 0 }
}

const fn atime(name: &'static str, set: u64, flag: u64) -> Attribute {
    Attribute { name, set, clear: flag::ATTR_ATIME, flag }
}

/// Each with an `r` before is for all mounts below, too.
const ATTRIBUTES: [Attribute; 18] = [
    sets("ro", flag::ATTR_RDONLY, flag::RDONLY),
    clears("rw", flag::ATTR_RDONLY),
    sets("nosuid", flag::ATTR_NOSUID, flag::NOSUID),
    clears("suid", flag::ATTR_NOSUID),
    sets("nodev", flag::ATTR_NODEV, flag::NODEV),
    clears("dev", flag::ATTR_NODEV),
    sets("noexec", flag::ATTR_NOEXEC, flag::NOEXEC),
    clears("exec", flag::ATTR_NOEXEC),
    sets("nodiratime", flag::ATTR_NODIRATIME, flag::NODIRATIME),
    clears("diratime", flag::ATTR_NODIRATIME),
    atime("noatime", flag::ATTR_NOATIME, flag::NOATIME),
    atime("atime", 0, 0),
    atime("relatime", 0, flag::RELATIME),
    atime("norelatime", flag::ATTR_STRICTATIME, 0),
    atime("strictatime", flag::ATTR_STRICTATIME, flag::STRICTATIME),
    atime("nostrictatime", 0, 0),
    sets("nosymfollow", flag::ATTR_NOSYMFOLLOW, flag::NOSYMFOLLOW),
    clears("symfollow", flag::ATTR_NOSYMFOLLOW),
];

/// Of a file system as a whole.
const FLAGS: [(&str, u64, bool); 12] = [
    ("sync", flag::SYNCHRONOUS, true),
    ("async", flag::SYNCHRONOUS, false),
    ("dirsync", flag::DIRSYNC, true),
    ("mand", flag::MANDLOCK, true),
    ("nomand", flag::MANDLOCK, false),
    ("iversion", flag::I_VERSION, true),
    ("noiversion", flag::I_VERSION, false),
    ("lazytime", flag::LAZYTIME, true),
    ("nolazytime", flag::LAZYTIME, false),
    ("silent", flag::SILENT, true),
    ("loud", flag::SILENT, false),
    ("defaults", 0, true),
];

/// All names of options, but for those of file systems.
pub(crate) fn names() -> Vec<String> {
    let attributes = ATTRIBUTES.iter().map(|a| a.name);
    let recursive = attributes.clone().map(|name| format!("r{name}"));
    let kinds = ["private", "shared", "slave", "unbindable"];
    let own = ["bind", "rbind", "idmap", "ridmap", "remount", "tmpcopyup"];
    let plain = attributes.chain(FLAGS.iter().map(|(name, ..)| *name)).chain(own).chain(kinds);
    let mut names: Vec<String> = plain.map(str::to_owned).chain(recursive).collect();
    names.extend(kinds.map(|kind| format!("r{kind}")));
    names.sort();
    names.dedup();
    names
}

/// The flag of mount(2), and whether it is for all mounts below.
pub(super) fn propagation(name: &str) -> Option<(u64, bool)> {
    let (kind, recursive) = match name {
        "shared" | "slave" | "private" | "unbindable" => (name, false),
        _ => (name.strip_prefix('r')?, true),
    };
    let flag = match kind {
        "shared" => flag::SHARED,
        "slave" => flag::SLAVE,
        "private" => flag::PRIVATE,
        "unbindable" => flag::UNBINDABLE,
        _ => return None,
    };
    Some((flag, recursive))
}

impl Options {
    pub(super) fn read(list: &[String]) -> Self {
        let mut options = Self::default();
        for option in list {
            options.add(option);
        }
        options
    }

    fn add(&mut self, option: &str) {
        let attribute = |name: &str| ATTRIBUTES.iter().find(|a| a.name == name);
        if let Some(found) = attribute(option) {
            self.flags |= found.flag;
            if found.set == 0 && found.clear == flag::ATTR_RDONLY {
                self.flags &= !flag::RDONLY;
            }
            self.changes[0].add(found.set, found.clear);
        } else if let Some(found) = option.strip_prefix('r').and_then(attribute) {
            self.changes[1].add(found.set, found.clear);
        } else if let Some((_, flag, on)) = FLAGS.iter().find(|(name, ..)| *name == option) {
            if *on { self.flags |= flag } else { self.flags &= !flag }
        } else if let Some(found) = propagation(option) {
            self.propagation.push(found);
        } else {
            match option {
                "bind" => self.bind = Some(self.bind.unwrap_or(false)),
                "rbind" => self.bind = Some(true),
                "remount" => self.remount = true,
                "tmpcopyup" => self.copy_up = true,
                "idmap" => self.idmap = Some(false),
                "ridmap" => self.idmap = Some(true),
                // podman's own, for whoever reads the configuration before a runtime.
                "copy-symlink" | "nofail" | "auto" | "noauto" | "_netdev" => {}
                other => self.data.push(other.to_owned()),
            }
        }
    }
}

/// How a source is opened: for the container, perhaps with its ids.
pub(super) trait Sources {
    fn open(
        &mut self,
        path: CString,
        recursive: bool,
        mount: &runtime::Mount,
        options: &Options,
    ) -> Result<Tree>;
}

pub(super) fn prepare(
    mount: &runtime::Mount,
    bundle: &Path,
    sources: &mut dyn Sources,
) -> Result<Mount> {
    let options = Options::read(&mount.options);
    let kind = mount.kind.as_deref().unwrap_or("bind");
    let text = |text: &str, what: &str| {
        CString::new(text).map_err(|_| anyhow!("{what} {text:?} contains a NUL byte"))
    };
    let binds = options.bind.is_some() || kind == "bind" || kind == "rbind";
    let data = text(&options.data.join(","), "mount options")?;
    let kind = if options.remount {
        Kind::Remount { flags: options.flags, data }
    } else if binds {
        let source = mount.source.as_deref().context("a bind mount has no source")?;
        if source.is_empty() {
            bail!("the bind mount on {} has no source", mount.destination);
        }
        let source = bundle.join(source);
        let recursive = options.bind == Some(true) || kind == "rbind";
        let source = text(&source.to_string_lossy(), "a path")?;
        let tree = sources
            .open(source, recursive, mount, &options)
            .with_context(|| format!("cannot mount on {}", mount.destination))?;
        Kind::Bind { tree, recursive }
    } else {
        if options.idmap.is_some() || !mount.uid_mappings.is_empty() {
            bail!("the mount on {} is no bind mount: its ids cannot be mapped", mount.destination);
        }
        let fallback = match kind {
            "sysfs" => Some(c"/sys".to_owned()),
            "mqueue" => Some(c"/dev/mqueue".to_owned()),
            _ => None,
        };
        Kind::Filesystem {
            source: text(mount.source.as_deref().unwrap_or(kind), "a source")?,
            fstype: text(kind, "a file system type")?,
            flags: options.flags,
            data,
            fallback,
            copy_up: options.copy_up,
        }
    };
    // A new file system has its own attributes by its flags.
    let own = matches!(kind, Kind::Bind { .. });
    let changes = if own { options.changes } else { [Change::default(), options.changes[1]] };
    let (target, propagation) = (mount.destination.clone(), options.propagation);
    Ok(Mount { target, kind, changes, propagation })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(options: &[&str]) -> Options {
        Options::read(&options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_last_of_two_opposites_counts() {
        assert_eq!(read(&["ro", "rw"]).flags & flag::RDONLY, 0);
        assert_eq!(read(&["rw", "ro"]).changes[0].set, flag::ATTR_RDONLY);
        assert_eq!(read(&["ro", "rw"]).changes[0].set, 0);
    }

    #[test]
    fn what_begins_with_an_r_is_not_always_recursive() {
        let options = read(&["rro", "relatime", "rnoatime", "rprivate", "remount", "rbind"]);
        assert_eq!(options.changes[1].set, flag::ATTR_RDONLY | flag::ATTR_NOATIME);
        assert_eq!(options.flags, flag::RELATIME);
        assert_eq!(options.propagation, [(flag::PRIVATE, true)]);
        assert!(options.remount && options.bind == Some(true) && options.data.is_empty());
        assert_eq!(read(&["size=64k", "mode=755"]).data, ["size=64k", "mode=755"]);
    }
}
