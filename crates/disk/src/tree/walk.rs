//! Every entry of a tree, one after the other.

use std::collections::{HashMap, HashSet};

use anyhow::{Context, Result, ensure};

use super::{Content, Entry, Mount, Tree};
use crate::Kind;

/// Deeper than Linux's longest path can be written.
const MAX_PATH: usize = 4095;

/// A directory that is still to be entered.
struct Directory {
    mount: usize,
    node: u64,
    path: Vec<u8>,
}

impl Tree {
    /// Gives every entry to `take`, a directory before what is in it, with what gives a file's content.
    ///
    /// # Errors
    /// Names the entry that cannot be read, or is in itself; and `take`'s.
    pub fn walk(
        &mut self,
        take: &mut dyn FnMut(&Entry, &mut Content<'_>) -> Result<()>,
    ) -> Result<()> {
        let root = Directory { mount: 0, node: self.mounts[0].top, path: Vec::new() };
        let mut walk = Walk { seen: HashSet::new(), links: HashMap::new(), take };
        walk.entry(&mut self.mounts, &root)?;
        let mut todo = vec![root];
        let mut reached: HashSet<usize> = HashSet::from([0]);
        while let Some(directory) = todo.pop() {
            let Directory { mount, node, path } = directory;
            let shown = |path: &[u8]| format!("reading /{}", String::from_utf8_lossy(path));
            let again = format!("/{} is a directory in itself", String::from_utf8_lossy(&path));
            ensure!(walk.seen.insert((mount, node)), again);
            let mut names = self.mounts[mount].volume.names(node).with_context(|| shown(&path))?;
            // What was made together lies together, and is read so.
            names.sort_unstable_by(|a, b| (a.node, &a.name).cmp(&(b.node, &b.name)));
            let mut below = Vec::new();
            for name in names {
                let path = match &path[..] {
                    b"" => name.name,
                    path => [path, &name.name].join(&b'/'),
                };
                ensure!(path.len() <= MAX_PATH, "{}: its path is too long", shown(&path));
                let over = self.mounts.iter().position(|mount| mount.place == path);
                let child = match over {
                    Some(mount) => Directory { mount, node: self.mounts[mount].top, path },
                    None => Directory { mount, node: name.node, path },
                };
                reached.extend(over);
                if walk.entry(&mut self.mounts, &child).with_context(|| shown(&child.path))? {
                    below.push(child);
                }
            }
            todo.extend(below.into_iter().rev());
        }
        let lost = (0..self.mounts.len()).filter(|index| !reached.contains(index));
        let note = |mount: &Mount| {
            let place = String::from_utf8_lossy(&mount.place);
            format!("there is no directory /{place} for {}, which is left out", mount.what)
        };
        self.notes.extend(lost.map(|index| note(&self.mounts[index])));
        Ok(())
    }
}

struct Walk<'a> {
    /// Directories that were entered.
    seen: HashSet<(usize, u64)>,
    /// The first path of what has several.
    links: HashMap<(usize, u64), Vec<u8>>,
    take: &'a mut dyn FnMut(&Entry, &mut Content<'_>) -> Result<()>,
}

impl Walk<'_> {
    /// Gives one entry; says whether it is a directory.
    fn entry(&mut self, mounts: &mut [Mount], at: &Directory) -> Result<bool> {
        let volume = &mut *mounts[at.mount].volume;
        let attributes = volume.attributes(at.node)?;
        let kind = attributes.kind;
        let is_directory = kind == Kind::Directory;
        let mut entry = Entry {
            path: at.path.clone(),
            attributes,
            xattrs: Vec::new(),
            target: Vec::new(),
            same_as: None,
        };
        if !is_directory && entry.attributes.links > 1 {
            let known = self.links.get(&(at.mount, at.node));
            entry.same_as = known.cloned();
            if known.is_none() {
                self.links.insert((at.mount, at.node), at.path.clone());
            }
        }
        if entry.same_as.is_none() {
            entry.xattrs = volume.xattrs(at.node).context("its extended attributes")?;
            if kind == Kind::Link {
                entry.target = volume.target(at.node)?;
            }
        }
        (self.take)(&entry, &mut |piece| volume.content(at.node, piece))?;
        Ok(is_directory)
    }
}
