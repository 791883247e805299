//! Networks for machines: what leads out of a namespace that an engine made.
//!
//! A network is attached between [`Network::prepare`], when there is no machine yet, and the
//! start of its first process. What must be undone is tied to what the kernel undoes by
//! itself when this process dies, or written down before it is made, for [`reap`].

pub mod card;
pub mod connect;
pub mod faults;
mod forward;
mod holder;
pub mod lease;
mod link;
mod names;
mod netlink;
mod network;
pub mod networks;
mod ports;
mod queue;
mod rules;
mod site;
pub mod survey;

use std::path::Path;

pub use network::{Attached, Network, Place, Prepared, Target, prepare};

/// Takes down what killed monitors left of networks, and has names answered where whoever did was killed.
/// Costs one look where there are none.
pub fn reap(run: &Path) {
    for directory in lease::directories(run) {
        names::resume(&directory);
        // Where somebody sweeps, it will be done without us.
        let Some(_sweeper) = directory.is_up().then(|| directory.sweep()).flatten() else {
            continue;
        };
        // What cannot be removed now is looked at by the next command.
        let _ = network::bridge::leave(&directory);
    }
    if rustix::process::geteuid().is_root() {
        let _ = network::bridge::take_lost(run);
    }
}
