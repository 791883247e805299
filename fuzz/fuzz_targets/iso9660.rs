//! ISO 9660 with Rock Ridge, Joliet and zisofs.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| postroj_fuzz::volume(data, "iso9660"));
