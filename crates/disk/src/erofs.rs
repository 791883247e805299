//! The numbers of EROFS, for who writes it and who reads it (Linux, fs/erofs/erofs_fs.h, and
//! Documentation/filesystems/erofs.rst).

/// Where the superblock is.
pub(crate) const SUPER_OFFSET: u64 = 1024;
/// Bytes of the superblock, without its extension.
pub(crate) const SUPER_SIZE: usize = 128;
pub(crate) const MAGIC: u32 = 0xE0F5_E1E2;
/// Inodes are at multiples of this; their number is their offset divided by it.
pub(crate) const SLOT: u64 = 32;
pub(crate) const COMPACT_SIZE: usize = 32;
pub(crate) const EXTENDED_SIZE: usize = 64;
pub(crate) const DIRENT_SIZE: usize = 12;

/// There is a CRC-32C of the superblock's block.
pub(crate) const COMPAT_CHECKSUM: u32 = 0x1;
/// Inodes tell when files were modified, not when they changed.
pub(crate) const COMPAT_MTIME: u32 = 0x2;
/// LZ4's blocks are at the end of theirs, with zeros before.
pub(crate) const INCOMPAT_PADDING: u32 = 0x1;
/// Each algorithm has a record behind the superblock; files may be compressed in more than one block.
pub(crate) const INCOMPAT_BIG: u32 = 0x2;
pub(crate) const INCOMPAT_CHUNKED: u32 = 0x4;
/// Ends of compressed files may be behind their inodes.
pub(crate) const INCOMPAT_TAILS: u32 = 0x10;
/// Parts of files are shared: found by their content.
pub(crate) const INCOMPAT_SHARED: u32 = 0x20;

/// How a file's content lies.
pub(crate) const PLAIN: u16 = 0;
pub(crate) const COMPRESSED_FULL: u16 = 1;
pub(crate) const INLINE: u16 = 2;
pub(crate) const COMPRESSED_COMPACT: u16 = 3;
pub(crate) const CHUNKED: u16 = 4;

/// In a map of chunks: a hole.
pub(crate) const HOLE: u32 = u32::MAX;

/// Before a node's extended attributes.
pub(crate) const XATTR_HEADER_SIZE: usize = 12;
/// The beginnings of attributes' names that are written as a number.
pub(crate) const XATTR_PREFIXES: [(u8, &[u8]); 5] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
];
