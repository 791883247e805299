//! vfat.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| postroj_fuzz::volume(data, "vfat"));
