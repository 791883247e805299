//! Compiles the filters that nearly every machine has, so that no launch has to.

use std::fmt::Write as _;

use spec::plan::Seccomp;
use spec::seccomp::{self, DEFAULT_CAPABILITIES};

#[path = "src/container/filter.rs"]
mod filter;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let mut text = String::from("&[\n");
    // A filter holds the numbers of the architecture that this script runs on.
    if target == std::env::consts::ARCH {
        for suppress_sync in [false, true] {
            let capabilities: Vec<String> =
                DEFAULT_CAPABILITIES.iter().map(|c| (*c).to_owned()).collect();
            let profile: Seccomp = seccomp::default(&capabilities, suppress_sync);
            let filter = filter::compile(&profile);
            let _ = writeln!(text, "({}, &{:?}),", filter::key(&profile), filter.instructions());
        }
    }
    text.push(']');
    let out = std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    std::fs::write(std::path::Path::new(&out).join("filters.rs"), text)
        .expect("OUT_DIR is writable");
}
