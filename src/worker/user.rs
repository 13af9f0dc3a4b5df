//! The handler's own values for a connection, on their way from a request to the stream that its connection becomes.

use std::any::Any;
use std::ffi::c_void;

/// The handler's own values for a connection.
pub struct User {
    /// In Rust.
    pub value: Option<Box<dyn Any>>,
    /// In C; never dereferenced here.
    pub pointer: *mut c_void,
}

impl Default for User {
    fn default() -> Self {
        Self { value: None, pointer: std::ptr::null_mut() }
    }
}
