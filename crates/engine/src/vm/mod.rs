//! Machines with a kernel of their own, by QEMU.

pub mod accelerator;
pub mod firmware;
pub mod hardware;
pub mod initramfs;
pub mod qemu;
pub mod qmp;
pub mod seed;
