//! A small Debian-like archive, made up for tests: packages, indices, a signed Release, and
//! a server on the loopback device that can be told to misbehave.

#![allow(dead_code)] // Each test file uses its own part of this.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use pgp::composed::{CleartextSignedMessage, KeyType, SecretKeyParamsBuilder, SignedSecretKey};
use pgp::ser::Serialize as _;
use pgp::types::Password;
use sha2::{Digest as _, Sha256};

/// A key that signs, made in a moment.
pub(crate) struct Key(SignedSecretKey);

impl Key {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = SecretKeyParamsBuilder::default();
        params
            .key_type(KeyType::Ed25519Legacy)
            .can_sign(true)
            .can_certify(true)
            .primary_user_id(format!("{name} <{name}@example.org>"));
        Self(params.build().unwrap().generate(rand::thread_rng()).unwrap())
    }

    /// The public half, as a keyring file holds it.
    pub(crate) fn public(&self) -> Vec<u8> {
        self.0.to_public_key().to_bytes().unwrap()
    }

    pub(crate) fn clearsign(&self, text: &str) -> Vec<u8> {
        let signed = CleartextSignedMessage::sign(
            rand::thread_rng(),
            text,
            &self.0.primary_key,
            &Password::empty(),
        );
        signed.unwrap().to_armored_string(None.into()).unwrap().into_bytes()
    }

    pub(crate) fn detach(&self, text: &str) -> Vec<u8> {
        let signature = pgp::composed::DetachedSignature::sign_binary_data(
            rand::thread_rng(),
            &self.0.primary_key,
            &Password::empty(),
            pgp::crypto::hash::HashAlgorithm::Sha256,
            text.as_bytes(),
        );
        signature.unwrap().to_armored_bytes(None.into()).unwrap()
    }
}

/// One made-up package.
#[derive(Clone)]
pub(crate) struct Package {
    pub name: String,
    pub version: String,
    pub fields: String,
    pub control: Vec<(String, String)>,
    pub data: Vec<u8>,
}

impl Package {
    pub(crate) fn new(name: &str, fields: &str) -> Self {
        let path = format!("./usr/share/doc/{name}/copyright");
        Self {
            name: name.into(),
            version: "1.0".into(),
            fields: fields.into(),
            control: Vec::new(),
            data: tar_of(&[Entry::directory("./"), Entry::file(&path, name.as_bytes())]),
        }
    }

    pub(crate) fn with_control(mut self, name: &str, content: &str) -> Self {
        self.control.push((name.into(), content.into()));
        self
    }

    pub(crate) fn with_data(mut self, entries: &[Entry]) -> Self {
        self.data = tar_of(entries);
        self
    }

    pub(crate) fn stanza(&self) -> String {
        let Self { name, version, fields, .. } = self;
        format!("Package: {name}\nVersion: {version}\nArchitecture: {}\n{fields}", architecture())
    }

    pub(crate) fn deb(&self) -> Vec<u8> {
        let stanza = self.stanza() + "Description: made up\n";
        let mut control = vec![Entry::file("./control", stanza.as_bytes())];
        control.extend(self.control.iter().map(|(name, content)| Entry {
            mode: 0o755,
            ..Entry::file(&format!("./{name}"), content.as_bytes())
        }));
        let data = liblzma_encode(&self.data);
        ar_of(&[
            ("debian-binary", b"2.0\n"),
            ("control.tar", &tar_of(&control)),
            ("data.tar.xz", &data),
        ])
    }
}

/// Something in a tar archive, with any name at all.
#[derive(Clone)]
pub(crate) struct Entry {
    pub path: String,
    pub kind: tar::EntryType,
    pub content: Vec<u8>,
    pub link: String,
    pub mode: u32,
}

impl Entry {
    pub(crate) fn file(path: &str, content: &[u8]) -> Self {
        Self { content: content.to_vec(), mode: 0o644, ..Self::of(path, tar::EntryType::Regular) }
    }

    pub(crate) fn directory(path: &str) -> Self {
        Self::of(path, tar::EntryType::Directory)
    }

    pub(crate) fn symlink(path: &str, link: &str) -> Self {
        Self { link: link.into(), ..Self::of(path, tar::EntryType::Symlink) }
    }

    fn of(path: &str, kind: tar::EntryType) -> Self {
        Self { path: path.into(), kind, content: Vec::new(), link: String::new(), mode: 0o755 }
    }
}

