//! File systems, written: from whatever [`crate::Volume`], into a file.

pub mod erofs;
