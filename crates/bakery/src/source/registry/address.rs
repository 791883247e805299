//! Addresses of registries and of where they send us.

use std::fmt;
use std::net::Ipv4Addr;

/// `http` or `https`, a host, and everything behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) scheme: &'static str,
    /// With its port if it has one.
    pub(crate) host: String,
    /// Begins with a slash; with the query.
    pub(crate) path: String,
}

impl Address {
    /// Reads an absolute one; `None` for one with a name and password, which nobody needs here.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let scheme = match &scheme.to_ascii_lowercase()[..] {
            "http" => "http",
            "https" => "https",
            _ => return None,
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (host, path) = rest.split_at(end);
        let path = path.split('#').next().unwrap_or_default();
        let good = !host.is_empty()
            && !host.contains('@')
            && !text.contains(|c: char| c.is_control() || c == ' ');
        let slash = if path.starts_with('/') { "" } else { "/" };
        good.then(|| Self { scheme, host: host.to_owned(), path: format!("{slash}{path}") })
    }

    /// What a reference means that was found here (RFC 3986 section 5.2, without dot segments).
    pub(crate) fn join(&self, text: &str) -> Option<Self> {
        if text.contains("://") {
            return Self::parse(text);
        }
        if let Some(rest) = text.strip_prefix("//") {
            return Self::parse(&format!("{}://{rest}", self.scheme));
        }
        if text.is_empty() || text.contains(|c: char| c.is_control() || c == ' ') {
            return None;
        }
        let path = if text.starts_with('/') {
            text.to_owned()
        } else {
            let directory = self.path.split('?').next().unwrap_or_default();
            let slash = directory.rfind('/').map_or(0, |at| at + 1);
            format!("{}{text}", &directory[..slash])
        };
        Some(Self { path, ..self.clone() })
    }

    /// The same scheme, host and port.
    pub(crate) fn is_same_host(&self, other: &Self) -> bool {
        let port = |address: &Self| match address.scheme {
            "http" => {
                address.host.strip_suffix(":80").unwrap_or(&address.host).to_ascii_lowercase()
            }
            _ => address.host.strip_suffix(":443").unwrap_or(&address.host).to_ascii_lowercase(),
        };
        self.scheme == other.scheme && port(self) == port(other)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.host, self.path)
    }
}

/// Whether a host, with its port or without, is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => return rest.split(']').next() == Some("::1"),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

/// Percent-encodes what a query's value may not hold.
pub(crate) fn encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, b| {
        match b {
            b'a'..=b'z'
            | b'A'..=b'Z'
            | b'0'..=b'9'
            | b'-'
            | b'.'
            | b'_'
            | b'~'
            | b'/'
            | b':'
            | b',' => {
                out.push(char::from(b));
            }
            _ => out.push_str(&format!("%{b:02X}")),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_where_they_say() {
        let here = Address::parse("https://a.example.org:5000/v2/x/blobs/y?z=1").unwrap();
        for (text, there) in [
            ("https://b/c?d=e", "https://b/c?d=e"),
            ("HTTP://b", "http://b/"),
            ("//b/c", "https://b/c"),
            ("/c", "https://a.example.org:5000/c"),
            ("c?d", "https://a.example.org:5000/v2/x/blobs/c?d"),
            ("http://b?x#y", "http://b/?x"),
        ] {
            assert_eq!(here.join(text).unwrap().to_string(), there);
        }
        for text in ["", "ftp://x/", "https://user:pass@b/", "https:///x", "/a b", "/a\r\nb"] {
            assert_eq!(here.join(text), None, "{text:?}");
        }
        let same =
            |a: &str, b: &str| Address::parse(a).unwrap().is_same_host(&Address::parse(b).unwrap());
        assert!(same("https://A/x", "https://a:443/y") && same("http://a:80/", "http://a/"));
        assert!(!same("http://a/", "https://a/") && !same("https://a/", "https://a:5000/"));
    }

    #[test]
    fn this_machine() {
        for host in
            ["localhost", "localhost:5000", "127.0.0.1:5000", "127.1.2.3", "[::1]", "[::1]:5000"]
        {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example.org", "128.0.0.1", "[::2]:1", "", "127.example.org"] {
            assert!(!is_loopback(host), "{host}");
        }
        assert_eq!(encode("repository:a/b:pull,push x&"), "repository:a/b:pull,push%20x%26");
    }
}
