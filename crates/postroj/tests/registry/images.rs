//! Images made by umoci, and pushed by skopeo.

use std::path::Path;
use std::process::Command;

use crate::fixture;
use crate::place::{Place, tool};

/// A layer to be: its tar archive's name, from a directory's content.
pub(crate) fn pack(place: &Place, name: &str, directory: &Path) -> String {
    let tar = place.text(name);
    let mut command = Command::new("tar");
    command.args(["--sort=name", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C"]);
    tool(command.arg(directory).args(["-cf", &tar, "."]));
    tar
}

/// A layer of single files, with their directories unsaid.
pub(crate) fn pack_files(place: &Place, name: &str, files: &[(&str, &str)]) -> String {
    let root = place.path(&format!("{name}.d"));
    for (path, content) in files {
        place.write(&format!("{name}.d/{path}"), content);
    }
    let tar = place.text(name);
    let mut command = Command::new("tar");
    command.args(["--owner=0", "--group=0", "--mtime=@1000000000", "-C"]).arg(root);
    tool(command.args(["-cf", &tar]).args(files.iter().map(|(path, _)| path)));
    tar
}

/// The root file system of busybox, packed.
pub(crate) fn busybox(place: &Place) -> String {
    let (root, tar) = (place.path("busybox"), place.text("busybox.tar"));
    if root.exists() {
        return tar;
    }
    fixture::busybox(&root);
    let mut command = Command::new("tar");
    command.args(["--sort=name", "--owner=0", "--group=0", "-C"]).arg(root);
    tool(command.args(["-cf", &tar, "."]));
    tar
}

/// Makes the image `oci:TAG` of these layers.
pub(crate) fn image(place: &Place, tag: &str, layers: &[&str]) -> String {
    let layout = place.path("oci");
    if !layout.exists() {
        tool(Command::new("umoci").args(["init", "--layout"]).arg(&layout));
    }
    let name = format!("{}:{tag}", layout.display());
    tool(Command::new("umoci").args(["new", "--image", &name]));
    for layer in layers {
        tool(Command::new("umoci").args(["raw", "add-layer", "--image", &name, layer]));
    }
    tool(
        Command::new("umoci").args(["config", "--image", &name, "--config.cmd", "/bin/sh"]).args([
            "--config.env",
            "PATH=/bin:/usr/bin",
            "--config.workingdir",
            "/",
        ]),
    );
    name
}

/// The small image of most tests: busybox, and a file of its own in a second layer.
pub(crate) fn small(place: &Place, tag: &str, mark: &str) -> String {
    let base = busybox(place);
    let layer = pack_files(place, &format!("mark-{tag}-{mark}.tar"), &[("etc/mark", mark)]);
    image(place, tag, &[&base, &layer])
}

pub(crate) fn skopeo(args: &[&str]) -> Command {
    let mut command = Command::new("skopeo");
    // Without a runtime directory skopeo looks into root's.
    command.env("XDG_RUNTIME_DIR", fixture::home().join("run"));
    command.arg("--insecure-policy").args(args);
    command
}

/// Copies an image of a layout, or whatever else skopeo knows, to a registry that speaks plainly.
pub(crate) fn push(from: &str, to: &str) {
    let (from, to) = (format!("oci:{from}"), format!("docker://{to}"));
    tool(&mut skopeo(&["copy", "--quiet", "--dest-tls-verify=false", &from, &to]));
}
