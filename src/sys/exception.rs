//! Exceptions of C++ that leave a callback: seen where they are thrown, and described.
//!
//! An unwinder looks for a handler first, from the throw upwards, and unwinds nothing meanwhile (Itanium C++ ABI, level II). A callback
//! is called through a frame whose personality routine is asked in that search: an exception that comes so far has no handler in the
//! callback. So the process can be ended there, with the stack as it was at the throw. Panics of Rust pass.

use std::cell::Cell;

/// What is called with an exception that leaves a callback, before anything is unwound: with its type and its text, if they are known.
pub type Leaves<'a> = &'a dyn Fn(Option<String>);

thread_local! {
    /// That of the innermost callback, whose reference lives as long as it is here.
    static LEAVES: Cell<Option<Leaves<'static>>> = const { Cell::new(None) };
}

/// Runs `f`. If an exception of C++ leaves it, calls `leaves`, on machines where this can be seen.
pub fn watch<T>(leaves: Leaves<'_>, f: impl FnOnce() -> T) -> T {
    struct Restore(Option<Leaves<'static>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            LEAVES.set(self.0);
        }
    }
    // SAFETY: only the lifetime changes. It is taken out again, by `Restore`, before the reference ends.
    let leaves = unsafe { std::mem::transmute::<Leaves<'_>, Leaves<'static>>(leaves) };
    let _restore = Restore(LEAVES.replace(Some(leaves)));
    through_frame(f)
}

#[cfg(not(target_arch = "x86_64"))]
fn through_frame<T>(f: impl FnOnce() -> T) -> T {
    f()
}

#[cfg(target_arch = "x86_64")]
use watched::through_frame;

#[cfg(target_arch = "x86_64")]
mod watched {
    use super::{LEAVES, cpp};
    use std::ffi::{c_int, c_void};

    type Call = unsafe extern "C-unwind" fn(*mut c_void);
    type Personality = unsafe extern "C" fn(c_int, c_int, u64, *mut c_void, *mut c_void) -> c_int;

    /// The phase in which a handler is looked for.
    const SEARCH: c_int = 1;
    /// `_URC_CONTINUE_UNWIND`.
    const GO_ON: c_int = 8;

    /// Where the unwinder finds the routine: its table has the distance to this place.
    static PERSONALITY: Personality = personality;

    std::arch::global_asm!(
        ".pushsection .text.prefork_call_watched, \"ax\", @progbits",
        ".globl prefork_call_watched",
        ".hidden prefork_call_watched",
        ".type prefork_call_watched, @function",
        "prefork_call_watched:",
        ".cfi_startproc",
        // Indirect, relative, four bytes.
        ".cfi_personality 0x9b, {personality}",
        "push rbp",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset rbp, -16",
        "mov rbp, rsp",
        ".cfi_def_cfa_register rbp",
        "mov rax, rdi",
        "mov rdi, rsi",
        "call rax",
        "pop rbp",
        ".cfi_def_cfa rsp, 8",
        "ret",
        ".cfi_endproc",
        ".size prefork_call_watched, . - prefork_call_watched",
        ".popsection",
        personality = sym PERSONALITY,
    );

    unsafe extern "C-unwind" {
        /// Calls `call(data)`.
        fn prefork_call_watched(call: Call, data: *mut c_void);
    }

    unsafe extern "C" fn personality(
        _version: c_int,
        actions: c_int,
        class: u64,
        exception: *mut c_void,
        _context: *mut c_void,
    ) -> c_int {
        if actions & SEARCH != 0
            && cpp::is_of(class)
            && let Some(leaves) = LEAVES.get()
        {
            // SAFETY: of that class, and thrown just now.
            leaves(unsafe { cpp::describe(class, exception) });
        }
        GO_ON
    }

    pub fn through_frame<T>(f: impl FnOnce() -> T) -> T {
        struct Slot<F, T>(Option<F>, Option<T>);
        unsafe extern "C-unwind" fn run<F: FnOnce() -> T, T>(slot: *mut c_void) {
            // SAFETY: `through_frame` below lends its slot for this call.
            let slot = unsafe { &mut *slot.cast::<Slot<F, T>>() };
            slot.1 = slot.0.take().map(|f| f());
        }
        let mut slot = Slot(Some(f), None);
        // SAFETY: `run` is for a slot of this type, which lives until the call returns.
        unsafe { prefork_call_watched(run_of(&slot), (&raw mut slot).cast()) };
        fn run_of<F: FnOnce() -> T, T>(_: &Slot<F, T>) -> Call {
            run::<F, T>
        }
        match slot.1 {
            Some(result) => result,
            // It has been called, once.
            None => unreachable!(),
        }
    }
}

/// What libstdc++ has in memory on machines of 64 bits.
#[cfg(target_arch = "x86_64")]
mod cpp {
    use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
    use std::ptr;

    type Pointer = *const c_void;

    /// `GNUCC++` and a byte: 0 for an exception, 1 for a reference to one (std::rethrow_exception).
    const CLASS: u64 = u64::from_be_bytes(*b"GNUCC++\0");
    /// The size of the unwinder's header, behind which the thrown value lies.
    const HEADER: usize = 32;
    /// From there back to the type of the exception, or to the pointer to the value that a reference is for.
    const TYPE: usize = 80;
    /// The places of virtual functions: `std::type_info::__do_catch`, `std::exception::what`.
    const DO_CATCH: usize = 4;
    const WHAT: usize = 2;

