//! What is made of sources, plans and engines: images that are ready, machines that run.

mod bake;
mod boot;
mod copy;
mod exec;
pub mod host;
mod launch;
pub mod matrix;
pub mod network;
pub mod places;
pub mod probe;
mod pull;
pub mod report;

pub use boot::startup;
pub use copy::{End, Manner, copy};
pub use exec::{Running, exec, exec_beside, exec_with};
pub use launch::{Launch, launch};
pub use pull::{Pull, Status, pull};
