//! Fetches files of an archive: over HTTP with several attempts, resumed where they broke
//! off, or from a directory. What has a digest is kept in the store's cache.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Error, Result, anyhow, bail};
use spec::event::{Event, Tell};
use store::{Cache, Partial, Store};
use ureq::Agent;
use ureq::unversioned::transport::DefaultConnector;

use super::archive::public;
use crate::names::Names;

/// A file that is known by its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Where it may be; the next is tried where one does not have it.
    pub(crate) urls: Vec<String>,
    /// Lower-case hex.
    pub(crate) sha256: String,
    /// Bytes.
    pub(crate) size: u64,
    /// As it is shown.
    pub(crate) what: String,
}

/// Fetches; can be shared by threads.
pub(crate) struct Fetcher<'a> {
    agent: Agent,
    cache: Cache<'a>,
    tell: &'a dyn Tell,
    deadline: Option<Instant>,
}

/// Said of what is given up at its deadline.
const LATE: &str = "the server does not answer, or too slowly";

/// Attempts in a row that bring not one byte, before it is given up.
const ATTEMPTS: u32 = 5;
/// Before the second attempt; twice as long before each that follows.
const BACK_OFF: Duration = Duration::from_millis(200);
/// A silence after which a connection counts as dead.
const SILENCE: Duration = Duration::from_secs(30);
/// Connections that are kept open to a host.
pub(crate) const CONNECTIONS: usize = 6;
/// Bytes between two pieces of news.
const NEWS: u64 = 256 << 10;

