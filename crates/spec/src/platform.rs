//! Kinds of machines that images are for.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A kind of machine, in Go's words.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Platform {
    /// Such as `arm64`.
    pub architecture: String,
    /// Such as `linux`.
    pub os: String,
    /// Such as `v7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

impl Platform {
    /// Reads `linux/arm64/v8`, or an architecture alone.
    ///
    /// # Errors
    /// It is something else, or not Linux.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        let (architecture, variant) = match parts[..] {
            [architecture] | ["linux", architecture] => (architecture, None),
            ["linux", architecture, variant] => (architecture, Some(variant)),
            _ => return Err(format!("{text:?} is no platform such as linux/arm64")),
        };
        let architecture = match architecture {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let word = |w: &str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_alphanumeric());
        if !word(architecture) || !variant.is_none_or(word) || architecture == "linux" {
            return Err(format!("{text:?} is no platform such as linux/arm64"));
        }
        let (os, architecture) = ("linux".to_owned(), architecture.to_owned());
        Ok(Self { architecture, os, variant: variant.map(str::to_owned) })
    }

    /// The machine that this program was built for.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "loongarch64" => "loong64",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self { architecture: architecture.into(), os: "linux".into(), variant: None }
    }

    /// How well what is offered serves this machine; less is better, `None` not at all.
    pub(crate) fn suits(&self, offered: &Self) -> Option<usize> {
        if self.os != offered.os || self.architecture != offered.architecture {
            return None;
        }
        // Newer ARM machines run what is for older ones; the first of a row is the best.
        let row: &[&str] = match (&self.architecture[..], self.variant.as_deref()) {
            ("arm", None | Some("v7")) => &["v7", "v6", "v5", ""],
            ("arm", Some("v6")) => &["v6", "v5", ""],
            ("arm64", None | Some("v8")) => &["v8", ""],
            ("amd64", None | Some("v1")) => &["", "v1"],
            (_, None) => return Some(usize::from(offered.variant.is_some())),
            (_, Some(variant)) => {
                return (offered.variant.as_deref() == Some(variant)).then_some(0);
            }
        };
        row.iter().position(|v| *v == offered.variant.as_deref().unwrap_or_default())
    }
}
