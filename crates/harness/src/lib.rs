//! What is made of sources, plans and engines: images that are ready, machines that run.

mod bake;
pub mod host;
mod launch;
pub mod places;
mod pull;

pub use launch::{Launch, launch};
pub use pull::{Pull, Status, pull};
