//! Writes `fuzz/seeds`: small inputs from which fuzzing starts.
//! Run by `cargo run --manifest-path fuzz/Cargo.toml --example seeds` after a change here.

use std::fs;
use std::io::Write;
use std::path::Path;

use tar::{Builder, EntryType, Header};

fn main() -> std::io::Result<()> {
    for (target, seeds) in [
        ("reference", references()),
        ("oci_config", oci_configs()),
        ("manifest", manifests()),
        ("image_config", image_configs()),
        ("challenge", challenges()),
        ("os_release", os_releases()),
        ("passwd", databases()),
        ("deb822", deb822()),
        ("release", releases()),
        ("packages", packages()),
        ("signature", signatures()),
        ("tar", tars()?),
        ("deb", debs()?),
        ("bus", buses()),
        ("runtime_config", runtime_configs()),
        ("volume", volumes()?),
        ("erofs_write", trees()),
    ] {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
        fs::create_dir_all(&dir)?;
        for (name, content) in seeds {
            fs::write(dir.join(name), content)?;
        }
    }
    Ok(())
}

type Seeds = Vec<(String, Vec<u8>)>;

/// Small file systems of each kind, by their own tools, in the form of `image::Sparse`.
fn volumes() -> std::io::Result<Seeds> {
    let root = std::env::temp_dir().join(format!("postroj-seeds-{}", std::process::id()));
    let (tree, image) = (root.join("tree"), root.join("image"));
    fs::create_dir_all(tree.join("directory"))?;
    fs::write(tree.join("directory/small"), "content")?;
    fs::write(tree.join("text"), "a line of text\n".repeat(600))?;
    fs::hard_link(tree.join("text"), tree.join("again"))?;
    std::os::unix::fs::symlink("text", tree.join("link"))?;
    let prototype = "/dev/null\n0 0\nd--755 0 0\nlink l--777 0 0 text\nbelow d--700 0 0\nfifo p--600 0 0\n$\n$\n";
    fs::write(root.join("prototype"), prototype)?;
    let (t, i, p) = (tree.display(), image.display(), root.join("prototype").display().to_string());
    let mut seeds = Vec::new();
    for (name, size, command) in [
        ("squashfs", 0, format!("mksquashfs {t} {i} -noappend -quiet -no-progress -noI -noX")),
        (
            "squashfs-zstd",
            0,
            format!("mksquashfs {t} {i} -noappend -quiet -no-progress -comp zstd"),
        ),
        ("erofs", 0, format!("mkfs.erofs --quiet {i} {t}")),
        ("erofs-lz4", 0, format!("mkfs.erofs --quiet -zlz4hc {i} {t}")),
        ("btrfs", 128, format!("mkfs.btrfs -q -f -m single -n 4096 --rootdir {t} {i}")),
        ("xfs", 300, format!("mkfs.xfs -q -f -p {p} {i}")),
        ("xfs-4", 300, format!("mkfs.xfs -q -f -m crc=0 -p {p} {i}")),
    ] {
        fs::File::create(&image)?.set_len(size << 20)?;
        let command = format!("PATH=$PATH:/usr/sbin; {command}");
        assert!(std::process::Command::new("sh").args(["-c", &command]).status()?.success());
        let bytes = fs::read(&image)?;
        let mut seed = Vec::new();
        for (number, block) in bytes.chunks(4096).enumerate() {
            // What there is of it ends with its last byte that is not zero.
            if let Some(last) = block.iter().rposition(|&byte| byte != 0) {
                let sectors = last / 512 + 1;
                seed.extend((number as u32 * 8).to_le_bytes());
                seed.extend((sectors as u16).to_le_bytes());
                seed.extend_from_slice(&block[..block.len().min(sectors * 512)]);
            }
        }
        seeds.push((name.into(), seed));
    }
    fs::remove_dir_all(root)?;
    Ok(seeds)
}

/// Bytes that become nodes of every kind.
fn trees() -> Seeds {
    let bytes = |seed: u32| (0..4000_u32).map(|n| (n.wrapping_mul(seed) >> 7) as u8 | 1).collect();
    [3, 2_654_435_761, 77_777].iter().map(|&seed| (format!("{seed}"), bytes(seed))).collect()
}

fn texts(texts: &[&str]) -> Seeds {
    texts.iter().enumerate().map(|(n, text)| (format!("{n:02}"), text.as_bytes().into())).collect()
}

