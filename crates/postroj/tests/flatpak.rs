//! Flatpak, which makes its sandboxes by bubblewrap, on our bwrap and on the original.

mod fixture;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use fixture::{Own, out, program};

const RUNTIME: &str = "[Runtime]\nname=org.test.Platform\nruntime=org.test.Platform/x86_64/stable\n\
    sdk=org.test.Platform/x86_64/stable\n";

fn application(shared: &Path) -> String {
    format!(
        "[Application]\nname=org.test.Hello\nruntime=org.test.Platform/x86_64/stable\n\
         sdk=org.test.Platform/x86_64/stable\ncommand=hello\n\n\
         [Context]\nshared=network;ipc;\nfilesystems={}:ro;\n",
        shared.display()
    )
}

/// A home whose session has all that Flatpak needs.
struct Home(Own);

impl Home {
    /// With a runtime and an application, installed from a repository of their own.
    fn new() -> Self {
        let home = Self(Own::new("flatpak"));
        for directory in [
            "home",
            "xdg",
            "runtime/files",
            "application/files/bin",
            "application/export",
            "shared",
        ] {
            fs::create_dir_all(home.path(directory)).unwrap();
        }
        fs::set_permissions(home.path("xdg"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(home.path("shared/file"), "shared\n").unwrap();
        fs::write(home.path("runtime/metadata"), RUNTIME).unwrap();
        fixture::busybox(&home.path("runtime/usr"));
        let metadata = application(&home.path("shared"));
        fs::write(home.path("application/metadata"), metadata).unwrap();
        let hello = home.path("application/files/bin/hello");
        fs::write(&hello, "#!/bin/sh\necho hello \"$@\"\n").unwrap();
        fs::set_permissions(&hello, fs::Permissions::from_mode(0o755)).unwrap();
        let script = "set -e; export=\"flatpak build-export --disable-sandbox\"
            $export --runtime repository runtime stable; $export repository application stable
            flatpak --user remote-add --no-gpg-verify here repository
            flatpak --user install -y --noninteractive here org.test.Platform org.test.Hello";
        out(&mut home.session("bwrap", script));
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }

    /// A script in a session of its own; the system's bus, which only tells of parents' wishes, is the same.
    fn session(&self, bwrap: &str, script: &str) -> Command {
        let mut command = Command::new("dbus-run-session");
        let script = format!("export DBUS_SYSTEM_BUS_ADDRESS=$DBUS_SESSION_BUS_ADDRESS; {script}");
        command.args(["sh", "-c", &script]).current_dir(self.path("")).env_clear();
        command.env("PATH", "/usr/bin:/bin").env("FLATPAK_BWRAP", bwrap);
        command.env("HOME", self.path("home")).env("XDG_RUNTIME_DIR", self.path("xdg"));
        command
    }

    fn runs(&self, bwrap: &str) -> String {
        let run = "flatpak run --command=sh";
        let script = format!(
            "flatpak run org.test.Hello world
            {run} org.test.Hello -c 'id; ls /; head -3 /.flatpak-info; cat \"$0\"/file; touch \"$0\"/x; exit 9' {shared}
            echo = $?
            {run} --unshare=network org.test.Hello -c 'cat /proc/net/dev | wc -l; grep -e Seccomp: -e Cap -e NoNew /proc/self/status'
            {run} --nofilesystem={shared} org.test.Hello -c 'test -e \"$0\"; echo $?; mount | cut -d\" \" -f3-6 | grep -v /run/flatpak/' {shared}
            {run} --filesystem={shared} --env=WORD=word org.test.Hello -c 'touch \"$0\"/{bwrap} && env | grep -v -e ^DBUS -e ^FLATPAK | sort' {shared}
            ls {shared}; rm -f {shared}/bwrap*",
            shared = self.path("shared").display(),
            bwrap = "bwrap-was-here",
        );
        out(self.session(bwrap, &script).env("LC_ALL", "C"))
    }
}

#[test]
fn an_application_runs_as_with_the_original() {
    let home = Home::new();
    let ours = home.path("bwrap");
    symlink(program(), &ours).unwrap();
    let original = home.runs("/usr/bin/bwrap");
    assert!(original.starts_with("hello world\n"), "{original}");
    assert!(original.contains("\nshared\n= 9\n"), "{original}");
    let same = home.runs(ours.to_str().unwrap());
    for (line, wanted) in same.lines().zip(original.lines()) {
        assert_eq!(line, wanted, "{same}");
    }
    assert_eq!(same.len(), original.len());
}
