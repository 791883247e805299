//! Images of every file system that is read: nothing panics, goes on for ever, or takes all memory.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use postroj_fuzz::image::{Owned, walk};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(mut volume) = disk::volume::open(Arc::new(Owned(bytes.to_vec()))) {
        walk(&mut *volume);
    }
});
