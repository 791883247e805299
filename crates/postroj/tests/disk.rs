//! Images of disks, boxes of Vagrant and appliances as images of systems.

mod fixture;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;

use fixture::{Own, busybox, fails, is_root, out};

/// Runs a script among one's own files; panics with what it said where it fails.
fn script(own: &Own, script: &str) -> String {
    let output = Command::new("bash")
        .args(["-euc", script])
        .current_dir(own.path(""))
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}\n{stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A disk, `raw`, with a GPT: an ESP, and a root with `marker` that mounts it.
fn disk(own: &Own, marker: &str) {
    let root = own.path("root");
    if !root.exists() {
        busybox(&root);
    }
    std::fs::write(root.join("etc/marker"), marker).unwrap();
    script(
        own,
        "mkdir -p root/boot/efi; printf 'LABEL=root / ext4 defaults 0 1\nUUID=ABCD-1234 /boot/efi vfat umask=0077\n' >root/etc/fstab
        rm -f raw; truncate -s 64M raw; sgdisk -n1:2048:+8M -t1:ef00 -n2:0:+48M -t2:8304 raw >/dev/null
        truncate -s 8M esp; mkfs.vfat -i abcd1234 esp >/dev/null; echo efi | mcopy -i esp - ::/file.txt
        truncate -s 48M fs; mkfs.ext4 -q -L root -d root fs
        dd if=esp of=raw bs=1M seek=1 conv=notrunc status=none; dd if=fs of=raw bs=1M seek=9 conv=notrunc,sparse status=none; rm esp fs",
    );
}

const SEE: &str = "cat /etc/marker /boot/efi/file.txt";

#[test]
fn images_of_disks() {
    let own = Own::new("disks");
    disk(&own, "one ");
    script(
        &own,
        "for f in qcow2 vmdk vpc vhdx vdi; do qemu-img convert -O $f raw x.$f; done; xz -0 -k raw; zstd -q raw; gzip -1 -k raw",
    );
    for name in
        ["raw", "x.qcow2", "x.vmdk", "x.vpc", "x.vhdx", "x.vdi", "raw.xz", "raw.zst", "raw.gz"]
    {
        let path = own.path(name);
        let image = format!("disk:{}", path.display());
        let path = path.to_str().unwrap();
        // A bare path is told by its content.
        assert_eq!(own.pull(path), format!("Status: Downloaded image for {image}"));
        assert_eq!(out(&mut own.sh(path, SEE)), "one efi", "{name}");
        assert_eq!(own.pull(&image), format!("Status: Image is up to date for {image}"));
        assert_eq!(out(&mut own.postroj(&["rmi", &image])).lines().count(), 2);
    }
    // What changes is seen, also by `run`.
    let path = own.path("x.qcow2");
    let path = path.to_str().unwrap();
    assert_eq!(out(&mut own.sh(path, SEE)), "one efi");
    disk(&own, "two ");
    script(&own, "qemu-img convert -O qcow2 raw x.qcow2");
    assert_eq!(out(&mut own.sh(path, SEE)), "two efi");
    let inspected = own.json(&["inspect", &format!("disk:{path}")]);
    assert!(inspected[0].to_string().contains("files:"), "{inspected}");
    own.is_sound();
}

#[test]
fn what_is_on_a_disk_is_exact() {
    let own = Own::new("exact");
    busybox(&own.path("root"));
    script(
        &own,
        "cd root; ln etc/passwd etc/same; truncate -s 8M sparse; printf x | dd of=sparse bs=1 seek=5000000 conv=notrunc status=none
        touch -d '2001-02-03 04:05:06.789 UTC' etc/old; chmod 4755 etc/old; setfattr -n user.x -v y etc/old; mkfifo fifo; cd ..
        truncate -s 40M fs; mkfs.ext4 -q -d root fs
        debugfs -w -R 'set_inode_field /etc/old uid 1234' fs 2>/dev/null; debugfs -w -R 'set_inode_field /etc/old gid 5678' fs 2>/dev/null
        debugfs -w -R 'set_inode_field /etc/old mtime_extra 0xbc1d3f00' fs 2>/dev/null; debugfs -w -R 'ea_set /etc/old security.capability -f /dev/stdin' fs 2>/dev/null < <(printf '\\1\\0\\0\\2\\0\\40\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0')",
    );
    let path = own.path("fs");
    let seen = own.sh(
        path.to_str().unwrap(),
        "stat -c '%u:%g %a %h %s' /etc/old /etc/same /sparse; stat -c %F /fifo; echo $(stat -c %b /sparse); find /etc/old -newermt '2001-02-03 04:05:06' 2>/dev/null || true",
    );
    let text = out(&mut { seen });
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("1234:5678 4755 1 0"), "{text}");
    assert!(
        lines[1].contains(" 2 ") && lines[2].contains("8388608") && lines[3] == "fifo",
        "{text}"
    );
    assert!(lines[4].parse::<u64>().unwrap() < 100, "it has no holes: {text}");
}

