//! Files of evidence, and what programs say until it becomes one.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};
use rustix::fs::{FallocateFlags, MemfdFlags};

/// Writes a file of evidence. What cannot be written whole is removed, so that there may be room for what follows,
/// and nobody takes a part for the whole.
///
/// # Errors
/// Names the file, and why.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fill(path, &mut &bytes[..])
}

/// The same of what is read to its end.
///
/// # Errors
/// As [`write`].
pub(crate) fn fill(path: &Path, from: &mut dyn io::Read) -> Result<()> {
    let filled = File::create(path).and_then(|mut file| io::copy(from, &mut file));
    filled.map(drop).map_err(|error| {
        let _ = std::fs::remove_file(path);
        anyhow::Error::new(error).context(format!("cannot write {}", path.display()))
    })
}

/// What a program says, in a file in memory: on a disk that is full, the program itself would fail of that, and
/// be blamed. It may be reopened (`/dev/stdout`) by whoever has it, as a file can, and a daemon that has it still when
/// its starter is gone can write on, as it could not into a pipe.
pub(crate) struct Output(File);

impl Output {
    /// # Errors
    /// As memfd_create(2).
    pub(crate) fn new() -> Result<Self> {
        let file = rustix::fs::memfd_create(c"output", MemfdFlags::CLOEXEC)
            .context("cannot make a file in memory")?;
        Ok(Self(file.into()))
    }

    /// For a program's standard output or error; those who share it write one after the other.
    ///
    /// # Errors
    /// As dup(2).
    pub(crate) fn stdio(&self) -> io::Result<Stdio> {
        Ok(self.0.try_clone()?.into())
    }

    /// What was said so far, of which at most `most` bytes.
    ///
    /// # Errors
    /// As read(2).
    pub(crate) fn text(&self, most: u64) -> Result<String> {
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(self.reader(), most), &mut bytes)
            .context("cannot read what was said")?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Gives the memory back of what comes after that many bytes: nobody will read it, and who says a lot could take
    /// all that the host has. Its writers do not notice.
    ///
    /// # Errors
    /// As fallocate(2).
    pub(crate) fn cut(&self, most: u64) -> io::Result<()> {
        let length = self.0.metadata()?.len();
        if length > most {
            let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            // A page that is covered in part only is zeroed, and kept (Linux, `shmem_fallocate`): the last one is
            // covered beyond its end.
            let rest = (length - most).next_multiple_of(LARGEST_PAGE);
            rustix::fs::fallocate(&self.0, hole, most, rest)?;
        }
        Ok(())
    }

    /// All of it, from the beginning; where its writers are stays as it is.
    pub(crate) fn reader(&self) -> Reader<'_> {
        Reader { file: &self.0, at: 0 }
    }
}

/// Bytes: of the processors that Linux runs on.
const LARGEST_PAGE: u64 = 64 << 10;

/// See [`Output::reader`].
pub(crate) struct Reader<'a> {
    file: &'a File,
    at: u64,
}

impl io::Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_programs_say_is_read_beside_them() {
        let output = Output::new().unwrap();
        for word in ["a", "b"] {
            let mut command = std::process::Command::new("sh");
            command.args(["-c", "echo $0; echo $0 >&2", word]);
            command.stdout(output.stdio().unwrap()).stderr(output.stdio().unwrap());
            assert!(command.status().unwrap().success());
            assert!(output.text(100).unwrap().ends_with(&format!("{word}\n{word}\n")));
        }
        assert_eq!(output.text(100).unwrap(), "a\na\nb\nb\n");
        assert_eq!(output.text(3).unwrap(), "a\na");
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("said");
        fill(&path, &mut output.reader()).unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "a\na\nb\nb\n");
    }

    #[test]
    fn what_is_too_much_takes_no_memory() {
        let output = Output::new().unwrap();
        let mut command = std::process::Command::new("head");
        command.args(["-c", "5000000", "/dev/zero"]).stdout(output.stdio().unwrap());
        assert!(command.status().unwrap().success());
        output.cut(1 << 20).unwrap();
        let about = output.0.metadata().unwrap();
        let taken = std::os::unix::fs::MetadataExt::blocks(&about) * 512;
        assert_eq!((about.len(), taken), (5_000_000, 1 << 20));
        assert_eq!(output.text(1 << 20).unwrap().len(), 1 << 20);
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let said = format!("{:#}", write(Path::new("/no/where"), b"x").unwrap_err());
        assert!(said.starts_with("cannot write /no/where: No such file"), "{said}");
    }
}
