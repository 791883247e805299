//! Disks that were damaged, on purpose or not: an error or something else than before, never a panic, a hang or a
//! great hunger for memory.

use std::sync::Arc;

use disk::span::Memory;
use disk::tree::{Wishes, find};

use super::scene::{NASTY, Scene};

/// Numbers that look random and are the same each time (xorshift).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }
}

/// Walks what can be walked; says whether that was all.
fn read(bytes: Vec<u8>) -> bool {
    let walk = || -> anyhow::Result<()> {
        let disk = disk::image::open_bytes(Arc::new(Memory(bytes)))?;
        let mut tree = find(&[disk], &Wishes::default())?;
        let mut sum = 0;
        tree.walk(&mut |entry, content| {
            if entry.attributes.kind == disk::Kind::File && entry.same_as.is_none() {
                content(&mut |_, bytes| {
                    sum += bytes.len();
                    anyhow::ensure!(sum < 1 << 30, "too much");
                    Ok(())
                })?;
            }
            Ok(())
        })
    };
    walk().is_ok()
}

/// Damages what is not zero, a bit or some bytes at once; then cuts it short.
fn torture(image: &[u8], rounds: usize) {
    assert!(read(image.to_vec()), "it is damaged already");
    let used: Vec<usize> = (0..image.len()).filter(|at| image[*at] != 0).collect();
    let mut numbers = Numbers(0x2545_f491_4f6c_dd1d);
    let mut refused = 0;
    for round in 0..rounds {
        let mut bytes = image.to_vec();
        for _ in 0..1 + round % 4 {
            let at = used[numbers.next(used.len())];
            match round % 3 {
                0 => bytes[at] ^= 1 << numbers.next(8),
                1 => bytes[at..].iter_mut().take(4).for_each(|byte| *byte = 0xff),
                _ => bytes[at] = numbers.next(256) as u8,
            }
        }
        refused += usize::from(!read(bytes));
    }
    for _ in 0..rounds / 10 {
        read(image[..numbers.next(image.len())].to_vec());
    }
    println!("{refused} of {rounds} were refused");
    assert!(refused > 0, "no damage was seen");
}

#[test]
fn damaged_file_systems() {
    for options in ["-t ext4", "-t ext2 -b 1024", "-t ext4 -O inline_data -I 512"] {
        let scene = Scene::new();
        scene.sh(&format!("mkdir tree; set -- tree\n{NASTY}"));
        scene.sh(&format!("cd tree; chmod u+r empty; rm -r odd many/*[1-9]; cd ..; truncate -s 8M x; mkfs {options} -q -d tree x"));
        torture(&std::fs::read(scene.path("x")).unwrap(), 400);
    }
}

#[test]
fn damaged_images() {
    let scene = Scene::new();
    scene.sh(
        "mkdir -p tree/etc; echo ID=x >tree/etc/os-release; truncate -s 2M fs; mkfs.ext2 -q -b 1024 -d tree fs
        truncate -s 4M raw; printf 'start=2048,type=5\\nstart=3072\\n' | sfdisk -q raw; truncate -s 8M raw; dd if=fs of=raw bs=512 seek=3072 conv=notrunc status=none",
    );
    for format in [
        "raw",
        "qcow2",
        "qcow2 -c",
        "qcow2 -o extended_l2=on",
        "vmdk",
        "vmdk -o subformat=streamOptimized",
        "vpc",
        "vhdx",
        "vdi",
    ] {
        println!("{format}");
        scene.sh(&format!("qemu-img convert -f raw -O {format} raw x"));
        torture(&std::fs::read(scene.path("x")).unwrap(), 150);
    }
}
