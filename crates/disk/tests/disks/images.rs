//! Every format of images, as qemu-img makes them.

use std::fs;

use disk::Blocks;
use disk::image::{Options, open};

use super::scene::Scene;

/// Content with holes, zeros that were written, and much that compresses.
const CONTENT: &str = "truncate -s 40M raw; head -c 3000000 /dev/urandom | dd of=raw conv=notrunc status=none; \
    yes postroj | head -c 5000000 | dd of=raw bs=1 seek=10000000 oflag=seek_bytes conv=notrunc status=none bs=64K; \
    head -c 1000000 /dev/zero | dd of=raw bs=64K seek=20000000 oflag=seek_bytes conv=notrunc status=none; \
    head -c 512 /dev/urandom | dd of=raw bs=512 seek=41942528 oflag=seek_bytes conv=notrunc status=none";

/// Everything of it, in odd pieces.
fn read(blocks: &dyn Blocks) -> Vec<u8> {
    let mut all = vec![0; blocks.size() as usize];
    let mut at = 0;
    for (piece, length) in all.chunks_mut(777_777).zip(std::iter::repeat(777_777)) {
        blocks.read_at(at, piece).unwrap();
        if blocks.is_hole(at, piece.len() as u64) {
            assert!(piece.iter().all(|&byte| byte == 0), "no hole at {at}");
        }
        at += length;
    }
    all
}

fn same(scene: &Scene, name: &str, expected: &[u8], format: &str) {
    let disk = open(&scene.path(name), &Options::default()).unwrap();
    assert_eq!(disk.format, format, "{name}");
    let found = read(&*disk.blocks);
    // Some formats round the size up.
    assert!(found.len() >= expected.len() && found.len() < expected.len() + (8 << 20), "{name}");
    assert!(found[..expected.len()] == *expected, "{name} has another content");
    assert!(found[expected.len()..].iter().all(|&byte| byte == 0), "{name}");
    assert!(disk.blocks.read_at(found.len() as u64, &mut [0]).is_err());
}

#[test]
fn each_format() {
    let scene = Scene::new();
    scene.sh(CONTENT);
    let expected = fs::read(scene.path("raw")).unwrap();
    for (format, options) in [
        ("raw", ""),
        ("qcow2", "-o compat=0.10"),
        ("qcow2", "-o compat=1.1"),
        ("qcow2", "-o cluster_size=512"),
        ("qcow2", "-o cluster_size=2M"),
        ("qcow2", "-c"),
        ("qcow2", "-c -o compression_type=zstd"),
        ("qcow2", "-c -o cluster_size=4k,compat=0.10"),
        ("qcow2", "-o extended_l2=on,cluster_size=128k"),
        ("qcow2", "-o lazy_refcounts=on,preallocation=metadata"),
        ("vmdk", "-o subformat=monolithicSparse"),
        ("vmdk", "-o subformat=monolithicFlat"),
        ("vmdk", "-o subformat=twoGbMaxExtentSparse"),
        ("vmdk", "-o subformat=twoGbMaxExtentFlat"),
        ("vmdk", "-o subformat=streamOptimized"),
        ("vmdk", "-o zeroed_grain=on"),
        ("vpc", "-o subformat=dynamic,force_size=on"),
        ("vpc", "-o subformat=fixed,force_size=on"),
        ("vhdx", "-o subformat=dynamic"),
        ("vhdx", "-o subformat=fixed"),
        ("vhdx", "-o subformat=dynamic,block_size=1M"),
        ("vdi", "-o static=off"),
        ("vdi", "-o static=on"),
    ] {
        scene.sh(&format!("qemu-img convert -f raw -O {format} {options} raw image"));
        let name = format!("{format} {options}");
        println!("{name}");
        same(&scene, "image", &expected, format);
        scene.sh("rm -f image*");
    }
}

