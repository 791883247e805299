//! Asks a server of the machine, from the machine.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use regex_lite::Regex;
use serde::{Deserialize, Serialize};

use super::trace::{Heard, Log, Trace};
use super::{Waited, capture, processes, tls, until};

/// What is asked of whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// How.
    pub protocol: Protocol,
    /// A name of the machine's own `/etc/hosts`, or an address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What is asked for over HTTP, with its query.
    pub path: String,
    /// The status that is expected; any below 400 where none is.
    pub status: Option<u16>,
    /// What the body has to match.
    pub body: Option<String>,
    /// Whoever signed a certificate is right.
    pub insecure: bool,
}

/// How a server is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// A connection is accepted.
    Tcp,
    /// A socket waits.
    Udp,
    /// An answer as it should be.
    Http,
    /// The same, encrypted.
    Https,
}

impl Protocol {
    /// Something is asked for, and answered.
    pub(crate) fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }
}

/// For each attempt; a server that is slower is asked again.
const PATIENCE: Duration = Duration::from_secs(10);

/// As much of a body as is looked at: bytes.
const MAX_BODY: u64 = 4 << 20;

pub(super) fn wait(request: &Request, deadline: Instant) -> Result<Answered> {
    let addresses = addresses(&request.host)?;
    let body = request.body.as_deref().map(Regex::new).transpose().context("no pattern")?;
    let asking = Asking { request, addresses: &addresses, body: body.as_ref() };
    let mut log = Log::new();
    let mut waited = until(deadline, || {
        let left = deadline.saturating_duration_since(Instant::now()).clamp(super::TICK, PATIENCE);
        let (good, seen, late) = asking.attempt(&mut log, left);
        Ok(Waited { good, seen, late })
    })?;
    if waited.good {
        return Ok(Answered { waited, trace: None });
    }
    let listeners: Vec<String> =
        processes::listeners(&processes::all()?).iter().map(ToString::to_string).collect();
    let listening = match listeners.is_empty() {
        true => "nobody listens at all".into(),
        false => listeners.join(", "),
    };
    // Once more, for those who want to see it.
    let packets = match request.protocol {
        Protocol::Udp => Vec::new(),
        _ => capture::during(|| asking.attempt(&mut log, AGAIN)).1,
    };
    if waited.late {
        waited.seen = format!("{}; listening: {listening}", waited.seen);
    }
    let text = format!("listening: {listening}\n\n{}", log.text());
    Ok(Answered { waited, trace: Some(Trace { text, packets }) })
}

/// For the attempt whose packets are kept.
const AGAIN: Duration = Duration::from_secs(2);

/// What came of asking a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// How it answers.
    pub waited: Waited,
    /// Of one that does not answer as it should.
    pub trace: Option<Trace>,
}

struct Asking<'a> {
    request: &'a Request,
    addresses: &'a [IpAddr],
    body: Option<&'a Regex>,
}

impl Asking<'_> {
    /// Whether it is good, what was seen, and whether it might get better.
    fn attempt(&self, log: &mut Log, patience: Duration) -> (bool, String, bool) {
        let mut all = Vec::new();
        let came = self.each(log, &mut all, patience);
        log.note(all.join("; "));
        came
    }

    /// One address after the other; `all` is what each said.
    fn each(
        &self,
        log: &mut Log,
        all: &mut Vec<String>,
        patience: Duration,
    ) -> (bool, String, bool) {
        let mut seen = String::new();
        for address in self.addresses {
            let socket = SocketAddr::new(*address, self.request.port);
            let tried = self.address(socket, log, patience);
            let told = match &tried {
                Ok((_, text)) => text.clone(),
                Err(error) => plain(error),
            };
            all.push(format!("{socket}: {told}"));
            match tried {
                Ok((true, text)) => return (true, text, true),
                Ok((false, text)) => seen = text,
                Err(error) if let Some(why) = tls::distrust(&error) => return (false, why, false),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return (false, error.to_string(), false);
                }
                Err(_) if seen.is_empty() => seen = told,
                Err(_) => {}
            }
        }
        (false, seen, true)
    }

    fn address(
        &self,
        socket: SocketAddr,
        log: &mut Log,
        patience: Duration,
    ) -> std::io::Result<(bool, String)> {
        match self.request.protocol {
            Protocol::Tcp => {
                TcpStream::connect_timeout(&socket, patience).map(|_| (true, "it accepts".into()))
            }
            Protocol::Udp => Ok(bound(socket)),
            Protocol::Http | Protocol::Https => {
                http(self.request, socket, self.body, patience, &mut log.said)
            }
        }
    }
}

fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "connection refused".into(),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "no answer".into(),
        ErrorKind::ConnectionReset => "connection reset".into(),
        ErrorKind::UnexpectedEof => "the answer is cut off".into(),
        _ => error.to_string().to_lowercase(),
    }
}

