//! Cells that passed, for who need not see them pass again while nothing has changed.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::{Cell, Verdict, Wish};

/// How long it holds that a cell passed: seconds. What packages need comes out of archives, which change.
const DAY: u64 = 24 * 60 * 60;

/// Where they are kept.
pub struct Remembered {
    directory: PathBuf,
}

impl Remembered {
    /// In this directory, which is made where it is missing.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn open(directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(Self { directory: directory.to_owned() })
    }

    /// The cell, if it passed within the last day with the same image, files and checks.
    pub fn find(&self, wish: &Wish, image: &str) -> Option<Cell> {
        let text = std::fs::read(self.path(wish, image)?).ok()?;
        let mut cell: Cell = serde_json::from_slice(&text).ok()?;
        let age = engine::state::now().checked_sub(cell.started)?;
        cell.reason = format!("nothing has changed since it passed {} min ago", age / 60);
        cell.wish = wish.clone();
        (cell.verdict == Verdict::Pass && age < DAY).then_some(cell)
    }

    /// Writes down that a cell passed, and forgets what is too old. One that cannot be written is probed again.
    pub fn keep(&self, cell: &Cell, image: &str) {
        let Some(path) = self.path(&cell.wish, image).filter(|_| cell.verdict == Verdict::Pass)
        else {
            return;
        };
        let Ok(text) = serde_json::to_vec(cell) else { return };
        let own = path.with_extension(std::process::id().to_string());
        let _ = std::fs::write(&own, text).and_then(|()| std::fs::rename(&own, &path));
        for entry in std::fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let age = entry.metadata().and_then(|data| data.modified()).ok();
            if age.and_then(|at| at.elapsed().ok()).is_some_and(|age| age.as_secs() > DAY) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    /// `None` for what may be something else now without anybody seeing it: packages by name or address, repositories, and tests.
    fn path(&self, wish: &Wish, image: &str) -> Option<PathBuf> {
        if wish.test.is_some() || !wish.repositories.is_empty() {
            return None;
        }
        let plain = Wish { evidence: PathBuf::new(), always_evidence: false, ..wish.clone() };
        let mut hash = Sha256::new();
        hash.update(env!("CARGO_PKG_VERSION"));
        hash.update(image);
        hash.update(serde_json::to_vec(&plain).ok()?);
        for package in wish.packages.iter().chain(&wish.from) {
            if !package.starts_with('/') {
                return None;
            }
            hash.update(digest(Path::new(package)).ok()?);
        }
        let name: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        Some(self.directory.join(name))
    }
}

fn digest(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let (mut hash, mut chunk) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hash.finalize().to_vec()),
            count => hash.update(&chunk[..count]),
        }
    }
}
