//! A blob as a stream: what breaks off is resumed where it broke off.

use std::io::{self, Read};

use anyhow::{Error, anyhow};
use ureq::Body;
use ureq::http::Response;

use super::client::{Ask, Client, Failure, Repository, text_of};

/// Reads a blob of a registry.
pub(crate) struct Transfer<'a> {
    client: &'a Client<'a>,
    repository: Repository,
    /// `sha256:HEX`.
    digest: String,
    size: u64,
    done: u64,
    /// Attempts in a row that brought nothing.
    attempt: u32,
    body: Option<Box<dyn Read + Send + 'a>>,
}

impl<'a> Transfer<'a> {
    /// Begins.
    ///
    /// # Errors
    /// The registry does not have it, or not of that size.
    pub(crate) fn begin(
        client: &'a Client<'a>,
        repository: &Repository,
        digest: &str,
        size: u64,
    ) -> Result<Self, Failure> {
        let (repository, digest) = (repository.clone(), digest.to_owned());
        let mut transfer =
            Self { client, repository, digest, size, done: 0, attempt: 0, body: None };
        loop {
            match transfer.open() {
                Ok(()) => return Ok(transfer),
                Err(Failure::Passing(error, wait)) => {
                    client.pause(&mut transfer.attempt, error, wait)?
                }
                Err(other) => return Err(other),
            }
        }
    }

    fn open(&mut self) -> Result<(), Failure> {
        let target = format!("{}/blobs/{}", self.repository.path, self.digest);
        let mut ask = Ask::new("GET", &target);
        if self.done > 0 {
            ask.headers.push(("range", format!("bytes={}-", self.done)));
        }
        let response = self.client.ask_once(&self.repository, &ask, &mut None)?;
        let from = if response.status() == 206 { first_byte(&response) } else { Some(0) };
        let stated = response.body().content_length();
        let skip = match from {
            Some(from) if from <= self.done => self.done - from,
            _ => {
                return Err(Failure::Passing(
                    anyhow!("the registry sent another part than was asked for"),
                    None,
                ));
            }
        };
        if let (Some(stated), Some(from)) = (stated, from)
            && from + stated > self.size
        {
            let (size, whole) = (self.size, from + stated);
            return Err(Failure::Final(anyhow!(
                "it should have {size} bytes, and the registry has {whole}"
            )));
        }
        let mut body: Box<dyn Read + Send> = Box::new(response.into_body().into_reader());
        // A registry that knows no ranges begins anew.
        let skipped = io::copy(&mut (&mut body).take(skip), &mut io::sink());
        match skipped {
            Ok(count) if count == skip => {}
            Ok(_) => return Err(self.broken(None)),
            Err(error) => return Err(self.broken(Some(error))),
        }
        self.body = Some(body);
        Ok(())
    }

    fn broken(&self, error: Option<io::Error>) -> Failure {
        let (done, size) = (self.done, self.size);
        let error = error.map_or_else(|| anyhow!("the registry sent no more"), Error::from);
        Failure::Passing(
            error.context(format!("the download broke off after {done} of {size} bytes")),
            None,
        )
    }
}

impl Read for Transfer<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let other = |error: Error| io::Error::other(format!("{error:#}"));
        loop {
            let failure = match &mut self.body {
                None => match self.open() {
                    Ok(()) => continue,
                    Err(failure) => failure,
                },
                Some(body) => match body.read(buffer) {
                    Ok(0) if self.done == self.size || buffer.is_empty() => return Ok(0),
                    Ok(0) => self.broken(None),
                    Ok(count) => {
                        self.done += count as u64;
                        self.attempt = 0;
                        if self.done > self.size {
                            return Err(other(anyhow!(
                                "it is larger than the {} bytes that it should have",
                                self.size
                            )));
                        }
                        return Ok(count);
                    }
                    Err(error) => self.broken(Some(error)),
                },
            };
            self.body = None;
            match failure {
                Failure::Passing(error, wait) => {
                    self.client
                        .pause(&mut self.attempt, error, wait)
                        .map_err(|f| other(f.into()))?;
                }
                failure => return Err(other(failure.into())),
            }
        }
    }
}

/// Of `bytes FIRST-LAST/SIZE` (RFC 9110 section 14.4).
fn first_byte(response: &Response<Body>) -> Option<u64> {
    let range = text_of(response, "content-range")?;
    range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}
