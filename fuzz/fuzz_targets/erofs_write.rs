//! Trees, written as EROFS and read again: they are the same.
#![no_main]

use std::sync::Arc;

use disk::Blocks;
use libfuzzer_sys::fuzz_target;
use postroj_fuzz::image::{Memory, same};

struct Written(std::fs::File);

impl Blocks for Written {
    fn size(&self) -> u64 {
        self.0.metadata().unwrap().len()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> anyhow::Result<()> {
        Ok(std::os::unix::fs::FileExt::read_exact_at(&self.0, buffer, offset)?)
    }
}

fuzz_target!(|bytes: &[u8]| {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let file = std::fs::File::from(rustix::fs::memfd_create("image", flags).unwrap());
    let mut tree = Memory::new(bytes);
    disk::make::erofs::write(&mut tree, &file).unwrap();
    let mut volume = disk::volume::open(Arc::new(Written(file))).unwrap();
    same(&mut tree, &mut *volume).unwrap();
});
