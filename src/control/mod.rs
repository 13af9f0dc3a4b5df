//! The control socket: how a running master is found, asked and told, by `prefork ls`, `reload` and the like, or by a program
//! of your own.
//!
//! Each master has one Unix socket in a directory of its user ([`place`]). Whoever connects gets a [`protocol::Hello`], then
//! sends requests, one JSON object a line, and gets replies, one JSON object a line ([`protocol`]). [`client`] does it for you.

pub mod client;
pub mod place;
pub mod protocol;

pub use client::{Client, ends_within};
pub use protocol::{Reply, Request};
