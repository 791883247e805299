//! Debian's BuildStream with the face `bwrap` first in the PATH: a project of several elements, a shell,
//! and a build that fails; the same with the original, and the same comes of both.

mod fixture;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fixture::{Said, busybox, home, is_root, program, said};

/// What a build sees of its sandbox, without what is new each time.
const LOOK: &str = "sh -c 'id; pwd; hostname; umask; ls /dev; ls /; cut -d\" \" -f5,6 /proc/self/mountinfo; \
                    ls /sys/class/net 2>&1; env | grep -v ^_ | sort; touch /new 2>&1 || echo read-only' > seen";

const PROJECT: [(&str, &str); 5] = [
    ("project.conf", "name: small\nformat-version: 12\nelement-path: elements\n"),
    ("elements/base.bst", "kind: import\nsources:\n- kind: local\n  path: files\n"),
    (
        "elements/part.bst",
        "kind: manual\ndepends:\n- filename: base.bst\n  type: build\nconfig:\n  install-commands:\n  \
         - mkdir -p \"%{install-root}/usr/share\"\n  \
         - echo part > \"%{install-root}/usr/share/part\"\n",
    ),
    (
        "elements/broken.bst",
        "kind: manual\ndepends:\n- filename: base.bst\n  type: build\nconfig:\n  build-commands:\n  - exit 3\n",
    ),
    // A program of another element runs in it, as an ordinary user that the project chose.
    (
        "elements/whole.bst",
        "kind: manual\nsandbox:\n  build-uid: 5\n  build-gid: 7\ndepends:\n- base.bst\n- part.bst\nconfig:\n  \
         build-commands:\n  - |\n    LOOK\n  install-commands:\n  \
         - mkdir -p \"%{install-root}/usr/share\"\n  \
         - cat seen /usr/share/part > \"%{install-root}/usr/share/whole\"\n",
    ),
];

/// A project, and a BuildStream that keeps all it has below it.
struct Project {
    dir: PathBuf,
}

impl Project {
    /// `bwrap` is told what BuildStream tells it, and how often it was asked can be read.
    fn new(name: &str, bwrap: &Path) -> Self {
        let dir = home().join(format!("bst-{name}-{}", std::process::id()));
        let project = Self { dir };
        let bin = project.dir.join("bin");
        std::fs::create_dir_all(project.dir.join("elements")).unwrap();
        std::fs::create_dir_all(bin.join("real")).unwrap();
        busybox(&project.dir.join("files"));
        for (file, text) in PROJECT {
            std::fs::write(project.dir.join(file), text.replace("LOOK", LOOK)).unwrap();
        }
        std::os::unix::fs::symlink(bwrap, bin.join("real/bwrap")).unwrap();
        let real = bin.join("real/bwrap");
        let script = format!(
            "#!/bin/sh\necho \"$@\" >> {0}/asked\nexec {1} \"$@\"\n",
            project.dir.display(),
            real.display()
        );
        std::fs::write(bin.join("bwrap"), script).unwrap();
        std::fs::set_permissions(bin.join("bwrap"), PermissionsExt::from_mode(0o755)).unwrap();
        project
    }

    fn bst(&self, args: &[&str]) -> Said {
        let mut command = Command::new("bst");
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", self.dir.join("bin").display()));
        for (name, below) in
            [("HOME", "h"), ("XDG_CACHE_HOME", "h/cache"), ("XDG_CONFIG_HOME", "h/config")]
        {
            command.env(name, self.dir.join(below));
        }
        command.args(["--no-colors", "--no-interactive", "--directory"]).arg(&self.dir).args(args);
        said(command.stdin(Stdio::null()))
    }

    #[track_caller]
    fn works(&self, args: &[&str]) -> String {
        let told = self.bst(args);
        assert_eq!(told.code, 0, "{args:?}: {told:?}");
        told.out
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        // Some of what it keeps is read-only.
        let _ = Command::new("chmod").args(["-R", "u+rwX"]).arg(&self.dir).status();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// What the whole project came to, and what a failing build was.
fn outcome(name: &str, bwrap: &Path) -> (String, String, i32) {
    let project = Project::new(name, bwrap);
    project.works(&["build", "whole.bst"]);
    let out = project.dir.join("out");
    project.works(&["checkout", "whole.bst", out.to_str().unwrap()]);
    let seen = std::fs::read_to_string(out.join("usr/share/whole")).unwrap();
    let shell = project.works(&["shell", "whole.bst", "--", "cat", "/usr/share/part"]);
    let broken = project.bst(&["build", "broken.bst"]);
    assert!(broken.err.contains("Command 'exit 3' failed with exitcode 3"), "{broken:?}");
    let asked = std::fs::read_to_string(project.dir.join("asked")).unwrap();
    let sandboxes = asked.lines().filter(|line| line.contains("--unshare-pid")).count();
    assert!(sandboxes >= 4, "it is asked for each command: {asked}");
    // Paths of the project differ from one to the other.
    let here = project.dir.display().to_string();
    (seen.replace(&here, "HERE"), shell.replace(&here, "HERE"), broken.code)
}

#[test]
fn builds_a_project() {
    let bst = said(Command::new("bst").arg("--version"));
    assert_eq!(bst.code, 0, "buildstream is installed (`cargo xtask setup`)");
    let (seen, shell, broken) = outcome("ours", &program());
    assert!(seen.starts_with("uid=5 gid=7"), "{seen}");
    assert!(seen.contains("read-only") && seen.contains("buildstream\n"), "{seen}");
    assert!(seen.ends_with("part\n") && shell.ends_with("part\n"), "{seen}{shell}");
    assert_ne!(broken, 0);
    let theirs = outcome("theirs", Path::new("/usr/bin/bwrap"));
    assert_eq!((seen, shell, broken), theirs, "as root: {}", is_root());
}
