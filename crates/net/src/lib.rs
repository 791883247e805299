//! Networks for machines: what leads out of a namespace that an engine made.
//!
//! A network is attached between [`Network::prepare`], when there is no machine yet, and the
//! start of its first process. What must be undone is tied to what the kernel undoes by
//! itself when this process dies, or written down before it is made, for [`reap`].

mod network;
mod ports;
pub mod survey;

pub use network::{Attached, Network, Place, Prepared, Target, prepare};
