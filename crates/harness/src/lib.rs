//! What is made of sources, plans and engines: images that are ready, machines that run.

mod bake;
mod boot;
mod emulation;
mod exec;
pub mod host;
mod launch;
pub mod places;
mod pull;

pub use boot::startup;
pub use emulation::emulation;
pub use exec::exec;
pub use launch::{Launch, launch};
pub use pull::{Pull, Status, name_for, pull};
