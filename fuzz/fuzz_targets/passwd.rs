//! passwd(5) and group(5), and the ELF header that facts are read from besides.
#![no_main]

use distro::{elf, users};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for user in users::parse_passwd(bytes) {
        assert!(!user.name.is_empty() && !user.name.contains([':', '\n', '/']));
        assert!(user.uid != u32::MAX && user.gid != u32::MAX);
        assert!(!user.home.contains(char::is_control));
    }
    for group in users::parse_group(bytes) {
        assert!(!group.name.is_empty() && group.gid != u32::MAX);
        assert!(group.members.iter().all(|name| !name.is_empty() && !name.contains([',', ':'])));
    }
    let _ = elf::architecture(bytes);
});
