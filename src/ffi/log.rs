//! The lines that prefork itself logs, for a program in C that has a log of its own. In the master and in workers.

use super::server::{Refusal, prefork_server, set_up};
use crate::config::LogLevel;
use crate::unwind::named;
use std::cell::RefCell;
use std::ffi::{CString, c_char, c_int, c_void};
use std::rc::Rc;

/// How important a line of prefork's own is. The numbers are the priorities of syslog(3). No number ever gets another
/// meaning; later versions may have more.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum prefork_log_level {
    /// Something has failed that somebody has to look into: a worker has crashed, a reload was rolled back, a callback
    /// has failed.
    PREFORK_LOG_ERROR = 3,
    /// Something is not as it should be, and prefork copes: a worker hangs, a deadline has cut connections,
    /// descriptors have run out.
    PREFORK_LOG_WARN = 4,
    /// What an operator has asked for has begun, or is done: a reload, an upgrade, a command.
    PREFORK_LOG_INFO = 6,
    /// What happens all the time: forks, admissions, ends of workers, pauses in accepting.
    PREFORK_LOG_DEBUG = 7,
}

/// Called with a line that prefork itself logs. `level` is one of `enum prefork_log_level`.
pub type prefork_on_log =
    Option<unsafe extern "C-unwind" fn(level: c_int, line: *const c_char, state: *mut c_void)>;

/// Sets a function that is called with each line that prefork itself logs, instead of writing it to standard error.
/// The line has no line end, no control characters, no time, and no `prefork: ` before it; that of a worker begins with
/// `worker ID: `. Lines less important than the setting `log-level` (`error`, `warn`, `info`, `debug`) are left out.
/// `syslog(level, "%s", line)` is all that is needed for syslog(3). NULL unsets it.
///
/// It is called in the middle of prefork's work: it must not call any function of this header, and must not take long.
/// What handlers print does not come here.
///
/// Returns PREFORK_OK.
/// Process: master, before it runs; `on_log` is called in the master and in workers, in the first thread.
/// # Safety
/// Borrows `server` until return. Borrows `state`, which may be NULL, until `server` is freed: a worker has
/// its own copy of the memory behind it, as of its fork. `line` is borrowed until `on_log` returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_server_on_log(
    server: *mut prefork_server,
    on_log: prefork_on_log,
    state: *mut c_void,
) -> c_int {
    let set = |server: &mut prefork_server| -> Result<(), Refusal> {
        server.on_log = on_log.map(|call| {
            let call = move |level: LogLevel, line: &str| {
                // Control characters, which NUL is, have been escaped.
                let line = CString::new(line).unwrap_or_default();
                // SAFETY: a callback and a state that were given for this; the line lives until it returns.
                named("on_log", || unsafe { call(level as c_int, line.as_ptr(), state) });
            };
            Rc::new(RefCell::new(call)) as crate::log::OnLog
        });
        Ok(())
    };
    // SAFETY: `server` is NULL or lent to the caller, who uses it in no other call meanwhile.
    unsafe { set_up(server, set) }
}
