//! Tells the linker how to lay out a release, so that a launch touches few pages of it.

use std::env;
use std::process::Command;

/// Written by `cargo xtask order`.
const ORDER: &str = "startup.ld";

/// The first glibc whose static programs relocate themselves by packed relocations (its NEWS, "Version 2.36").
const PACKED: (u32, u32) = (2, 36);

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={ORDER}");
    if !is("PROFILE", "release") || !is("CARGO_CFG_TARGET_OS", "linux") {
        return;
    }
    // cargo passes over the profile's `strip` where a package has settings of its own.
    argument("--strip-all");
    // Other linkers than GNU's and LLVM's take no such list.
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    if !flags.contains("-fuse-ld=") && !flags.contains("linker=") {
        let directory = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
        argument(&format!("-T,{directory}/{ORDER}"));
    }
    if libc().is_some_and(|version| version >= PACKED) {
        // A tenth of the table that is read at each start.
        argument("-z,pack-relative-relocs");
    }
}

fn is(name: &str, wanted: &str) -> bool {
    env::var(name).is_ok_and(|value| value == wanted)
}

fn argument(words: &str) {
    println!("cargo:rustc-link-arg-bins=-Wl,{words}");
}

/// The version of the glibc that is linked in, where that is this system's.
fn libc() -> Option<(u32, u32)> {
    if env::var("HOST") != env::var("TARGET") || !is("CARGO_CFG_TARGET_ENV", "gnu") {
        return None;
    }
    let done = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let text = String::from_utf8(done.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
}
