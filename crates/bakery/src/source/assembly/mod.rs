//! From a manifest to layers in the store: fetches what is missing, several layers at once, each
//! unpacked while it arrives.

mod layer;
mod pipe;

use std::collections::HashMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Error, Result, bail, ensure};
use sha2::{Digest as _, Sha256};
use spec::event::{Event, Tell};
use spec::image::{Oci, Origin};
use spec::oci::{Descriptor, ImageConfig, MAX_CONFIG, Manifest, seconds, sha256};
use store::merged::{hides_all_below, leads_through_links, settle};
use store::unpack::{Limits, Open};
use store::{NewLayer, Store};
use sys::rooted::Root;

use super::{Content, Context, Draft, Layers, Pulled};
use crate::digest;

/// Where an image's blobs are.
pub(crate) trait Blobs: Sync {
    /// Begins to read a blob, as it is kept there: nothing of it has been checked.
    fn open<'s>(&'s self, blob: &Descriptor) -> Result<Box<dyn Read + Send + 's>>;
}

/// An image whose manifest was read and checked.
pub(crate) struct Found {
    /// The digest that its name stood for: the index's, or the manifest's.
    pub(crate) resolved: String,
    /// The index.
    pub(crate) index: Option<Vec<u8>>,
    /// The manifest's digest.
    pub(crate) digest: String,
    /// The manifest as it was read.
    pub(crate) bytes: Vec<u8>,
    /// The same.
    pub(crate) manifest: Manifest,
}

/// Fetches what the store lacks.
///
/// # Errors
/// Names the blob that cannot be had, is not what its digest says, or cannot be unpacked.
pub(crate) fn draft(
    found: Found,
    blobs: &dyn Blobs,
    reference: &str,
    platform: Option<String>,
    limits: &Limits,
    context: &Context<'_>,
) -> Result<Pulled> {
    let store = context.store;
    let bytes = configuration(&found.manifest.config, blobs, store)?;
    let what = || format!("reading the configuration {}", found.manifest.config.digest);
    let config = ImageConfig::parse(&bytes).map_err(Error::msg).with_context(what)?;
    let (stated, diff_ids) = (found.manifest.layers.len(), config.rootfs.diff_ids.len());
    ensure!(
        stated == diff_ids,
        "the manifest has {stated} layers, and the configuration {diff_ids}"
    );
    ensure!(stated > 0, "the image has no layers");
    store.put_blob(&found.bytes)?;
    found.index.iter().try_for_each(|index| store.put_blob(index).map(drop))?;
    let assembly = Assembly { store, blobs, limits, tell: context.tell };
    let ids = assembly.layers(&found.manifest.layers, &config.rootfs.diff_ids)?;
    Ok(Pulled::Draft(Box::new(Draft {
        content: Content::Layers(Layers {
            ids,
            image: store.put_blob(&bytes)?,
            architecture: config.architecture,
            created: config.created.as_deref().and_then(seconds),
        }),
        config: config.config,
        origin: Origin::Oci(Oci {
            reference: reference.to_owned(),
            resolved: found.resolved,
            manifest: found.digest,
            platform,
            diff_ids: config.rootfs.diff_ids,
        }),
        names: Vec::new(),
    })))
}

/// Reads the configuration, which the store may have.
fn configuration(blob: &Descriptor, blobs: &dyn Blobs, store: &Store) -> Result<Vec<u8>> {
    let hex = blob.sha256().map_err(Error::msg)?;
    if let Ok(Some(bytes)) = store.blob(hex) {
        return Ok(bytes);
    }
    let what = || format!("fetching the configuration {}", blob.digest);
    small(blob, blobs, MAX_CONFIG).with_context(what)
}

/// Reads a blob into memory and checks it.
pub(crate) fn small(blob: &Descriptor, blobs: &dyn Blobs, limit: u64) -> Result<Vec<u8>> {
    ensure!(blob.size <= limit, "it has {} bytes, of which {limit} are allowed", blob.size);
    let mut bytes = Vec::new();
    blobs.open(blob)?.take(blob.size + 1).read_to_end(&mut bytes)?;
    let (size, found) = (bytes.len() as u64, format!("sha256:{}", digest::of(&bytes)));
    ensure!(size == blob.size, "it has {size} bytes and should have {}", blob.size);
    ensure!(found == blob.digest, "its digest is {found} and should be {}", blob.digest);
    Ok(bytes)
}

