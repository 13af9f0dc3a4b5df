//! The C API: the only `extern "C"` of this crate.
#![allow(unsafe_code)]

pub mod module;
