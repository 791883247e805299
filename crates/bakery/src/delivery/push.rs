//! To a registry (distribution-spec 1.1, "Push").

use anyhow::{Context as _, Error, Result, anyhow};
use spec::event::{Event, Tell};
use spec::image::{Image, Origin};
use spec::oci::{Descriptor, media};
use spec::reference::{Reference, RegistryReference};
use store::Store;
use ureq::SendBody;

use super::layer::Compress;
use super::{Parcel, Pulled, describe, original};
use crate::source::registry::address::encode;
use crate::source::registry::client::{Ask, Client, Failure, Repository, text_of};
use crate::source::registry::settings::Settings;

/// What we want to do, for tokens.
const ACTIONS: &str = "pull,push";

/// Pushes an image; returns its manifest's digest.
///
/// What the registry has already is not sent; where it has all layers as they were pulled, in that repository or
/// in the one that they came from, the image stays the same to the last bit.
///
/// # Errors
/// The registry refuses, or the layers cannot be packed.
pub fn push(
    store: &Store,
    image: &Image,
    to: &RegistryReference,
    compress: Compress,
    tell: &dyn Tell,
) -> Result<String> {
    let settings = Settings::read()?;
    let client = Client::new(&settings, tell);
    let place = Repository { registry: to.registry.clone(), path: to.repository.clone() };
    let push = Push { client: &client, place: &place };
    let tag = to.tag.as_deref().or(to.digest.as_deref()).unwrap_or("latest");
    push.image(store, image, tag, compress).with_context(|| format!("pushing to {to}"))
}

struct Push<'a> {
    client: &'a Client<'a>,
    place: &'a Repository,
}

