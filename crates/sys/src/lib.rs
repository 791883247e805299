//! Linux, and all of postroj's unsafe code. What rustix offers is used from there
//! directly; this crate holds only what rustix lacks.

mod bitflags;
pub mod caps;
pub mod cgroups;
pub mod clock;
pub mod devices;
pub mod exe;
pub mod extents;
pub mod inet;
pub mod landlock;
pub mod loopback;
pub mod mount;
pub mod netns;
pub mod notify;
pub mod process;
pub mod pty;
pub mod rlimits;
pub mod rooted;
pub mod sched;
pub mod seccomp;
pub mod signals;
pub mod socket;
pub mod tun;
pub mod userns;
