//! Names of images in registries.

use std::fmt;

/// The name of an image in a registry, normalised as docker does
/// (distribution/reference, `ParseNormalizedNamed`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RegistryReference {
    /// Host name or address with its port, such as `docker.io` or `[::1]:5000`.
    pub registry: String,
    /// Path without the host, such as `library/debian`.
    pub repository: String,
    /// Tag; `latest` where neither tag nor digest was given.
    pub tag: Option<String>,
    /// `algorithm:hex`.
    pub digest: Option<String>,
}

/// The registry that a short name means.
pub const DEFAULT_REGISTRY: &str = "docker.io";

impl RegistryReference {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(check_digest(digest)?)),
            None => (text, None),
        };
        let (registry, remainder) = split_registry(rest);
        let (path, tag) = match remainder.rsplit_once(':') {
            Some((path, tag)) => (path, Some(check_tag(tag)?)),
            None => (remainder, None),
        };
        check_registry(registry)?;
        check_repository(path)?;
        let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        // Docker counts the prefix too; else the name could not be read again.
        check_repository(&repository)?;
        let tag = match (&tag, &digest) {
            (None, None) => Some("latest".to_owned()),
            _ => tag,
        };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }
}

impl fmt::Display for RegistryReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// The first component is a host where it could not be a repository's:
/// with a dot, a colon or a bracket, or `localhost`, or an upper-case letter.
fn split_registry(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some(("index.docker.io", rest)) => (DEFAULT_REGISTRY, rest),
        Some((first, rest))
            if first == "localhost"
                || first.contains(['.', ':', '['])
                || first.contains(|c: char| c.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_REGISTRY, text),
    }
}

fn check_registry(registry: &str) -> Result<(), String> {
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => {
            let (host, after) =
                rest.split_once(']').ok_or_else(|| format!("{registry:?} lacks its ]"))?;
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(format!("{host:?} is no IPv6 address"));
            }
            match after.strip_prefix(':') {
                Some(port) => (None, Some(port)),
                None if after.is_empty() => (None, None),
                None => return Err(format!("{after:?} follows the address {host:?}")),
            }
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(registry), None),
        },
    };
    if let Some(port) = port
        && !(port.parse::<u16>().is_ok_and(|n| n > 0) && port.bytes().all(|b| b.is_ascii_digit()))
    {
        return Err(format!("{port:?} is no port"));
    }
    let good_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    match host {
        Some(host) if !host.split('.').all(good_label) => {
            Err(format!("{host:?} is no host name of a registry"))
        }
        _ => Ok(()),
    }
}

/// distribution-spec 1.1: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/…)*`, up to 255 bytes.
fn check_repository(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Err("the repository's name is missing".into());
    }
    if path.len() > 255 {
        return Err("the repository's name is longer than 255 bytes".into());
    }
    for component in path.split('/') {
        let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = component.as_bytes();
        let ends_well = bytes.first().is_some_and(|&b| alphanumeric(b))
            && bytes.last().is_some_and(|&b| alphanumeric(b));
        let separators_well = component
            .split(|c: char| alphanumeric(c as u8) && c.is_ascii())
            .all(|s| matches!(s, "" | "." | "_" | "__") || s.bytes().all(|b| b == b'-'));
        if !ends_well || !separators_well {
            return Err(format!(
                "{component:?} is no repository name: lower-case letters and digits, joined by one of . _ __ or dashes"
            ));
        }
    }
    Ok(())
}

/// distribution-spec 1.1: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
fn check_tag(tag: &str) -> Result<String, String> {
    let first = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let good = tag.len() <= 128
        && tag.bytes().next().is_some_and(first)
        && tag.bytes().all(|b| first(b) || b == b'.' || b == b'-');
    if good { Ok(tag.to_owned()) } else { Err(format!("{tag:?} is no tag")) }
}

/// image-spec 1.1, descriptor.md: the registered algorithms and their lengths.
fn check_digest(digest: &str) -> Result<String, String> {
    let wanted = match digest.split_once(':') {
        Some(("sha256", hex)) => (hex, 64),
        Some(("sha512", hex)) => (hex, 128),
        Some((algorithm, _)) => {
            return Err(format!("the digest algorithm {algorithm:?} is not known"));
        }
        None => return Err(format!("{digest:?} is no digest: algorithm:hex")),
    };
    let (hex, length) = wanted;
    if hex.len() != length || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(format!("the digest needs {length} lower-case hex digits"));
    }
    Ok(digest.to_owned())
}
