//! What it takes to boot an image, by what is known of its init.

use anyhow::{Context, Result, bail};
use distro::catalog::{Catalog, Quirk};
use distro::init::{self, Wish};
use spec::boot::Startup;
use spec::image::Facts;

/// Commands that are a system's init, as podman knows them (podman-run(1), `--systemd`).
const SYSTEMD: [&str; 8] = [
    "/sbin/init",
    "/usr/sbin/init",
    "/usr/local/sbin/init",
    "/lib/systemd/systemd",
    "/usr/lib/systemd/systemd",
    "/bin/systemd",
    "/usr/bin/systemd",
    "systemd",
];

/// Whether a command is an image's own init, or one that podman takes for systemd.
#[must_use]
pub fn is_init(facts: &Facts, command: &str) -> bool {
    SYSTEMD.contains(&command) || facts.init.as_deref() == Some(command)
}

/// How to start a command that is an image's init by another name, or starts it in the end.
///
/// # Errors
/// As [`startup`].
pub fn startup_of(facts: &Facts, command: &str) -> Result<Startup> {
    let wish = Wish::default();
    // `/sbin/init` is what it leads to; anything else that is not the init leads to systemd.
    let kind =
        facts.init_kind.as_deref().and_then(init::by_name).or_else(|| init::by_name("systemd"));
    Ok(kind.map_or_else(|| init::unknown(command), |init| init.startup(command, &wish)))
}

/// How to start the init of an image: the one that was found in it, where `choice` is `auto`,
/// else the one of that name, or the program at that path.
///
/// # Errors
/// Where the image has no init, or none of that name is known.
pub fn startup(facts: &Facts, choice: &str, wish: &Wish) -> Result<Startup> {
    if (choice == "auto" || choice == "systemd") && knows_only_v1(facts) {
        let system = facts.os_release.get("PRETTY_NAME").map_or("it", String::as_str);
        bail!(
            "the systemd of {system} knows only control groups of version 1, which a machine cannot be given: \
             `postroj run` works, and so does another init of it (--init PATH)"
        );
    }
    let found = facts.init_kind.as_deref().and_then(init::by_name);
    if choice == "auto" {
        let path = facts.init.as_deref().context(
            "the image has no init to boot with: choose an image that has one, such as debian-12, \
             name a program of the image by --init PATH, or use `postroj run`",
        )?;
        return Ok(found.map_or_else(|| init::unknown(path), |init| init.startup(path, wish)));
    }
    if choice.starts_with('/') {
        let same = facts.init.as_deref() == Some(choice);
        let init = found.filter(|_| same);
        return Ok(init.map_or_else(|| init::unknown(choice), |init| init.startup(choice, wish)));
    }
    let Some(wanted) = init::by_name(choice) else {
        let known: Vec<&str> = init::INITS.iter().map(|init| init.name()).collect();
        bail!("no init is called {choice:?}: give auto, a path, or one of {}", known.join(", "));
    };
    let path = match (&facts.init, &facts.init_kind) {
        (Some(path), Some(kind)) if kind == choice => path,
        _ => wanted.path(),
    };
    Ok(wanted.startup(path, wish))
}

/// By the catalog: what is older than systemd 226 freezes where there is none of that version. A file
/// of the user's that is at fault there keeps nothing else from booting.
fn knows_only_v1(facts: &Facts) -> bool {
    facts.init_kind.as_deref() == Some("systemd")
        && Catalog::load().is_ok_and(|catalog| {
            let release = catalog.release_of(&facts.os_release);
            release.is_some_and(|release| release.quirks.contains(&Quirk::CgroupV1))
        })
}
