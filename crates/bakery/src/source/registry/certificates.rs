//! Whom to believe that it is a registry: the system's certificates, and those that were put
//! where docker and podman look for a registry's own.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use super::settings::Host;

/// Where docker (dockerd(8)) and containers (containers-certs.d(5)) keep a registry's certificates.
const DIRECTORIES: [&str; 2] = ["/etc/containers/certs.d", "/etc/docker/certs.d"];

/// Where distributions keep the certificates that they trust.
const SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A registry's own certificates, as far as there are any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Certificates {
    /// Files of certificates that may have signed the registry's.
    authorities: Vec<PathBuf>,
    /// Our own, and its key.
    client: Option<(PathBuf, PathBuf)>,
}

impl Certificates {
    /// Looks for those of a host, by its name with the port.
    pub(crate) fn of(host: &str, configured: &Host) -> Self {
        let mut found = Self::default();
        found.authorities.extend(configured.ca.clone());
        let user =
            std::env::var_os("HOME").map(|h| Path::new(&h).join(".config/containers/certs.d"));
        for directory in user.into_iter().chain(DIRECTORIES.map(PathBuf::from)) {
            let Ok(entries) = std::fs::read_dir(directory.join(host)) else { continue };
            let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            files.sort();
            for file in files {
                match file.extension().and_then(|e| e.to_str()) {
                    Some("crt") => found.authorities.push(file),
                    Some("cert") if file.with_extension("key").exists() => {
                        found.client.get_or_insert((file.clone(), file.with_extension("key")));
                    }
                    _ => {}
                }
            }
        }
        found
    }

    /// Whether somebody put certificates there, and so means the registry to be encrypted.
    pub(crate) fn any(&self) -> bool {
        !self.authorities.is_empty() || self.client.is_some()
    }

    /// Reads them.
    ///
    /// # Errors
    /// A file cannot be read, or holds no certificate.
    pub(crate) fn tls(&self) -> Result<TlsConfig> {
        let mut certificates = system();
        for file in &self.authorities {
            let pem = read(file)?;
            let before = certificates.len();
            certificates.extend(in_pem(&pem));
            if certificates.len() == before {
                bail!("{} holds no certificate", file.display());
            }
        }
        let roots = match certificates.is_empty() {
            true => RootCerts::WebPki,
            false => RootCerts::new_with_certs(&certificates),
        };
        let client = match &self.client {
            None => None,
            Some((certificate, key)) => {
                let chain: Vec<_> = in_pem(&read(certificate)?).collect();
                let key = PrivateKey::from_pem(&read(key)?)
                    .with_context(|| format!("reading the key {}", key.display()))?;
                Some(ClientCert::new_with_certs(&chain, key))
            }
        };
        Ok(TlsConfig::builder().root_certs(roots).client_cert(client).build())
    }
}

/// Mozilla's list, which is built in, serves where the system has none.
fn system() -> Vec<Certificate<'static>> {
    let chosen = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let paths = chosen.into_iter().chain(SYSTEM.map(PathBuf::from));
    let pem = paths.filter_map(|path| std::fs::read(path).ok()).find(|pem| !pem.is_empty());
    in_pem(&pem.unwrap_or_default()).collect()
}

fn in_pem(pem: &[u8]) -> impl Iterator<Item = Certificate<'static>> + '_ {
    parse_pem(pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading the certificate {}", path.display()))
}
