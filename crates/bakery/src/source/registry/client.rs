//! Speaks to registries (distribution-spec 1.1): requests, redirects, who we are, and what went wrong.

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Error, Result, anyhow};
use spec::event::{Event, Tell};
use spec::reference::DEFAULT_REGISTRY;
use ureq::http::{Request, Response, header};
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Body, SendBody};

use super::address::{Address, is_loopback};
use super::authorization::{Authorization, answer, authorize};
use super::certificates::Certificates;
use super::credentials::Credential;
use super::settings::Settings;
use crate::names::Names;

/// Speaks to registries; can be shared by threads.
pub(crate) struct Client<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) tell: &'a dyn Tell,
    plain: Agent,
    encrypted: Mutex<HashMap<String, Agent>>,
    /// Whether a host is spoken to with encryption.
    schemes: Mutex<HashMap<String, &'static str>>,
    /// What is sent to a repository's host to be let in.
    authorizations: Mutex<HashMap<String, Authorization>>,
}

/// A repository at a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Repository {
    /// As in references, such as `docker.io`.
    pub(crate) registry: String,
    /// Such as `library/debian`.
    pub(crate) path: String,
}

impl Repository {
    /// Where its registry really is.
    pub(crate) fn host(&self) -> &str {
        if self.registry == DEFAULT_REGISTRY { "registry-1.docker.io" } else { &self.registry }
    }
}

/// One request.
pub(crate) struct Ask<'a> {
    pub(crate) method: &'static str,
    /// Below `/v2/`, or absolute for where a registry sent us.
    pub(crate) target: &'a str,
    /// Names and values.
    pub(crate) headers: Vec<(&'static str, String)>,
    /// What we want to do, for the token: `pull` or `pull,push`.
    pub(crate) actions: &'static str,
    /// Another repository there, to be read on the way.
    pub(crate) also: Option<&'a str>,
}

impl<'a> Ask<'a> {
    pub(crate) fn new(method: &'static str, target: &'a str) -> Self {
        Self { method, target, headers: Vec::new(), actions: "pull", also: None }
    }
}

/// Why a request brought nothing.
pub(crate) enum Failure {
    /// There is no such thing.
    Missing(Error),
    /// Another attempt may succeed, after a while that the registry may have named.
    Passing(Error, Option<Duration>),
    /// Another attempt is of no use.
    Final(Error),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let (Failure::Missing(error) | Failure::Passing(error, _) | Failure::Final(error)) =
            failure;
        error
    }
}

/// Attempts in a row that bring nothing, before it is given up.
pub(crate) const ATTEMPTS: u32 = 5;
/// Before the second attempt; twice as long before each that follows.
const BACK_OFF: Duration = Duration::from_millis(200);
/// Longest wait that a registry can ask for.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// Redirects in a row.
const MAX_REDIRECTS: usize = 10;
/// Greatest error message that is read.
const MAX_MESSAGE: u64 = 64 << 10;
/// Connections that are kept open.
const CONNECTIONS: usize = 16;

impl<'a> Client<'a> {
    /// Proxies are taken from the environment.
    pub(crate) fn new(settings: &'a Settings, tell: &'a dyn Tell) -> Self {
        Self {
            settings,
            tell,
            plain: agent(settings, None),
            encrypted: Mutex::default(),
            schemes: Mutex::default(),
            authorizations: Mutex::default(),
        }
    }

    /// Asks until there is an answer, or no hope of one.
    ///
    /// # Errors
    /// The last attempt's.
    pub(crate) fn ask(
        &self,
        repository: &Repository,
        ask: &Ask<'_>,
    ) -> Result<Response<Body>, Failure> {
        let mut attempt = 0;
        loop {
            match self.ask_once(repository, ask, &mut None) {
                Err(Failure::Passing(error, wait)) => self.pause(&mut attempt, error, wait)?,
                other => return other,
            }
        }
    }