pub(crate) fn tar_of(entries: &[Entry]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        // Straight into the header: the crate refuses the names that make a test worth its while.
        let old = header.as_old_mut();
        old.name[..entry.path.len()].copy_from_slice(entry.path.as_bytes());
        old.linkname[..entry.link.len()].copy_from_slice(entry.link.as_bytes());
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_mtime(1_700_000_000);
        header.set_size(entry.content.len() as u64);
        header.set_uid(0);
        header.set_gid(0);
        header.set_cksum();
        builder.append(&header, &entry.content[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn ar_of(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = b"!<arch>\n".to_vec();
    for (name, content) in members {
        let size = content.len();
        bytes.extend(
            format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n", 0, 0, 0, 100_644).bytes(),
        );
        bytes.extend_from_slice(content);
        bytes.extend(std::iter::repeat_n(b'\n', size % 2));
    }
    bytes
}

fn liblzma_encode(plain: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The architecture of this host, in Debian's words.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => panic!("the tests' archive has no packages for {other}"),
    }
}

/// Files by their paths, and what was asked for.
#[derive(Clone, Default)]
pub(crate) struct Files {
    pub content: BTreeMap<String, Vec<u8>>,
    /// A connection breaks after so many bytes of these, once each.
    pub cut: HashMap<String, usize>,
    /// Requests, with the range.
    pub log: Vec<String>,
}

/// A suite of the archive, before it is signed.
pub(crate) struct Suite {
    pub suite: String,
    pub fields: String,
    pub packages: Vec<Package>,
    pub by_hash: bool,
}

impl Suite {
    pub(crate) fn new(suite: &str, packages: Vec<Package>) -> Self {
        let fields =
            format!("Suite: {suite}\nCodename: {suite}\nDate: Sat, 09 Aug 2025 09:16:30 UTC\n");
        Self { suite: suite.into(), fields, packages, by_hash: true }
    }

    /// Adds the suite's files but its Release, whose text is returned.
    pub(crate) fn publish(&self, files: &mut Files) -> String {
        let mut index = String::new();
        for package in &self.packages {
            let deb = package.deb();
            let filename = format!("pool/{}_{}.deb", package.name, package.version);
            index.push_str(&package.stanza());
            index.push_str(&format!(
                "Filename: {filename}\nSize: {}\nSHA256: {}\n\n",
                deb.len(),
                sha256(&deb)
            ));
            files.content.insert(format!("/debian/{filename}"), deb);
        }
        let directory = format!("main/binary-{}", architecture());
        let packed = liblzma_encode(index.as_bytes());
        let base = format!("/debian/dists/{}", self.suite);
        let by_hash = if self.by_hash { "Acquire-By-Hash: yes\n" } else { "" };
        if self.by_hash {
            let path = format!("{base}/{directory}/by-hash/SHA256/{}", sha256(&packed));
            files.content.insert(path, packed.clone());
        }
        files.content.insert(format!("{base}/{directory}/Packages.xz"), packed.clone());
        format!(
            "{}{by_hash}Architectures: {}\nComponents: main\nSHA256:\n {} {} {directory}/Packages\n {} {} {directory}/Packages.xz\n",
            self.fields,
            architecture(),
            sha256(index.as_bytes()),
            index.len(),
            sha256(&packed),
            packed.len(),
        )
    }
}

/// Serves files on the loopback device until it is dropped.
pub(crate) struct Server {
    address: std::net::SocketAddr,
    pub files: Arc<Mutex<Files>>,
}

impl Server {
    pub(crate) fn new(files: Files) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let files = Arc::new(Mutex::new(files));
        let shared = Arc::downgrade(&files);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Some(files) = shared.upgrade() else { return };
                std::thread::spawn(move || drop(serve(stream.unwrap(), &files)));
            }
        });
        Self { address, files }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.files = Arc::default();
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(stream: TcpStream, files: &Mutex<Files>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut from = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            if header.trim().is_empty() {
                break;
            }
            let header = header.to_ascii_lowercase();
            if let Some(range) = header.strip_prefix("range: bytes=") {
                from = range.trim().trim_end_matches('-').parse().unwrap_or(0);
            }
        }
        let (found, cut) = {
            let mut files = files.lock().unwrap();
            files.log.push(format!("{path} {from}"));
            (files.content.get(&path).cloned(), files.cut.remove(&path))
        };
        let Some(content) = found else {
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        };
        let length = content.len();
        let head = if from > 0 {
            format!(
                "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {from}-{}/{length}\r\n",
                length - 1
            )
        } else {
            "HTTP/1.1 200 OK\r\n".into()
        };
        stream.write_all(format!("{head}Content-Length: {}\r\n\r\n", length - from).as_bytes())?;
        if let Some(cut) = cut {
            stream.write_all(&content[from..from + cut])?;
            return stream.shutdown(std::net::Shutdown::Both);
        }
        stream.write_all(&content[from..])?;
    }
}
