//! From the tree of a system on its disks to a layer.

use std::sync::Arc;

use ::disk::tree::{Entry, Tree, Wishes, find};
use ::disk::{Blocks, Kind};
use anyhow::{Context as _, Result};
use spec::event::{Event, Tell};
use store::NewLayer;
use store::archive::{Member, Time};
use store::unpack::{Filler, Ids, Limits, Options, Style};

use crate::source::tar::warn;

/// Bytes between two pieces of news.
const STEP: u64 = 16 << 20;

/// Finds the root on some disks, and copies it with everything in it.
pub(super) fn fill(
    layer: &NewLayer,
    disks: &[Arc<dyn Blocks>],
    wishes: &Wishes,
    what: &str,
    tell: &dyn Tell,
) -> Result<()> {
    let mut tree = find(disks, wishes)?;
    for mount in tree.mounts.iter().filter(|mount| !mount.place.is_empty()) {
        let place = String::from_utf8_lossy(&mount.place);
        tell.tell(Event::Phase { name: format!("found /{place} in {}", mount.what) });
    }
    tell.tell(Event::Phase { name: "unpacking".into() });
    copy(layer, &mut tree, what, tell)?;
    for text in tree.notes {
        tell.tell(Event::Warning { text });
    }
    Ok(())
}

fn copy(layer: &NewLayer, tree: &mut Tree, what: &str, tell: &dyn Tell) -> Result<()> {
    let options = Options { style: Style::Plain, ids: Ids::of_caller(), limits: Limits::default() };
    let mut filler = Filler::new(layer.root(), &options)?;
    let (mut done, mut told) = (0_u64, 0);
    tree.walk(&mut |entry, content| {
        let member = member(entry)?;
        filler.add(&member, &mut |write| {
            content(&mut |offset, bytes| {
                write(offset, bytes)?;
                done += bytes.len() as u64;
                if done >= told + STEP {
                    told = done;
                    let mib = done >> 20;
                    tell.tell(Event::Step {
                        what: format!("MiB of {what}"),
                        done: mib,
                        total: mib,
                    });
                }
                Ok(())
            })
            .context("reading its content")
        })
    })?;
    warn(&filler.finish()?, tell);
    Ok(())
}

/// Labels of the policy that the system had on its own machine; thousands of notes say nothing.
const LABELS: &[u8] = b"security.selinux";

fn member(entry: &Entry) -> Result<Member> {
    let attributes = &entry.attributes;
    let kind = match (&entry.same_as, attributes.kind) {
        (Some(_), _) => store::archive::Kind::HardLink,
        (_, Kind::File) => store::archive::Kind::File,
        (_, Kind::Directory) => store::archive::Kind::Directory,
        (_, Kind::Link) => store::archive::Kind::Symlink,
        (_, Kind::Character) => store::archive::Kind::CharDevice,
        (_, Kind::Block) => store::archive::Kind::BlockDevice,
        (_, Kind::Fifo) => store::archive::Kind::Fifo,
        (_, Kind::Socket) => store::archive::Kind::Socket,
    };
    let mut xattrs = entry.xattrs.clone();
    xattrs.retain(|(name, _)| name != LABELS);
    let (seconds, nanoseconds) = attributes.mtime;
    Ok(Member {
        // The root itself has no name in a disk, and `.` in an archive.
        path: if entry.path.is_empty() { b".".to_vec() } else { entry.path.clone() },
        kind,
        link: entry.same_as.clone().unwrap_or_else(|| entry.target.clone()),
        mode: attributes.mode & 0o7777,
        uid: attributes.uid,
        gid: attributes.gid,
        mtime: Time { seconds, nanoseconds },
        size: attributes.size,
        device: attributes.device,
        xattrs,
        extents: None,
        skipped_attributes: 0,
    })
}
