//! What is said over a session: by whoever wants something done in a guest, and by the guest.

use anyhow::Error;
use serde::{Deserialize, Serialize};
use spec::exit::Ended;
use spec::network::Interface;
use spec::plan::{Plan, Process};

use crate::{NotStarted, NotStartedKind};

/// Opens a session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Opening {
    /// What is to be done.
    pub(super) request: Request,
    /// Which of the streams are there, by number.
    pub(super) streams: Vec<u8>,
    /// They are a terminal's, of this size.
    pub(super) terminal: Option<Size>,
}

/// What a guest can be asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Request {
    /// The machine itself.
    Run(Box<Job>),
    /// A further process in it.
    Exec(Box<Process>),
    /// Something that this program itself does in it, by its name.
    Errand {
        /// As in the table of errands.
        name: String,
        /// What it is told.
        argument: String,
    },
    /// The state of the system in it, asked at this socket.
    Ask(String),
    /// A command in the background.
    Background(Vec<String>),
}

/// What a guest is to be.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) plan: Plan,
    /// Its network card.
    pub(super) interface: Option<Interface>,
    /// There are directories of the host's.
    pub(super) shares: bool,
}

/// Rows and columns of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Size {
    pub(super) rows: u16,
    pub(super) columns: u16,
}

/// What who opened a session says later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Say {
    /// Sends the process a signal.
    Signal(i32),
    /// The terminal has another size.
    Resize(Size),
}

/// What a guest says of a session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Told {
    /// The command is executed.
    Started,
    /// What a system said of itself (sd_notify(3)).
    Notified(String),
    /// The last word: how the process ended.
    Ended(End),
    /// The last word: what was asked for.
    Answer(String),
    /// The last word: why it could not be done.
    Failed(Failure),
}

impl Told {
    /// Whether nothing comes after it.
    pub(super) fn is_last(&self) -> bool {
        !matches!(self, Self::Started | Self::Notified(_))
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum End {
    Exited(u8),
    Signalled(u8),
}

impl From<Ended> for End {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Exited(code) => Self::Exited(code),
            Ended::Signalled(signal) => Self::Signalled(signal),
        }
    }
}

impl From<End> for Ended {
    fn from(end: End) -> Self {
        match end {
            End::Exited(code) => Self::Exited(code),
            End::Signalled(signal) => Self::Signalled(signal),
        }
    }
}

/// Why something could not be done, with what a face must distinguish.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Failure {
    kind: Kind,
    text: String,
    hint: Option<String>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Kind {
    NotFound,
    NotExecutable,
    Setup,
    Other,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        match error.downcast_ref::<NotStarted>() {
            Some(why) => Self {
                kind: match why.kind {
                    NotStartedKind::NotFound => Kind::NotFound,
                    NotStartedKind::NotExecutable => Kind::NotExecutable,
                    NotStartedKind::Setup => Kind::Setup,
                },
                text: why.text.clone(),
                hint: why.hint.clone(),
            },
            None => Self { kind: Kind::Other, text: format!("{error:#}"), hint: None },
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let Failure { kind, text, hint } = failure;
        let kind = match kind {
            Kind::NotFound => NotStartedKind::NotFound,
            Kind::NotExecutable => NotStartedKind::NotExecutable,
            Kind::Setup => NotStartedKind::Setup,
            Kind::Other => return Self::msg(text),
        };
        NotStarted { kind, text, hint }.into()
    }
}
