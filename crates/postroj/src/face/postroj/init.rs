//! `init`, as helps and manual pages have it. It is another face that does the work, before any of
//! this command line is even made.

use std::ffi::OsString;

use super::super::{Face, tini::Tini};

/// Run a command under a small init that reaps orphans and passes signals on
///
/// Options are tini's, and come before the command: -s become a subreaper, -g signals go to the
/// process group, -p SIGNAL when the parent dies, -e CODE is success, -v, -w, -l, --version. So are the
/// variables: TINI_SUBREAPER, TINI_KILL_PROCESS_GROUP, TINI_VERBOSITY. Exit codes are those of `run`, but
/// for 1 where an option is wrong.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(super) struct Args {
    /// Options, the command and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    words: Vec<OsString>,
}

pub(super) fn run(args: &Args) -> u8 {
    Tini::OWN.run(std::iter::once("init".into()).chain(args.words.iter().cloned()).collect())
}
