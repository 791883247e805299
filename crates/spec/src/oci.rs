//! The JSON documents of images in registries and archives: manifests, indexes and
//! configurations, OCI's (image-spec 1.1) and Docker's (image manifest version 2, schema 2).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::image::{Config, null_is_empty};
use crate::platform::Platform;

/// Media types (image-spec 1.1, media-types.md; docker's spec of schema 2).
pub mod media {
    /// OCI's manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI's index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI's configuration.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// OCI's layer without compression; others add `+gzip` or `+zstd`.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// Docker's manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker's index.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker's configuration.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker's layer.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
}

/// Greatest manifest that is read (distribution-spec 1.1, "Pushing Manifests").
pub const MAX_MANIFEST: u64 = 4 << 20;

/// Greatest configuration that is read.
pub const MAX_CONFIG: u64 = 8 << 20;

/// Layers that an image may have: what one overlay can carry.
const MAX_LAYERS: usize = 500;

/// A pointer to a blob.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What kind of blob.
    #[serde(default)]
    pub media_type: String,
    /// `sha256:HEX`.
    pub digest: String,
    /// Bytes.
    pub size: u64,
    /// Free remarks.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// For which machines, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

impl Descriptor {
    /// The SHA-256 in lower-case hex.
    ///
    /// # Errors
    /// The digest is no SHA-256.
    pub fn sha256(&self) -> Result<&str, String> {
        sha256(&self.digest)
    }
}

/// The hex digits of `sha256:HEX`.
///
/// # Errors
/// It is something else.
pub fn sha256(digest: &str) -> Result<&str, String> {
    let hex = digest.strip_prefix("sha256:").filter(|hex| {
        hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    });
    hex.ok_or_else(|| format!("{digest:?} is no SHA-256 digest"))
}

/// What a reference stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Several, for several platforms.
    Index(Index),
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// 2.
    pub schema_version: u32,
    /// What it is itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// Its configuration.
    pub config: Descriptor,
    /// Its layers, lowest first.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub layers: Vec<Descriptor>,
    /// Free remarks.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
}

/// Several images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// 2.
    pub schema_version: u32,
    /// What it is itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// The images.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub manifests: Vec<Descriptor>,
}

/// Reads a manifest or an index.
///
/// # Errors
/// It is neither, or both (CVE-2021-41190), or of a kind that cannot be run.
pub fn parse(bytes: &[u8]) -> Result<Document, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        schema_version: Option<u32>,
        #[serde(default)]
        media_type: String,
        manifests: Option<serde::de::IgnoredAny>,
        config: Option<serde::de::IgnoredAny>,
        layers: Option<serde::de::IgnoredAny>,
    }
    let json = |error: serde_json::Error| format!("it is no manifest: {error}");
    let shape: Shape = serde_json::from_slice(bytes).map_err(json)?;
    match shape.schema_version {
        Some(2) => {}
        Some(1) => {
            return Err("it has Docker's schema 1, which ended in 2019: push it again".into());
        }
        _ => return Err("it is no manifest: its schema version is not 2".into()),
    }
    let is_index = matches!(&shape.media_type[..], media::INDEX | media::DOCKER_LIST);
    let is_manifest = matches!(&shape.media_type[..], media::MANIFEST | media::DOCKER_MANIFEST);
    match (shape.manifests.is_some(), shape.config.is_some() || shape.layers.is_some()) {
        (true, false) if !is_manifest => {
            let index: Index = serde_json::from_slice(bytes).map_err(json)?;
            index.manifests.iter().try_for_each(|d| d.sha256().map(drop))?;
            Ok(Document::Index(index))
        }
        (false, true) if !is_index => {
            let manifest: Manifest = serde_json::from_slice(bytes).map_err(json)?;
            check(&manifest)?;
            Ok(Document::Manifest(manifest))
        }
        (true, true) => Err("it could be read as a manifest and as an index".into()),
        _ => Err(format!("it is no manifest of an image, but {:?}", shape.media_type)),
    }
}

fn check(manifest: &Manifest) -> Result<(), String> {
    let config = &manifest.config;
    config.sha256()?;
    if !matches!(&config.media_type[..], media::CONFIG | media::DOCKER_CONFIG | "") {
        return Err(format!("it is no image, but an artifact of the kind {:?}", config.media_type));
    }
    if manifest.layers.len() > MAX_LAYERS {
        return Err(format!(
            "it has {} layers, of which {MAX_LAYERS} are allowed",
            manifest.layers.len()
        ));
    }
    for layer in &manifest.layers {
        layer.sha256()?;
        if !is_layer(&layer.media_type) {
            return Err(format!("it has a layer of the unknown kind {:?}", layer.media_type));
        }
        if layer.size > i64::MAX as u64 {
            return Err(format!("a layer of {} bytes is no layer", layer.size));
        }
    }
    Ok(())
}

