//! ext2, ext3 and ext4, journals among them.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| postroj_fuzz::volume(data, "ext4"));
