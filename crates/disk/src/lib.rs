//! Disks, read in user space: no root, no mount, no kernel.
//!
//! Three seams, each of which is asked by the one above it:
//!
//! - [`Blocks`]: bytes at offsets. An image file ([`image`]), a partition of it ([`table`]).
//! - [`Volume`]: a file system in such bytes ([`volume`]): nodes with attributes, names and content.
//! - whoever walks a volume, and need not know what it is.
//!
//! Everything that is read here is hostile: lengths, counts and offsets are checked before they are
//! used, loops are counted, and memory is bounded by what the reader is sure to need.

mod bytes;
pub mod cache;
mod crc32c;
mod device;
mod erofs;
mod field;
pub mod image;
pub mod make;
pub mod span;
pub mod table;
pub mod tree;
mod unpacked;
pub mod volume;

use anyhow::Result;

/// Bytes at offsets, which do not change while they are read.
pub trait Blocks: Send + Sync {
    /// How many bytes there are.
    fn size(&self) -> u64;

    /// Fills the buffer from this offset on.
    ///
    /// # Errors
    /// Where that reaches beyond the end, or cannot be read.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;

    /// Whether all of these bytes are known to be zero without reading them.
    fn is_hole(&self, offset: u64, length: u64) -> bool {
        let _ = (offset, length);
        false
    }
}

/// The kind of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A character device.
    Character,
    /// A block device.
    Block,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// What is known of a node beside its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// Its kind.
    pub kind: Kind,
    /// Permission bits, with set-id bits and the sticky bit: 12 bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last modification: seconds since the epoch, and nanoseconds.
    pub mtime: (i64, u32),
    /// Bytes of a regular file with its holes, or of a symbolic link's target.
    pub size: u64,
    /// How many names it has; 1 where the file system does not know hard links.
    pub links: u32,
    /// Major and minor number of a device; zero else.
    pub device: (u32, u32),
}

/// A name and the node that it leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// One component, neither `.` nor `..`, without `/` and NUL.
    pub name: Vec<u8>,
    /// Its node.
    pub node: u64,
}

/// An extended attribute with its whole name, such as `security.capability`, as the kernel would show it.
pub type Attribute = (Vec<u8>, Vec<u8>);

/// Takes a piece of a file: its offset and its bytes. What is between the pieces is a hole.
pub type Piece<'a> = dyn FnMut(u64, &[u8]) -> Result<()> + 'a;

/// A file system, read. Its nodes have numbers, which mean something to it alone; equal numbers are the same node,
/// so that hard links show.
pub trait Volume {
    /// The root directory's node.
    fn root(&self) -> u64;

    /// What a node is.
    ///
    /// # Errors
    /// Where there is none of that number, or it cannot be read.
    fn attributes(&mut self, node: u64) -> Result<Attributes>;

    /// The names in a directory, without `.` and `..`, in no particular order.
    ///
    /// # Errors
    /// Where it is none, or cannot be read.
    fn names(&mut self, directory: u64) -> Result<Vec<Name>>;

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// Where it is none, or cannot be read.
    fn target(&mut self, link: u64) -> Result<Vec<u8>>;

    /// A node's extended attributes, access control lists among them.
    ///
    /// # Errors
    /// Where they cannot be read.
    fn xattrs(&mut self, node: u64) -> Result<Vec<Attribute>>;

    /// Gives the content of a regular file to `piece`, from front to back, without its holes.
    ///
    /// # Errors
    /// Where it cannot be read, and `piece`'s.
    fn content(&mut self, file: u64, piece: &mut Piece<'_>) -> Result<()>;
}
