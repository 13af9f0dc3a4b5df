//! The C API: the only `extern "C"` of this crate. `include/prefork.h` is made from these files, documentation included, so
//! public names are C's and public comments are written for C programmers.
//!
//! Each export runs inside `guard::guard`; guard.rs alone turns C's pointers into references. `server`, `commands` and `event` run
//! in the master, the rest in workers.
#![allow(unsafe_code)]
#![allow(non_camel_case_types, reason = "one name per thing: what grep finds in the header it finds here")]

pub mod commands;
pub mod conn;
pub mod conns;
pub mod datagram;
pub mod event;
pub mod files;
mod guard;
mod load;
pub mod log;
pub mod lookups;
pub mod module;
pub mod multipart;
mod origin;
pub mod request;
pub mod response;
#[doc(hidden)]
pub mod rust_module;
pub mod server;
pub mod status;
pub mod testing;
pub mod wakeups;
pub mod worker;
