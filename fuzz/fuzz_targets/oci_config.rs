//! OCI image configurations: what is accepted survives being written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spec::image::Config;

fuzz_target!(|bytes: &[u8]| {
    let Ok(config) = serde_json::from_slice::<Config>(bytes) else { return };
    let written = serde_json::to_vec(&config).expect("a configuration can be written");
    let again: Config = serde_json::from_slice(&written).expect("and read again");
    assert_eq!(again, config);
});
