//! The handler's own values for a connection, on their way from a request to the stream that its connection becomes.

use crate::log::log;
use std::any::Any;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The handler's own values for a connection.
pub struct User {
    /// In Rust.
    pub value: Option<Box<dyn Any>>,
    /// In C; never dereferenced here.
    pub pointer: *mut c_void,
}

impl Drop for User {
    /// There will be no stream for it.
    fn drop(&mut self) {
        if let Some(value) = self.value.take() {
            // It may run code of the handler, of which a panic must not reach the loop.
            if catch_unwind(AssertUnwindSafe(|| drop(value))).is_err() {
                log!(Error, "release: panicked");
            }
        }
    }
}

impl Default for User {
    fn default() -> Self {
        Self { value: None, pointer: std::ptr::null_mut() }
    }
}
