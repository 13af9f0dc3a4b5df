//! The control socket, through which `prefork ls`, `reload` and the like, or a program of your own, find a running server,
//! query it and give it commands.
//!
//! Each master has one Unix socket in a directory of its user ([`place`]). A client that connects gets a
//! [`protocol::Hello`], then sends requests and gets replies, each one JSON object on a line ([`protocol`]). [`Client`]
//! implements this.

pub mod client;
mod measure;
pub mod place;
pub mod protocol;

pub use client::{Client, ends_within};
pub use protocol::{Reply, Request};