/// Nearly every property of a container's configuration.
fn runtime_configs() -> Seeds {
    texts(&[
        r#"{"ociVersion":"1.0.2","process":{"user":{"uid":1,"gid":2,"umask":18,"additionalGids":[3]},"args":["a"],"cwd":"/","rlimits":[{"type":"RLIMIT_CORE","soft":18446744073709551615,"hard":1}],"scheduler":{"policy":"SCHED_FIFO","priority":3},"ioPriority":{"class":"IOPRIO_CLASS_BE","priority":4}},"root":{"path":"r"},"hooks":{"prestart":[{"path":"/h","timeout":3}],"poststop":null},"linux":{"uidMappings":[{"containerID":0,"hostID":1,"size":2}],"timeOffsets":{"boottime":{"secs":-1,"nanosecs":5}},"devices":[{"path":"/dev/x","type":"c","major":1,"minor":2,"fileMode":438}],"resources":{"memory":{"limit":-1,"disableOOMKiller":true},"cpu":{"shares":2},"blockIO":{"weight":10,"throttleReadIOPSDevice":[{"major":1,"minor":2,"rate":3}]},"hugepageLimits":[{"pageSize":"2MB","limit":1}],"network":{"classID":1},"rdma":{"m":{"hcaHandles":1}},"unified":{"pids.max":"3"}},"seccomp":{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"syscalls":[{"names":["clone"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":2114060288,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"}]}]},"personality":{"domain":"LINUX32"},"intelRdt":{"closID":"x"}}}"#,
    ])
}

/// An answer with a state, a signal before it, and an empty list of units.
fn buses() -> Seeds {
    let message = |kind: u8, serial: u8, body: &[u8]| {
        let length = body.len() as u8;
        let head = [b'l', kind, 0, 1, length, 0, 0, 0, 9, 0, 0, 0, 8, 0, 0, 0];
        [&head[..], &[5, 1, b'u', 0, serial, 0, 0, 0], body].concat()
    };
    let state = b"\x01s\0\0\x07\0\0\0running\0";
    let all =
        [b"OK 0123\r\n".to_vec(), message(4, 0, b""), message(2, 1, state), message(2, 2, &[0; 8])];
    vec![("00".into(), all.concat())]
}

fn references() -> Seeds {
    let digest = format!("[::1]:5000/a/b@sha256:{}", "0123456789abcdef".repeat(4));
    texts(&[
        "debian-12",
        "os:debian-bookworm",
        "host",
        "./x.tar.xz",
        "tar:/srv/x.tar",
        "dir:/srv/root",
        "debian:12",
        "docker://registry.example.org:5000/library/a__b.c--d:tag_1.0-x",
        &digest,
    ])
}

fn oci_configs() -> Seeds {
    texts(&[
        r#"{"User":"www:100","Env":["PATH=/bin","A="],"Entrypoint":["/x"],"Cmd":null,"WorkingDir":"/srv"}"#,
        r#"{"StopSignal":"SIGRTMIN+3","Labels":{"a":"b"},"ExposedPorts":{"80/tcp":{}},"Volumes":null}"#,
        r#"{"Labels":null,"Env":null,"Other":[1.5e300,true,"\u0000\ud83d\ude00"],"Healthcheck":{"Test":["NONE"]}}"#,
    ])
}

