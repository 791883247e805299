//! Images of registries: what a name means now, and its blobs.

pub(crate) mod address;
mod authorization;
mod certificates;
pub mod challenge;
pub(crate) mod client;
pub mod credentials;
pub mod settings;
mod transfer;

use std::io::Read;
use std::path::PathBuf;

use anyhow::{Context as _, Error, Result, anyhow, bail, ensure};
use spec::event::{Event, Tell};
use spec::image::Origin;
use spec::oci::{self, Descriptor, Document, Index, MAX_MANIFEST, media, sha256};
use spec::platform::Platform;
use spec::reference::{Reference, RegistryReference};

use self::client::{Ask, Client, Failure, Repository, small, text_of};
use self::credentials::Credential;
use self::settings::Settings;
use self::transfer::Transfer;
use super::assembly::{self, Blobs, Found};
use super::{Context, ImageSource, Pulled};
use crate::digest;

/// The source of registries' images.
pub(crate) struct Source;

impl ImageSource for Source {
    fn accepts(&self, reference: &Reference) -> bool {
        matches!(reference, Reference::Registry(_))
    }

    fn pull(&self, reference: &Reference, context: &Context<'_>) -> Result<Pulled> {
        let Reference::Registry(name) = reference else { bail!("{reference} is in no registry") };
        let platform = context.options.platform.as_deref().map(Platform::parse).transpose();
        let platform = platform.map_err(Error::msg)?;
        let settings = Settings::read()?;
        let client = Client::new(&settings, context.tell);
        let places = places(name, &settings)?;
        pull(name, &places, &client, platform.as_ref(), context)
            .with_context(|| format!("pulling {name}"))
    }
}

/// Media types that a reference may stand for.
const MANIFESTS: [&str; 4] =
    [media::INDEX, media::MANIFEST, media::DOCKER_LIST, media::DOCKER_MANIFEST];

/// The mirrors of a repository, and itself.
fn places(name: &RegistryReference, settings: &Settings) -> Result<Vec<Repository>> {
    let own = Repository { registry: name.registry.clone(), path: name.repository.clone() };
    let mut places = Vec::new();
    for mirror in settings.host(&name.registry).mirrors {
        let (registry, prefix) = mirror.split_once('/').unwrap_or((&mirror, ""));
        ensure!(!registry.is_empty(), "the mirror {mirror:?} of {} has no host", name.registry);
        let slash = if prefix.is_empty() { "" } else { "/" };
        let path = format!("{}{slash}{}", prefix.trim_end_matches('/'), name.repository);
        places.push(Repository { registry: registry.to_owned(), path });
    }
    places.push(own);
    Ok(places)
}

fn pull(
    name: &RegistryReference,
    places: &[Repository],
    client: &Client<'_>,
    platform: Option<&Platform>,
    context: &Context<'_>,
) -> Result<Pulled> {
    context.tell.tell(Event::Phase { name: "asking the registry".into() });
    let wanted = name.digest.as_deref().or(name.tag.as_deref()).unwrap_or("latest");
    let shown = platform.map(Platform::to_string);
    let previous = context.previous.and_then(|image| match &image.origin {
        Origin::Oci(oci) if oci.platform == shown && !context.options.force => Some(oci),
        _ => None,
    });
    let mut wanted = wanted.to_owned();
    if let Some(previous) = previous {
        // A digest means the same for ever.
        if name.digest.as_ref() == Some(&previous.resolved) {
            return Ok(Pulled::UpToDate);
        }
        let asked = first(places, context.tell, |place| digest_of(client, place, &wanted))?;
        if let Some(now) = asked.0 {
            if now == previous.resolved {
                return Ok(Pulled::UpToDate);
            }
            wanted = now;
        }
    }
    let (document, place) = first(places, context.tell, |place| manifest(client, place, &wanted))?;
    let origin = places.last().context("no place")?.clone();
    let mut blobs = Registry { client, place, origin };
    let found = choose(document, &mut blobs, platform)?;
    assembly::draft(found, &blobs, &name.to_string(), shown, &client.settings.limits(), context)
}

/// The first place that answers; that a mirror does not is no reason to give up.
fn first<T>(
    places: &[Repository],
    tell: &dyn Tell,
    ask: impl Fn(&Repository) -> Result<T, Failure>,
) -> Result<(T, Repository)> {
    let (last, mirrors) = places.split_last().context("no place")?;
    for mirror in mirrors {
        match ask(mirror) {
            Ok(answer) => return Ok((answer, mirror.clone())),
            Err(Failure::Missing(_)) => {}
            Err(failure) => {
                let text = format!("the mirror is left out: {:#}", Error::from(failure));
                tell.tell(Event::Warning { text });
            }
        }
    }
    Ok((ask(last)?, last.clone()))
}