#[test]
fn which_partition() {
    let own = Own::new("partition");
    disk(&own, "first ");
    script(
        &own,
        "truncate -s 120M raw; sgdisk -e -t2:8300 -n3:0:+48M -c3:other raw >/dev/null; echo 'second ' >root/etc/marker; rm root/etc/fstab
        truncate -s 48M fs; mkfs.ext4 -q -d root fs; dd if=fs of=raw bs=1M seek=57 conv=notrunc,sparse status=none",
    );
    let path = own.path("raw");
    let path = path.to_str().unwrap();
    let which = ["which partition is the root? Choose by --partition one of 2 (ext4", "3 (ext4"];
    fails(&mut own.postroj(&["pull", path]), 125, &which);
    out(&mut own.postroj(&["pull", "--partition", "other", path]));
    assert_eq!(out(&mut own.sh(path, "cat /etc/marker")).trim(), "second");
    assert_eq!(
        out(&mut own.sh(&format!("disk:{path}?partition=2"), "cat /etc/marker")).trim(),
        "first"
    );
    fails(
        &mut own.postroj(&["pull", &format!("disk:{path}?partition=7")]),
        125,
        &["partition \"7\""],
    );
    own.is_sound();
}

/// A box of each of Vagrant's providers, as they are packed.
const BOXES: &str = r#"
qemu-img convert -O qcow2 raw box.img; qemu-img convert -O vmdk -o subformat=streamOptimized raw box-disk001.vmdk; qemu-img convert -O vhdx raw d.vhdx
qemu-img convert -O vmdk -o subformat=twoGbMaxExtentSparse raw disk.vmdk
echo '{"provider":"libvirt","format":"qcow2","virtual_size":1}' >metadata.json; echo 'Vagrant.configure("2") {}' >Vagrantfile
tar czf libvirt.box metadata.json Vagrantfile box.img
cp box.img box_0.img; qemu-img create -q -f qcow2 box_1.img 10M; echo '{"provider":"libvirt","disks":[{"path":"box_0.img","format":"qcow2"},{"path":"box_1.img"}]}' >metadata.json
tar cf disks.box ./box_1.img ./metadata.json ./box_0.img
echo '{"provider":"virtualbox"}' >metadata.json; echo '<Envelope><References><File ovf:href="box-disk001.vmdk" ovf:id="f"/></References></Envelope>' >box.ovf
tar czf virtualbox.box ./Vagrantfile ./box.ovf ./box-disk001.vmdk ./metadata.json
tar cf appliance.ova box.ovf box-disk001.vmdk
echo '{"provider":"vmware_desktop"}' >metadata.json; echo 'scsi0:0.fileName = "disk.vmdk"' >box.vmx; tar czf vmware.box metadata.json box.vmx disk*.vmdk
echo '{"provider":"hyperv"}' >metadata.json; mkdir -p 'Virtual Hard Disks' 'Virtual Machines'; mv d.vhdx 'Virtual Hard Disks'; echo x >'Virtual Machines/x.xml'
tar czf hyperv.box metadata.json Virtual*
echo '{"provider":"lxc","version":"1.0.0"}' >metadata.json; mkdir -p root/boot/efi; echo efi >root/boot/efi/file.txt; tar czf rootfs.tar.gz -C root .; touch lxc-config
tar czf lxc.box metadata.json lxc-config rootfs.tar.gz
ln -sf /etc/passwd box.img; echo '{"provider":"libvirt"}' >metadata.json; tar czf thief.box metadata.json box.img
printf '{"disks":[{"path":"../../../../etc/passwd"}]}' >metadata.json; tar czf outside.box metadata.json box_1.img
"#;

