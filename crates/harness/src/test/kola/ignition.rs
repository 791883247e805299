//! How a test wants its system to be set up: what a container can have of an Ignition configuration
//! (`config.ign`, JSON) or a Butane one (`config.bu`, YAML): files, directories, links, units, users.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::yaml;

/// What is to be done, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Provision {
    pub(super) users: Vec<String>,
    pub(super) directories: Vec<Node>,
    pub(super) files: Vec<(Node, Vec<u8>)>,
    /// Where it is, and where it leads.
    pub(super) links: Vec<(String, String)>,
    /// Units that are enabled, and such that are masked.
    pub(super) enabled: Vec<String>,
    pub(super) masked: Vec<String>,
}

/// Something with an owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) path: String,
    pub(super) mode: Option<u32>,
    /// `USER:GROUP`.
    pub(super) owner: Option<String>,
}

/// What only a machine with disks or a kernel of its own has.
const BEYOND: [&str; 8] = [
    "/storage/disks",
    "/storage/raid",
    "/storage/filesystems",
    "/storage/luks",
    "/kernelArguments/shouldExist",
    "/kernel_arguments/should_exist",
    "/boot_device",
    "/ignition/config/replace",
];

impl Provision {
    /// `Err` within where the configuration wants what a container cannot have: what that is.
    ///
    /// # Errors
    /// Where the file cannot be understood.
    pub(super) fn read(path: &Path) -> Result<Result<Self, String>> {
        let what = || format!("{} is wrong", path.display());
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let is_json = path.extension().is_some_and(|extension| extension == "ign");
        let value: Value = match is_json {
            true => serde_json::from_str(&text).with_context(what)?,
            false => yaml::parse(&text).with_context(what)?,
        };
        if let Some(beyond) = BEYOND.iter().find(|place| {
            value
                .pointer(place)
                .is_some_and(|value| !value.is_null() && *value != Value::Array(vec![]))
        }) {
            return Ok(Err(beyond[1..].replace('/', ".")));
        }
        let beside = path.parent().unwrap_or(Path::new("."));
        // In YAML 0644 is octal for Butane; in Ignition's JSON modes are decimal.
        Reader { octal: !is_json, beside: beside.to_owned() }.all(&value).with_context(what).map(Ok)
    }
}

struct Reader {
    octal: bool,
    beside: PathBuf,
}

impl Reader {
    fn all(&self, value: &Value) -> Result<Provision> {
        let mut provision = Provision::default();
        for user in list(value, "/passwd/users") {
            provision.users.push(text(user, "name").context("a user has no name")?.to_owned());
        }
        for directory in list(value, "/storage/directories") {
            provision.directories.push(self.node(directory)?);
        }
        for file in list(value, "/storage/files") {
            let contents = file.get("contents").unwrap_or(&Value::Null);
            provision.files.push((self.node(file)?, self.contents(contents)?));
        }
        for link in list(value, "/storage/links") {
            let target = text(link, "target").context("a link has no target")?;
            provision.links.push((self.node(link)?.path, target.to_owned()));
        }
        for unit in list(value, "/systemd/units") {
            self.unit(unit, &mut provision)?;
        }
        Ok(provision)
    }

    fn unit(&self, unit: &Value, provision: &mut Provision) -> Result<()> {
        let name = text(unit, "name").context("a unit has no name")?;
        if name.contains('/') {
            bail!("{name:?} is no name of a unit");
        }
        let file = |path: String| Node { path, mode: Some(0o644), owner: None };
        let at = format!("/etc/systemd/system/{name}");
        if let Some(contents) = text(unit, "contents") {
            provision.files.push((file(at.clone()), contents.as_bytes().to_vec()));
        }
        for dropin in list(unit, "/dropins") {
            let own = text(dropin, "name").context("a drop-in has no name")?;
            let contents = text(dropin, "contents").unwrap_or_default();
            provision.files.push((file(format!("{at}.d/{own}")), contents.as_bytes().to_vec()));
        }
        if unit.get("enabled") == Some(&Value::Bool(true)) {
            provision.enabled.push(name.to_owned());
        }
        if unit.get("mask") == Some(&Value::Bool(true)) {
            provision.masked.push(name.to_owned());
        }
        Ok(())
    }

