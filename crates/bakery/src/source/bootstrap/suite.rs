//! A suite as its archive serves it: the signed Release and the indices that it vouches for.

use std::io::Read as _;

use anyhow::{Context as _, Result, anyhow, ensure};
use sha2::{Digest as _, Sha256};

use super::archive::{Archive, Trust, public};
use super::fetch::{Fetcher, Wanted};
use super::keyring;
use super::release::{self, Release};
use crate::compression::Compression;
use crate::digest::{Hashing, hex};

/// A suite whose Release was verified.
#[derive(Debug, Clone)]
pub(crate) struct Suite {
    /// Where it is from.
    pub(crate) archive: Archive,
    /// What it consists of.
    pub(crate) release: Release,
    /// SHA-256 of the Release text that was signed, lower-case hex.
    pub(crate) digest: String,
}

/// Largest Release and signature: bytes.
const MAX_RELEASE: u64 = 32 << 20;
/// Largest index, unpacked: bytes.
const MAX_INDEX: u64 = 1 << 30;

impl Suite {
    /// Fetches and verifies a suite's Release; `None` where it is optional and there is none.
    ///
    /// # Errors
    /// It cannot be had; no signature is good; it is not for this suite, or expired.
    pub(crate) fn fetch(
        fetcher: &Fetcher<'_>,
        archive: &Archive,
        now: u64,
    ) -> Result<Option<Self>> {
        let verified =
            signed_release(fetcher, archive, &archive.base(), now).with_context(|| {
                format!("verifying the suite {} of {}", archive.suite, public(&archive.uri))
            })?;
        let Some(text) = verified else {
            // apt takes a directory with nothing but an index too, where it need not be signed.
            if archive.trust == Trust::Anyone && archive.is_flat() {
                let (archive, release) = (archive.clone(), Release::default());
                return Ok(Some(Self { archive, release, digest: String::new() }));
            }
            ensure!(
                archive.optional,
                "the archive {} has no suite {}",
                public(&archive.uri),
                archive.suite
            );
            return Ok(None);
        };
        let release = release::parse(&text).with_context(|| {
            format!("reading the Release of {} of {}", archive.suite, public(&archive.uri))
        })?;
        // A path is no name that a Release could have.
        let suite = (!archive.is_flat()).then_some(&archive.suite[..]);
        release.check(suite, now, archive.check_valid_until)?;
        let digest = hex(&Sha256::digest(&text));
        Ok(Some(Self { archive: archive.clone(), release, digest }))
    }

    /// Whether its Release lists packages for the architecture.
    pub(crate) fn has(&self, architecture: &str) -> bool {
        let directory = format!("/binary-{architecture}/Packages");
        self.archive.components.iter().any(|component| {
            SUFFIXES.iter().any(|suffix| {
                self.release.file(&format!("{component}{directory}{suffix}")).is_some()
            })
        })
    }

    /// Fetches a component's index of packages, unpacked.
    ///
    /// # Errors
    /// The suite has none for the architecture; it cannot be had; it is not what the Release
    /// says.
    pub(crate) fn index(
        &self,
        fetcher: &Fetcher<'_>,
        component: &str,
        architecture: &str,
    ) -> Result<Vec<u8>> {
        let suite = &self.archive.suite;
        let plain = match self.archive.is_flat() {
            true => "Packages".to_owned(),
            false => format!("{component}/binary-{architecture}/Packages"),
        };
        let base = self.archive.base();
        if self.release == Release::default() {
            return unlisted(fetcher, &base);
        }
        let found = SUFFIXES.into_iter().find_map(|suffix| {
            let path = format!("{plain}{suffix}");
            let listed = self.release.file(&path);
            Some((suffix, listed.or_else(|| self.release.file(&format!("./{path}")))?, path))
        });
        let (suffix, listed, path) = found.ok_or_else(|| {
            anyhow!(
                "the suite {suite} of {} has no packages of {component} for {architecture}",
                public(&self.archive.uri)
            )
        })?;
        let by_hash = self.release.by_hash.then(|| {
            let directory = plain.strip_suffix("Packages").unwrap_or_default();
            format!("{base}/{directory}by-hash/SHA256/{}", listed.sha256)
        });
        let file = fetcher.file(&Wanted {
            urls: by_hash.into_iter().chain([format!("{base}/{path}")]).collect(),
            sha256: listed.sha256.clone(),
            size: listed.size,
            what: format!("{suite} {component} Packages"),
        })?;
        let limit = self.release.file(&plain).map_or(MAX_INDEX, |file| file.size.min(MAX_INDEX));
        let compression = Compression::of_suffix(suffix).context("a suffix from the list above")?;
        unpack(file, compression, &listed.sha256, limit)
            .with_context(|| format!("reading {path} of {suite}"))
    }
}

/// The text that was signed, from `InRelease`, or from `Release` and `Release.gpg` where an
/// old archive has no other.
fn signed_release(
    fetcher: &Fetcher<'_>,
    archive: &Archive,
    base: &str,
    now: u64,
) -> Result<Option<Vec<u8>>> {
    let Some(keyring) = archive.keyring()? else {
        if let Some(text) = fetcher.read(&format!("{base}/Release"), MAX_RELEASE)? {
            return Ok(Some(text));
        }
        let message = fetcher.read(&format!("{base}/InRelease"), MAX_RELEASE)?;
        return message.map(|message| keyring::clearsigned_text(&message)).transpose();
    };
    if let Some(message) = fetcher.read(&format!("{base}/InRelease"), MAX_RELEASE)? {
        return keyring.verify_clearsigned(&message, now).map(Some);
    }
    let Some(text) = fetcher.read(&format!("{base}/Release"), MAX_RELEASE)? else {
        return Ok(None);
    };
    let signature = fetcher
        .read(&format!("{base}/Release.gpg"), MAX_RELEASE)?
        .context("the archive has neither InRelease nor Release.gpg: it is not signed")?;
    keyring.verify_detached(&text, &signature, now)?;
    Ok(Some(text))
}

/// How indices may be compressed, the best first.
const SUFFIXES: [&str; 4] = [".xz", ".zst", ".gz", ""];

/// The index of a directory that has nothing else.
fn unlisted(fetcher: &Fetcher<'_>, base: &str) -> Result<Vec<u8>> {
    for suffix in SUFFIXES {
        let url = format!("{base}/Packages{suffix}");
        if let Some(bytes) = fetcher.read(&url, MAX_INDEX)? {
            let compression = Compression::of_suffix(suffix).context("a suffix from that list")?;
            let mut text = Vec::new();
            compression.decoder(&bytes[..])?.take(MAX_INDEX + 1).read_to_end(&mut text)?;
            ensure!(text.len() as u64 <= MAX_INDEX, "it unpacks to more than {MAX_INDEX} bytes");
            return Ok(text);
        }
    }
    Err(anyhow!("{} has neither a Release nor Packages", public(base)))
}

fn unpack(
    file: std::fs::File,
    compression: Compression,
    sha256: &str,
    limit: u64,
) -> Result<Vec<u8>> {
    let mut hashing = Hashing::new(file);
    let mut text = Vec::with_capacity(usize::try_from(limit.min(128 << 20)).unwrap_or(0));
    compression.decoder(&mut hashing)?.take(limit + 1).read_to_end(&mut text)?;
    ensure!(text.len() as u64 <= limit, "it unpacks to more than {limit} bytes");
    hashing.finish(sha256)?;
    Ok(text)
}