fn is_layer(media_type: &str) -> bool {
    let known = [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ];
    known.iter().any(|known| {
        let rest = media_type.strip_prefix(known);
        rest.is_some_and(|rest| matches!(rest, "" | "+gzip" | "+zstd" | ".gzip" | ".zstd"))
    })
}

impl Index {
    /// The image for a platform.
    ///
    /// # Errors
    /// There is none; says which ones there are.
    pub fn choose(&self, wanted: &Platform) -> Result<&Descriptor, String> {
        // Attestations and signatures call themselves `unknown/unknown`.
        let images = || {
            self.manifests.iter().filter(|d| {
                matches!(&d.media_type[..], media::MANIFEST | media::DOCKER_MANIFEST | "")
                    && d.platform.as_ref().is_none_or(|p| p.architecture != "unknown")
            })
        };
        let suiting = images().filter_map(|d| Some((wanted.suits(d.platform.as_ref()?)?, d)));
        if let Some((_, best)) = suiting.min_by_key(|(rank, _)| *rank) {
            return Ok(best);
        }
        let mut all = images();
        if let (Some(only), None) = (all.next(), all.next())
            && only.platform.is_none()
        {
            return Ok(only);
        }
        let mut there: Vec<String> =
            images().filter_map(|d| Some(d.platform.as_ref()?.to_string())).collect();
        there.truncate(20);
        Err(match there.is_empty() {
            true => format!("it has no image for {wanted}"),
            false => format!("it has no image for {wanted}, but for {}", there.join(", ")),
        })
    }
}

/// An image's configuration (image-spec 1.1, config.md).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ImageConfig {
    /// When it was made (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// In Go's words.
    #[serde(default)]
    pub architecture: String,
    /// In Go's words.
    #[serde(default)]
    pub os: String,
    /// Of the architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// How it is run.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub config: Config,
    /// Its layers.
    pub rootfs: RootFs,
    /// How it came about.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub history: Vec<History>,
}

/// The layers of an image.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RootFs {
    /// `layers`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// Digests of the layers without compression, lowest first.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub diff_ids: Vec<String>,
}

/// One step in an image's making.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct History {
    /// When (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By which command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// By whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// A remark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// It added no layer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

impl ImageConfig {
    /// Reads a configuration.
    ///
    /// # Errors
    /// It is none, or its digests are none.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let config: Self = serde_json::from_slice(bytes)
            .map_err(|error| format!("it is no image configuration: {error}"))?;
        config.rootfs.diff_ids.iter().try_for_each(|id| sha256(id).map(drop))?;
        if !matches!(&config.os[..], "linux" | "") {
            return Err(format!("it is an image for {:?}, and this is Linux", config.os));
        }
        Ok(config)
    }
}

/// Seconds since the epoch of a time from 1970 on (RFC 3339).
pub fn seconds(text: &str) -> Option<u64> {
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let date: Vec<&str> = date.split('-').collect();
    let [year, month, day] = date[..] else { return None };
    let zone = time.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = time.split_at(zone);
    let clock: Vec<&str> = clock.split('.').next()?.split(':').collect();
    let [hour, minute, second] = clock[..] else { return None };
    let offset = match zone {
        "Z" | "z" => 0,
        _ => {
            let (hours, minutes) = zone[1..].split_once(':')?;
            let minutes = number(hours, 0, 23)? * 60 + number(minutes, 0, 59)?;
            if zone.starts_with('-') { -(minutes * 60) } else { minutes * 60 }
        }
    };
    let (year, month, day) =
        (number(year, 1970, 9999)?, number(month, 1, 12)?, number(day, 1, 31)?);
    let of_day = number(hour, 0, 23)? * 3600 + number(minute, 0, 59)? * 60 + number(second, 0, 60)?;
    u64::try_from(days(year, month, day) * 86_400 + of_day - offset).ok()
}

fn number(text: &str, low: i64, high: i64) -> Option<i64> {
    let digits = (1..=4).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let value = digits.then(|| text.parse().ok())??;
    (low..=high).contains(&value).then_some(value)
}

