//! Tells the linker in which order functions are to lie, so that a launch touches few pages of them.

use std::env;

/// Written by `cargo xtask order`.
const ORDER: &str = "startup.ld";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={ORDER}");
    let is = |name: &str, wanted: &str| env::var(name).is_ok_and(|value| value == wanted);
    // The list is of optimised code, and only GNU's linker and LLVM's take such a list.
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let another = flags.contains("-fuse-ld=") || flags.contains("linker=");
    if is("PROFILE", "release") && is("CARGO_CFG_TARGET_OS", "linux") && !another {
        let directory = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
        println!("cargo:rustc-link-arg-bins=-Wl,-T,{directory}/{ORDER}");
    }
}
