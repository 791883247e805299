//! Device nodes.

use anyhow::{Result, bail};
use rustix::fs::FileType;
use spec::runtime;

use super::piece::Device;

/// Those that every container has (runtime-spec 1.2, `config-linux.md`, "Default Devices"), with
/// their numbers (Linux, Documentation/admin-guide/devices.txt).
pub(super) const DEFAULT: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// The configuration's, and those of the default that it does not say itself.
pub(super) fn all(configured: &[runtime::Device]) -> Result<Vec<Device>> {
    let mut devices = Vec::new();
    for (path, major, minor) in DEFAULT {
        if configured.iter().any(|device| device.path == path) {
            continue;
        }
        devices.push(Device {
            path: path.to_owned(),
            kind: FileType::CharacterDevice,
            number: rustix::fs::makedev(major, minor),
            mode: 0o666,
            owner: (0, 0),
        });
    }
    for device in configured {
        devices.push(self::device(device)?);
    }
    Ok(devices)
}

fn device(device: &runtime::Device) -> Result<Device> {
    let kind = match device.kind.as_str() {
        "c" | "u" => FileType::CharacterDevice,
        "b" => FileType::BlockDevice,
        "p" => FileType::Fifo,
        other => bail!("the device {} is of the type {other:?}, not c, b, u or p", device.path),
    };
    if !device.path.starts_with('/') || std::path::Path::new(&device.path).file_name().is_none() {
        bail!("the device {:?} has no absolute path", device.path);
    }
    let number = match kind {
        FileType::Fifo => 0,
        _ => match (u32::try_from(device.major), u32::try_from(device.minor)) {
            (Ok(major), Ok(minor)) => rustix::fs::makedev(major, minor),
            _ => bail!("the device {} has no device number", device.path),
        },
    };
    Ok(Device {
        path: device.path.clone(),
        kind,
        number,
        mode: device.file_mode.unwrap_or(0o666) & 0o7777,
        owner: (device.uid.unwrap_or(0), device.gid.unwrap_or(0)),
    })
}
