//! Looking for what is wrong.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use anyhow::Result;
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::locks::try_exclusive;
use crate::records::{record_path, short};
use crate::{Store, hex, is_digest};

impl Store {
    /// Every problem that is found, in words; none in a sound store.
    ///
    /// Reads all downloads and blobs. Whatever else changes the store at the same time may be reported as a problem.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn check(&self) -> Result<Vec<String>> {
        let mut problems = Vec::new();
        self.check_records(&mut problems)?;
        self.check_names(&mut problems)?;
        self.check_layers(&mut problems)?;
        for dir in ["cache/sha256", "blobs/sha256"] {
            self.check_digests(dir, &mut problems)?;
        }
        // Whether its maker lives is found out by locking it, which no sweep shall notice.
        let _changes = self.changes()?;
        for entry in self.list("tmp")? {
            let dead = match self.open_dir(&format!("tmp/{entry}")) {
                Ok(dir) => try_exclusive(&dir).unwrap_or(false),
                Err(error) => error != Errno::NOENT,
            };
            if dead {
                problems.push(format!("tmp/{entry} was left by a process that is dead"));
            }
        }
        Ok(problems)
    }

    fn check_records(&self, problems: &mut Vec<String>) -> Result<()> {
        for file in self.list("images")? {
            let Some(id) = file.strip_suffix(".json").filter(|id| is_digest(id)) else {
                problems.push(format!("images/{file} is no record"));
                continue;
            };
            let Some(record) = self.read_record(&record_path(id))? else { continue };
            match record.verified() {
                Err(error) => problems.push(format!("images/{file} is damaged: {error:#}")),
                Ok(image) if image.id != id => {
                    problems.push(format!("images/{file} is the record of {}", image.id));
                }
                Ok(image) => {
                    for layer in image.layers.iter().filter(|layer| !self.has_layer(layer)) {
                        problems.push(format!("image {} lacks its layer {layer}", short(id)));
                    }
                }
            }
        }
        Ok(())
    }

    fn check_names(&self, problems: &mut Vec<String>) -> Result<()> {
        for file in self.list("names")? {
            match self.read_name(&file)? {
                None => problems.push(format!("names/{file} is no name")),
                Some((name, id)) if !self.exists(&record_path(&id)) => {
                    problems.push(format!(
                        "{name:?} is the name of image {}, which is gone",
                        short(&id)
                    ));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// One without an image is no problem: it is the beginning of one.
    fn check_layers(&self, problems: &mut Vec<String>) -> Result<()> {
        for id in self.list("layers")? {
            let path = format!("layers/{id}");
            if !is_digest(&id) || !self.exists(&format!("{path}/root")) {
                problems.push(format!("{path} is no layer"));
            }
        }
        Ok(())
    }

    fn check_digests(&self, dir: &str, problems: &mut Vec<String>) -> Result<()> {
        for file in self.list(dir)? {
            let path = format!("{dir}/{file}");
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let digest = match openat(self.dir(), &path, flags, Mode::empty()) {
                Ok(fd) => digest(fd),
                Err(Errno::NOENT) => continue,
                Err(error) => Err(error.into()),
            };
            match digest {
                Ok(found) if found == file => {}
                Ok(found) => problems.push(format!("{path} is damaged: its SHA-256 is {found}")),
                Err(error) => problems.push(format!("{path} cannot be read: {error}")),
            }
        }
        Ok(())
    }
}

fn digest(fd: OwnedFd) -> std::io::Result<String> {
    let mut file = File::from(fd);
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hex(hasher.finalize())),
            Ok(length) => hasher.update(&buffer[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
