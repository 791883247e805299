//! A server answers.

use anyhow::{Context, Result, bail};

use super::super::Phase;
use super::super::evidence;
use super::super::inside::{Answered, Ask, Protocol, Request, Trace};
use super::{Finding, Probe, Scene};

struct Network {
    text: String,
    request: Request,
}

pub(super) fn parse(text: &str) -> Result<Box<dyn Probe>> {
    Ok(Box::new(Network { text: text.to_owned(), request: request(text)? }))
}

/// `tcp://HOST:PORT`, `udp://HOST:PORT`, `http(s)://HOST[:PORT]/PATH?status=N&body~=RE&insecure`: of the query,
/// these are ours, and all else is the server's.
fn request(text: &str) -> Result<Request> {
    let what = || format!("{text:?} is no tcp://HOST:PORT, udp://HOST:PORT or http(s)://HOST/PATH");
    let (scheme, rest) = text.split_once("://").with_context(what)?;
    let (protocol, default) = match scheme {
        "tcp" => (Protocol::Tcp, None),
        "udp" => (Protocol::Udp, None),
        "http" => (Protocol::Http, Some(80)),
        "https" => (Protocol::Https, Some(443)),
        _ => bail!(what()),
    };
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            (host, Some(port.parse::<u16>().ok().with_context(what)?))
        }
        _ => (authority, None),
    };
    let port = port.or(default).with_context(what)?;
    if host.is_empty() || (!protocol.is_http() && path != "/") {
        bail!(what());
    }
    let (path, query) = path.split_once('?').map_or((path, None), |(p, q)| (p, Some(q)));
    let (mut status, mut body, mut insecure, mut rest) = (None, None, false, Vec::new());
    for part in query.into_iter().flat_map(|query| query.split('&')) {
        if let Some(code) = part.strip_prefix("status=") {
            status = Some(code.parse().with_context(|| format!("{code:?} is no HTTP status"))?);
        } else if let Some(pattern) = part.strip_prefix("body~=") {
            regex_lite::Regex::new(pattern)
                .with_context(|| format!("{pattern:?} is no pattern"))?;
            body = Some(pattern.to_owned());
        } else if part == "insecure" && protocol == Protocol::Https {
            insecure = true;
        } else {
            rest.push(part);
        }
    }
    let query = if rest.is_empty() { String::new() } else { format!("?{}", rest.join("&")) };
    let path = format!("{path}{query}");
    Ok(Request { protocol, host: host.to_owned(), port, path, status, body, insecure })
}

/// The port that a check names.
pub(super) fn port(text: &str) -> Option<u16> {
    request(text).ok().map(|request| request.port)
}

impl Network {
    /// As evidence.
    fn write(&self, trace: &Trace, scene: &Scene<'_>) -> Result<()> {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let name: String = self.text.chars().map(plain).take(60).collect();
        let path = |ending: &str| scene.wish.evidence.join(format!("network-{name}.{ending}"));
        evidence::write(&path("txt"), format!("{}\n{}", self.text, trace.text).as_bytes())?;
        if !trace.packets.is_empty() {
            evidence::write(&path("pcap"), &trace.pcap())?;
        }
        Ok(())
    }
}

impl Probe for Network {
    fn title(&self) -> String {
        self.text.clone()
    }

    fn is_due(&self, after: Phase) -> bool {
        after.installs()
    }

    fn check(&self, scene: &mut Scene<'_>) -> Result<Finding> {
        let ask = Ask::Network { request: self.request.clone(), timeout: scene.timeout() };
        let Answered { waited, trace } = scene.machine.ask(&ask)?;
        if let Some(trace) = &trace {
            self.write(trace, scene)?;
        }
        if waited.good {
            return Ok(Finding::pass(waited.seen));
        }
        let expected = match (self.request.protocol, self.request.status, &self.request.body) {
            (protocol, status, body) if protocol.is_http() => {
                let status = status.map_or("a status below 400".into(), |s| format!("status {s}"));
                let body = body.as_ref().map(|body| format!(" and a body that matches {body:?}"));
                status + &body.unwrap_or_default()
            }
            _ => format!("somebody listens on port {}", self.request.port),
        };
        let (seen, listening) =
            waited.seen.split_once("; listening: ").unwrap_or((&waited.seen, ""));
        if !waited.late {
            return Ok(Finding::fail(expected, seen, None));
        }
        let seen = format!("{seen} for {} s", scene.wish.timeout);
        Ok(Finding::fail(expected, seen, Some(format!("listening: {listening}"))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read() {
        let read = request("http://localhost/?status=200").unwrap();
        assert_eq!((read.port, &read.path[..], read.status), (80, "/", Some(200)));
        let read = request("http://[::1]:8080/a/b?x=1&body~=^ok$&y").unwrap();
        assert_eq!((&read.host[..], read.port, &read.path[..]), ("[::1]", 8080, "/a/b?x=1&y"));
        assert_eq!(read.body.as_deref(), Some("^ok$"));
        assert_eq!(request("udp://127.0.0.1:53").unwrap().protocol, Protocol::Udp);
        for bad in [
            "localhost",
            "tcp://x",
            "tcp://:1",
            "ftp://x:1",
            "tcp://x:99999",
            "tcp://x:1/y",
            "http:///",
        ] {
            assert!(request(bad).is_err(), "{bad}");
        }
        let read = request("https://x/a?insecure&b").unwrap();
        assert_eq!((read.protocol, read.port, &read.path[..]), (Protocol::Https, 443, "/a?b"));
        assert!(read.insecure && !request("https://x/").unwrap().insecure);
        assert!(request("http://x/?body~=(").is_err() && request("http://x/?status=ok").is_err());
    }
}