/// What a name stands for now; `None` where the registry does not say.
fn digest_of(
    client: &Client<'_>,
    place: &Repository,
    wanted: &str,
) -> Result<Option<String>, Failure> {
    let target = format!("{}/manifests/{wanted}", place.path);
    let mut ask = Ask::new("HEAD", &target);
    ask.headers.push(("accept", MANIFESTS.join(", ")));
    let response = client.ask(place, &ask)?;
    let digest = text_of(&response, "docker-content-digest");
    Ok(digest.filter(|digest| sha256(digest).is_ok()))
}

/// A manifest or an index, its digest checked against whatever names it.
struct Fetched {
    digest: String,
    bytes: Vec<u8>,
    document: Document,
}

fn manifest(client: &Client<'_>, place: &Repository, wanted: &str) -> Result<Fetched, Failure> {
    let target = format!("{}/manifests/{wanted}", place.path);
    let mut ask = Ask::new("GET", &target);
    ask.headers.push(("accept", MANIFESTS.join(", ")));
    let what = || format!("reading the manifest {wanted}");
    let mut attempt = 0;
    let (stated, bytes) = loop {
        let response = client.ask(place, &ask)?;
        let stated = text_of(&response, "docker-content-digest");
        match small(response, MAX_MANIFEST) {
            Ok(bytes) => break (stated, bytes),
            Err(Failure::Passing(error, wait)) => client.pause(&mut attempt, error, wait)?,
            Err(failure) => return Err(failure.context(what)),
        }
    };
    let fail = |error: Error| Failure::Final(error.context(what()));
    let digest = format!("sha256:{}", digest::of(&bytes));
    let expected = if wanted.contains(':') { Some(wanted.to_owned()) } else { stated };
    if let Some(expected) = expected.filter(|e| e.starts_with("sha256:") || wanted.contains(':'))
        && expected != digest
    {
        return Err(fail(anyhow!("its digest is {digest} and should be {expected}")));
    }
    let document = oci::parse(&bytes).map_err(|why| fail(Error::msg(why)))?;
    Ok(Fetched { digest, bytes, document })
}

/// From an index to the image for a platform.
fn choose(
    fetched: Fetched,
    blobs: &mut Registry<'_>,
    platform: Option<&Platform>,
) -> Result<Found> {
    let index = match fetched.document {
        Document::Manifest(manifest) => {
            return Ok(Found {
                resolved: fetched.digest.clone(),
                index: None,
                digest: fetched.digest,
                bytes: fetched.bytes,
                manifest,
            });
        }
        Document::Index(index) => index,
    };
    let chosen = chosen(&index, platform)?;
    let wanted = chosen.digest.clone();
    let one = match manifest(blobs.client, &blobs.place, &wanted) {
        Err(Failure::Missing(_)) if blobs.place != blobs.origin => {
            manifest(blobs.client, &blobs.origin, &wanted)
        }
        other => other,
    }?;
    match one.document {
        Document::Manifest(manifest) => Ok(Found {
            resolved: fetched.digest,
            index: Some(fetched.bytes),
            digest: one.digest,
            bytes: one.bytes,
            manifest,
        }),
        Document::Index(_) => bail!("the index names another index, {wanted}"),
    }
}

pub(crate) fn chosen<'i>(index: &'i Index, platform: Option<&Platform>) -> Result<&'i Descriptor> {
    let host = Platform::host();
    index.choose(platform.unwrap_or(&host)).map_err(Error::msg)
}

/// The blobs of one image.
struct Registry<'a> {
    client: &'a Client<'a>,
    /// Where its manifest was.
    place: Repository,
    /// Where everything must be.
    origin: Repository,
}

impl Blobs for Registry<'_> {
    fn open<'s>(&'s self, blob: &Descriptor) -> Result<Box<dyn Read + Send + 's>> {
        let begin = |place| Transfer::begin(self.client, place, &blob.digest, blob.size);
        let transfer = match begin(&self.place) {
            Err(Failure::Missing(_)) if self.place != self.origin => begin(&self.origin),
            other => other,
        };
        Ok(Box::new(transfer?))
    }
}

/// Proves to a registry who one is, and keeps the proof; returns the file it is kept in.
///
/// # Errors
/// The registry does not take it, or it cannot be kept.
pub fn login(registry: &str, name: &str, password: &str) -> Result<PathBuf> {
    let settings = Settings::read()?;
    let client = Client::new(&settings, &spec::event::Silent);
    let place = Repository { registry: registry.to_owned(), path: String::new() };
    let credential = Credential::Password(name.to_owned(), password.to_owned());
    client.prove(&place, credential).with_context(|| format!("logging in to {registry}"))?;
    credentials::store(registry, name, password)
}

/// Forgets what was kept for a registry; returns the file it was in.
///
/// # Errors
/// Nothing was kept, or the file cannot be written.
pub fn logout(registry: &str) -> Result<PathBuf> {
    credentials::forget(registry)
}
