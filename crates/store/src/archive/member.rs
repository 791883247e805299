//! What an archive has for each of its members.

/// What kind of thing a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A further name of a file that came before.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// A socket (no archive holds one; from [`crate::unpack::Filler`]).
    Socket,
    /// The mark that something of a lower layer is gone (only from [`crate::unpack`]).
    Whiteout,
}

/// A point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Time {
    /// Since the epoch.
    pub seconds: i64,
    /// Below 1 000 000 000.
    pub nanoseconds: u32,
}

/// A stretch of a sparse file that is not a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins in the file.
    pub offset: u64,
    /// Its bytes.
    pub length: u64,
}

/// One member, as the archive has it: nothing of it is to be trusted, except that
/// neither `path` nor `link` holds a NUL byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// As spelled in the archive; perhaps empty, absolute or with `..`.
    pub path: Vec<u8>,
    /// Its kind.
    pub kind: Kind,
    /// What a link leads to; empty for others.
    pub link: Vec<u8>,
    /// The lower twelve bits of the mode.
    pub mode: u32,
    /// User id, never `u32::MAX`, which chown(2) takes for "unchanged".
    pub uid: u32,
    /// Group id, never `u32::MAX`.
    pub gid: u32,
    /// Time of the last modification.
    pub mtime: Time,
    /// Bytes of the file with its holes; 0 for what is no file.
    pub size: u64,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The stretches of a sparse file that have content, in order.
    pub extents: Option<Vec<Extent>>,
    /// Attributes in forms that are not understood.
    pub skipped_attributes: u32,
}