/// A datagram need not be answered, so that only the socket itself tells.
fn bound(wanted: SocketAddr) -> (bool, String) {
    let is_it = |l: &processes::Listener| {
        l.protocol == "udp"
            && l.port == wanted.port()
            && (l.address == wanted.ip() || l.address.is_unspecified())
    };
    let processes = processes::all().unwrap_or_default();
    match processes::listeners(&processes).iter().find(|l| is_it(l)) {
        Some(listener) => (true, listener.to_string()),
        None => (false, "nobody has this port".into()),
    }
}

/// HTTP/1.1 (RFC 9112), one request on a connection.
fn http(
    request: &Request,
    socket: SocketAddr,
    body: Option<&Regex>,
    patience: Duration,
    said: &mut Vec<u8>,
) -> std::io::Result<(bool, String)> {
    let stream = TcpStream::connect_timeout(&socket, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    match request.protocol {
        Protocol::Https => {
            let stream = tls::open(stream, &request.host, request.insecure)?;
            ask(request, Heard::new(stream, said), body)
        }
        _ => ask(request, Heard::new(stream, said), body),
    }
}

fn ask(
    request: &Request,
    mut stream: impl Read + Write,
    body: Option<&Regex>,
) -> std::io::Result<(bool, String)> {
    let head = format!(
        "GET {} HTTP/1.1\r\nHost: {}:{}\r\nUser-Agent: postroj\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        request.path, request.host, request.port
    );
    stream.write_all(head.as_bytes())?;
    let mut bytes = Vec::new();
    // One that does not close its end is judged by what it said.
    match stream.take(MAX_BODY).read_to_end(&mut bytes) {
        Err(error) if bytes.is_empty() => return Err(error),
        _ => {}
    }
    let (head, content) = parted(&bytes);
    let text = String::from_utf8_lossy(head);
    let line = text.lines().next().unwrap_or_default();
    let status: Option<u16> = line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1))
        .and_then(|code| code.parse().ok());
    let Some(status) = status else { return Ok((false, "it does not speak HTTP".into())) };
    let is_chunked = text.lines().skip(1).any(|line| {
        let (name, value) = line.split_once(':').unwrap_or_default();
        name.eq_ignore_ascii_case("transfer-encoding")
            && value.trim().eq_ignore_ascii_case("chunked")
    });
    let content = if is_chunked { joined(content) } else { content.to_vec() };
    let content = String::from_utf8_lossy(&content);
    let shown = line.split_once(' ').map_or(line, |(_, rest)| rest).trim();
    if request.status.map_or(status >= 400, |wanted| wanted != status) {
        return Ok((false, format!("status {shown}")));
    }
    if body.is_some_and(|pattern| !pattern.is_match(&content)) {
        let start: String = content.chars().take(200).collect();
        return Ok((false, format!("status {shown}, body {start:?}")));
    }
    Ok((true, format!("status {shown}, {} bytes", content.len())))
}

/// Head and body of a message.
fn parted(message: &[u8]) -> (&[u8], &[u8]) {
    const END: &[u8] = b"\r\n\r\n";
    match message.windows(END.len()).position(|window| window == END) {
        Some(at) => (&message[..at], &message[at + END.len()..]),
        None => (message, b""),
    }
}

/// The chunks of a body (RFC 9112, 7.1), as far as it is whole.
fn joined(mut body: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    while let Some(end) = body.windows(2).position(|window| window == b"\r\n") {
        let line = String::from_utf8_lossy(&body[..end]);
        let size = line.split(';').next().unwrap_or_default().trim();
        let Ok(size @ 1..) = usize::from_str_radix(size, 16) else { break };
        let rest = &body[end + 2..];
        content.extend_from_slice(&rest[..size.min(rest.len())]);
        body = rest.get(size.saturating_add(2)..).unwrap_or_default();
    }
    content
}

/// By the machine's `/etc/hosts`: a name server is none of the machine's own.
fn addresses(host: &str) -> Result<Vec<IpAddr>> {
    if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse() {
        return Ok(vec![address]);
    }
    if host == "localhost" {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let found: Vec<IpAddr> = hosts
        .lines()
        .filter(|line| line.split_whitespace().skip(1).any(|name| name == host))
        .filter_map(|line| line.split_whitespace().next()?.parse().ok())
        .collect();
    if found.is_empty() {
        bail!("the machine's /etc/hosts has no {host}: give an address");
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::{joined, parted};

    #[test]
    fn a_message_has_a_head_and_a_body() {
        assert_eq!(parted(b"a\r\nb\r\n\r\nc\r\n\r\nd"), (&b"a\r\nb"[..], &b"c\r\n\r\nd"[..]));
        assert_eq!(parted(b"a\r\n"), (&b"a\r\n"[..], &b""[..]));
    }

    #[test]
    fn chunks_are_joined() {
        for (body, content) in [
            ("3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", "abcde"),
            ("A\r\n0123456789\r\n0\r\n", "0123456789"),
            ("5\r\nab", "ab"),
            ("ffffffffffffffff\r\nab", "ab"),
            ("nonsense\r\nab\r\n", ""),
            ("", ""),
        ] {
            assert_eq!(joined(body.as_bytes()), content.as_bytes(), "{body:?}");
        }
    }
}