    pub fn is_of(class: u64) -> bool {
        class & !1 == CLASS
    }

    /// The type of an exception and, if it is a `std::exception`, its text.
    ///
    /// # Safety
    /// `exception` is the unwinder's header of one of this class, which is being thrown.
    pub unsafe fn describe(class: u64, exception: *mut c_void) -> Option<String> {
        // SAFETY: both kinds have a pointer there.
        let before = unsafe { read(exception.cast_const(), -(TYPE as isize)) };
        let (value, of_type) = if class == CLASS {
            // SAFETY: the value follows the header.
            (unsafe { exception.cast_const().byte_add(HEADER) }, before)
        } else {
            // SAFETY: the value has its own header, and its type in front of that.
            (before, unsafe { read(before, -((HEADER + TYPE) as isize)) })
        };
        if of_type.is_null() {
            return None;
        }
        // SAFETY: the name is the first member of a std::type_info, behind its virtual functions.
        let name = unsafe { read(of_type, size_of::<Pointer>() as isize) }.cast::<c_char>();
        // SAFETY: a C string, for the rest of the process; GCC marks some names by an asterisk.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().trim_start_matches('*').to_owned();
        // SAFETY: a C string; only a library that is there already is given.
        let library =
            unsafe { libc::dlopen(c"libstdc++.so.6".as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
        // SAFETY: a C string; NULL, for a program that has it linked in, is RTLD_DEFAULT.
        let symbol = |name: &CStr| unsafe { libc::dlsym(library, name.as_ptr()) };
        let demangle = symbol(c"__cxa_demangle");
        // SAFETY: this type and its function are of the library that has made the value.
        let what = unsafe { what(symbol(c"_ZTISt9exception"), of_type, value) };
        // SAFETY: the function of that name.
        let name = unsafe { demangled(demangle, &name) }.unwrap_or(name);
        Some(what.map_or_else(|| name.clone(), |what| format!("{name}: {what}")))
    }

    /// The pointer at this distance.
    ///
    /// # Safety
    /// There is one.
    unsafe fn read(from: Pointer, at: isize) -> Pointer {
        // SAFETY: what the caller promises.
        unsafe { from.wrapping_byte_offset(at).cast::<Pointer>().read() }
    }

    /// A virtual function of an object.
    ///
    /// # Safety
    /// It has that many.
    unsafe fn virtual_of(object: Pointer, at: usize) -> Pointer {
        // SAFETY: an object with virtual functions begins with the pointer to them.
        let functions = unsafe { read(object, 0) };
        // SAFETY: what the caller promises.
        unsafe { read(functions, (at * size_of::<Pointer>()) as isize) }
    }

    /// The text of a value if its type is one of `std::exception`.
    ///
    /// # Safety
    /// `base` is NULL or the std::type_info of `std::exception`; the others are those of a value.
    unsafe fn what(base: *mut c_void, of_type: Pointer, value: Pointer) -> Option<String> {
        if base.is_null() {
            return None;
        }
        type DoCatch = unsafe extern "C" fn(Pointer, Pointer, *mut Pointer, c_uint) -> bool;
        type What = unsafe extern "C" fn(Pointer) -> *const c_char;
        let mut adjusted = value;
        // SAFETY: a std::type_info has it there.
        let do_catch = unsafe { virtual_of(base, DO_CATCH) };
        // SAFETY: the type of that function.
        let do_catch = unsafe { std::mem::transmute::<Pointer, DoCatch>(do_catch) };
        // SAFETY: as a `catch (std::exception &)` calls it.
        if !unsafe { do_catch(base, of_type, &raw mut adjusted, 1) } {
            return None;
        }
        // SAFETY: a std::exception now.
        let what = unsafe { virtual_of(adjusted, WHAT) };
        // SAFETY: the type of that function.
        let what = unsafe { std::mem::transmute::<Pointer, What>(what) };
        // SAFETY: it throws nothing.
        let text = unsafe { what(adjusted) };
        if text.is_null() {
            return None;
        }
        // SAFETY: a C string that lives as long as the value.
        Some(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
    }

    /// The name of a type as it is written in C++.
    ///
    /// # Safety
    /// `demangle` is NULL or `__cxa_demangle`.
    unsafe fn demangled(demangle: *mut c_void, name: &str) -> Option<String> {
        type Demangle =
            unsafe extern "C" fn(*const c_char, *mut c_char, *mut usize, *mut c_int) -> *mut c_char;
        if demangle.is_null() {
            return None;
        }
        let name = std::ffi::CString::new(name).ok()?;
        // SAFETY: the type of that function.
        let demangle = unsafe { std::mem::transmute::<*mut c_void, Demangle>(demangle) };
        // SAFETY: a C string; it allocates the result.
        let text = unsafe { demangle(name.as_ptr(), ptr::null_mut(), ptr::null_mut(), ptr::null_mut()) };
        if text.is_null() {
            return None;
        }
        // SAFETY: not NULL, so a C string. The process ends soon: it is not freed.
        Some(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn results_and_panics_pass() {
        let never = |_: Option<String>| panic!("no exception");
        assert_eq!(watch(&never, || watch(&never, || 7)), 7);
        let text = String::from("moved");
        assert_eq!(watch(&never, move || text), "moved");
        let panic = catch_unwind(AssertUnwindSafe(|| watch(&never, || -> i32 { std::panic::panic_any(7) })));
        assert_eq!(panic.unwrap_err().downcast_ref(), Some(&7));
        assert!(LEAVES.get().is_none());
    }
}
