//! What registries ask for: any text ends, and gives only what was in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postroj_fuzz::challenge;

fuzz_target!(|text: &str| {
    for challenge in challenge::parse(text) {
        assert!(!challenge.scheme.is_empty() && challenge.scheme.is_ascii());
        let mut written = format!("{} ", challenge.scheme);
        for (name, value) in &challenge.parameters {
            assert!(challenge.get(name).is_some());
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            written += &format!("{name}=\"{quoted}\", ");
        }
        assert_eq!(challenge::parse(&written), [challenge], "{written:?}");
    }
});
