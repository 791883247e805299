//! Other files that an image is made of.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{Mode, OFlags, open};

/// What tells a file from what it was before (stat(2)).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// Its name in its directory.
    pub name: String,
    /// Inode.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Last change of anything: nanoseconds since the epoch.
    pub changed: i128,
}

/// The directory that an image is in, as far as the image may name files.
pub struct Neighbours {
    directory: Option<PathBuf>,
    anywhere: bool,
    stamps: Mutex<Vec<Stamp>>,
}

/// Files that one image may be made of.
const MAX_FILES: usize = 256;

impl Neighbours {
    /// Those beside `image`; or `anywhere`, where the user says so.
    pub(crate) fn of(image: Option<&Path>, anywhere: bool) -> Self {
        let directory = image.map(|path| path.parent().unwrap_or(Path::new("/")).to_owned());
        Self { directory, anywhere, stamps: Mutex::default() }
    }

    /// Opens a file that an image names.
    ///
    /// # Errors
    /// It is not beside the image, no regular file, or cannot be opened.
    pub(crate) fn open(&self, name: &[u8]) -> Result<File> {
        let shown = String::from_utf8_lossy(name).into_owned();
        let Some(directory) = &self.directory else {
            bail!("it names the file {shown:?}, and nothing is beside it")
        };
        // `./x` is what is beside it, too.
        let plain = name.strip_prefix(b"./").unwrap_or(name);
        let plain = plain.strip_prefix(b"file:").unwrap_or(plain);
        let in_it = !plain.is_empty() && !plain.contains(&b'/') && plain != b"..";
        let path = directory.join(OsStr::from_bytes(plain));
        let beside = in_it || (path.is_absolute() && path.parent() == Some(directory));
        ensure!(
            beside || self.anywhere,
            "it names the file {shown:?}, which is not beside it: put both into one directory, or allow it by ?backing=anywhere"
        );
        let flags = if self.anywhere { OFlags::empty() } else { OFlags::NOFOLLOW };
        self.open_path(&path, flags).with_context(|| format!("opening {}", path.display()))
    }

    /// A fifo or a device could hang us.
    fn open_path(&self, path: &Path, flags: OFlags) -> Result<File> {
        let flags = flags | OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(open(path, flags, Mode::empty())?);
        self.note(&file, path.file_name().unwrap_or_default())?;
        Ok(file)
    }

    /// Remembers that the image is made of this file.
    pub(crate) fn note(&self, file: &File, name: &OsStr) -> Result<()> {
        let metadata = file.metadata()?;
        ensure!(metadata.is_file(), "it is no regular file");
        let mut stamps = self.stamps.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(stamps.len() < MAX_FILES, "it is made of more than {MAX_FILES} files");
        stamps.push(Stamp {
            name: name.to_string_lossy().into_owned(),
            inode: metadata.ino(),
            size: metadata.len(),
            changed: i128::from(metadata.ctime()) * 1_000_000_000
                + i128::from(metadata.ctime_nsec()),
        });
        Ok(())
    }

    pub(crate) fn stamps(&self) -> Vec<Stamp> {
        self.stamps.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
