//! Where images come from. A source turns a reference into an unpacked root, or
//! one that a [`spec::recipe::Recipe`] must finish. Nothing here runs anything.

pub mod source;

mod compression;
mod configuration;
mod digest;
mod names;
