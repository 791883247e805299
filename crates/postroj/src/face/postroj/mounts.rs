//! `-v`, `--mount` and `--tmpfs`, as docker reads them.

use spec::request::MountRequest;

use super::quantity;

/// `[SOURCE:]TARGET[:OPTIONS]` with `ro`, `rw`, `rbind`, `bind`.
pub(super) fn volume(text: &str) -> Result<MountRequest, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [source, target] => (source, target, ""),
        [source, target, options] => (source, target, options),
        _ => return Err(format!("{text:?} is no volume: SOURCE:TARGET[:ro]")),
    };
    let (mut read_only, mut recursive) = (false, true);
    for option in options.split(',').filter(|o| !o.is_empty()) {
        match option {
            "ro" => read_only = true,
            "rw" | "rprivate" | "private" | "z" | "Z" => {}
            "rbind" => recursive = true,
            "bind" => recursive = false,
            other => return Err(format!("unknown volume option {other:?}: ro, rw, rbind or bind")),
        }
    }
    let source = host_path(source)?;
    let target = inside(target)?;
    Ok(MountRequest::Bind { source, target, read_only, recursive, create_source: true })
}

/// `type=bind,source=…,target=…[,readonly]`, `type=tmpfs,target=…[,tmpfs-size=…,tmpfs-mode=…]`, or
/// `type=image,source=IMAGE,target=…[,rw]`: read-only unless that is asked for, as for docker and podman.
pub(super) fn mount(text: &str) -> Result<MountRequest, String> {
    let mut keys: Vec<(String, Option<&str>)> = Vec::new();
    for field in text.split(',').filter(|f| !f.is_empty()) {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (field, None),
        };
        keys.push((key.to_ascii_lowercase(), value));
    }
    let mut take = |names: &[&str]| -> Option<Option<&str>> {
        let at = keys.iter().position(|(key, _)| names.contains(&key.as_str()))?;
        Some(keys.remove(at).1)
    };
    let kind = take(&["type"]).flatten().unwrap_or("bind");
    let target = take(&["target", "destination", "dst"]).flatten().ok_or("target=… is missing")?;
    let target = inside(target)?;
    let read_only = flag(take(&["readonly", "ro"]))?;
    let mount = match kind {
        "bind" => {
            let source = take(&["source", "src"]).flatten().ok_or("source=… is missing")?;
            let recursive = match take(&["bind-recursive"]).flatten() {
                None | Some("enabled") => true,
                Some("disabled") => false,
                Some(other) => return Err(format!("bind-recursive cannot be {other:?}")),
            };
            let source = host_path(source)?;
            MountRequest::Bind { source, target, read_only, recursive, create_source: false }
        }
        "tmpfs" => {
            let size = take(&["tmpfs-size"]).flatten().map(quantity::bytes).transpose()?;
            let mode = take(&["tmpfs-mode"]).flatten().map(octal).transpose()?;
            let options = if read_only { vec!["ro".into()] } else { vec![] };
            MountRequest::Tmpfs { target, size, mode, options }
        }
        "image" => {
            let image = take(&["source", "src"]).flatten().ok_or("source=… is missing")?.to_owned();
            let writable = flag(take(&["rw", "readwrite"]))?;
            let read_only = read_only || !writable;
            MountRequest::Image { image, layers: Vec::new(), target, read_only }
        }
        other => return Err(format!("unknown mount type {other:?}: bind, tmpfs or image")),
    };
    match keys.first() {
        Some((key, _)) => Err(format!("a {kind} mount has no {key:?}")),
        None => Ok(mount),
    }
}

