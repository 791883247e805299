//! What all tests of file systems need: a tree with everything in it, mounts, and one comparison.

#![allow(dead_code, unreachable_pub, reason = "not every test needs all of it")]

pub mod compare;
pub mod nasty;

use std::path::{Path, PathBuf};
use std::process::Command;

/// Whether this process may mount.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs a program, which must succeed; gives what it said.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(program).args(arguments).env("PATH", path).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = [output.stdout, output.stderr].map(|s| String::from_utf8_lossy(&s).into_owned());
    assert!(output.status.success(), "{program} {arguments:?}: {}", said.concat());
    said.concat()
}

/// A file system that is mounted by the kernel, until it is dropped.
pub struct Mounted {
    pub path: PathBuf,
}

impl Mounted {
    pub fn new(image: &Path, at: &Path, options: &str) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let options = format!("loop,{options}");
        run("mount", &["-o", &options, image.to_str().unwrap(), at.to_str().unwrap()]);
        Self { path: at.to_owned() }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.path).status();
    }
}