#[test]
fn boxes_and_appliances() {
    let own = Own::new("boxes");
    disk(&own, "boxed ");
    script(&own, BOXES);
    for name in [
        "libvirt.box",
        "disks.box",
        "virtualbox.box",
        "appliance.ova",
        "vmware.box",
        "hyperv.box",
        "lxc.box",
    ] {
        let path = own.path(name);
        assert_eq!(out(&mut own.sh(path.to_str().unwrap(), SEE)), "boxed efi", "{name}");
    }
    for (name, why) in [
        ("thief.box", "box.img is neither a file nor a directory"),
        ("outside.box", "which it does not hold"),
    ] {
        fails(&mut own.postroj(&["pull", own.path(name).to_str().unwrap()]), 125, &[why]);
    }
    own.is_sound();
}

/// Answers with the files in a directory until the test ends.
fn serve(own: &Own) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let root = own.path("");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n > 0) {
                request.push(byte[0]);
            }
            let request = String::from_utf8_lossy(&request).into_owned();
            let path = request.split_whitespace().nth(1).unwrap_or("/").trim_start_matches('/');
            let (status, body) = match std::fs::read(root.join(path)) {
                Ok(body) => ("200 OK", body),
                Err(_) => ("404 Not Found", Vec::new()),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
        }
    });
    address
}

#[test]
fn disks_at_addresses() {
    let own = Own::new("addresses");
    disk(&own, "far ");
    script(
        &own,
        "xz -0 -k raw; qemu-img convert -O qcow2 -c raw x.qcow2; sha256sum raw.xz x.qcow2 >SHA256SUMS",
    );
    let address = serve(&own);
    for name in ["raw.xz", "x.qcow2"] {
        let image = format!("{address}/{name}");
        assert_eq!(own.pull(&image), format!("Status: Downloaded image for {image}"));
        assert_eq!(out(&mut own.sh(&image, SEE)), "far efi");
        assert_eq!(own.pull(&image), format!("Status: Image is up to date for {image}"));
    }
    script(&own, "printf x >>x.qcow2");
    let image = format!("{address}/x.qcow2");
    fails(&mut own.postroj(&["pull", "--force", &image]), 125, &["its digest is sha256:"]);
    own.is_sound();
}

#[test]
fn boxes_of_a_catalog() {
    let own = Own::new("catalog");
    disk(&own, "from a catalog ");
    script(&own, BOXES);
    let address = serve(&own);
    let sum = script(&own, "sha256sum libvirt.box | cut -d' ' -f1");
    let catalog = format!(
        r#"{{"name":"some/box","versions":[{{"version":"1.2.0","status":"active","providers":[
        {{"name":"virtualbox","url":"{address}/virtualbox.box"}},
        {{"name":"libvirt","url":"{address}/libvirt.box","checksum_type":"sha256","checksum":"{sum}"}}]}},
        {{"version":"1.1.0","providers":[{{"name":"libvirt","url":"{address}/libvirt.box","checksum_type":"sha256","checksum":"{bad}"}}]}}]}}"#,
        sum = sum.trim(),
        bad = "0".repeat(64),
    );
    std::fs::create_dir_all(own.path("catalog/some")).unwrap();
    std::fs::write(own.path("catalog/some/box"), catalog).unwrap();
    let mirror = format!("{address}/catalog");
    let pull = |image: &str| own.postroj(&["pull", "--mirror", &mirror, image]);
    out(&mut pull("vagrant:some/box"));
    let seen = own.postroj(&["run", "--pull=never", "vagrant:some/box", "sh", "-c", SEE]);
    assert_eq!(out(&mut { seen }), "from a catalog efi");
    assert!(out(&mut pull("vagrant:some/box")).contains("up to date"));
    fails(&mut pull("vagrant:some/box@1.1.0"), 125, &["its digest is sha256:"]);
    fails(&mut pull("vagrant:some/box@9"), 125, &["has no version 9; the newest are 1.2.0, 1.1.0"]);
    fails(&mut pull("vagrant:some/other"), 125, &["the catalog has no box \"some/other\""]);
    own.is_sound();
    println!("as {}", if is_root() { "root" } else { "an ordinary user" });
}