#[test]
fn images_on_images() {
    let scene = Scene::new();
    scene.sh(CONTENT);
    scene.sh(
        "qemu-img convert -O qcow2 -c raw base; qemu-img create -q -f qcow2 -b base -F qcow2 middle 41M
        qemu-io -f qcow2 -c 'write -P 7 1000000 300000' -c 'write -z 12M 1M' -c 'write -P 9 42900000 20000' middle >/dev/null
        qemu-img create -q -f qcow2 -b middle -F qcow2 -o extended_l2=on top; qemu-io -f qcow2 -c 'write -P 3 10240000 4096' top >/dev/null
        qemu-img convert -O raw top expected",
    );
    let expected = fs::read(scene.path("expected")).unwrap();
    same(&scene, "top", &expected, "qcow2");
    let disk = open(&scene.path("top"), &Options::default()).unwrap();
    assert_eq!(
        disk.files.iter().map(|f| &f.name[..]).collect::<Vec<_>>(),
        ["top", "middle", "base"]
    );
}

#[test]
fn snapshots() {
    let scene = Scene::new();
    scene.sh(CONTENT);
    scene.sh(
        "qemu-img convert -O qcow2 raw x; qemu-img snapshot -c 'first one' x
        qemu-io -f qcow2 -c 'write -P 7 0 20M' x >/dev/null; qemu-img snapshot -c second x; qemu-img resize -q x 50M
        qemu-io -f qcow2 -c 'write -P 8 0 5M' x >/dev/null; qemu-img convert -O raw -l second x second",
    );
    let of = |name: &str| {
        let options = Options { snapshot: Some(name.into()), ..Options::default() };
        open(&scene.path("x"), &options).map(|disk| read(&*disk.blocks))
    };
    let raw = fs::read(scene.path("raw")).unwrap();
    assert!(of("first one").unwrap() == raw && of("1").unwrap() == raw);
    assert!(of("second").unwrap()[..] == fs::read(scene.path("second")).unwrap()[..40 << 20]);
    let error = format!("{:#}", of("third").err().unwrap());
    assert!(
        error.ends_with("it has no snapshot \"third\"; there are first one, second"),
        "{error}"
    );
}

#[test]
fn what_is_refused_is_named() {
    let scene = Scene::new();
    scene.sh(
        "truncate -s 1M raw; mkdir sub; cp raw sub/base; ln -s sub/base link; mkfifo fifo
        for kind in luks aes; do # LUKS measures the processor first, which fails where that is busy.
        qemu-img create -q -f qcow2 --object secret,id=s,data=x -o encrypt.format=$kind,encrypt.key-secret=s encrypted 1M && break
        done
        qemu-img create -q -f qcow2 -o data_file=raw.data data 1M
        qemu-img create -q -f qcow2 -b sub/base -F raw elsewhere; qemu-img create -q -f qcow2 -b link -F raw linked
        qemu-img create -q -f qcow2 -u -b fifo -F raw hanging 1M; qemu-img create -q -f qcow2 -u -b gone -F raw lost 1M
        qemu-img create -q -f qcow2 -u -b loop2 -F qcow2 loop1 1M; qemu-img create -q -f qcow2 -u -b loop1 -F qcow2 loop2 1M
        qemu-img create -q -f qcow2 -u -b /etc/passwd -F raw thief 1M
        qemu-img convert -O vmdk -o subformat=monolithicFlat raw flat.vmdk; sed 's/flat-flat.vmdk/..\\/passwd/' flat.vmdk >thief.vmdk
        qemu-img create -q -f vmdk -b flat.vmdk -F vmdk delta.vmdk",
    );
    for (name, expected) in [
        ("encrypted", "it is encrypted: decrypt it with qemu-img convert"),
        ("data", "its data is in another file: join them with qemu-img convert"),
        ("elsewhere", "which is not beside it"),
        ("thief", "which is not beside it"),
        ("linked", "link: Too many levels of symbolic links"),
        ("hanging", "it is no regular file"),
        ("lost", "gone: No such file or directory"),
        ("loop1", "more than 32 images stand on each other"),
        ("thief.vmdk", "which is not beside it"),
        ("delta.vmdk", "it holds only what differs from another"),
        ("fifo", "it is no regular file"),
    ] {
        let error = open(&scene.path(name), &Options::default()).err().expect(name);
        assert!(format!("{error:#}").contains(expected), "{name}: {error:#}");
    }
    let anywhere = Options { anywhere: true, ..Options::default() };
    assert_eq!(open(&scene.path("elsewhere"), &anywhere).unwrap().blocks.size(), 1 << 20);
}
