//! os-release(5): fields are named like shell variables and cannot command a terminal.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for (name, value) in distro::os_release::parse(bytes) {
        assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{name:?}");
        assert!(!value.contains(char::is_control), "{value:?}");
    }
});
