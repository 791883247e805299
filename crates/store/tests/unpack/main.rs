//! Packing, and unpacking: what must work, what must be refused, and that nothing outside ever changes.
//! Everything runs as root and as an ordinary user.

mod agreement;
mod build;
mod hostile;
mod layered;
mod pack;
mod place;
mod random;
mod semantics;
