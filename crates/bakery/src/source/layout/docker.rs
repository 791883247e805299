//! The archives of `docker save`: a `manifest.json` with images, whose layers are plain tar
//! archives that are named by nothing (moby's image/spec/spec.md).

use std::collections::HashMap;
use std::io::Read;

use anyhow::{Context as _, Error, Result, bail, ensure};
use serde::Deserialize;
use spec::oci::{Descriptor, ImageConfig, MAX_CONFIG, MAX_MANIFEST, Manifest, media};

use super::super::assembly::{Blobs, Found};
use super::{Place, digest_of, read};
use crate::compression::Compression;
use crate::digest::Hashing;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// The files behind the digests of one image.
pub(super) struct Docker<'a> {
    place: &'a dyn Place,
    files: HashMap<String, String>,
}

impl Blobs for Docker<'_> {
    fn open<'s>(&'s self, blob: &Descriptor) -> Result<Box<dyn Read + Send + 's>> {
        let name = self.files.get(&blob.digest).context("the archive does not have it")?;
        Ok(self.place.file(name)?.0)
    }
}

/// Finds an image, and writes the manifest that it lacks.
pub(super) fn find<'a>(place: &'a dyn Place, name: Option<&str>) -> Result<(Found, Docker<'a>)> {
    let bytes = read(place, "manifest.json", MAX_MANIFEST)?;
    let items: Vec<Item> = serde_json::from_slice(&bytes).context("reading manifest.json")?;
    let item = choose(items, name)?;
    let bytes = read(place, &item.config, MAX_CONFIG)?;
    let config = ImageConfig::parse(&bytes).map_err(Error::msg);
    let config = config.with_context(|| format!("reading {}", item.config))?;
    let mut docker = Docker { place, files: HashMap::new() };
    let layers = item.layers.unwrap_or_default();
    let (stated, diff_ids) = (layers.len(), &config.rootfs.diff_ids);
    ensure!(
        stated == diff_ids.len(),
        "manifest.json has {stated} layers, and the configuration {}",
        diff_ids.len()
    );
    let mut descriptors = Vec::new();
    for (name, diff_id) in layers.into_iter().zip(diff_ids) {
        let layer = describe(place, &name, diff_id).with_context(|| format!("reading {name}"))?;
        docker.files.insert(layer.digest.clone(), name);
        descriptors.push(layer);
    }
    let config = Descriptor {
        media_type: media::CONFIG.into(),
        digest: digest_of(&bytes),
        size: bytes.len() as u64,
        ..Descriptor::default()
    };
    docker.files.insert(config.digest.clone(), item.config);
    let manifest = Manifest {
        schema_version: 2,
        media_type: media::MANIFEST.into(),
        config,
        layers: descriptors,
        annotations: Default::default(),
    };
    let bytes = serde_json::to_vec(&manifest)?;
    let digest = digest_of(&bytes);
    let found = Found { resolved: digest.clone(), index: None, digest, bytes, manifest };
    Ok((found, docker))
}

/// The names of all images.
pub(super) fn names(place: &dyn Place) -> Result<Vec<String>> {
    let bytes = read(place, "manifest.json", MAX_MANIFEST)?;
    let items: Vec<Item> = serde_json::from_slice(&bytes).context("reading manifest.json")?;
    Ok(items.into_iter().flat_map(|item| item.repo_tags.unwrap_or_default()).collect())
}

fn choose(items: Vec<Item>, name: Option<&str>) -> Result<Item> {
    let tags: Vec<String> =
        items.iter().flat_map(|i| i.repo_tags.clone().unwrap_or_default()).collect();
    let list = || if tags.is_empty() { "without names".to_owned() } else { tags.join(", ") };
    let Some(name) = name else {
        let count = items.len();
        let mut items = items.into_iter();
        return match (items.next(), count) {
            (Some(only), 1) => Ok(only),
            (None, _) => bail!("it holds no image"),
            _ => bail!("it holds several images: say which: {}", list()),
        };
    };
    let has = |item: &Item| {
        let full = |text: &str| {
            let text = text.strip_prefix("docker.io/").unwrap_or(text);
            let text = text.strip_prefix("library/").unwrap_or(text);
            if text.rsplit('/').next().is_some_and(|last| last.contains(':')) {
                text.to_owned()
            } else {
                format!("{text}:latest")
            }
        };
        item.repo_tags.iter().flatten().any(|tag| full(tag) == full(name))
    };
    let found = items.into_iter().find(has);
    found.with_context(|| format!("it has no image {name:?}; it has {}", list()))
}

/// One that is not compressed has the digest of its content, which is checked when it is read.
fn describe(place: &dyn Place, name: &str, diff_id: &str) -> Result<Descriptor> {
    let mut start = [0; 6];
    let (mut reader, size) = place.file(name)?;
    let known = std::io::Read::read(&mut reader, &mut start)?;
    let digest = match Compression::of_content(&start[..known]) {
        Compression::None => diff_id.to_owned(),
        _ => format!("sha256:{}", Hashing::new(place.file(name)?.0).digest()?),
    };
    let media_type = media::LAYER.into();
    Ok(Descriptor { media_type, digest, size, ..Descriptor::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_chosen_by_any_spelling() {
        let items = || -> Vec<Item> {
            serde_json::from_str(
                r#"[{"Config":"a","RepoTags":["debian:12"],"Layers":[]},{"Config":"b","RepoTags":null,"Layers":null},
                    {"Config":"c","RepoTags":["localhost:5000/x:latest"]}]"#,
            )
            .unwrap()
        };
        for (name, config) in
            [("debian:12", "a"), ("docker.io/library/debian:12", "a"), ("localhost:5000/x", "c")]
        {
            assert_eq!(choose(items(), Some(name)).unwrap().config, config);
        }
        for (name, why) in [(Some("debian"), "it has debian:12"), (None, "several images")] {
            assert!(choose(items(), name).err().unwrap().to_string().contains(why));
        }
        assert_eq!(choose(items().split_off(2), None).unwrap().config, "c");
    }
}
