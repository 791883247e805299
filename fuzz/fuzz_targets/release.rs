//! Release files of an archive.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postroj_fuzz::bootstrap::release;

/// Some day in 2023.
const NOW: u64 = 1_700_000_000;

fuzz_target!(|bytes: &[u8]| {
    let Ok(release) = release::parse(bytes) else { return };
    let suite = release.suite.as_deref();
    for check_valid_until in [true, false] {
        if release.check(suite, NOW, check_valid_until).is_ok() {
            assert!(release.date <= NOW + 86_400);
            assert!(!check_valid_until || release.valid_until.is_none_or(|until| until >= NOW));
        }
    }
    if let Some(listed) = release.file("main/binary-amd64/Packages.xz") {
        assert!(release::is_sha256(&listed.sha256));
    }
});