/// What stays the same while layers arrive.
struct Assembly<'a> {
    store: &'a Store,
    blobs: &'a dyn Blobs,
    limits: &'a Limits,
    tell: &'a dyn Tell,
}

/// A layer of the image, once it is here.
enum Arrived {
    /// In the store, and held.
    Stored(String),
    /// Unpacked, and not what it will be without the layers below it.
    Open(NewLayer, Open),
}

/// Layers at once, whatever the number of processors: waiting for a registry takes none.
const AT_ONCE: usize = 3;

impl Assembly<'_> {
    /// Returns the ids of all layers in the store, lowest first.
    fn layers(&self, blobs: &[Descriptor], diff_ids: &[String]) -> Result<Vec<String>> {
        let chain = chain_ids(diff_ids)?;
        let mut arrived: HashMap<usize, Arrived> = HashMap::new();
        let mut wanted: Vec<usize> = Vec::new();
        for (number, diff_id) in diff_ids.iter().enumerate() {
            let own = sha256(diff_id).map_err(Error::msg)?;
            let names = [own, &chain[number]];
            let held = names.into_iter().find_map(|id| match self.store.hold_layer(id) {
                Ok(true) => Some(Ok(id.to_owned())),
                Ok(false) => None,
                Err(error) => Some(Err(error)),
            });
            match held {
                Some(id) => drop(arrived.insert(number, Arrived::Stored(id?))),
                // An image may have one layer several times.
                None if diff_ids[..number].contains(diff_id) => {}
                None => wanted.push(number),
            }
        }
        // The largest first, so that none of them is waited for alone in the end.
        wanted.sort_by_key(|&number| std::cmp::Reverse(blobs[number].size));
        if !wanted.is_empty() {
            self.tell.tell(Event::Phase { name: "downloading and unpacking layers".into() });
        }
        arrived.extend(self.fetch_all(&wanted, blobs, diff_ids)?);
        self.settle_all(arrived, blobs, diff_ids, &chain)
    }

    fn fetch_all(
        &self,
        wanted: &[usize],
        blobs: &[Descriptor],
        diff_ids: &[String],
    ) -> Result<HashMap<usize, Arrived>> {
        let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
        let queue = Mutex::new(wanted.iter());
        let failed = AtomicBool::new(false);
        let next = || {
            let mut queue = queue.lock().unwrap_or_else(|e| e.into_inner());
            if failed.load(Ordering::Relaxed) { None } else { queue.next() }
        };
        let work = || {
            let mut done = Vec::new();
            while let Some(&number) = next() {
                let one = self.fetch(&blobs[number], &diff_ids[number], &failed);
                failed.fetch_or(one.is_err(), Ordering::Relaxed);
                done.push(one.map(|one| (number, one)));
            }
            done
        };
        let threads = wanted.len().min(processors.max(AT_ONCE));
        let done: Vec<Result<(usize, Arrived)>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads.into_iter().flat_map(join).collect()
        });
        // One that was stopped because another failed says nothing of why.
        let (done, mut errors): (Vec<_>, Vec<_>) = done.into_iter().partition(Result::is_ok);
        errors.sort_by_key(|e| e.as_ref().is_err_and(|e| e.is::<layer::Stopped>()));
        errors.into_iter().chain(done).collect()
    }

    /// Of several pulls that want a layer, one works and the others wait for it.
    fn fetch(&self, blob: &Descriptor, diff_id: &str, stop: &AtomicBool) -> Result<Arrived> {
        let own = sha256(diff_id).map_err(Error::msg)?;
        let _lock = self.store.lock(&format!("layer {own}"), &mut || {})?;
        if self.store.hold_layer(own)? {
            return Ok(Arrived::Stored(own.to_owned()));
        }
        let fetch = layer::Fetch { blobs: self.blobs, limits: self.limits, tell: self.tell, stop };
        let layer = self.store.new_layer()?;
        let what = || format!("layer {}", blob.digest);
        let summary = fetch.unpack(blob, diff_id, layer.root(), None).with_context(what)?;
        for note in &summary.notes {
            self.tell.tell(Event::Warning { text: note.clone() });
        }
        if !summary.open.is_empty() {
            return Ok(Arrived::Open(layer, summary.open));
        }
        // At once, so that a pull that is killed need not fetch it again.
        layer.commit_unflushed(own)?;
        Ok(Arrived::Stored(own.to_owned()))
    }

    /// Completes those that need the ones below, from below.
    fn settle_all(
        &self,
        mut arrived: HashMap<usize, Arrived>,
        blobs: &[Descriptor],
        diff_ids: &[String],
        chain: &[String],
    ) -> Result<Vec<String>> {
        let mut ids: Vec<String> = Vec::new();
        let mut known: HashMap<&str, String> = HashMap::new();
        for (number, diff_id) in diff_ids.iter().enumerate() {
            let id = match arrived.remove(&number) {
                Some(Arrived::Stored(id)) => id,
                Some(Arrived::Open(layer, open)) => {
                    let below: Vec<PathBuf> =
                        ids.iter().map(|id| self.store.layer_path(id)).collect();
                    let layer = if below.is_empty() {
                        ensure!(
                            open.links.is_empty(),
                            "the lowest layer links to what is below it"
                        );
                        layer
                    } else {
                        let settled = |below: &Root| {
                            self.settle(layer, &open, below, &blobs[number], diff_id)
                        };
                        self.store.with_merged(&below, settled)?
                    };
                    layer.commit_unflushed(&chain[number])?;
                    chain[number].clone()
                }
                None => match known.get(&diff_id[..]) {
                    Some(id) => id.clone(),
                    None => bail!("the layer {diff_id} did not arrive"),
                },
            };
            let path = self.store.layer_path(&id);
            let root = Root::open(&path).with_context(|| format!("opening {}", path.display()))?;
            if hides_all_below(&root)? {
                ids.clear();
            }
            // Of one that comes twice, the upper one says all; overlayfs takes each only once.
            ids.retain(|other| *other != id);
            known.insert(diff_id, id.clone());
            ids.push(id);
        }
        Ok(ids)
    }
}

