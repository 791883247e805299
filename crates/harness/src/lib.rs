//! What is made of sources, plans and engines: images that are ready, machines that run.

mod bake;
mod boot;
mod exec;
pub mod host;
mod launch;
pub mod network;
pub mod places;
mod pull;

pub use boot::startup;
pub use exec::exec;
pub use launch::{Launch, launch};
pub use pull::{Pull, Status, pull};
