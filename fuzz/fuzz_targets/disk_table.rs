//! Partition tables: GPT, MBR and LVM, and the tree that is found by them.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let disks = [postroj_fuzz::blocks(data)];
    let Ok(found) = disk::table::partitions(&disks[0]) else { return };
    let _ = disk::table::lvm::read(&found);
    if let Ok(tree) = disk::tree::find(&disks, &Default::default()) {
        postroj_fuzz::walk(tree);
    }
});
