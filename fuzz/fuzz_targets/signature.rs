//! OpenPGP keyrings and signatures: nothing passes but what the key's owner signed.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use postroj_fuzz::bootstrap::keyring::Keyring;

/// A key that signed one text, ever.
static TRUSTED: LazyLock<Keyring> =
    LazyLock::new(|| Keyring::parse(include_bytes!("../seeds/signature/key")).expect("a good key"));

/// That text.
const SIGNED: [&str; 2] = ["Suite: stable", "- dash"];

/// Long after it was signed.
const NOW: u64 = 2_000_000_000;

fuzz_target!(|bytes: &[u8]| {
    let _ = Keyring::parse(bytes);
    if let Ok(text) = TRUSTED.verify_clearsigned(bytes, NOW) {
        let text = String::from_utf8(text).expect("a text");
        // Blanks at the ends of lines are not signed (RFC 9580 section 7.2).
        let lines: Vec<&str> = text.trim_end().lines().map(str::trim_end).collect();
        assert_eq!(lines, SIGNED);
    }
    if let Some((first, signature)) = bytes.split_first() {
        assert!(TRUSTED.verify_detached(&[*first], signature, NOW).is_err());
    }
});
