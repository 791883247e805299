//! Disks made by the real tools, read in user space, and compared with what the kernel makes of them.

mod ext;
mod hostile;
mod images;
mod listing;
mod others;
mod scene;
mod tables;
