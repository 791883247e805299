//! Images in files, as skopeo writes them.

use std::process::Command;

use crate::fixture::{fails, out};
use crate::images::{self, skopeo, small};
use crate::place::{Place, tool};

#[test]
fn layouts_and_archives_of_other_tools_are_images() {
    let place = Place::new();
    let layout = small(&place, "t", "kept");
    let from = format!("oci:{layout}");
    let (oci, docker) = (place.text("oci.tar"), place.text("docker.tar"));
    tool(&mut skopeo(&["copy", "--quiet", &from, &format!("oci-archive:{oci}:some")]));
    tool(&mut skopeo(&[
        "copy",
        "--quiet",
        &from,
        &format!("docker-archive:{docker}:localhost/x:1"),
    ]));
    for tar in [&oci, &docker] {
        tool(Command::new("gzip").args(["-k", tar]));
    }
    let directory = place.text("oci");
    for image in [
        format!("oci:{directory}:t"),
        format!("oci:{directory}"),
        directory.clone(),
        "./oci".into(),
        format!("oci-archive:{oci}"),
        format!("oci-archive:{oci}:some"),
        oci.clone(),
        format!("{oci}.gz"),
        format!("docker-archive:{docker}"),
        format!("docker-archive:{docker}:localhost/x:1"),
        docker.clone(),
        format!("{docker}.gz"),
    ] {
        let mark = out(&mut place.postroj(&["run", &image, "cat", "/etc/mark"]));
        assert_eq!(mark, "kept", "{image}");
        assert!(out(&mut place.postroj(&["pull", &image])).contains("up to date"), "{image}");
    }
    assert_eq!(place.stored("layers").len(), 2, "all of them are one image");
    // A root file system in an archive is still one.
    let plain = images::busybox(&place);
    assert_eq!(out(&mut place.postroj(&["run", &plain, "echo", "plain"])), "plain");

    small(&place, "second", "other");
    for (image, parts) in [
        (format!("oci:{directory}"), &["several images", "t, second"][..]),
        (format!("oci:{directory}:none"), &["no image \"none\"", "second"]),
        (format!("docker-archive:{docker}:y"), &["no image \"y\"", "localhost/x:1"]),
        (format!("docker-archive:{plain}"), &["no manifest.json"]),
        (format!("oci:{}", place.text("")), &["index.json"]),
        (format!("oci-archive:{}", place.text("none")), &["no such file"]),
    ] {
        fails(&mut place.postroj(&["pull", &image]), 125, parts);
    }
    assert_eq!(
        out(&mut place.postroj(&["run", &format!("oci:{directory}:second"), "cat", "/etc/mark"])),
        "other"
    );
}
