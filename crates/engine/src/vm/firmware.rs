//! Where the host has firmware for virtual machines, by the files with which it says so ("QEMU firmware
//! descriptors", docs/interop/firmware.json of QEMU).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::hardware::Architecture;

/// UEFI for virtual machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firmware {
    /// Its code, which is only read.
    pub code: PathBuf,
    /// The variables that a new machine has, to be copied.
    pub variables: PathBuf,
}

/// Where descriptors are: the user's, the administrator's, the distribution's. A file takes the place
/// of others of its name in what comes later.
fn directories() -> Vec<PathBuf> {
    let home = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let home = home.filter(|path| path.is_absolute()).or_else(|| {
        let home = std::env::var_os("HOME").map(PathBuf::from)?;
        home.is_absolute().then(|| home.join(".config"))
    });
    let mut list: Vec<PathBuf> = home.map(|home| home.join("qemu/firmware")).into_iter().collect();
    list.extend(["/etc/qemu/firmware", "/usr/share/qemu/firmware"].map(PathBuf::from));
    list
}

/// Finds UEFI that starts any boot loader: without Secure Boot, which would refuse most.
///
/// # Errors
/// Where there is none; says which package has it.
pub fn find(architecture: Architecture) -> Result<Firmware> {
    let package = match architecture {
        Architecture::X86_64 => "ovmf (Debian, Ubuntu) or edk2-ovmf (Fedora)",
        Architecture::Aarch64 => "qemu-efi-aarch64 (Debian, Ubuntu) or edk2-aarch64 (Fedora)",
    };
    find_in(&directories(), architecture).with_context(|| {
        format!("there is no UEFI firmware for virtual machines: install the package {package}")
    })
}

fn find_in(directories: &[PathBuf], architecture: Architecture) -> Option<Firmware> {
    let mut files: BTreeMap<std::ffi::OsString, PathBuf> = BTreeMap::new();
    for directory in directories {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                files.entry(entry.file_name()).or_insert(path);
            }
        }
    }
    // The order of their names is that of preference; what cannot be read is passed over.
    files.values().find_map(|path| {
        let text = std::fs::read_to_string(path).ok()?;
        let firmware = suitable(&text, architecture)?;
        let there = |path: &Path| path.metadata().is_ok_and(|found| found.is_file());
        (there(&firmware.code) && there(&firmware.variables)).then_some(firmware)
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Descriptor {
    interface_types: Vec<String>,
    mapping: Mapping,
    targets: Vec<Target>,
    features: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Mapping {
    device: String,
    executable: Option<File>,
    nvram_template: Option<File>,
}

#[derive(Deserialize)]
struct File {
    filename: PathBuf,
    format: String,
}

#[derive(Deserialize)]
struct Target {
    architecture: String,
    machines: Vec<String>,
}

fn suitable(text: &str, architecture: Architecture) -> Option<Firmware> {
    let found: Descriptor = serde_json::from_str(text).ok()?;
    let (name, machine) = match architecture {
        Architecture::X86_64 => ("x86_64", "pc-q35-"),
        Architecture::Aarch64 => ("aarch64", "virt-"),
    };
    let is_for = |target: &Target| {
        target.architecture == name
            && target.machines.iter().any(|pattern| pattern.starts_with(machine) || pattern == "*")
    };
    let unwanted = ["requires-smm", "enrolled-keys"];
    let raw = |file: Option<File>| Some(file.filter(|file| file.format == "raw")?.filename);
    let is_it = found.interface_types.iter().any(|kind| kind == "uefi")
        && found.mapping.device == "flash"
        && found.targets.iter().any(is_for)
        && !found.features.iter().any(|feature| unwanted.contains(&&feature[..]));
    is_it.then_some(())?;
    Some(Firmware {
        code: raw(found.mapping.executable)?,
        variables: raw(found.mapping.nvram_template)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(code: &Path, features: &str, machine: &str) -> String {
        format!(
            r#"{{"description": "x", "interface-types": ["uefi"], "mapping": {{"device": "flash",
            "executable": {{"filename": {code:?}, "format": "raw"}},
            "nvram-template": {{"filename": {code:?}, "format": "raw"}}}},
            "targets": [{{"architecture": "x86_64", "machines": ["{machine}"]}}],
            "features": [{features}], "tags": []}}"#
        )
    }

    #[test]
    fn the_first_that_suits_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let (of_user, of_system) = (directory.path().join("a"), directory.path().join("b"));
        std::fs::create_dir_all(&of_user).unwrap();
        std::fs::create_dir_all(&of_system).unwrap();
        let code = |name: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, "code").unwrap();
            path
        };
        let write = |path: PathBuf, text: String| std::fs::write(path, text).unwrap();
        let secure = descriptor(&code("secure"), r#""requires-smm", "secure-boot""#, "pc-q35-*");
        write(of_system.join("40-secure.json"), secure);
        write(of_system.join("50-old.json"), descriptor(&code("old"), "", "pc-i440fx-*"));
        write(of_system.join("55-damaged.json"), "{".into());
        let absent = directory.path().join("absent");
        write(of_system.join("56-absent.json"), descriptor(&absent, "", "pc-q35-*"));
        write(of_system.join("60-plain.json"), descriptor(&code("plain"), "", "pc-q35-*"));
        write(of_system.join("70-later.json"), descriptor(&code("later"), "", "pc-q35-*"));
        let both = [of_user.clone(), of_system];
        let found = || find_in(&both, Architecture::X86_64).unwrap().code;
        assert_eq!(found(), directory.path().join("plain"));
        assert_eq!(find_in(&both, Architecture::Aarch64), None);
        // A file of the user's takes another one's place, even where it is empty: that one is masked.
        write(of_user.join("60-plain.json"), String::new());
        assert_eq!(found(), directory.path().join("later"));
    }
}
