//! What is made of sources, plans and engines: images that are ready, machines that run.

mod bake;
mod boot;
mod copy;
mod emulation;
mod exec;
pub mod host;
pub mod kernel;
mod launch;
pub mod matrix;
mod nested;
pub mod network;
pub mod places;
pub mod pool;
pub mod probe;
mod processes;
mod provision;
mod pull;
pub mod report;
pub mod snapshot;
pub mod test;
pub mod vm_root;
pub mod whole_disk;
mod written;

pub use boot::{is_init, startup, startup_of};
pub use copy::{End, Manner, copy};
pub use emulation::emulation;
pub use exec::{Running, exec, exec_beside, exec_with};
pub use launch::{Launch, launch};
pub use nested::nested;
pub use processes::{Guest, ProcessStatus, carriers, guest, processes, traffic};
pub use provision::{Provision, bootable, helper};
pub use pull::{Pull, Status, name_for, pull};
pub use written::{Part, Written, changes, export, take};

/// What this program does as a guest's process 1, besides being that.
pub const ABILITIES: engine::vm::guest::Abilities =
    engine::vm::guest::Abilities { errands: ERRANDS, set_up: net::card::set_up };

/// What this program does in machines by name.
pub const ERRANDS: &[&engine::Errand] = &[
    &copy::FIND,
    &copy::PACK,
    &copy::UNPACK,
    &exec::FACTS,
    &processes::PROCESSES,
    &processes::GUEST,
    &probe::inside::LOOK,
    &written::EXPORT,
    &written::CHANGES,
    &written::TAKE,
    &snapshot::COPY,
    &snapshot::REMOVE,
];
