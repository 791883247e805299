//! Images on their way out: layers packed again, with a configuration and a manifest for them.

mod files;
mod layer;
mod push;

use anyhow::{Context as _, Error, Result, ensure};
use serde_json::{Value, json};
use spec::event::{Event, Tell};
use spec::image::{Image, Origin};
use spec::oci::{Descriptor, Document, Manifest, media, rfc3339, sha256};
use spec::platform::Platform;
use store::Store;

pub use self::files::{Format, save, save_root};
pub use self::layer::Compress;
use self::layer::Packed;
pub use self::push::push;
use crate::digest;

/// An image that can be sent or written.
struct Parcel {
    layers: Vec<Packed>,
    config: Vec<u8>,
    manifest: Vec<u8>,
}

impl Parcel {
    /// Packs all layers, several at once.
    fn pack(store: &Store, image: &Image, compress: Compress, tell: &dyn Tell) -> Result<Self> {
        tell.tell(Event::Phase { name: "packing layers".into() });
        let newest = i64::try_from(image.created).unwrap_or(i64::MAX);
        let packed: Vec<Result<Packed>> = std::thread::scope(|scope| {
            let pack = |id: &String| {
                let id = id.clone();
                scope.spawn(move || Packed::pack(store, &id, newest, compress))
            };
            // As many threads as layers would be too many for the largest images only.
            let threads: Vec<_> = image.layers.iter().map(pack).collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, Result<Packed>>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads.into_iter().map(join).collect()
        });
        let layers = packed.into_iter().collect::<Result<Vec<_>>>()?;
        let config = config(store, image, &layers)?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: media::MANIFEST.into(),
            config: describe(media::CONFIG, &config),
            layers: layers.iter().map(|layer| layer.descriptor.clone()).collect(),
            annotations: Default::default(),
        };
        let manifest = serde_json::to_vec(&manifest).context("writing the manifest")?;
        Ok(Self { layers, config, manifest })
    }
}

/// The descriptor of some bytes.
fn describe(media_type: &str, bytes: &[u8]) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest: format!("sha256:{}", digest::of(bytes)),
        size: bytes.len() as u64,
        ..Descriptor::default()
    }
}

/// The image's own configuration with the digests of the layers as they were packed.
fn config(store: &Store, image: &Image, layers: &[Packed]) -> Result<Vec<u8>> {
    let diff_ids: Vec<&str> = layers.iter().map(|layer| &layer.diff_id[..]).collect();
    let mut config = known_config(store, image)?;
    let of_layers = |config: &Value| {
        let history = config["history"].as_array().map_or(&[][..], |list| list);
        history.iter().filter(|step| step["empty_layer"] != true).count()
    };
    // Layers that are hidden by others were left out when it was pulled.
    if of_layers(&config) != layers.len() {
        let step = json!({ "created": rfc3339(image.created), "created_by": "postroj" });
        config["history"] = vec![step; layers.len()].into();
    }
    config["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
    serde_json::to_vec(&config).context("writing the configuration")
}

/// The configuration as JSON: as it was pulled, or made from what is known of the image.
///
/// # Errors
/// The store cannot be read.
pub fn known_config(store: &Store, image: &Image) -> Result<Value> {
    if let Some(bytes) = store.blob(&image.id)? {
        let what = || format!("reading the configuration of {}", image.id);
        return serde_json::from_slice(&bytes).with_context(what);
    }
    let host = Platform::host();
    let created = rfc3339(image.created);
    let diff_ids: Vec<String> = image.layers.iter().map(|id| format!("sha256:{id}")).collect();
    Ok(json!({
        "created": created,
        "architecture": image.facts.architecture.clone().unwrap_or(host.architecture),
        "os": host.os,
        "config": image.config,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "history": vec![json!({ "created": created, "created_by": "postroj" }); diff_ids.len()],
    }))
}

/// An image's documents as they came.
struct Pulled {
    manifest: Manifest,
    /// The manifest's own bytes.
    bytes: Vec<u8>,
    /// The configuration's.
    config: Vec<u8>,
}

/// The documents with which an image was pulled, if it came with one and all of it is known.
fn original(store: &Store, image: &Image) -> Result<Option<Pulled>> {
    let Origin::Oci(oci) = &image.origin else { return Ok(None) };
    let hex = sha256(&oci.manifest).map_err(Error::msg)?;
    let (Some(bytes), Some(config)) = (store.blob(hex)?, store.blob(&image.id)?) else {
        return Ok(None);
    };
    let Ok(Document::Manifest(manifest)) = spec::oci::parse(&bytes) else { return Ok(None) };
    ensure!(manifest.config.digest == format!("sha256:{}", image.id), "its manifest is another's");
    Ok(Some(Pulled { manifest, bytes, config }))
}
