//! Images from registries and archives, against Debian's docker-registry and against servers that
//! misbehave. As all end-to-end tests, these run as root and as an ordinary user.

#[path = "../fixture/mod.rs"]
mod fixture;

mod access;
mod archives;
mod exchange;
mod hostile;
mod http;
mod images;
mod killed;
mod listing;
mod outgoing;
mod peers;
mod place;
mod pulling;
mod server;
mod trees;
