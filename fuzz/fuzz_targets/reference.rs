//! References: what is accepted means the same when it is read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spec::reference::Reference;

fuzz_target!(|text: &str| {
    let is_label = |label: &str| matches!(label, "debian-12" | "debian-bookworm");
    match Reference::parse(text, is_label) {
        Ok(Reference::Registry(reference)) => {
            let full = reference.to_string();
            let again = Reference::parse(&full, is_label);
            assert_eq!(again, Ok(Reference::Registry(reference)), "{full:?}");
        }
        Ok(layout @ Reference::Layout(_)) => {
            assert_eq!(Reference::parse(&layout.to_string(), is_label), Ok(layout));
        }
        Ok(_) => {}
        Err(error) => assert!(error.to_string().len() < 64 << 10),
    }
});