fn manifests() -> Seeds {
    let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{digest}","size":2}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{digest}","size":3,"annotations":null}}]}}"#
    );
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.docker.distribution.manifest.v2+json","digest":"{digest}","size":3,"platform":{{"architecture":"arm","os":"linux","variant":"v7"}}}}]}}"#
    );
    texts(&[&manifest, &index, "linux/arm64/v8", r#"{"schemaVersion":1}"#])
}

fn image_configs() -> Seeds {
    let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
    let config = format!(
        r#"{{"created":"2024-02-29T23:59:59.5+01:00","architecture":"amd64","os":"linux","config":null,"rootfs":{{"type":"layers","diff_ids":["{digest}"]}},"history":[{{"created_by":"x","empty_layer":true}}]}}"#
    );
    texts(&[&config, "2025-08-09T09:16:30.123Z", "1970-01-01T00:00:00-05:00"])
}

fn challenges() -> Seeds {
    texts(&[
        r#"Bearer realm="https://a.example.org/token",service="r",scope="repository:a/b:pull,push""#,
        r#"Basic realm="a \"b\"", Negotiate, Digest qop=auth"#,
    ])
}

fn os_releases() -> Seeds {
    texts(&[
        "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_ID='12'\n# x\n",
        "A=\"\\$x \\`y\\` \\\\\"\nB=x\\ y'z'\"w\" # c\nC=\"open\nexport D=1\nA=2\r\n",
    ])
}

fn databases() -> Seeds {
    texts(&[
        "root:x:0:0:root:/root:/bin/bash\n_apt:x:42:65534::/nonexistent:/usr/sbin/nologin\n",
        "root:x:0:\nsudo:x:27:ann,bob\n+::::::\n#x:y:1:\nmax:x:4294967295:4294967294::/:\n",
        "\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0",
    ])
}

fn deb822() -> Seeds {
    texts(&[
        "1:1.0~rc1-1+b2\n1:1.0-1\n0:2\n\nPackage: a\nDepends: libc6 (>= 2.36), b:any | c (<< 1:2-3)\n",
        "Types: deb deb-src\nURIs: http://deb.example.org/debian\nSuites: bookworm\nComponents: main\n\
         Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n\n# a comment\nEnabled: no\n",
        "Date: Sat, 10 Feb 2024 11:07:25 UTC\nProvides: awk (= 1.3), mail-transport-agent\n",
    ])
}

fn releases() -> Seeds {
    let hex = "0123456789abcdef".repeat(4);
    texts(&[&format!(
        "Origin: Debian\nSuite: stable\nCodename: bookworm\nDate: Sat, 10 Feb 2024 11:07:25 UTC\n\
         Valid-Until: Sat, 17 Feb 2024 11:07:25 UTC\nAcquire-By-Hash: yes\nArchitectures: all amd64\n\
         Components: main contrib\nSHA256:\n {hex} 1234 main/binary-amd64/Packages.xz\n {hex} 5 x\n"
    )])
}

const CONTROL: &str = "Package: tiny\nVersion: 1:2.0-1\nArchitecture: amd64\nMulti-Arch: same\n\
    Maintainer: A <a@example.org>\nDepends: libc6 (>= 2.36)\nDescription: small\n very\n";

fn packages() -> Seeds {
    let hex = "0123456789abcdef".repeat(4);
    let index = format!(
        "Filename: pool/main/t/tiny_2.0-1_amd64.deb\nSize: 612\nSHA256: {hex}\n\n\
         Package: base\nEssential: yes\nPriority: required\nVersion: 1\nArchitecture: all\n\
         Pre-Depends: a | b (= 2) [amd64]\nProvides: awk (= 1), x\nConflicts: y (<< 3~)\n\n"
    );
    texts(&[&format!("{CONTROL}{index}")])
}

/// Made by GnuPG with a key that was thrown away.
const KEY: &str = "\
-----BEGIN PGP PUBLIC KEY BLOCK-----

mDMEawNkexYJKwYBBAHaRw8BAQdAeEjcv9UbWb769+g+7jrBj8AMJsJzjdw3XvRo
HaL6H4W0F2Z1enogPGZ1enpAZXhhbXBsZS5vcmc+iJAEExYIADgWIQS7BXmddUS/
QMOBJ2PUhPJQy4DiigUCawNkewIbAwULCQgHAgYVCgkICwIEFgIDAQIeAQIXgAAK
CRDUhPJQy4DiinzCAP9Nwit+QrmIlywDN1+L2rY5Hpa4VfqSzjmM7hemPt3GOwEA
z6RT7oCmkIhg4aNqNfrM95SCQw9Rgqf7gmSjztmsbg0=
=7WMC
-----END PGP PUBLIC KEY BLOCK-----
";

const SIGNED: &str = "\
-----BEGIN PGP SIGNED MESSAGE-----
Hash: SHA256

Suite: stable
- - dash
-----BEGIN PGP SIGNATURE-----

iHUEARYIAB0WIQS7BXmddUS/QMOBJ2PUhPJQy4DiigUCawNkewAKCRDUhPJQy4Di
inv6AQDvo/ArdNZMkbD5mzmau+SYsKxYql55WyaFcvYqYfGtigD+MAeAKjtFjQWw
zmDNjF2m6Uabu5x4BkGPCEUC/epDEA4=
=cWuL
-----END PGP SIGNATURE-----
";

/// Of the same text as [`SIGNED`].
const DETACHED: &str = "\
-----BEGIN PGP SIGNATURE-----

iHUEABYIAB0WIQS7BXmddUS/QMOBJ2PUhPJQy4DiigUCawNkewAKCRDUhPJQy4Di
ilwzAQD9bS660wJm5t5lOkUmPTkTOS+EKMLv1c8Ev7XckXfHsgD+I6LyVKfcPoj+
oeaBTEajiPiKxy2Gz+sgFW7fC5OGoww=
=WAed
-----END PGP SIGNATURE-----
";

fn signatures() -> Seeds {
    [("key", KEY.to_owned()), ("clear", SIGNED.to_owned()), ("detached", format!("x{DETACHED}"))]
        .map(|(name, text)| (name.to_owned(), text.into_bytes()))
        .into()
}

/// A name, its type, what it links to, its content.
type Member<'a> = (&'a str, EntryType, &'a str, &'a [u8]);

