//! Host names that were looked up already: many connections are made to few hosts, and a
//! resolver that is asked several times at once may leave some askers waiting.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// Looks every host up once.
#[derive(Debug, Default)]
pub(crate) struct Names {
    inner: DefaultResolver,
    known: Mutex<HashMap<String, Vec<SocketAddr>>>,
}

impl Resolver for Names {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let key = format!("{:?} {:?}", uri.scheme_str(), uri.authority());
        // Held while looking up, so that others wait for the answer instead of asking as well.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut addresses = self.empty();
        if let Some(found) = known.get(&key) {
            found.iter().for_each(|address| addresses.push(*address));
            return Ok(addresses);
        }
        let found = self.inner.resolve(uri, config, timeout)?;
        known.insert(key, found.iter().copied().collect());
        Ok(found)
    }
}