impl Push<'_> {
    fn image(&self, store: &Store, image: &Image, tag: &str, compress: Compress) -> Result<String> {
        self.client.tell.tell(Event::Phase { name: "asking the registry".into() });
        if let Some(Pulled { manifest, bytes, config }) = original(store, image)?
            && self.has_all(&manifest.layers, self.neighbour(image).as_deref())?
        {
            self.bytes(&manifest.config, &config)?;
            let media_type = match &manifest.media_type[..] {
                "" => media::MANIFEST,
                known => known,
            };
            return self.manifest(tag, media_type, &bytes);
        }
        let parcel = Parcel::pack(store, image, compress, self.client.tell)?;
        self.client.tell.tell(Event::Phase { name: "uploading".into() });
        for layer in &parcel.layers {
            let blob = &layer.descriptor;
            self.blob(blob, &|| Box::new(layer.reader()))?;
        }
        self.bytes(&describe(media::CONFIG, &parcel.config), &parcel.config)?;
        self.manifest(tag, media::MANIFEST, &parcel.manifest)
    }

    fn has_all(&self, blobs: &[Descriptor], neighbour: Option<&str>) -> Result<bool> {
        let mut missing = Vec::new();
        for blob in blobs {
            if self.has(blob)? {
                continue;
            }
            missing.push(blob);
        }
        let Some(from) = neighbour else { return Ok(missing.is_empty()) };
        Ok(missing.into_iter().all(|blob| self.mount(blob, from)))
    }

    /// The repository of this registry that the image came from.
    fn neighbour(&self, image: &Image) -> Option<String> {
        let Origin::Oci(oci) = &image.origin else { return None };
        let Ok(Reference::Registry(from)) = Reference::parse(&oci.reference, |_| false) else {
            return None;
        };
        let is_one = from.registry == self.place.registry && from.repository != self.place.path;
        is_one.then_some(from.repository)
    }

    /// Lets the registry take a blob over from another repository (distribution-spec 1.1, "Mounting a
    /// blob from another repository"). That it does not is no failure.
    fn mount(&self, blob: &Descriptor, from: &str) -> bool {
        let (path, digest) = (&self.place.path, &blob.digest);
        let target = format!("{path}/blobs/uploads/?mount={digest}&from={}", encode(from));
        let mut ask = Ask { actions: ACTIONS, also: Some(from), ..Ask::new("POST", &target) };
        ask.headers.push(("content-length", "0".into()));
        let Ok(response) = self.client.ask_once(self.place, &ask, &mut None) else { return false };
        if response.status() == 201 {
            return true;
        }
        // It waits for an upload instead.
        if let Some(location) = text_of(&response, "location") {
            let ask = Ask { actions: ACTIONS, ..Ask::new("DELETE", &location) };
            let _ = self.client.ask_once(self.place, &ask, &mut None);
        }
        false
    }

    fn has(&self, blob: &Descriptor) -> Result<bool> {
        let target = format!("{}/blobs/{}", self.place.path, blob.digest);
        let ask = Ask { actions: ACTIONS, ..Ask::new("HEAD", &target) };
        match self.client.ask(self.place, &ask) {
            Ok(_) => Ok(true),
            Err(Failure::Missing(_)) => Ok(false),
            Err(failure) => Err(failure.into()),
        }
    }

    fn bytes(&self, blob: &Descriptor, bytes: &[u8]) -> Result<()> {
        self.blob(blob, &|| Box::new(bytes))
    }

    fn blob<'b>(
        &self,
        blob: &Descriptor,
        open: &dyn Fn() -> Box<dyn std::io::Read + 'b>,
    ) -> Result<()> {
        let what = format!("blob {}", blob.digest.get(7..19).unwrap_or(&blob.digest));
        let total = Some(blob.size);
        self.client.tell.tell(Event::DownloadStarted { what: what.clone(), total });
        let mut attempt = 0;
        while !self.has(blob)? {
            match self.upload(blob, &mut *open()) {
                Ok(()) => break,
                Err(Failure::Passing(error, wait)) => {
                    self.client.pause(&mut attempt, error, wait)?
                }
                Err(failure) => {
                    return Err(Error::from(failure).context(format!("uploading {what}")));
                }
            }
        }
        self.client.tell.tell(Event::DownloadFinished { what });
        Ok(())
    }

    fn upload(&self, blob: &Descriptor, content: &mut dyn std::io::Read) -> Result<(), Failure> {
        let target = format!("{}/blobs/uploads/", self.place.path);
        let mut ask = Ask { actions: ACTIONS, ..Ask::new("POST", &target) };
        ask.headers.push(("content-length", "0".into()));
        let response = self.client.ask_once(self.place, &ask, &mut None)?;
        let location = text_of(&response, "location").ok_or_else(|| {
            Failure::Final(anyhow!("the registry does not say where to upload to"))
        })?;
        let separator = if location.contains('?') { '&' } else { '?' };
        let target = format!("{location}{separator}digest={}", blob.digest);
        let mut ask = Ask { actions: ACTIONS, ..Ask::new("PUT", &target) };
        ask.headers.push(("content-type", "application/octet-stream".into()));
        ask.headers.push(("content-length", blob.size.to_string()));
        let mut content = content;
        let body = SendBody::from_reader(&mut content);
        self.client.ask_once(self.place, &ask, &mut Some(body)).map(drop)
    }

    fn manifest(&self, tag: &str, media_type: &str, bytes: &[u8]) -> Result<String> {
        let target = format!("{}/manifests/{tag}", self.place.path);
        let mut attempt = 0;
        loop {
            let mut ask = Ask { actions: ACTIONS, ..Ask::new("PUT", &target) };
            ask.headers.push(("content-type", media_type.to_owned()));
            ask.headers.push(("content-length", bytes.len().to_string()));
            let mut content = bytes;
            let body = SendBody::from_reader(&mut content);
            match self.client.ask_once(self.place, &ask, &mut Some(body)) {
                Ok(_) => return Ok(describe(media_type, bytes).digest),
                Err(Failure::Passing(error, wait)) => {
                    self.client.pause(&mut attempt, error, wait)?
                }
                Err(failure) => return Err(Error::from(failure).context("uploading the manifest")),
            }
        }
    }
}
