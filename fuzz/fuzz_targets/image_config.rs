//! Configurations of images, and the times in them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spec::oci::{ImageConfig, rfc3339, seconds};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(config) = ImageConfig::parse(bytes) {
        let written = serde_json::to_vec(&config).expect("a configuration can be written");
        assert_eq!(ImageConfig::parse(&written), Ok(config));
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Some(time) = seconds(text)
        && time < 253_402_300_800
    {
        assert_eq!(seconds(&rfc3339(time)), Some(time), "{text:?}");
    }
});
