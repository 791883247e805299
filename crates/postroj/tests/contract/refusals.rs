//! What an engine cannot do: why, and what it says.

use super::fixture::fails;
use super::{Engine, VM};

/// What is refused.
pub(super) struct Refusal {
    engine: &'static Engine,
    options: &'static [&'static str],
    /// Part of what is said.
    says: &'static str,
    /// For whoever reads this table.
    #[allow(dead_code)]
    why: &'static str,
}

const OWN_KERNEL: &str = "root of a guest has every right there, and nothing is kept from it";

pub(super) const LIST: &[Refusal] = &[
    Refusal {
        engine: &VM,
        options: &["--privileged"],
        says: "--privileged means nothing with --isolation vm",
        why: OWN_KERNEL,
    },
    Refusal {
        engine: &VM,
        options: &["--userns", "keep-id"],
        says: "--userns means nothing with --isolation vm",
        why: "a guest has no ids of the host's",
    },
    Refusal {
        engine: &VM,
        options: &["--security-opt", "seccomp=unconfined"],
        says: "--security-opt seccomp means nothing with --isolation vm",
        why: OWN_KERNEL,
    },
    Refusal {
        engine: &VM,
        options: &["--security-opt", "systempaths=unconfined"],
        says: "--security-opt systempaths means nothing with --isolation vm",
        why: OWN_KERNEL,
    },
    Refusal {
        engine: &VM,
        options: &["--nested"],
        says: "--nested means nothing with --isolation vm",
        why: OWN_KERNEL,
    },
];

pub(super) fn are_told(list: &[Refusal]) {
    for Refusal { engine, options, says, .. } in list {
        fails(&mut engine.run(options, &["true"]), 125, &[says]);
    }
}
