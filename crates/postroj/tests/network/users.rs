//! Who a network is tried as.

#![allow(dead_code)] // Each test file uses its own part of this.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::fixture::{self, Own};
use crate::place::PEER;

/// Why an ordinary user's run of a test does nothing.
pub(crate) const OF_ROOT: &str =
    "bridges are root's, and what a user has is tested by root's run as one";

/// Runs the program as whoever a battery is about.
pub(crate) trait User {
    fn postroj(&self, args: &[&str]) -> Command;

    /// `run` of something of [`PEER`] in the host's own tree.
    fn peer(&self, options: &[&str], args: &[&str]) -> Command {
        let words = [&["run"], options, &["host", "perl", "-e", PEER], args].concat();
        self.postroj(&words)
    }
}

pub(crate) struct Root(pub(crate) Own);

impl User for Root {
    fn postroj(&self, args: &[&str]) -> Command {
        self.0.postroj(args)
    }
}

/// An ordinary user who may open /dev/net/tun, as distributions allow it: in a mount namespace of
/// its own, since the host may not.
pub(crate) struct Ordinary {
    home: PathBuf,
    ids: (u32, u32),
    /// Where programs are looked for.
    path: String,
}

impl Ordinary {
    pub(crate) fn new(name: &str, programs: Option<&[&str]>) -> Self {
        let ids =
            fixture::another_user().expect("a user with subordinate ids (`cargo xtask setup`)");
        let home = std::env::temp_dir().join(format!("pj-net-{name}-{}", std::process::id()));
        std::fs::create_dir_all(home.join("bin")).unwrap();
        std::os::unix::fs::chown(&home, Some(ids.0), Some(ids.1)).unwrap();
        std::fs::set_permissions(&home, std::fs::Permissions::from_mode(0o700)).unwrap();
        std::fs::copy(fixture::program(), home.join("program")).unwrap();
        let path = match programs {
            None => "/usr/bin:/bin".to_owned(),
            Some(programs) => {
                for program in programs {
                    let link = home.join("bin").join(program);
                    std::os::unix::fs::symlink(Path::new("/usr/bin").join(program), link).unwrap();
                }
                home.join("bin").display().to_string()
            }
        };
        Self { home, ids, path }
    }
}

const OPEN_TUN: &str = "mount -t tmpfs none /mnt && mknod /mnt/tun c 10 200 && chmod 0666 /mnt/tun && \
     mount --bind /mnt/tun /dev/net/tun && umount /mnt && exec \"$@\"";

impl User for Ordinary {
    fn postroj(&self, args: &[&str]) -> Command {
        let mut command = Command::new("/usr/bin/unshare");
        command.args(["--mount", "/bin/sh", "-ec", OPEN_TUN, "sh", "/usr/bin/setpriv"]);
        command.args([&format!("--reuid={}", self.ids.0), &format!("--regid={}", self.ids.1)]);
        command.args(["--clear-groups", "/usr/bin/env"]);
        command.arg(format!("PATH={}", self.path)).arg(self.home.join("program")).args(args);
        command.env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin");
        command.env("HOME", &self.home).env("XDG_RUNTIME_DIR", &self.home);
        command.stdin(Stdio::null());
        command
    }
}

impl Drop for Ordinary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.home);
    }
}