/// Days since the epoch, counted in years that begin in March.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1 - 719_468
}

/// RFC 3339 in UTC.
pub fn rfc3339(seconds: u64) -> String {
    // The inverse of `days` (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
    let (day, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let era = day / 146_097;
    let of_era = day % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let (day, month) =
        (of_year - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(c: char) -> String {
        format!("sha256:{}", c.to_string().repeat(64))
    }

    #[test]
    fn manifests_and_indexes_are_told_apart() {
        let (a, b) = (digest('a'), digest('b'));
        let layer = format!(r#"{{"mediaType":"{}","digest":"{b}","size":7}}"#, media::DOCKER_LAYER);
        let config = format!(r#"{{"mediaType":"{}","digest":"{a}","size":3}}"#, media::CONFIG);
        let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer}]}}"#);
        let Ok(Document::Manifest(read)) = parse(manifest.as_bytes()) else { panic!() };
        assert_eq!((read.config.size, &read.layers[0].digest), (3, &b));
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        assert!(matches!(parse(index.as_bytes()), Ok(Document::Index(_))));
        for (text, why) in [
            ("{}".to_owned(), "schema version"),
            ("[".to_owned(), "no manifest"),
            (r#"{"schemaVersion":1}"#.to_owned(), "schema 1"),
            (r#"{"schemaVersion":2}"#.to_owned(), "no manifest of an image"),
            (manifest.replace("\"layers\"", "\"manifests\":[],\"layers\""), "and as an index"),
            (
                index.replace("2,", &format!("2,\"mediaType\":\"{}\",", media::MANIFEST)),
                "no manifest",
            ),
            (manifest.replace(media::CONFIG, "application/vnd.helm"), "an artifact"),
            (manifest.replace(media::DOCKER_LAYER, "text/plain"), "unknown kind"),
            (manifest.replace(&b, "sha256:12"), "no SHA-256"),
            (manifest.replace(&a, &a.replace("sha256", "md5")), "no SHA-256"),
            (manifest.replace(":7", ":-7"), "no manifest"),
            (manifest.replace(":7", ":18446744073709551615"), "no layer"),
        ] {
            let error = parse(text.as_bytes()).expect_err(&text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn the_best_platform_is_chosen() {
        let entry = |platform: &str, c: char| Descriptor {
            media_type: media::MANIFEST.into(),
            digest: digest(c),
            platform: Platform::parse(platform).ok(),
            ..Descriptor::default()
        };
        let mut index = Index {
            schema_version: 2,
            media_type: String::new(),
            manifests: vec![
                entry("linux/amd64", 'a'),
                entry("linux/arm/v5", 'b'),
                entry("linux/arm/v7", 'c'),
                entry("linux/arm64/v8", 'd'),
            ],
        };
        for (wanted, c) in [
            ("linux/amd64", 'a'),
            ("x86_64", 'a'),
            ("linux/arm", 'c'),
            ("linux/arm/v6", 'b'),
            ("arm64", 'd'),
        ] {
            let wanted = Platform::parse(wanted).unwrap();
            assert_eq!(index.choose(&wanted).unwrap().digest, digest(c), "{wanted}");
        }
        let error = index.choose(&Platform::parse("linux/s390x").unwrap()).unwrap_err();
        assert!(error.contains("linux/arm/v7") && error.contains("s390x"), "{error}");
        index.manifests = vec![Descriptor { digest: digest('e'), ..Descriptor::default() }];
        assert!(index.choose(&Platform::host()).is_ok());
        for bad in ["", "linux", "windows/amd64", "linux/a/b/c", "linux//", "linux/../x"] {
            assert!(Platform::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times() {
        for (text, number) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2025-08-09T09:16:30.123456789Z", 1_754_730_990),
            ("2024-02-29T23:59:59+00:00", 1_709_251_199),
            ("2024-03-01T01:00:00+01:00", 1_709_251_200),
            ("2024-02-29T19:00:00-05:00", 1_709_251_200),
        ] {
            assert_eq!(seconds(text), Some(number), "{text}");
        }
        for text in [
            "",
            "x",
            "2024-02-29",
            "2024-13-01T00:00:00Z",
            "2024-01-01T00:00:00",
            "1969-12-31T23:59:59Z",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
        for number in [0, 951_782_400, 1_709_251_199, 1_709_251_200, 4_107_542_400] {
            assert_eq!(seconds(&rfc3339(number)), Some(number));
        }
    }
}
