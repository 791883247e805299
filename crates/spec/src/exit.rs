//! Exit codes, as docker and podman use them (`docker run --help`, "Exit status").

/// postroj itself failed.
pub const FAILED: u8 = 125;
/// The command was found in the image but cannot be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// The command was not found in the image.
pub const NOT_FOUND: u8 = 127;

/// How a payload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this status.
    Exited(u8),
    /// By this signal's number.
    Signalled(u8),
}

impl Ended {
    /// The exit code a shell would report: the status, or 128 plus the signal.
    pub fn code(self) -> u8 {
        match self {
            Self::Exited(status) => status,
            Self::Signalled(signal) => 128u8.saturating_add(signal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_128_and_its_number() {
        assert_eq!(Ended::Signalled(9).code(), 137);
        assert_eq!(Ended::Exited(3).code(), 3);
    }
}
