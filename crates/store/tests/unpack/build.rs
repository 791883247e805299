//! Archives made byte by byte, so that they can be as wrong as wanted.

/// One header to be.
pub(crate) struct Item {
    pub(crate) flag: u8,
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime: i64,
    pub(crate) size: Option<u64>,
    pub(crate) device: (u32, u32),
    pub(crate) content: Vec<u8>,
}

/// A new item, owned by the caller so that anybody can unpack it.
pub(crate) fn item(flag: u8, name: impl AsRef<[u8]>) -> Item {
    Item {
        flag,
        name: name.as_ref().to_vec(),
        link: Vec::new(),
        mode: 0o644,
        uid: rustix::process::geteuid().as_raw().into(),
        gid: rustix::process::getegid().as_raw().into(),
        mtime: 1_000_000_000,
        size: None,
        device: (0, 0),
        content: Vec::new(),
    }
}

impl Item {
    pub(crate) fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    pub(crate) fn link(mut self, link: impl AsRef<[u8]>) -> Self {
        self.link = link.as_ref().to_vec();
        self
    }

    pub(crate) fn content(mut self, content: impl AsRef<[u8]>) -> Self {
        self.content = content.as_ref().to_vec();
        self
    }

    pub(crate) fn size(mut self, size: u64) -> Self {
        self.size = Some(size);
        self
    }

    pub(crate) fn owner(mut self, uid: u64, gid: u64) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    pub(crate) fn mtime(mut self, mtime: i64) -> Self {
        self.mtime = mtime;
        self
    }

    pub(crate) fn device(mut self, major: u32, minor: u32) -> Self {
        self.device = (major, minor);
        self
    }

    fn header(&self) -> [u8; 512] {
        let mut block = [0; 512];
        let cut = |field: &mut [u8], text: &[u8]| {
            let length = text.len().min(field.len());
            field[..length].copy_from_slice(&text[..length]);
        };
        cut(&mut block[..100], &self.name);
        number(&mut block[100..108], self.mode.into());
        number(&mut block[108..116], self.uid);
        number(&mut block[116..124], self.gid);
        number(&mut block[124..136], self.size.unwrap_or(self.content.len() as u64));
        number(&mut block[136..148], self.mtime.cast_unsigned());
        block[156] = self.flag;
        cut(&mut block[157..257], &self.link);
        block[257..265].copy_from_slice(b"ustar  \0");
        number(&mut block[329..337], self.device.0.into());
        number(&mut block[337..345], self.device.1.into());
        block
    }
}

/// Octal where it fits, else GNU's base 256, sign-extended.
fn number(field: &mut [u8], value: u64) {
    let digits = format!("{value:0width$o}", width = field.len() - 1);
    if digits.len() < field.len() {
        field[..digits.len()].copy_from_slice(digits.as_bytes());
        return;
    }
    let negative = field.len() > 8 && value.cast_signed() < 0;
    field.fill(if negative { 0xff } else { 0 });
    let bytes = value.to_be_bytes();
    let length = bytes.len().min(field.len());
    let end = field.len();
    field[end - length..].copy_from_slice(&bytes[8 - length..]);
    field[0] |= 0x80;
}

/// An archive in the making.
#[derive(Default, Clone)]
pub(crate) struct Tar(Vec<u8>);

impl Tar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds an item; names and links that are too long get GNU's extension.
    pub(crate) fn add(mut self, item: Item) -> Self {
        for (flag, text) in [(b'L', &item.name), (b'K', &item.link)] {
            if text.len() > 100 {
                let long = self::item(flag, "././@LongLink").content([text, &b"\0"[..]].concat());
                self = self.raw(long.header(), &long.content);
            }
        }
        let header = item.header();
        self.raw(header, &item.content)
    }

    /// Adds a header after something was done to it, with a right checksum.
    pub(crate) fn add_with(self, item: Item, change: impl FnOnce(&mut [u8; 512])) -> Self {
        let mut header = item.header();
        change(&mut header);
        self.raw(header, &item.content)
    }

    pub(crate) fn raw(mut self, mut header: [u8; 512], content: &[u8]) -> Self {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&b| u32::from(b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&header);
        self.block(content)
    }

    /// Adds bytes, padded to a whole block.
    pub(crate) fn block(mut self, content: &[u8]) -> Self {
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// Adds a PAX header of that type for what follows.
    pub(crate) fn pax(self, flag: u8, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length.to_string().len() + rest != length {
                length += 1;
            }
            data.extend_from_slice(format!("{length} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.add(item(flag, "pax").content(data))
    }

    pub(crate) fn file(self, name: &str, content: &str) -> Self {
        self.add(item(b'0', name).content(content))
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.add(item(b'5', name).mode(0o755))
    }

    pub(crate) fn symlink(self, name: &str, to: &str) -> Self {
        self.add(item(b'2', name).link(to))
    }

    pub(crate) fn hard_link(self, name: &str, to: &str) -> Self {
        self.add(item(b'1', name).link(to))
    }

    /// The bytes so far, with an end mark.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }

    /// The bytes so far, as they are.
    pub(crate) fn unended(self) -> Vec<u8> {
        self.0
    }
}
