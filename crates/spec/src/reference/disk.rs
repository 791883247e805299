//! Disks: images of them, and boxes of Vagrant.

use std::fmt;
use std::path::PathBuf;

/// `disk:PATH[?partition=P&snapshot=S&backing=anywhere]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DiskReference {
    /// Where the file is.
    pub path: PathBuf,
    /// Which partition is the root, where that is not to be found out.
    pub partition: Option<String>,
    /// Which of the image's snapshots.
    pub snapshot: Option<String>,
    /// Whether the image may name files that are not beside it.
    pub anywhere: bool,
}

impl DiskReference {
    /// A disk as it is.
    pub fn of(path: PathBuf) -> Self {
        Self { path, partition: None, snapshot: None, anywhere: false }
    }

    /// What follows `disk:`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut disk = match text.rsplit_once('?') {
            // Of a path that has one, a question mark that asks for nothing is a part.
            Some((path, wishes)) if is_wishes(wishes) => {
                let mut disk = Self::of(path.into());
                wishes.split('&').try_for_each(|wish| disk.wish(wish))?;
                disk
            }
            _ => Self::of(text.into()),
        };
        if disk.path.as_os_str().is_empty() {
            return Err("disk: needs a path".into());
        }
        disk.partition = disk.partition.filter(|partition| !partition.is_empty());
        Ok(disk)
    }

    fn wish(&mut self, wish: &str) -> Result<(), String> {
        match wish.split_once('=') {
            Some(("partition", value)) => self.partition = Some(value.into()),
            Some(("snapshot", value)) => self.snapshot = Some(value.into()),
            Some(("backing", "anywhere")) => self.anywhere = true,
            _ => {
                return Err(format!(
                    "{wish:?} is not known; known are partition=, snapshot= and backing=anywhere"
                ));
            }
        }
        Ok(())
    }
}

fn is_wishes(text: &str) -> bool {
    ["partition=", "snapshot=", "backing="].iter().any(|known| text.starts_with(known))
}

impl fmt::Display for DiskReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "disk:{}", self.path.display())?;
        let mut before = '?';
        let mut add = |f: &mut fmt::Formatter<'_>, key: &str, value: &str| {
            write!(f, "{before}{key}={value}")?;
            before = '&';
            Ok(())
        };
        if let Some(partition) = &self.partition {
            add(f, "partition", partition)?;
        }
        if let Some(snapshot) = &self.snapshot {
            add(f, "snapshot", snapshot)?;
        }
        if self.anywhere { add(f, "backing", "anywhere") } else { Ok(()) }
    }
}

/// `vagrant:NAME[@VERSION]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VagrantReference {
    /// Such as `debian/bookworm64`.
    pub name: String,
    /// The newest where not given.
    pub version: Option<String>,
}

impl VagrantReference {
    /// What follows `vagrant:`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (name, version) = match text.split_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (text, None),
        };
        let is_word = |word: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            !word.is_empty() && word.chars().all(known) && !word.chars().all(|c| c == '.')
        };
        let two = name.split_once('/').is_some_and(|(user, name)| is_word(user) && is_word(name));
        if !two {
            return Err(format!("{name:?} is no name of a box, such as debian/bookworm64"));
        }
        if version.is_some_and(|version| !is_word(version)) {
            return Err(format!("{:?} is no version", version.unwrap_or_default()));
        }
        Ok(Self { name: name.to_owned(), version: version.map(str::to_owned) })
    }
}

impl fmt::Display for VagrantReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vagrant:{}", self.name)?;
        self.version.iter().try_for_each(|version| write!(f, "@{version}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks() {
        let disk = |text: &str| DiskReference::parse(text).unwrap();
        assert_eq!(disk("/x y.qcow2"), DiskReference::of("/x y.qcow2".into()));
        assert_eq!(disk("a?b"), DiskReference::of("a?b".into()));
        let all = disk("/a?partition=vg/root&snapshot=s 1&backing=anywhere");
        assert_eq!(all.partition.as_deref(), Some("vg/root"));
        assert_eq!(all.snapshot.as_deref(), Some("s 1"));
        assert!(all.anywhere && all.path == std::path::Path::new("/a"));
        for text in ["disk:/a?partition=vg/root&snapshot=s 1&backing=anywhere", "disk:/a"] {
            assert_eq!(disk(&text[5..]).to_string(), text);
        }
        for text in ["", "?partition=1", "/a?partition=1&x=2", "/a?backing=x"] {
            assert!(DiskReference::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn boxes() {
        for text in ["debian/bookworm64", "a/b@1.2.3"] {
            assert_eq!(
                VagrantReference::parse(text).unwrap().to_string(),
                format!("vagrant:{text}")
            );
        }
        for text in ["", "x", "a/b/c", "a/b@", "a/..", "a/b@1/2", "a b/c"] {
            assert!(VagrantReference::parse(text).is_err(), "{text}");
        }
    }
}
