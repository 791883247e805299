//! What operating systems are, and how they are spoken to.
//!
//! [`catalog`] knows the distributions that can be asked for by name, [`facts`] finds out
//! what a root file system holds.

pub mod catalog;
pub mod elf;
pub mod emulation;
pub mod facts;
pub mod init;
pub mod os_release;
pub mod package;
pub mod users;
