//! An archive of a root file system at an address, such as `https://example.org/rootfs.tar.xz`.
//!
//! What it must be is said by a `SHA256SUMS` beside it, and who says so by that list's signature.

use anyhow::{Context as _, Result, bail, ensure};
use spec::event::Event;
use spec::reference::Reference;

use super::bootstrap::fetch::Fetcher;
use super::bootstrap::keyring::Keyring;
use super::registry::address::{Address, is_loopback};
use super::{Context, ImageSource, Pulled, bootstrap, catalog, tar};

/// The source of `https://…` and `http://…`.
pub(crate) struct Source;

/// Beyond every real list of digests, and every signature: bytes.
const MAX_LIST: u64 = 1 << 20;
/// How the list is called, and how its signature is, beside the archive.
const LIST: &str = "SHA256SUMS";
const SIGNATURES: [&str; 3] = ["gpg", "asc", "sig"];

impl ImageSource for Source {
    fn accepts(&self, reference: &Reference) -> bool {
        matches!(reference, Reference::Web(_))
    }

    fn pull(&self, reference: &Reference, context: &Context<'_>) -> Result<Pulled> {
        let Reference::Web(address) = reference else { bail!("{reference} is no address") };
        let options = context.options;
        ensure!(
            options.mirror.is_none() && options.include.is_empty() && options.platform.is_none(),
            "--mirror, --include and --platform mean nothing for an archive at an address: leave them out"
        );
        let fetcher = bootstrap::fetcher(context);
        let sha256 = stated(address, &fetcher, context)?;
        tar::pull_address(address, sha256.as_deref(), &fetcher, context)
    }
}

/// The digest that the list beside it states.
fn stated(address: &str, fetcher: &Fetcher<'_>, context: &Context<'_>) -> Result<Option<String>> {
    let (directory, name) = address.rsplit_once('/').context("it has no path")?;
    let list = format!("{directory}/{LIST}");
    let keyring = context.options.keyring.as_deref().map(Keyring::read).transpose()?;
    let text = fetcher.read(&list, MAX_LIST)?;
    let Some(text) = text else {
        ensure!(keyring.is_none(), "there is no {list} that a key could have signed");
        let text = format!("there is no {list}: nothing says what {name} should be");
        ensure!(
            !is_in_the_open(address),
            "{text}, and it would come without encryption: use https"
        );
        context.tell.tell(Event::Warning { text });
        return Ok(None);
    };
    match keyring {
        Some(keyring) => verify(&list, &text, &keyring, fetcher)?,
        None => ensure!(
            !is_in_the_open(address),
            "{list} would come without encryption: use https, or --keyring with the key that signed it"
        ),
    }
    let found = catalog::digest_of(&String::from_utf8_lossy(&text), name);
    Ok(Some(found.with_context(|| format!("{list} has no SHA-256 of {name}"))?))
}

/// On this machine nobody listens in.
fn is_in_the_open(address: &str) -> bool {
    let parsed = Address::parse(address);
    parsed.is_none_or(|parsed| parsed.scheme == "http" && !is_loopback(&parsed.host))
}

fn verify(list: &str, text: &[u8], keyring: &Keyring, fetcher: &Fetcher<'_>) -> Result<()> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.context("the clock stands before 1970")?.as_secs();
    for suffix in SIGNATURES {
        let address = format!("{list}.{suffix}");
        if let Some(signature) = fetcher.read(&address, MAX_LIST)? {
            let checking = || format!("checking the signature {address}");
            return keyring.verify_detached(text, &signature, now).with_context(checking);
        }
    }
    bail!("there is no signature of {list}: neither .{}", SIGNATURES.join(" nor ."))
}
