//! Where images come from, and how they go out again. A source turns a reference into an unpacked root, or
//! one that a [`spec::recipe::Recipe`] must finish. Nothing here runs anything.

pub mod delivery;
pub mod kernel;
pub mod source;

mod compression;
mod configuration;
mod digest;
mod names;
