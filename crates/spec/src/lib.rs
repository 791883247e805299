//! The plain data that all of postroj shares. Nothing here does any I/O.
//!
//! Three of these types are the waists of the design: a source makes an
//! [`image::Image`], a face makes a [`request::Request`] that becomes a
//! [`plan::Plan`], and an engine makes a machine of that plan.

pub mod boot;
pub mod bypass;
pub mod event;
pub mod exit;
pub mod ids;
pub mod image;
pub mod network;
pub mod oci;
pub mod plan;
pub mod platform;
pub mod recipe;
pub mod reference;
pub mod request;
pub mod runtime;
pub mod sandbox;
pub mod seccomp;
