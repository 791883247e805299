//! The store: what it promises, and what remains of it when its writers are killed.
//! Everything runs as root and as an ordinary user.

mod cache;
mod faults;
mod killed;
mod layers;
mod opening;
mod records;
mod roots;
mod scratch;
mod together;