    fn node(&self, value: &Value) -> Result<Node> {
        let path = text(value, "path").context("there is no path")?;
        if !path.starts_with('/') {
            bail!("{path:?} is not absolute");
        }
        let mode = value.get("mode").and_then(Value::as_u64);
        let mode = match (mode, self.octal) {
            (Some(mode), true) => Some(u32::from_str_radix(&mode.to_string(), 8)?),
            (Some(mode), false) => Some(u32::try_from(mode)?),
            (None, _) => None,
        };
        let who = |kind: &str| {
            let value = value.get(kind)?;
            let id = value.get("id").and_then(Value::as_u64).map(|id| id.to_string());
            text(value, "name").map(str::to_owned).or(id)
        };
        let owner = match (who("user"), who("group")) {
            (None, None) => None,
            (user, group) => {
                Some(format!("{}:{}", user.unwrap_or_default(), group.unwrap_or_default()))
            }
        };
        Ok(Node { path: path.to_owned(), mode, owner })
    }

    fn contents(&self, contents: &Value) -> Result<Vec<u8>> {
        if let Some(inline) = text(contents, "inline") {
            return Ok(inline.as_bytes().to_vec());
        }
        if let Some(local) = text(contents, "local") {
            let path = self.beside.join(local);
            return std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()));
        }
        match text(contents, "source") {
            None | Some("") => Ok(Vec::new()),
            Some(source) => data(source),
        }
    }
}

/// What a `data:` URL holds (RFC 2397).
fn data(source: &str) -> Result<Vec<u8>> {
    let Some((about, text)) = source.strip_prefix("data:").and_then(|rest| rest.split_once(','))
    else {
        bail!("{source:?} is no data: URL, and others are not fetched");
    };
    let plain = percent(text);
    if about.ends_with(";base64") { base64(&plain) } else { Ok(plain) }
}

fn percent(text: &str) -> Vec<u8> {
    let (mut out, mut at) = (Vec::new(), 0);
    while at < text.len() {
        let hex = text.as_bytes()[at] == b'%';
        let code = text.get(at + 1..at + 3).filter(|_| hex);
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(code) => {
                out.push(code);
                at += 3;
            }
            None => {
                out.push(text.as_bytes()[at]);
                at += 1;
            }
        }
    }
    out
}

/// RFC 4648, section 4.
fn base64(text: &[u8]) -> Result<Vec<u8>> {
    let (mut out, mut bits, mut held) = (Vec::new(), 0_u32, 0);
    for byte in text.iter().filter(|byte| !b"=\r\n ".contains(byte)) {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => bail!("{:?} is no character of base64", char::from(*byte)),
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    Ok(out)
}

fn list<'a>(value: &'a Value, place: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(place).and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key)?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Result<Result<Provision, String>> {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join(name);
        std::fs::write(&path, text).unwrap();
        Provision::read(&path)
    }

    #[test]
    fn both_languages_are_understood() {
        let butane = "variant: fcos\nversion: 1.1.0\nsystemd:\n  units:\n    - name: a.service\n      enabled: true\n      contents: |\n        [Service]\nstorage:\n  files:\n    - path: /var/www/x\n      contents:\n        inline: Hello, world!\n      mode: 0644\n      user:\n        name: core\n      group:\n        name: core\n";
        let json = r#"{"ignition": {"version": "3.0.0"},
            "systemd": {"units": [{"name": "a.service", "enabled": true, "contents": "[Service]\n"}]},
            "storage": {"files": [{"path": "/var/www/x", "contents": {"source": "data:,Hello%2C%20world!"}, "mode": 420,
            "user": {"name": "core"}, "group": {"name": "core"}}]}}"#;
        let of_butane = read("config.bu", butane).unwrap().unwrap();
        assert_eq!(of_butane, read("config.ign", json).unwrap().unwrap());
        let (node, contents) = &of_butane.files[0];
        assert_eq!((node.mode, node.owner.as_deref()), (Some(0o644), Some("core:core")));
        assert_eq!(contents, b"Hello, world!");
        assert_eq!(of_butane.enabled, ["a.service"]);
    }

    #[test]
    fn what_a_container_cannot_have_is_told() {
        let json = r#"{"storage": {"disks": [{"device": "/dev/vdb"}]}}"#;
        assert_eq!(read("config.ign", json).unwrap(), Err("storage.disks".into()));
        assert!(read("config.ign", "{").is_err());
        assert!(read("config.ign", r#"{"storage": {"files": [{"path": "x"}]}}"#).is_err());
        assert_eq!(data("data:;base64,aGkhIQ==").unwrap(), b"hi!!");
        assert!(data("http://x/").is_err());
    }
}
