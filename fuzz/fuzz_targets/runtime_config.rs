//! Configurations of OCI containers: what is accepted survives being written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spec::runtime::Config;

fuzz_target!(|bytes: &[u8]| {
    let Ok(config) = Config::parse(bytes) else { return };
    let written = serde_json::to_vec(&config).expect("a configuration can be written");
    let again = Config::parse(&written).expect("and read again");
    assert_eq!(again, config);
});
