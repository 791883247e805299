//! What deep rooms tell the face, which alone decides how to show it.

/// One piece of news about work in progress.
///
/// Numbers are bytes unless a field says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A named phase of the work began, such as `resolving`.
    Phase {
        /// Lower-case words that complete "postroj is …".
        name: String,
    },
    /// A download began, or was found in the cache (`total` = `done` at once).
    DownloadStarted {
        /// Stable for the life of the download; shown to the user.
        what: String,
        /// Size in bytes where it is known.
        total: Option<u64>,
    },
    /// A download moved on.
    DownloadProgress {
        /// As in `DownloadStarted`.
        what: String,
        /// Bytes that arrived so far, those of earlier attempts included.
        done: u64,
    },
    /// A download arrived and was verified.
    DownloadFinished {
        /// As in `DownloadStarted`.
        what: String,
    },
    /// Progress of a phase that counts things, such as packages.
    Step {
        /// What is being counted, such as `unpacked`.
        what: String,
        /// How many are done.
        done: u64,
        /// How many there are.
        total: u64,
    },
    /// A line that a program in a machine printed while baking.
    Output {
        /// Without its line end.
        line: String,
    },
    /// Something that the user should know and that stops nothing.
    Warning {
        /// One line, lower-case, without a full stop.
        text: String,
    },
}

/// Where events go. Called from several threads at once.
pub trait Tell: Sync {
    /// Takes one event; must be quick and must not fail.
    fn tell(&self, event: Event);
}

impl<F: Fn(Event) + Sync> Tell for F {
    fn tell(&self, event: Event) {
        self(event)
    }
}

/// For callers that want no news.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Tell for Silent {
    fn tell(&self, _: Event) {}
}