fn archive(members: &[Member<'_>]) -> std::io::Result<Vec<u8>> {
    let mut builder = Builder::new(Vec::new());
    for &(name, kind, link, content) in members {
        let mut header = Header::new_ustar();
        // Written as it is: the tar crate's own setters refuse `..`.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
        header.set_size(content.len() as u64);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_cksum();
        builder.append(&header, content)?;
    }
    builder.into_inner()
}

fn tars() -> std::io::Result<Seeds> {
    use EntryType::{Directory, Link, Regular, Symlink, XHeader};
    let ordinary = archive(&[
        ("./", Directory, "", b""),
        ("usr/", Directory, "", b""),
        ("usr/file", Regular, "", b"content"),
        ("usr/hard", Link, "usr/file", b""),
        ("lib", Symlink, "usr/lib", b""),
    ])?;
    let hostile = archive(&[
        ("../up", Regular, "", b"x"),
        ("/abs", Regular, "", b"x"),
        ("out/x", Regular, "", b"through a link"),
        ("h", Link, "../canary", b""),
        ("s", Symlink, "/", b""),
        ("s/y", Regular, "", b"x"),
        ("usr", Symlink, "../outside", b""),
        ("usr/z", Directory, "", b""),
    ])?;
    let whiteouts = archive(&[
        ("usr/.wh.bin", Regular, "", b""),
        ("usr/.wh..wh..opq", Regular, "", b""),
        (".wh...", Regular, "", b""),
        ("bin/new", Regular, "", b"1"),
        ("bin/new", Directory, "", b""),
    ])?;
    // GNU tar manual, "PAX Format, Version 1.0": the map fills a block of its own.
    let mut sparse = b"1\n10\n3\n".to_vec();
    sparse.resize(512, 0);
    sparse.extend(b"abc");
    let pax = archive(&[
        ("PaxHeaders/x", XHeader, "", b"19 path=usr/longer\n29 SCHILY.xattr.user.a=value\n"),
        ("short", Regular, "", b"abc"),
        (
            "PaxHeaders/y",
            XHeader,
            "",
            b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n\
            24 GNU.sparse.name=hole\n27 GNU.sparse.realsize=100\n",
        ),
        ("sparse", Regular, "", &sparse),
    ])?;
    let long = archive(&[
        ("././@LongLink", EntryType::GNULongName, "", b"usr/a/very/long/name\0"),
        ("cut", Regular, "", b"abc"),
        ("././@LongLink", EntryType::GNULongLink, "", b"usr/a/very/long/name\0"),
        ("link", Symlink, "cut", b""),
        ("fifo", EntryType::Fifo, "", b""),
        ("null", EntryType::Char, "", b""),
    ])?;
    let mut seeds = Vec::new();
    for (name, content) in [
        ("ordinary", ordinary),
        ("hostile", hostile),
        ("whiteouts", whiteouts),
        ("pax", pax),
        ("long", long),
    ] {
        // The first byte chooses the style.
        for style in 0..3 {
            seeds.push((format!("{name}-{style}"), [&[style], &content[..]].concat()));
        }
    }
    Ok(seeds)
}

fn debs() -> std::io::Result<Seeds> {
    use EntryType::{Directory, Regular, Symlink};
    let control = archive(&[
        ("./control", Regular, "", CONTROL.as_bytes()),
        ("./postinst", Regular, "", b"#!/bin/sh\n"),
        ("./md5sums", Regular, "", b"d41d8cd98f00b204e9800998ecf8427e  usr/x\n"),
    ])?;
    let data = archive(&[
        ("./", Directory, "", b""),
        ("./bin/", Directory, "", b""),
        ("./bin/x", Regular, "", b"x"),
        ("./usr/y", Symlink, "/etc/y", b""),
    ])?;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&control)?;
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 6);
    xz.write_all(&data)?;
    let (gzip, xz) = (gzip.finish()?, xz.finish()?);
    let zstd = zstd::encode_all(&data[..], 3)?;
    Ok([
        ("plain", vec![("control.tar", &control), ("data.tar", &data)]),
        ("xz", vec![("control.tar.gz", &gzip), ("data.tar.xz", &xz)]),
        (
            "zstd",
            vec![("_ignored", &vec![1, 2, 3]), ("control.tar.gz", &gzip), ("data.tar.zst", &zstd)],
        ),
    ]
    .map(|(name, members)| (name.to_owned(), ar(&members)))
    .into())
}

/// ar(5), as deb(5) wants it.
fn ar(members: &[(&str, &Vec<u8>)]) -> Vec<u8> {
    let mut archive = b"!<arch>\n".to_vec();
    let format = b"2.0\n".to_vec();
    for (name, content) in std::iter::once(&("debian-binary", &format)).chain(members) {
        let size = content.len();
        archive.extend(
            format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n", 0, 0, 0, 100_644).bytes(),
        );
        archive.extend_from_slice(content);
        archive.extend((size % 2 == 1).then_some(b'\n'));
    }
    archive
}