    /// Waits before another attempt, or gives up.
    ///
    /// # Errors
    /// With the attempt's error, where it was the last.
    pub(crate) fn pause(
        &self,
        attempt: &mut u32,
        error: Error,
        wait: Option<Duration>,
    ) -> Result<(), Failure> {
        *attempt += 1;
        if *attempt >= ATTEMPTS {
            return Err(Failure::Final(error));
        }
        self.tell.tell(Event::Warning { text: format!("{error:#}; trying again") });
        std::thread::sleep(wait.unwrap_or(BACK_OFF * 2u32.pow(*attempt - 1)).min(MAX_WAIT));
        Ok(())
    }

    /// Asks once, as whoever the registry wants us to be. A body can be sent only once.
    pub(crate) fn ask_once(
        &self,
        repository: &Repository,
        ask: &Ask<'_>,
        body: &mut Option<SendBody<'_>>,
    ) -> Result<Response<Body>, Failure> {
        let also = ask.also.unwrap_or_default();
        let key = format!("{}/{} {} {also}", repository.registry, repository.path, ask.actions);
        let mut fresh = false;
        loop {
            let known = locked(&self.authorizations).get(&key).cloned();
            let response = self.follow(repository, ask, known.as_ref(), body)?;
            if response.status() != 401 || fresh || body.is_some() {
                return check(repository, response);
            }
            let authorization = authorize(self, repository, ask, &response)?;
            let Some(authorization) = authorization else { return check(repository, response) };
            locked(&self.authorizations).insert(key.clone(), authorization);
            fresh = true;
        }
    }

    /// Lets the registry check a credential.
    ///
    /// # Errors
    /// It does not take it, or asks for none.
    pub(crate) fn prove(&self, place: &Repository, credential: Credential) -> Result<()> {
        let ask = Ask::new("GET", "");
        let response = self.follow(place, &ask, None, &mut None)?;
        if response.status() != 401 {
            check(place, response)?;
            anyhow::bail!("it lets everybody in, and takes no password");
        }
        let authorization = answer(self, place, &ask, &response, Some(credential))?;
        let authorization = authorization.context("it asks for something else than a password")?;
        check(place, self.follow(place, &ask, Some(&authorization), &mut None)?)?;
        Ok(())
    }

    /// Sends a request where it is sent on to; only the registry itself hears who we are.
    fn follow(
        &self,
        repository: &Repository,
        ask: &Ask<'_>,
        authorization: Option<&Authorization>,
        body: &mut Option<SendBody<'_>>,
    ) -> Result<Response<Body>, Failure> {
        let host = repository.host();
        let origin = Address { scheme: self.scheme(host), host: host.to_owned(), path: "/".into() };
        let path = match ask.target.starts_with('/') || ask.target.contains("://") {
            true => ask.target.to_owned(),
            false => format!("/v2/{}", ask.target),
        };
        let no_address =
            || Failure::Final(anyhow!("{host} sent us to {path:?}, which is no address"));
        let mut address = origin.join(&path).ok_or_else(no_address)?;
        for _ in 0..=MAX_REDIRECTS {
            let mut headers = ask.headers.clone();
            let origin = Address { scheme: self.scheme(host), ..origin.clone() };
            if address.is_same_host(&origin) {
                headers.extend(authorization.map(|a| ("authorization", a.header())));
            }
            let response = self.call(ask.method, &address, &headers, body)?;
            let status = response.status().as_u16();
            if !matches!(status, 301 | 302 | 303 | 307 | 308)
                || !matches!(ask.method, "GET" | "HEAD")
            {
                return Ok(response);
            }
            let target = text_of(&response, "location").unwrap_or_default();
            let next = address.join(&target).ok_or_else(|| {
                Failure::Final(anyhow!(
                    "{} sent us to {target:?}, which is no address",
                    address.host
                ))
            })?;
            if address.scheme == "https" && next.scheme == "http" {
                let (from, to) = (&address.host, &next.host);
                return Err(Failure::Final(anyhow!(
                    "{from} sent us from https to http at {to}, which is refused"
                )));
            }
            address = next;
        }
        Err(Failure::Final(anyhow!(
            "{host} sent us in circles: more than {MAX_REDIRECTS} redirects"
        )))
    }