/// `TARGET[:OPTIONS]` with `size=`, `mode=`, `ro`, `exec`, `suid`, `dev` and their opposites.
pub(super) fn tmpfs(text: &str) -> Result<MountRequest, String> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let (mut size, mut mode, mut flags) = (None, None, Vec::new());
    for option in options.split(',').filter(|o| !o.is_empty()) {
        match option.split_once('=') {
            Some(("size", value)) => size = Some(quantity::bytes(value)?),
            Some(("mode", value)) => mode = Some(octal(value)?),
            None if matches!(option, "ro" | "exec" | "suid" | "dev") => {
                flags.push(option.to_owned())
            }
            None if matches!(option, "rw" | "noexec" | "nosuid" | "nodev") => {}
            _ => return Err(format!("unknown tmpfs option {option:?}")),
        }
    }
    Ok(MountRequest::Tmpfs { target: inside(target)?, size, mode, options: flags })
}

fn flag(given: Option<Option<&str>>) -> Result<bool, String> {
    match given {
        None | Some(Some("false" | "0")) => Ok(false),
        Some(None | Some("true" | "1")) => Ok(true),
        Some(Some(other)) => Err(format!("readonly cannot be {other:?}")),
    }
}

fn octal(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err(format!("{text:?} is no octal mode")),
    }
}

fn inside(target: &str) -> Result<String, String> {
    if target.starts_with('/') {
        return Ok(target.to_owned());
    }
    Err(format!("the path {target:?} inside of the machine is not absolute"))
}

/// docker takes a name without a slash for a volume's; there are none here yet.
fn host_path(source: &str) -> Result<String, String> {
    if !source.contains('/') && source != "." && source != ".." {
        return Err(format!(
            "{source:?} is no path (named volumes do not exist; write ./{source})"
        ));
    }
    let path = std::path::absolute(source).map_err(|e| format!("{source:?}: {e}"))?;
    path.to_str().map(str::to_owned).ok_or_else(|| format!("{source:?} is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(source: &str, read_only: bool, recursive: bool, create_source: bool) -> MountRequest {
        let (source, target) = (source.into(), "/b".into());
        MountRequest::Bind { source, target, read_only, recursive, create_source }
    }

    #[test]
    fn volumes() {
        assert_eq!(volume("/a:/b"), Ok(bind("/a", false, true, true)));
        assert_eq!(volume("/a:/b:ro,bind"), Ok(bind("/a", true, false, true)));
        for bad in ["/a", "a:/b", "/a:b", "/a:/b:x", "/a:/b:ro:rw", ""] {
            assert!(volume(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn long_mounts() {
        assert_eq!(
            mount("type=bind,source=/a,target=/b,readonly"),
            Ok(bind("/a", true, true, false))
        );
        assert_eq!(mount("src=/a,dst=/b,ro=false"), Ok(bind("/a", false, true, false)));
        assert_eq!(
            mount("type=tmpfs,target=/b,tmpfs-size=1m,tmpfs-mode=700"),
            Ok(MountRequest::Tmpfs {
                target: "/b".into(),
                size: Some(1 << 20),
                mode: Some(0o700),
                options: vec![]
            })
        );
        let image = |read_only| {
            let (image, target) = ("debian:12".into(), "/b".into());
            Ok(MountRequest::Image { image, layers: vec![], target, read_only })
        };
        assert_eq!(mount("type=image,source=debian:12,target=/b"), image(true));
        assert_eq!(mount("type=image,src=debian:12,dst=/b,rw=true"), image(false));
        assert_eq!(mount("type=image,src=debian:12,dst=/b,ro,rw"), image(true));
        for bad in [
            "type=image,target=/b",
            "type=volume,target=/b",
            "target=/b",
            "src=/a",
            "src=/a,dst=/b,x=1",
            "src=/a,dst=/b,ro=2",
        ] {
            assert!(mount(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn file_systems_in_memory() {
        assert_eq!(
            tmpfs("/b:size=64k,exec,rw"),
            Ok(MountRequest::Tmpfs {
                target: "/b".into(),
                size: Some(65_536),
                mode: None,
                options: vec!["exec".into()]
            })
        );
        assert!(tmpfs("b").is_err() && tmpfs("/b:x").is_err() && tmpfs("/b:mode=9").is_err());
    }
}
