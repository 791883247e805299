//! podman and buildah, with a store and a home of their own.

use std::process::Command;

use crate::fixture::is_root;
use crate::listing;
use crate::place::{Place, tool};

pub(crate) struct Peers<'a> {
    place: &'a Place,
    /// Its directory there.
    name: String,
    /// The control group that podman makes its own in, where it makes any.
    cgroup: String,
}

/// Rights and limits that hosts without a session and root without CAP_SYS_RESOURCE have too. runc, since
/// crun 1.8 refuses hybrid control groups.
const CONTAINERS: &str = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]\n\
    cgroups = \"no-conmon\"\nnetns = \"host\"\n\
    [engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n";

impl<'a> Peers<'a> {
    /// With a driver that unpacks each layer onto a copy of what is below: on overlayfs, podman gives directories
    /// that a layer does not name to root, and makes some of what leads through links.
    pub(crate) fn new(place: &'a Place) -> Self {
        Self::with_driver(place, "vfs")
    }

    /// With that driver of containers/storage.
    pub(crate) fn with_driver(place: &'a Place, driver: &str) -> Self {
        let name = format!("peers-{driver}");
        let at = |file: &str| format!("{name}/{file}");
        let engine = format!("{CONTAINERS}tmp_dir = \"{}\"\n", place.text(&at("session/libpod")));
        place.write(&at("containers.conf"), engine);
        let text = format!(
            "[storage]\ndriver = \"{driver}\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n",
            place.text(&at("storage")),
            place.text(&at("run"))
        );
        place.write(&at("storage.conf"), text);
        let accept = "{\"default\": [{\"type\": \"insecureAcceptAnything\"}]}";
        place.write(&at("home/.config/containers/policy.json"), accept);
        let session = place.path(&at("session"));
        std::fs::create_dir_all(&session).unwrap();
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(session, private).unwrap();
        let cgroup = format!("/postroj-peers-{}", std::process::id());
        Self { place, name, cgroup }
    }

    /// The environment that their programs have, for who looks for their store.
    pub(crate) fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("CONTAINERS_CONF", self.path("containers.conf")),
            ("CONTAINERS_STORAGE_CONF", self.path("storage.conf")),
            ("HOME", self.path("home")),
            ("XDG_RUNTIME_DIR", self.path("session")),
        ]
    }

    /// A file of theirs.
    pub(crate) fn path(&self, name: &str) -> String {
        self.place.text(&format!("{}/{name}", self.name))
    }

    pub(crate) fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).envs(self.environment()).current_dir(self.place.path(""));
        command
    }

    /// Runs podman, which must succeed.
    #[track_caller]
    pub(crate) fn podman(&self, args: &[&str]) -> String {
        tool(&mut self.command("podman", args))
    }

    /// Runs buildah, which must succeed.
    #[track_caller]
    pub(crate) fn buildah(&self, args: &[&str]) -> String {
        tool(&mut self.command("buildah", args))
    }

    /// Runs a command in an image with podman, on runc.
    #[track_caller]
    pub(crate) fn run(&self, options: &[&str], image: &str, command: &[&str]) -> String {
        let parent = format!("--cgroup-parent={}", self.cgroup);
        let mut args = vec!["run"];
        if is_root() {
            args.push(&parent);
        }
        self.podman(&[&args, options, &[image], command].concat())
    }

    /// The tree at a path of an image, as podman unpacked it.
    #[track_caller]
    pub(crate) fn tree(&self, image: &str, path: &str) -> Vec<String> {
        let script = format!(
            "root=$(podman image mount '{image}'); {}=$root{path} \"$0\" listing::list --exact --nocapture; \
             podman image unmount -f '{image}' >/dev/null",
            listing::ROOT
        );
        let program = std::env::current_exe().unwrap();
        let shell = ["sh", "-ec", &script, program.to_str().unwrap()];
        let said = if is_root() {
            tool(&mut self.command(shell[0], &shell[1..]))
        } else {
            self.podman(&[&["unshare"], &shell[..]].concat())
        };
        said.lines().filter_map(|line| line.strip_prefix("= ")).map(str::to_owned).collect()
    }
}

impl Drop for Peers<'_> {
    fn drop(&mut self) {
        let storage = self.path("storage");
        // buildah has something there as well, whatever its configuration says.
        let other = self.path("home/.local");
        let remove = ["rm", "-rf", &storage, &other];
        let mut command = if is_root() {
            // A driver may have left its own mount there.
            let overlay = format!("{storage}/overlay");
            let _ = Command::new("umount").args(["-qR", &overlay]).output();
            self.command(remove[0], &remove[1..])
        } else {
            self.command("podman", &[&["unshare"], &remove[..]].concat())
        };
        let removed = command.output();
        if !is_root() {
            // Else the process that keeps its user namespace alive would stay.
            let _ = self.command("podman", &["system", "migrate"]).output();
        }
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let hierarchies = hierarchies.map(|entry| entry.path());
        for hierarchy in hierarchies.chain(["/sys/fs/cgroup".into()]) {
            let _ = std::fs::remove_dir(hierarchy.join(&self.cgroup[1..]));
        }
        if !std::thread::panicking() {
            assert!(removed.as_ref().is_ok_and(|o| o.status.success()), "{removed:?}");
        }
    }
}
