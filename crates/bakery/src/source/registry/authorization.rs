//! Being let in: from a registry's challenge to the header that answers it (distribution's
//! documentation, "Token Authentication Specification" and "OAuth2 Token Authentication").

use anyhow::{Context as _, anyhow};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use ureq::http::Response;
use ureq::{Body, SendBody};

use super::address::{Address, encode, is_loopback};
use super::challenge::{self, Challenge};
use super::client::{Ask, Client, Failure, Repository, check, small};
use super::credentials::{self, Credential};

/// What is sent along.
#[derive(Clone)]
pub(crate) enum Authorization {
    /// A name and a password, encoded.
    Basic(String),
    /// A token.
    Bearer(String),
}

impl Authorization {
    /// The header's value.
    pub(crate) fn header(&self) -> String {
        match self {
            Self::Basic(encoded) => format!("Basic {encoded}"),
            Self::Bearer(token) => format!("Bearer {token}"),
        }
    }

    pub(crate) fn basic(name: &str, password: &str) -> Self {
        Self::Basic(BASE64_STANDARD.encode(format!("{name}:{password}")))
    }
}

/// Greatest answer of a token server.
const MAX_ANSWER: u64 = 1 << 20;

/// Answers the challenge in a response; `None` where there is nothing to answer with.
///
/// # Errors
/// The credentials cannot be read, or the token server cannot be reached or refuses.
pub(crate) fn authorize(
    client: &Client<'_>,
    repository: &Repository,
    ask: &Ask<'_>,
    response: &Response<Body>,
) -> Result<Option<Authorization>, Failure> {
    let credential =
        credentials::find(&repository.registry, &repository.path).map_err(Failure::Final)?;
    answer(client, repository, ask, response, credential)
}

/// As [`authorize`], with a credential.
///
/// # Errors
/// As [`authorize`].
pub(crate) fn answer(
    client: &Client<'_>,
    repository: &Repository,
    ask: &Ask<'_>,
    response: &Response<Body>,
    credential: Option<Credential>,
) -> Result<Option<Authorization>, Failure> {
    let headers = response.headers().get_all("www-authenticate").iter();
    let texts = headers.filter_map(|value| value.to_str().ok());
    let challenges: Vec<Challenge> = texts.flat_map(challenge::parse).collect();
    if let Some(bearer) = challenges.iter().find(|c| c.scheme == "bearer") {
        return token(client, repository, ask, bearer, credential).map(Some);
    }
    let basic = challenges.iter().any(|c| c.scheme == "basic");
    Ok(match credential {
        Some(Credential::Password(name, password)) if basic => {
            Some(Authorization::basic(&name, &password))
        }
        _ => None,
    })
}

fn token(
    client: &Client<'_>,
    repository: &Repository,
    ask: &Ask<'_>,
    challenge: &Challenge,
    credential: Option<Credential>,
) -> Result<Authorization, Failure> {
    let asking = || format!("asking for a token for {}", repository.registry);
    let realm = challenge.get("realm").unwrap_or_default();
    let realm = Address::parse(realm)
        .ok_or_else(|| Failure::Final(anyhow!("{realm:?} is no address").context(asking())))?;
    let in_the_open = realm.scheme == "http"
        && !is_loopback(&realm.host)
        && !client.settings.host(&repository.registry).plain_http;
    if in_the_open && credential.is_some() {
        let host = &realm.host;
        return Err(Failure::Final(
            anyhow!("no password is sent to {host} without encryption").context(asking()),
        ));
    }
    // What a challenge asks for is a proposal; what we are about to do is what counts.
    let scope = match repository.path.is_empty() {
        true => challenge.get("scope").unwrap_or_default().to_owned(),
        false => format!("repository:{}:{}", repository.path, ask.actions),
    };
    let service = challenge.get("service").unwrap_or_default();
    let mut query = format!("service={}", encode(service));
    let mut scopes = if scope.is_empty() { Vec::new() } else { vec![scope] };
    scopes.extend(ask.also.map(|path| format!("repository:{path}:pull")));
    // Repeated in an address, and one list in a form ("OAuth2 Token Authentication").
    let in_form = matches!(credential, Some(Credential::IdentityToken(_)));
    let lists = if in_form && !scopes.is_empty() { vec![scopes.join(" ")] } else { scopes };
    for list in lists {
        query += &format!("&scope={}", encode(&list));
    }
    let response = match credential {
        Some(Credential::IdentityToken(token)) => {
            let form = format!(
                "grant_type=refresh_token&client_id=postroj&refresh_token={}&{query}",
                encode(&token)
            );
            let headers = [("content-type", "application/x-www-form-urlencoded".to_owned())];
            let mut bytes = form.as_bytes();
            let body = SendBody::from_reader(&mut bytes);
            client.call("POST", &realm, &headers, &mut Some(body))
        }
        other => {
            let separator = if realm.path.contains('?') { '&' } else { '?' };
            let address = Address { path: format!("{}{separator}{query}", realm.path), ..realm };
            let mut headers = Vec::new();
            if let Some(Credential::Password(name, password)) = other {
                headers.push(("authorization", Authorization::basic(&name, &password).header()));
            }
            client.call("GET", &address, &headers, &mut None)
        }
    };
    let response = response.and_then(|response| check(repository, response));
    let bytes = response.and_then(|response| small(response, MAX_ANSWER));
    let bytes = bytes.map_err(|failure| failure.context(asking))?;
    read(&bytes).map_err(|error| Failure::Final(error.context(asking())))
}

fn read(bytes: &[u8]) -> anyhow::Result<Authorization> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        token: Option<String>,
        #[serde(default)]
        access_token: Option<String>,
    }
    let answer: Answer = serde_json::from_slice(bytes).context("the answer is no JSON")?;
    let token = answer.token.filter(|t| !t.is_empty()).or(answer.access_token);
    let token = token.context("the answer holds no token")?;
    let is_header = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
    anyhow::ensure!(is_header, "the answer's token is none");
    Ok(Authorization::Bearer(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_both_names() {
        for text in [
            r#"{"token":"abc"}"#,
            r#"{"access_token":"abc","token":""}"#,
            r#"{"access_token":"abc","x":1}"#,
        ] {
            assert_eq!(
                read(text.as_bytes()).ok().map(|a| a.header()).as_deref(),
                Some("Bearer abc")
            );
        }
        for text in ["", "{}", r#"{"token":null}"#, r#"{"token":"a\r\nb"}"#, r#"{"token":"a b"}"#] {
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(
            Authorization::basic("Aladdin", "open sesame").header(),
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
        );
    }
}
