//! Manifests and indexes: what is accepted keeps its promises, and means the same when it is written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spec::oci::{self, Document, sha256};
use spec::platform::Platform;

fuzz_target!(|bytes: &[u8]| {
    match oci::parse(bytes) {
        Ok(Document::Manifest(manifest)) => {
            for blob in manifest.layers.iter().chain([&manifest.config]) {
                assert!(sha256(&blob.digest).is_ok_and(|hex| hex.len() == 64));
            }
            assert!(manifest.layers.len() <= 500);
            let written = serde_json::to_vec(&manifest).expect("a manifest can be written");
            assert_eq!(oci::parse(&written), Ok(Document::Manifest(manifest)));
        }
        Ok(Document::Index(index)) => {
            for platform in ["linux/amd64", "linux/arm/v6", "linux/arm64/v8"] {
                let wanted = Platform::parse(platform).expect("a platform");
                match index.choose(&wanted) {
                    Ok(chosen) => assert!(index.manifests.contains(chosen)),
                    Err(why) => assert!(why.len() < bytes.len() * 4 + 4096),
                }
            }
            let written = serde_json::to_vec(&index).expect("an index can be written");
            assert_eq!(oci::parse(&written), Ok(Document::Index(index)));
        }
        Err(why) => assert!(!why.is_empty()),
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(platform) = Platform::parse(text)
    {
        assert_eq!(Platform::parse(&platform.to_string()), Ok(platform));
    }
});
