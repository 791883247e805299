//! What went wrong with the store, and what to do about it.

use std::io;
use std::path::Path;

use anyhow::anyhow;
use rustix::io::Errno;

/// An error that names the operation, the path, the cause and the remedy.
pub(crate) fn failed(what: &str, path: &Path, error: Errno) -> anyhow::Error {
    anyhow!("{what} {}: {error}{}", path.display(), remedy(error))
}

/// What the user can do about an error; empty where that is not known.
pub(crate) fn remedy(error: Errno) -> &'static str {
    match error {
        Errno::NOSPC | Errno::DQUOT => {
            "; free some space, for instance with `postroj system prune`"
        }
        Errno::ROFS => {
            "; the store is on a read-only file system: its images can be run, and nothing can be added or removed"
        }
        Errno::ACCESS | Errno::PERM => {
            "; the store must be your own: be its owner, or use another one"
        }
        _ => "",
    }
}

/// The number of an error that std reports.
pub(crate) fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
