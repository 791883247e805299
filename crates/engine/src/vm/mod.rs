//! Machines with a kernel of their own, by QEMU.

pub mod accelerator;
pub mod hardware;
pub mod initramfs;
pub mod qemu;
pub mod qmp;