    /// One request and its response, whatever its status.
    pub(crate) fn call(
        &self,
        method: &str,
        address: &Address,
        headers: &[(&'static str, String)],
        body: &mut Option<SendBody<'_>>,
    ) -> Result<Response<Body>, Failure> {
        let undecided = is_loopback(&address.host)
            && address.scheme == "http"
            && !locked(&self.schemes).contains_key(&address.host)
            && body.is_none();
        let result = self.call_once(method, address, headers, body);
        if !undecided {
            return result.map_err(|error| explain(address, error));
        }
        // One that is encrypted answers nonsense, or says so (Go's net/http does).
        let is_encrypted = match &result {
            Ok(response) => {
                response.status() == 400
                    && !response.headers().contains_key("docker-distribution-api-version")
            }
            Err(ureq::Error::Protocol(_)) => true,
            Err(_) => false,
        };
        if !is_encrypted {
            let response = result.map_err(|error| explain(address, error))?;
            locked(&self.schemes).insert(address.host.clone(), "http");
            return Ok(response);
        }
        let encrypted = Address { scheme: "https", ..address.clone() };
        let response = self.call_once(method, &encrypted, headers, body);
        let response = response.map_err(|error| explain(&encrypted, error))?;
        locked(&self.schemes).insert(address.host.clone(), "https");
        Ok(response)
    }

    fn call_once(
        &self,
        method: &str,
        address: &Address,
        headers: &[(&'static str, String)],
        body: &mut Option<SendBody<'_>>,
    ) -> Result<Response<Body>, ureq::Error> {
        let mut request = Request::builder().method(method).uri(address.to_string());
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let agent = match address.scheme {
            "http" => self.plain.clone(),
            _ => self.encrypted(&address.host)?,
        };
        match body.take() {
            Some(body) => agent.run(request.body(body)?),
            None => agent.run(request.body(())?),
        }
    }

    fn encrypted(&self, host: &str) -> Result<Agent, ureq::Error> {
        let mut agents = locked(&self.encrypted);
        if let Some(agent) = agents.get(host) {
            return Ok(agent.clone());
        }
        let tls = Certificates::of(host, &self.settings.host(host)).tls();
        let tls = tls.map_err(|error| ureq::Error::Other(format!("{error:#}").into()))?;
        let agent = agent(self.settings, Some(tls));
        agents.insert(host.to_owned(), agent.clone());
        Ok(agent)
    }

    /// On this machine nobody listens in, so that it goes without encryption, unless certificates
    /// are there for it.
    fn scheme(&self, host: &str) -> &'static str {
        if let Some(known) = locked(&self.schemes).get(host) {
            return known;
        }
        let settings = self.settings.host(host);
        let plain =
            settings.plain_http || (is_loopback(host) && !Certificates::of(host, &settings).any());
        if plain { "http" } else { "https" }
    }
}

fn agent(settings: &Settings, tls: Option<ureq::tls::TlsConfig>) -> Agent {
    let silence = Some(settings.timeout());
    let mut builder = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_connect(silence)
        .timeout_recv_response(silence)
        .timeout_per_read(silence)
        .timeout_per_write(silence)
        .max_idle_connections(CONNECTIONS)
        .max_idle_connections_per_host(CONNECTIONS)
        .input_buffer_size(256 << 10)
        .output_buffer_size(256 << 10)
        .user_agent(concat!("postroj/", env!("CARGO_PKG_VERSION")))
        .accept_encoding("identity");
    if let Some(tls) = tls {
        builder = builder.tls_config(tls);
    }
    Agent::with_parts(builder.build(), DefaultConnector::new(), Names::default())
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn text_of(response: &Response<Body>, name: &str) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(str::to_owned)
}

/// Turns a status that is no success into words.
pub(crate) fn check(
    repository: &Repository,
    response: Response<Body>,
) -> Result<Response<Body>, Failure> {
    let status = response.status().as_u16();
    if (200..300).contains(&status) {
        return Ok(response);
    }
    let registry = &repository.registry;
    let wait = text_of(&response, header::RETRY_AFTER.as_str())
        .and_then(|text| text.trim().parse().ok())
        .map(Duration::from_secs);
    let said = message(response);
    Err(match status {
        404 | 410 => Failure::Missing(anyhow!("{registry} does not have it{said}")),
        401 | 403 => Failure::Final(anyhow!(
            "{registry} does not let us{said}: log in with `postroj login {registry}`, or check the name"
        )),
        429 => Failure::Passing(
            anyhow!(
                "{registry} takes no more requests from this address for now (HTTP status 429){said}: \
                 wait, or log in with `postroj login {registry}`"
            ),
            wait,
        ),
        408 | 425 | 500..=599 => {
            Failure::Passing(anyhow!("{registry}: HTTP status {status}{said}"), wait)
        }
        _ => Failure::Final(anyhow!("{registry}: HTTP status {status}{said}")),
    })
}

/// What a registry says of an error (distribution-spec 1.1, "Error Codes"); empty where nothing.
fn message(response: Response<Body>) -> String {
    #[derive(serde::Deserialize)]
    struct Answer {
        errors: Vec<One>,
    }
    #[derive(serde::Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let mut body = Vec::new();
    let read = response.into_body().into_reader().take(MAX_MESSAGE).read_to_end(&mut body);
    let Ok(Answer { errors }) = serde_json::from_slice(&body) else { return String::new() };
    let Some(One { code, message }) = errors.into_iter().next() else { return String::new() };
    let text = if message.is_empty() || read.is_err() { code } else { message };
    let text: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
    if text.is_empty() { text } else { format!(" ({})", text.trim_end_matches('.')) }
}

/// Turns a failed connection into words.
fn explain(address: &Address, error: ureq::Error) -> Failure {
    let host = &address.host;
    let text = error.to_string();
    let passing = match &error {
        ureq::Error::Io(error) => {
            !matches!(
                error.kind(),
                std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::InvalidData
            ) && !text.contains("certificate")
        }
        ureq::Error::Timeout(_) | ureq::Error::Protocol(_) | ureq::Error::ConnectionFailed => true,
        _ => false,
    };
    let error = match error {
        ureq::Error::Io(error) => Error::from(error),
        other => other.into(),
    };
    let error = if text.contains("UnknownIssuer") || text.contains("invalid peer certificate") {
        error.context(format!(
            "{host} has a certificate that nobody here vouches for: put that of its authority \
             into /etc/containers/certs.d/{host}/ca.crt"
        ))
    } else {
        error.context(format!("asking {host}"))
    };
    if passing { Failure::Passing(error, None) } else { Failure::Final(error) }
}

impl Failure {
    /// Adds what was being done.
    pub(crate) fn context(self, text: impl FnOnce() -> String) -> Self {
        match self {
            Self::Missing(error) => Self::Missing(error.context(text())),
            Self::Passing(error, wait) => Self::Passing(error.context(text()), wait),
            Self::Final(error) => Self::Final(error.context(text())),
        }
    }
}

/// Reads a body that must be small.
///
/// # Errors
/// It is larger than `limit` bytes, or breaks off.
pub(crate) fn small(response: Response<Body>, limit: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let mut reader = response.into_body().into_reader().take(limit + 1);
    let read = reader.read_to_end(&mut bytes).context("the answer broke off");
    read.map_err(|error| Failure::Passing(error, None))?;
    if bytes.len() as u64 > limit {
        return Err(Failure::Final(anyhow!("it is larger than {limit} bytes")));
    }
    Ok(bytes)
}
