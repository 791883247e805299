//! OpenPGP keys, and what they signed: RFC 9580.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use pgp::composed::{
    CleartextSignedMessage, Deserializable as _, DetachedSignature, SignedPublicKey,
    SignedPublicSubKey,
};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature, SignatureType};
use pgp::types::{KeyDetails, Tag, VerifyingKey};

/// Certificates that are trusted to sign a suite.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    certificates: Vec<SignedPublicKey>,
}

/// Largest keyring, Release and signature that are looked at: bytes.
const MAX_SIZE: usize = 32 << 20;
/// How far in the future a signature may be made, for clocks that are slow: seconds.
const CLOCK_TOLERANCE: u64 = 86_400;

impl Keyring {
    /// Reads a keyring file, binary or armoured. Certificates that cannot be read are passed
    /// over: one of another kind does not make the others useless.
    ///
    /// # Errors
    /// It holds no usable certificate.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        ensure!(bytes.len() <= MAX_SIZE, "it is larger than {} MiB", MAX_SIZE >> 20);
        ensure!(
            bytes.get(8..12) != Some(b"KBXf"),
            "it is a GnuPG keybox; export its keys with gpg --export"
        );
        let start = bytes.iter().position(|b| !b.is_ascii_whitespace()).unwrap_or(0);
        let certificates: Vec<SignedPublicKey> = if bytes[start..].starts_with(b"-----BEGIN") {
            SignedPublicKey::from_armor_many(&bytes[start..])?.0.take(MAX_ITEMS).flatten().collect()
        } else {
            SignedPublicKey::from_bytes_many(bytes)?.take(MAX_ITEMS).flatten().collect()
        };
        ensure!(!certificates.is_empty(), "it holds no OpenPGP certificate");
        Ok(Self { certificates })
    }

    /// Reads a keyring file of the host.
    ///
    /// # Errors
    /// It cannot be read, or holds no usable certificate.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes =
            std::fs::read(path).with_context(|| format!("reading keyring {}", path.display()))?;
        Self::parse(&bytes).with_context(|| format!("reading keyring {}", path.display()))
    }

    /// Adds another's certificates.
    pub fn extend(&mut self, other: Self) {
        self.certificates.extend(other.certificates);
    }

    /// Keeps the certificates that have one of these fingerprints, as hex, for themselves or
    /// for a subkey.
    #[must_use]
    pub fn confined_to(mut self, fingerprints: &[String]) -> Self {
        let wanted = |key: &dyn Fn() -> String| {
            let own = key();
            fingerprints.iter().any(|f| f.trim_end_matches('!').eq_ignore_ascii_case(&own))
        };
        self.certificates.retain(|certificate| {
            wanted(&|| certificate.fingerprint().to_string())
                || certificate
                    .public_subkeys
                    .iter()
                    .any(|sub| wanted(&|| sub.fingerprint().to_string()))
        });
        self
    }

    /// Whether there is no certificate.
    pub fn is_empty(&self) -> bool {
        self.certificates.is_empty()
    }

    /// Takes a clearsigned message apart (RFC 9580 section 7) and returns the text that was
    /// signed, and nothing that stands around it.
    ///
    /// # Errors
    /// It is no such message, or none of its signatures is a good one; each is accounted for.
    pub fn verify_clearsigned(&self, message: &[u8], now: u64) -> Result<Vec<u8>> {
        ensure!(
            message.len() <= MAX_SIZE,
            "the signed message is larger than {} MiB",
            MAX_SIZE >> 20
        );
        ensure!(
            message.starts_with(b"-----BEGIN PGP SIGNED MESSAGE-----"),
            "it is no OpenPGP clearsigned message"
        );
        let (message, _) = CleartextSignedMessage::from_armor(message)
            .context("reading an OpenPGP clearsigned message")?;
        let signed = message.signed_text();
        self.verify(message.signatures(), signed.as_bytes(), now)?;
        Ok(signed.replace("\r\n", "\n").into_bytes())
    }

    /// Checks a detached signature, armoured or binary, of a text.
    ///
    /// # Errors
    /// It is none, or no good one; each is accounted for.
    pub fn verify_detached(&self, text: &[u8], signature: &[u8], now: u64) -> Result<()> {
        ensure!(signature.len() <= MAX_SIZE, "the signature is larger than {} MiB", MAX_SIZE >> 20);
        let signatures: Vec<Signature> = if signature.starts_with(b"-----BEGIN") {
            let (found, _) = DetachedSignature::from_armor_many(signature)?;
            found.take(MAX_ITEMS).flatten().map(|s| s.signature).collect()
        } else {
            let found = DetachedSignature::from_bytes_many(signature)?;
            found.take(MAX_ITEMS).flatten().map(|s| s.signature).collect()
        };
        self.verify(&signatures, text, now)
    }

    /// One good signature is enough, as it is for apt (apt-secure(8)).
    fn verify(&self, signatures: &[Signature], text: &[u8], now: u64) -> Result<()> {
        ensure!(!signatures.is_empty(), "it has no signature");
        let mut reasons = Vec::new();
        for signature in signatures.iter().take(MAX_ITEMS) {
            match self.verify_one(signature, text, now) {
                Ok(()) => return Ok(()),
                Err(why) => reasons.push(why),
            }
        }
        bail!("no signature is good: {}", reasons.join("; "))
    }

    fn verify_one(&self, signature: &Signature, text: &[u8], now: u64) -> Result<(), String> {
        let who = issuer(signature);
        if !matches!(signature.typ(), Some(SignatureType::Binary | SignatureType::Text)) {
            return Err(format!("that of {who} is not one of a document"));
        }
        if !signature.hash_alg().is_some_and(is_strong) {
            return Err(format!("that of {who} uses a digest that is not secure any more"));
        }
        let created = signature.created().map_or(0, |at| u64::from(at.as_secs()));
        if created > now.saturating_add(CLOCK_TOLERANCE) {
            return Err(format!("that of {who} was made in the future: is the clock right?"));
        }
        let lifetime = signature.signature_expiration_time().map_or(0, |d| u64::from(d.as_secs()));
        if lifetime != 0 && created + lifetime < now {
            return Err(format!("that of {who} has expired"));
        }
        let mut why = format!("the key {who} is in no keyring that is used");
        for certificate in &self.certificates {
            if is_by(signature, certificate) {
                match signature.verify(certificate, text) {
                    Err(_) => why = format!("that of {who} does not fit the content"),
                    Ok(()) => match primary_problem(certificate, now) {
                        None => return Ok(()),
                        Some(problem) => why = format!("the key {who} {problem}"),
                    },
                }
            }
            for subkey in certificate.public_subkeys.iter().filter(|sub| is_by(signature, *sub)) {
                match signature.verify(subkey, text) {
                    Err(_) => why = format!("that of {who} does not fit the content"),
                    Ok(()) => {
                        let problem = primary_problem(certificate, now)
                            .or_else(|| subkey_problem(certificate, subkey, now));
                        match problem {
                            None => return Ok(()),
                            Some(problem) => why = format!("the key {who} {problem}"),
                        }
                    }
                }
            }
        }
        Err(why)
    }
}