impl Assembly<'_> {
    /// Makes a layer what it is over those below.
    fn settle(
        &self,
        layer: NewLayer,
        open: &Open,
        below: &Root,
        blob: &Descriptor,
        diff_id: &str,
    ) -> Result<NewLayer> {
        if !leads_through_links(layer.root(), below, open)? {
            settle(layer.root(), below, open)?;
            return Ok(layer);
        }
        // Only the order of its entries tells what is where, so that it is read once more.
        drop(layer);
        let (layer, stop) = (self.store.new_layer()?, AtomicBool::new(false));
        let (blobs, limits, tell) = (self.blobs, self.limits, self.tell);
        let fetch = layer::Fetch { blobs, limits, tell, stop: &stop };
        let what = || format!("layer {}", blob.digest);
        let summary = fetch.unpack(blob, diff_id, layer.root(), Some(below)).with_context(what)?;
        settle(layer.root(), below, &summary.open)?;
        Ok(layer)
    }
}

/// Names of the layers together with all below them (image-spec 1.1, config.md, "Layer ChainID").
fn chain_ids(diff_ids: &[String]) -> Result<Vec<String>> {
    let mut chain: Vec<String> = Vec::new();
    for diff_id in diff_ids {
        let own = sha256(diff_id).map_err(Error::msg)?;
        chain.push(match chain.last() {
            None => own.to_owned(),
            Some(below) => digest::hex(&Sha256::digest(format!("sha256:{below} {diff_id}"))),
        });
    }
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_ids_are_those_of_the_specification() {
        let diff_ids = ["a", "b"].map(|c| format!("sha256:{}", c.repeat(64)));
        let chain = chain_ids(&diff_ids).unwrap();
        assert_eq!(chain[0], "a".repeat(64));
        let text = format!("{} {}", diff_ids[0], diff_ids[1]);
        assert_eq!(chain[1], digest::of(text.as_bytes()));
        assert!(chain_ids(&["sha256:x".into()]).is_err());
    }
}
