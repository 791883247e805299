//! What of the host a machine gets for the containers that are made in it.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use spec::request::Nested;

/// File systems of programs, and tunnels of networks: both are confined to the namespaces of who
/// opens them.
const DEVICES: [&str; 2] = ["fuse", "net/tun"];

/// With those devices that this host has, and lets everybody open: whoever opens them inside is
/// nobody in particular outside.
pub fn nested() -> Nested {
    let is_open = |name: &&&str| {
        let node = std::fs::metadata(Path::new("/dev").join(name));
        node.is_ok_and(|node| node.file_type().is_char_device() && node.mode() & 0o006 == 0o006)
    };
    Nested { devices: DEVICES.iter().filter(is_open).map(|name| (*name).to_owned()).collect() }
}
