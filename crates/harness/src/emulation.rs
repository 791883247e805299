//! What runs the programs of an image that is for another processor.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use distro::emulation::{self, Foreign};
use plan::Launcher;
use spec::ids::IdMapping;
use spec::plan::{Emulation, Plan};
use spec::platform::Platform;

/// Where the host's registrations are.
const REGISTRATIONS: &str = "/proc/sys/fs/binfmt_misc";

/// The emulation that a machine with programs of this architecture (OCI's word) needs; `None`
/// where the kernel, or the host's own registration, runs them.
///
/// # Errors
/// There is no emulator, or the machine cannot have a registration of its own: with the remedy.
pub fn emulation(
    architecture: Option<&str>,
    plan: &Plan,
    launcher: &Launcher,
) -> Result<Option<Emulation>> {
    let host = Platform::host().architecture;
    let Some(architecture) = architecture.filter(|name| !emulation::is_native(&host, name)) else {
        return Ok(None);
    };
    let foreign = emulation::by_architecture(architecture).with_context(|| {
        format!("the image is for {architecture}, and nothing runs that on {host}")
    })?;
    if is_registered(foreign) {
        return Ok(None);
    }
    let interpreter = interpreter(foreign).with_context(|| {
        format!(
            "the image is for {architecture}, and there is no emulator of it here: install qemu-user-static \
             (`apt install qemu-user-static`, `dnf install qemu-user-static`)"
        )
    })?;
    if plan.ids == IdMapping::Inherit && launcher.initial_userns {
        bail!(
            "the image is for {architecture}: without a user namespace it needs an emulator that the whole \
             host knows (leave --userns=host and --privileged out, or `apt install binfmt-support qemu-user-static`)"
        );
    }
    let path = interpreter.to_str().context("the emulator's path is not UTF-8")?;
    Ok(Some(Emulation {
        architecture: architecture.to_owned(),
        registration: foreign.registration(path),
    }))
}

fn is_registered(foreign: &Foreign) -> bool {
    let entries = std::fs::read_dir(REGISTRATIONS).into_iter().flatten().flatten();
    let mut texts = entries.filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    texts.any(|text| foreign.is_served_by(&text))
}

/// One that needs no loader, which would be looked for in the machine.
fn interpreter(foreign: &Foreign) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/bin", "/usr/local/bin"].map(PathBuf::from);
    let directories: Vec<PathBuf> = std::env::split_paths(&path).chain(usual).collect();
    let programs = foreign.programs();
    let mut candidates = programs
        .iter()
        .flat_map(|name| directories.iter().map(move |directory| directory.join(name)));
    candidates
        .find(|path| path.is_absolute() && !path.to_string_lossy().contains(':') && is_static(path))
}

fn is_static(path: &Path) -> bool {
    let mut start = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| {
        use std::io::Read;
        file.take(4096).read_to_end(&mut start)
    });
    read.is_ok() && distro::elf::is_static(&start)
}