impl<'a> Fetcher<'a> {
    /// Proxies are taken from the environment (`http_proxy` and the like).
    pub(crate) fn new(store: &'a Store, tell: &'a dyn Tell) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(SILENCE))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .max_idle_connections(CONNECTIONS * 2)
            .max_idle_connections_per_host(CONNECTIONS)
            .user_agent(concat!("postroj/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .build();
        let agent = Agent::with_parts(config, DefaultConnector::new(), Names::default());
        Self { agent, cache: store.cache(), tell, deadline: None }
    }

    /// Gives everything up at that time.
    pub(crate) fn until(self, deadline: Option<Instant>) -> Self {
        Self { deadline, ..self }
    }

    /// Fetches a small file into memory; `None` where the archive does not have it.
    ///
    /// # Errors
    /// It cannot be had, or is larger than `limit` bytes.
    pub(crate) fn read(&self, url: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let mut attempt = 0;
        loop {
            match self.read_once(url, limit) {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(Failure::Missing) => return Ok(None),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(error)) => self.pause(url, &mut attempt, error)?,
            }
        }
    }

    fn read_once(&self, url: &str, limit: u64) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        let mut body = self.open(url, 0)?.body.take(limit + 1);
        body.read_to_end(&mut bytes).map_err(|error| passing(url, error))?;
        if bytes.len() as u64 > limit {
            return Err(Failure::Final(anyhow!("{} is larger than {limit} bytes", public(url))));
        }
        Ok(bytes)
    }

    /// Opens a file that is read once, from its start.
    ///
    /// # Errors
    /// It cannot be had.
    pub(crate) fn stream(&self, url: &str) -> Result<Box<dyn Read + Send>> {
        let mut attempt = 0;
        loop {
            match self.open(url, 0) {
                Ok(opened) => return Ok(opened.body),
                Err(Failure::Missing) => bail!("{} is not there", public(url)),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(error)) => self.pause(url, &mut attempt, error)?,
            }
        }
    }

    /// Fetches a file into the cache, or finds it there.
    ///
    /// # Errors
    /// It cannot be had, or is not the one that was wanted.
    pub(crate) fn file(&self, wanted: &Wanted) -> Result<File> {
        self.tell
            .tell(Event::DownloadStarted { what: wanted.what.clone(), total: Some(wanted.size) });
        let file = match self.cache.get(&wanted.sha256)? {
            Some(file) => file,
            None => self.download(wanted).with_context(|| format!("fetching {}", wanted.what))?,
        };
        self.news(wanted, wanted.size);
        self.tell.tell(Event::DownloadFinished { what: wanted.what.clone() });
        Ok(file)
    }

    fn download(&self, wanted: &Wanted) -> Result<File> {
        let mut again = false;
        loop {
            let mut partial = self.cache.begin(&wanted.sha256)?;
            // Another process may have finished it while this one waited for its turn.
            if let Some(file) = self.cache.get(&wanted.sha256)? {
                return Ok(file);
            }
            let resumed = partial.len() > 0;
            self.fill(&mut partial, wanted)?;
            match partial.finish() {
                Ok(file) => return Ok(file),
                // What was there before may have been the damaged part.
                Err(_) if resumed && !again => again = true,
                Err(error) => return Err(error),
            }
        }
    }

    /// Completes a partial download from the first place that has the file.
    fn fill(&self, partial: &mut Partial, wanted: &Wanted) -> Result<()> {
        for url in &wanted.urls {
            let mut attempt = 0;
            while partial.len() != wanted.size {
                let before = partial.len();
                match self.continue_once(partial, url, wanted) {
                    Ok(()) => {}
                    Err(Failure::Missing) => break,
                    Err(Failure::Final(error)) => return Err(error),
                    Err(Failure::Passing(error)) => {
                        if partial.len() > before {
                            attempt = 0;
                        }
                        self.pause(url, &mut attempt, error)?;
                    }
                }
            }
            if partial.len() == wanted.size {
                return Ok(());
            }
        }
        bail!(
            "the archive does not have {}",
            wanted.urls.last().map_or_else(String::new, |u| public(u))
        )
    }

    fn continue_once(
        &self,
        partial: &mut Partial,
        url: &str,
        wanted: &Wanted,
    ) -> Result<(), Failure> {
        if partial.len() > wanted.size {
            partial.restart().map_err(Failure::Final)?;
        }
        let mut opened = self.open(url, partial.len())?;
        if opened.from != partial.len() {
            partial.restart().map_err(Failure::Final)?;
        }
        let mut buffer = vec![0; 128 << 10];
        let mut told = partial.len();
        while partial.len() < wanted.size {
            let count = match opened.body.read(&mut buffer) {
                Ok(0) => return Err(passing(url, io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => count,
                Err(error) => return Err(passing(url, error)),
            };
            if partial.len() + count as u64 > wanted.size {
                return Err(Failure::Final(anyhow!(
                    "{} is larger than the {} bytes that its index states",
                    public(url),
                    wanted.size
                )));
            }
            partial.write_all(&buffer[..count]).map_err(Failure::Final)?;
            if partial.len() - told >= NEWS {
                told = partial.len();
                self.news(wanted, told);
            }
        }
        Ok(())
    }

    fn news(&self, wanted: &Wanted, done: u64) {
        self.tell.tell(Event::DownloadProgress { what: wanted.what.clone(), done });
    }

    fn open(&self, url: &str, from: u64) -> Result<Opened, Failure> {
        if let Some(path) = url.strip_prefix("file:").or_else(|| url.strip_prefix("copy:")) {
            return open_path(url, path.trim_start_matches("//"), from);
        }
        let left = self.deadline.map(|at| at.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(Failure::Final(anyhow!("fetching {}: {LATE}", public(url))));
        }
        let mut request = self.agent.get(url).config().timeout_global(left).build();
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        let response =
            request.call().map_err(|error| Failure::Passing(fetching(url, error.into())))?;
        let status = response.status().as_u16();
        let from = match status {
            200 => 0,
            206 if starts_at(&response, from) => from,
            206 => {
                return Err(Failure::Final(anyhow!(
                    "{}: the server sent another range",
                    public(url)
                )));
            }
            404 | 410 => return Err(Failure::Missing),
            // The range is not there: what was fetched before is of another file.
            416 if from > 0 => return self.open(url, 0),
            408 | 425 | 429 | 500..=599 => {
                return Err(Failure::Passing(anyhow!("{}: HTTP status {status}", public(url))));
            }
            _ => return Err(Failure::Final(anyhow!("{}: HTTP status {status}", public(url)))),
        };
        Ok(Opened { body: Box::new(response.into_body().into_reader()), from })
    }

    /// Waits before another attempt, or gives up.
    fn pause(&self, url: &str, attempt: &mut u32, error: Error) -> Result<()> {
        *attempt += 1;
        if self.deadline.is_some_and(|at| at <= Instant::now()) {
            return Err(anyhow!("fetching {}: {LATE}", public(url)));
        }
        if *attempt == ATTEMPTS {
            return Err(error);
        }
        let text = format!("{error:#}; trying again");
        self.tell.tell(Event::Warning { text: text.replace(url, &public(url)) });
        std::thread::sleep(BACK_OFF * 2u32.pow(*attempt - 1));
        Ok(())
    }
}

/// Why an attempt brought nothing.
enum Failure {
    /// There is no such file.
    Missing,
    /// Another attempt may succeed.
    Passing(Error),
    /// Another attempt is of no use.
    Final(Error),
}

struct Opened {
    body: Box<dyn Read + Send>,
    /// Offset of the first byte that comes.
    from: u64,
}

fn passing(url: &str, error: io::Error) -> Failure {
    Failure::Passing(fetching(url, error.into()))
}

fn fetching(url: &str, error: Error) -> Error {
    error.context(format!("fetching {}", public(url)))
}

fn starts_at(response: &ureq::http::Response<ureq::Body>, from: u64) -> bool {
    let range = response.headers().get("content-range").and_then(|value| value.to_str().ok());
    range.and_then(|text| text.strip_prefix("bytes ")).is_some_and(|text| {
        text.split('-').next().and_then(|start| start.trim().parse().ok()) == Some(from)
    })
}

fn open_path(url: &str, path: &str, from: u64) -> Result<Opened, Failure> {
    let reading = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Failure::Missing,
        _ => Failure::Final(fetching(url, error.into())),
    };
    let mut file = File::open(path).map_err(reading)?;
    let length = file.metadata().map_err(reading)?.len();
    let from = if from <= length { from } else { 0 };
    file.seek(SeekFrom::Start(from)).map_err(reading)?;
    Ok(Opened { body: Box::new(file), from })
}
