//! The directories of skopeo's `dir:`: a manifest, and blobs that are named by their digests
//! (containers-transports(5), "dir:path").

use std::io::Read;
use std::path::Path;

use anyhow::{Context as _, Error, Result, bail, ensure};
use spec::oci::{self, Descriptor, Document, MAX_MANIFEST};
use spec::platform::Platform;

use super::super::assembly::{Blobs, Found};
use super::super::registry::chosen;
use super::{Place, digest_of, read};

/// How the file `version` begins.
const VERSION: &[u8] = b"Directory Transport Version: 1.";

/// The blobs of such a directory.
pub(super) struct Skopeo<'a>(pub(super) &'a dyn Place);

impl Blobs for Skopeo<'_> {
    fn open<'s>(&'s self, blob: &Descriptor) -> Result<Box<dyn Read + Send + 's>> {
        Ok(self.0.file(blob.sha256().map_err(Error::msg)?)?.0)
    }
}

/// Whether a directory is one.
pub(super) fn is_one(path: &Path) -> bool {
    // A root file system that holds such a file as well is nobody's.
    std::fs::read(path.join("version")).is_ok_and(|version| version.starts_with(VERSION))
        && path.join("manifest.json").is_file()
}

/// Finds its image, or of several the one for the platform.
pub(super) fn find(place: &dyn Place, platform: Option<&Platform>) -> Result<Found> {
    let bytes = read(place, "manifest.json", MAX_MANIFEST)?;
    let resolved = digest_of(&bytes);
    let index = match parse(&bytes, "manifest.json")? {
        Document::Manifest(manifest) => {
            return Ok(Found { digest: resolved.clone(), resolved, index: None, bytes, manifest });
        }
        Document::Index(index) => index,
    };
    let blob = chosen(&index, platform)?;
    let name = format!("{}.manifest.json", blob.sha256().map_err(Error::msg)?);
    let inner = read(place, &name, MAX_MANIFEST)?;
    let digest = digest_of(&inner);
    ensure!(digest == blob.digest, "the digest of {name} is {digest}");
    match parse(&inner, &name)? {
        Document::Manifest(manifest) => {
            Ok(Found { resolved, index: Some(bytes), digest, bytes: inner, manifest })
        }
        Document::Index(_) => bail!("it has an index in an index"),
    }
}

fn parse(bytes: &[u8], name: &str) -> Result<Document> {
    oci::parse(bytes).map_err(Error::msg).with_context(|| format!("reading {name}"))
}
