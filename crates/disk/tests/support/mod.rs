//! What all tests of file systems need: a tree with everything in it, mounts, and one comparison.

#![allow(dead_code, unreachable_pub, reason = "not every test needs all of it")]

pub mod compare;
pub mod nasty;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use disk::Blocks;

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
    let end: String =
        said.concat().chars().rev().take(2000).collect::<Vec<_>>().into_iter().rev().collect();
    assert!(output.status.success(), "{program} {arguments:?}: {end}");
    said.concat()
}

/// A file system that is mounted by the kernel, until it is dropped.
///
/// In a mount namespace of its own: whoever copies this process's namespace meanwhile would keep it mounted.
pub struct Mounted {
    pub path: PathBuf,
    holder: Child,
}

impl Mounted {
    pub fn new(image: &Path, at: &Path, options: &str) -> Self {
        Self::try_new(image, at, options).expect("a mount")
    }

    /// `None` where the kernel refuses.
    pub fn try_new(image: &Path, at: &Path, options: &str) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let script = r#"mount -o "loop,$1" "$2" "$3" && echo mounted && read _; umount "$3""#;
        let mut holder = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", script, "sh", options])
            .args([image, at])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let inside = format!("/proc/{}/root{}", holder.id(), at.display());
        let mounted = Self { path: inside.into(), holder };
        (said == "mounted\n").then_some(mounted)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

/// An image in a file.
pub struct FileBlocks(File);

impl FileBlocks {
    pub fn open(path: &Path) -> Arc<dyn Blocks> {
        Arc::new(Self(File::open(path).unwrap()))
    }
}

impl Blocks for FileBlocks {
    fn size(&self) -> u64 {
        self.0.metadata().unwrap().len()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> anyhow::Result<()> {
        Ok(self.0.read_exact_at(buffer, offset)?)
    }

    fn is_hole(&self, offset: u64, length: u64) -> bool {
        match rustix::fs::seek(&self.0, rustix::fs::SeekFrom::Data(offset)) {
            Ok(data) => data >= offset + length,
            Err(error) => error == rustix::io::Errno::NXIO,
        }
    }
}
