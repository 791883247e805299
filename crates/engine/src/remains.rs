//! What a machine leaves to its next run.

use std::os::fd::OwnedFd;

use anyhow::Result;
use rustix::fs::{Mode, OFlags, RenameFlags, openat, renameat_with};

use crate::state::Claim;
use crate::vm;

/// What a machine leaves to its next run: its name, which stays taken, and what was written in it. The
/// memory that this takes is free when it is dropped.
pub struct Remains(pub(crate) Kept);

/// By engine.
pub(crate) enum Kept {
    /// The directory that holds what was written.
    Scratch { scratch: OwnedFd, claim: Claim },
    /// The whole machine, whose kernel goes on.
    Machine(Box<vm::Kept>),
}

impl Remains {
    /// Exchanges what was written with what was prepared in a directory of the scratch. Nothing can be made
    /// there from outside, whose ids mean nothing inside (rename(2), `EOVERFLOW`); exchanged it can be.
    /// Under another kernel that happens when the machine runs again.
    ///
    /// # Errors
    /// Where nothing was prepared.
    pub fn exchange(&mut self, prepared: &str) -> Result<()> {
        let scratch = match &mut self.0 {
            Kept::Scratch { scratch, .. } => scratch,
            Kept::Machine(machine) => {
                machine.prepared = Some(prepared.to_owned());
                return Ok(());
            }
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = openat(&*scratch, prepared, flags, Mode::empty())?;
        for entry in rustix::fs::Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if !name.to_bytes().starts_with(b".") {
                let swap = RenameFlags::EXCHANGE;
                renameat_with(&directory, name, &*scratch, name, swap)?;
            }
        }
        Ok(())
    }
}
