//! Packages files of an archive.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postroj_fuzz::bootstrap::{packages, relation};

fuzz_target!(|bytes: &[u8]| {
    for entry in packages::parse(bytes).unwrap_or_default() {
        assert!(relation::is_package_name(entry.name), "{:?}", entry.name);
        assert!(packages::is_architecture(entry.architecture));
        for name in ["Depends", "Pre-Depends", "Conflicts"] {
            let _ = entry.field(name).map(relation::parse);
        }
        if let Ok(download) = entry.download() {
            let mut parts = download.filename.split('/');
            assert!(parts.all(|part| !matches!(part, "" | "..")), "{:?}", download.filename);
            assert_eq!(download.sha256.len(), 64);
        }
    }
});
