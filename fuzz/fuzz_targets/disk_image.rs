//! Images of disks: qcow2, VMDK, VHD, VHDX and VDI.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(disk) = disk::image::open_bytes(postroj_fuzz::blocks(data)) else { return };
    let mut buffer = vec![0; 100_000];
    // From both ends, and beyond.
    for step in 0..8 {
        let length = disk.size().min(buffer.len() as u64);
        for at in [step * 99_999, disk.size().saturating_sub(step * 99_999 + length)] {
            let hole = disk.is_hole(at, length);
            let read = disk.read_at(at, &mut buffer[..length as usize]);
            assert!(!hole || read.is_err() || buffer[..length as usize].iter().all(|&b| b == 0));
        }
    }
    assert!(disk.read_at(disk.size(), &mut [0]).is_err());
});
