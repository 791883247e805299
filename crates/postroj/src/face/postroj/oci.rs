//! `oci`, as helps and manual pages have it. It is another face that does the work, before any of
//! this command line is even made.

use std::ffi::OsString;

use super::super::{Face, oci::Oci};

/// Be an OCI runtime, as runc and crun are: for podman, buildah, containerd and others
///
/// `postroj oci --help` shows its own usage. It is called by others mostly: `podman --runtime FILE`
/// with a link to this program named postroj-oci, runc or crun (see install-faces).
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(super) struct Args {
    /// Global options, a verb, its options and a container's id
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "VERB")]
    words: Vec<OsString>,
}

pub(super) fn run(args: &Args) -> u8 {
    Oci.run(std::iter::once("oci".into()).chain(args.words.iter().cloned()).collect())
}
