//! A module in Rust. It calls the C API as any module does, so it is one file and needs no crate:
//!
//!     rustc --edition 2024 -O --crate-type cdylib module.rs -o module.so && prefork ./module.so
//!     curl http://127.0.0.1:8080/you
//!
//! A panic must not cross into the caller: it is caught here, and the client gets 500.
#![allow(non_upper_case_globals, non_camel_case_types)]

use std::ffi::{c_char, c_int, c_void};
use std::panic::catch_unwind;

// From prefork.h.
#[repr(C)]
struct prefork_slice {
    data: *const c_char,
    len: usize,
}
type Request = c_void;
type Response = c_void;
unsafe extern "C" {
    fn prefork_request_path(req: *const Request) -> prefork_slice;
    fn prefork_response_body(res: *mut Response, data: *const c_void, size: usize) -> c_int;
    fn prefork_response_fail(res: *mut Response) -> c_int;
}

/// The part of `struct prefork_module` that this module needs; `size` says how much that is.
#[repr(C)]
pub struct Module {
    size: u32,
    abi_major: u16,
    abi_minor: u16,
    worker_start: Option<unsafe extern "C" fn(worker: *mut c_void, state: *mut *mut c_void) -> c_int>,
    worker_stop: Option<unsafe extern "C" fn(worker: *mut c_void, state: *mut c_void)>,
    on_request: Option<unsafe extern "C" fn(req: *mut Request, res: *mut Response, state: *mut c_void)>,
}

#[unsafe(no_mangle)]
pub static prefork_module: Module = Module {
    size: size_of::<Module>() as u32,
    abi_major: 2,
    abi_minor: 0,
    worker_start: None,
    worker_stop: None,
    on_request: Some(on_request),
};

unsafe extern "C" fn on_request(req: *mut Request, res: *mut Response, _state: *mut c_void) {
    // SAFETY: `req` is the request of this call; the slice is not used after it.
    let path = unsafe {
        let path = prefork_request_path(req);
        std::slice::from_raw_parts(path.data.cast::<u8>(), path.len)
    };
    // SAFETY: `res` is the response of this call; the body is copied.
    unsafe {
        match catch_unwind(|| greet(path)) {
            Ok(text) => prefork_response_body(res, text.as_ptr().cast(), text.len()),
            Err(_) => prefork_response_fail(res),
        };
    }
}

fn greet(path: &[u8]) -> String {
    let name = str::from_utf8(path).expect("a path in UTF-8").trim_start_matches('/');
    assert_ne!(name, "panic", "asked for");
    format!("hello {}\n", if name.is_empty() { "world" } else { name })
}
