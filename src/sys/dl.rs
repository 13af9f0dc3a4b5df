//! Shared objects, loaded into the calling process for the rest of its life.

use std::ffi::{CStr, c_int, c_void};
use std::ptr::NonNull;

/// A loaded shared object. It is never unloaded: its threads, exit handlers and signal handlers would be left without their code.
#[derive(Debug)]
pub struct Library(NonNull<c_void>);

impl Library {
    /// Loads a shared object with all it needs, and runs its constructors (dlopen(3), `RTLD_NOW | RTLD_LOCAL`).
    ///
    /// # Errors
    /// The loader's message, which begins with the path if the fault is in this file.
    pub fn open(path: &CStr) -> Result<Self, String> {
        Self::open_with(path, libc::RTLD_NOW)
    }

    /// As [`Library::open`], for a library that another one needs, before that is loaded (`RTLD_LAZY`): functions may be found in what
    /// is loaded later.
    ///
    /// # Errors
    /// As [`Library::open`].
    pub fn open_first(path: &CStr) -> Result<Self, String> {
        Self::open_with(path, libc::RTLD_LAZY)
    }

    fn open_with(path: &CStr, mode: c_int) -> Result<Self, String> {
        // SAFETY: `path` is a C string. The constructors of the file run: loading code is what the caller asks for.
        let handle = unsafe { libc::dlopen(path.as_ptr(), mode | libc::RTLD_LOCAL) };
        NonNull::new(handle).map(Self).ok_or_else(last_error)
    }

    /// The address of a symbol of this object or of one that it needs (dlsym(3)).
    pub fn symbol(&self, name: &CStr) -> Option<NonNull<c_void>> {
        // SAFETY: an open handle and a C string.
        NonNull::new(unsafe { libc::dlsym(self.0.as_ptr(), name.as_ptr()) })
    }
}

fn last_error() -> String {
    // SAFETY: takes nothing; the text is the calling thread's and valid until its next dl call.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "the loader gives no reason".into();
    }
    // SAFETY: not NULL, so a C string, and copied at once.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loaded_library_has_symbols() {
        let library = Library::open(c"libc.so.6").unwrap();
        assert!(library.symbol(c"strlen").is_some());
        assert!(library.symbol(c"no_such_symbol").is_none());
    }

    #[test]
    fn an_error_begins_with_the_path() {
        assert!(Library::open(c"/nowhere/x.so").unwrap_err().starts_with("/nowhere/x.so: "));
    }
}
