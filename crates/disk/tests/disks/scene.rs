//! Where tests work, and what they put on disks.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use disk::Blocks;
use disk::image::{self, Options};

/// A directory of its own that goes at the end, with what is mounted in it.
pub(super) struct Scene {
    pub(super) dir: tempfile::TempDir,
}

impl Scene {
    pub(super) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs a script there; panics with what it said where it fails.
    pub(super) fn sh(&self, script: &str) -> String {
        let output = Command::new("bash")
            .args(["-euc", script])
            .current_dir(self.dir.path())
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}\n{stderr}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub(super) fn open(&self, name: &str) -> Arc<dyn Blocks> {
        image::open(&self.path(name), &Options::default()).unwrap().blocks
    }

    /// Mounts a file system for as long as `with` runs.
    pub(super) fn mounted<T>(
        &self,
        image: &str,
        options: &str,
        with: impl FnOnce(&Path) -> T,
    ) -> T {
        let at = format!("{image}.mnt");
        // The kernel lets go of a loop device a little after its file system.
        self.sh(&format!(
            "mkdir -p {at}; for i in $(seq 50); do mount -o loop,{options} {image} {at} && exit; sleep 0.1; done; exit 1"
        ));
        let mount = Mount { scene: self, at };
        with(&self.path(&mount.at))
    }
}

struct Mount<'a> {
    scene: &'a Scene,
    at: String,
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        self.scene.sh(&format!("umount {}", self.at));
    }
}

pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Every kind of file that anybody may make; `$1` is where.
pub(super) const NASTY: &str = r#"
cd "$1"
mkdir -p plain "with space" deep; echo hello >plain/file; : >empty; chmod 600 plain/file
ln plain/file plain/again; ln plain/file "with space/third"
ln -s plain/file short; ln -s "$(printf 'x%.0s' $(seq 200))" long; ln -s "$(printf 'y%.0s' $(seq 59))" fits; ln -s "$(printf 'y%.0s' $(seq 60))" fits-not
truncate -s 10M sparse; printf middle | dd of=sparse bs=1 seek=5000000 conv=notrunc status=none
printf end | dd of=sparse bs=1 seek=10485757 conv=notrunc status=none
truncate -s 3000000 only-a-hole
for i in $(seq 0 2 400); do dd if=/dev/urandom of=pieces bs=4096 count=1 seek=$i conv=notrunc status=none; done
head -c 3000001 /dev/urandom >odd; head -c 100 /dev/urandom >small; head -c 70 /dev/urandom >tiny
mkfifo fifo; mkdir sticky; chmod 1777 sticky; cp empty suid; chmod 6755 suid; chmod 0 empty
touch "$(printf 'n%.0s' $(seq 255))" "$(printf 'not\xffutf8')" "$(printf 'new\nline')" ' ' '\' '"'
d=deep; for i in $(seq 60); do d=$d/d$i; done; mkdir -p $d; echo bottom >$d/file
mkdir many; for i in $(seq 3000); do echo many/a-rather-long-name-so-that-there-are-many-blocks-$i; done | xargs touch
touch -d '1901-12-14 00:00:00.123456789 UTC' old; touch -d '2040-02-03 04:05:06.987654321 UTC' new
touch -d '1969-12-31 23:59:59.999999999 UTC' before; touch -d '2300-01-01 UTC' far
setfattr -n user.small -v value plain/file; setfattr -n user.empty odd; mkdir withattr; setfattr -n user.dir -v x withattr
setfattr -n user.big -v "$(printf 'b%.0s' $(seq 900))" odd
setfacl -m u:12345:rwx,g:54321:r small 2>/dev/null || true; setfacl -d -m u:12345:rx sticky 2>/dev/null || true
python3 -c "import socket; socket.socket(socket.AF_UNIX).bind('socket')" 2>/dev/null || true
"#;

/// What only root may make.
pub(super) const NASTY_OF_ROOT: &str = r#"
cd "$1"
mknod char c 5 1; mknod block b 259 70000; mknod wide c 4000 1048575; chmod 640 char
chown 1000:2000 plain/file; chown -h 70000:80000 short; chown 4294967294:4294967294 odd
cp small capable; setcap cap_net_raw+ep capable; setfattr -n trusted.of.root -v t small
setfattr -n security.whatever -v "s" small
"#;