/// The text of a clearsigned message, whoever signed it.
///
/// # Errors
/// It is no such message.
pub(crate) fn clearsigned_text(message: &[u8]) -> Result<Vec<u8>> {
    ensure!(message.len() <= MAX_SIZE, "the signed message is larger than {} MiB", MAX_SIZE >> 20);
    let (message, _) = CleartextSignedMessage::from_armor(message)
        .context("reading an OpenPGP clearsigned message")?;
    Ok(message.signed_text().replace("\r\n", "\n").into_bytes())
}

/// Far more certificates or signatures than any file holds.
const MAX_ITEMS: usize = 1000;

fn is_strong(hash: HashAlgorithm) -> bool {
    matches!(
        hash,
        HashAlgorithm::Sha256
            | HashAlgorithm::Sha384
            | HashAlgorithm::Sha512
            | HashAlgorithm::Sha3_256
            | HashAlgorithm::Sha3_512
    )
}

fn issuer(signature: &Signature) -> String {
    let fingerprint = signature.issuer_fingerprint().first().map(|f| f.to_string());
    let id = || signature.issuer_key_id().first().map(|id| id.to_string());
    fingerprint.or_else(id).map_or_else(|| "of unknown id".into(), |text| text.to_uppercase())
}

/// Whether a signature says that this key made it.
fn is_by(signature: &Signature, key: &impl KeyDetails) -> bool {
    let fingerprints = signature.issuer_fingerprint();
    let ids = signature.issuer_key_id();
    fingerprints.iter().any(|f| **f == key.fingerprint())
        || ids.iter().any(|id| **id == key.legacy_key_id())
}

/// Why a certificate may not sign at this time, if it may not.
fn primary_problem(certificate: &SignedPublicKey, now: u64) -> Option<&'static str> {
    let key = &certificate.primary_key;
    let details = &certificate.details;
    if details.revocation_signatures.iter().any(|s| s.verify_key(key).is_ok()) {
        return Some("was revoked");
    }
    let users = details.users.iter().flat_map(|user| {
        user.signatures.iter().filter(|s| {
            s.is_certification() && s.verify_certification(key, Tag::UserId, &user.id).is_ok()
        })
    });
    let direct = details.direct_signatures.iter().filter(|s| s.verify_key(key).is_ok());
    let newest = newest(users.chain(direct));
    match newest {
        None => Some("is not certified by itself"),
        Some(certification) => expired(certification, key, now).then_some("has expired"),
    }
}

/// Why a subkey may not sign at this time, if it may not.
fn subkey_problem(
    certificate: &SignedPublicKey,
    subkey: &SignedPublicSubKey,
    now: u64,
) -> Option<&'static str> {
    let primary = &certificate.primary_key;
    let good = |s: &&Signature| s.verify_subkey_binding(primary, &subkey.key).is_ok();
    let revoked = |s: &&Signature| s.typ() == Some(SignatureType::SubkeyRevocation);
    if subkey.signatures.iter().filter(revoked).any(|s| good(&s)) {
        return Some("was revoked");
    }
    let bindings = subkey.signatures.iter().filter(|s| !revoked(s)).filter(good);
    let Some(binding) = newest(bindings) else { return Some("is not bound to its primary key") };
    // RFC 9580 section 5.2.1.9: a subkey that signs certifies in turn that it belongs there.
    let back = binding.embedded_signature();
    if !binding.key_flags().sign()
        || back.is_none_or(|s| s.verify_primary_key_binding(&subkey.key, primary).is_err())
    {
        return Some("is not for signing");
    }
    expired(binding, &subkey.key, now).then_some("has expired")
}

fn newest<'a>(signatures: impl Iterator<Item = &'a Signature>) -> Option<&'a Signature> {
    signatures.max_by_key(|s| s.created().map_or(0, |at| at.as_secs()))
}

fn expired(certification: &Signature, key: &impl VerifyingKey, now: u64) -> bool {
    let lifetime = certification.key_expiration_time().map_or(0, |d| u64::from(d.as_secs()));
    lifetime != 0 && u64::from(key.created_at().as_secs()) + lifetime <= now
}
