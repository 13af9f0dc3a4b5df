//! All streams of a worker, and topics, in C.

use super::conn::{open_stream, prefork_conn};
use super::guard::{Result, borrow, bytes, guard, lend, text, text_n};
use super::status::{answered, prefork_status};
use super::worker::prefork_worker;
use crate::unwind::named;
use crate::worker::topics::is_name;
use crate::{Conn, Slow, Undelivered, Worker};
use std::ffi::{c_char, c_int, c_void};
use std::ptr;

/// Finds a stream by its id, in any callback. An upgraded HTTP connection is a stream.
///
/// Returns the connection; NULL if it has ended (also in its `on_close`), in blocking style, in another thread than
/// the worker's first, and in a process that the handler has forked.
/// Process: worker.
/// # Safety
/// Borrows `worker` until return. The result is lent until the connection's `on_close` returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_conn_find(worker: *mut prefork_worker, id: u64) -> *mut prefork_conn {
    guard(|| {
        // SAFETY: `worker` is NULL or lent to the caller.
        let conn = unsafe { borrow(worker) }?.conn(id);
        // Not dangling: the worker has the connection until its on_close has returned.
        Ok(conn.map_or(ptr::null_mut(), |conn| lend(&*conn)))
    })
}

/// Calls `each` with every stream of this worker, in no particular order, as long as it returns 0. `each` may write to
/// them, close them and walk them again.
///
/// Returns 0, or the number that `each` has returned to end the walk; PREFORK_STATE in blocking style, in another
/// thread than the worker's first, and in a process that the handler has forked; PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `worker` and `arg`, which may be NULL, until return. `each` lets no C++ exception and no longjmp
/// out.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_worker_each_conn(
    worker: *mut prefork_worker,
    each: Option<unsafe extern "C-unwind" fn(conn: *mut prefork_conn, arg: *mut c_void) -> c_int>,
    arg: *mut c_void,
) -> c_int {
    guard(|| {
        // SAFETY: `worker` is NULL or lent to the caller.
        let worker = unsafe { borrow(worker) }?;
        let each = each.ok_or(prefork_status::PREFORK_NULL)?;
        let mut answer = 0;
        worker.each_conn(|conn| {
            // SAFETY: the caller gave both for this call.
            answer = named("each", || unsafe { each(lend(&**conn), arg) });
            answer == 0
        })?;
        Ok(answer)
    })
}

/// Why a stream has ended, or is about to. No number ever gets another meaning; later versions may have more.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum prefork_end {
    /// Nothing ends it.
    PREFORK_END_NONE = 0,
    /// The client has ended its side, has gone or reset the connection.
    PREFORK_END_CLIENT = 1,
    /// The handler has closed it.
    PREFORK_END_HANDLER = 2,
    /// Reading or writing has failed, a callback has panicked, or the client has passed a limit: it has sent more than
    /// may be unread (setting `max-body`), or was too slow for what is published (PREFORK_SLOW_CLOSE).
    PREFORK_END_ERROR = 3,
    /// The client was silent (setting `idle-timeout`) or took nothing (`write-timeout`) for too long.
    PREFORK_END_TIMEOUT = 4,
    /// The worker ends: its time to finish (setting `drain-timeout`) is over, or too many generations drain
    /// (`max-draining`).
    PREFORK_END_WORKER = 5,
}

/// Why a stream has ended, for `on_close`, or is about to: one of `enum prefork_end`.
///
/// Returns it; PREFORK_END_NONE as long as nothing ends the stream, in blocking style, outside of the worker's first
/// thread, and if `conn` is NULL.
/// Process: worker.
/// # Safety
/// Borrows `conn` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_conn_end_reason(conn: *const prefork_conn) -> u32 {
    // SAFETY: `conn` is NULL or lent to the caller.
    guard(|| Ok(unsafe { borrow(conn) }?.end_reason().map_or(0, |reason| reason as u32)))
}

/// What becomes of a stream whose client reads too slowly for what is published to its topics.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum prefork_slow {
    /// It does not get what it has no room for.
    PREFORK_SLOW_SKIP = 0,
    /// It is reset.
    PREFORK_SLOW_CLOSE = 1,
}

/// Subscribes a stream to a topic: from now on it gets what any worker publishes to that name. Subscribing again does
/// nothing; the end of the connection ends its subscriptions.
///
/// Returns PREFORK_OK; PREFORK_INVALID if the name has no byte, more than 255, or is not UTF-8; PREFORK_GONE if the
/// stream has ended; PREFORK_STATE in blocking style, in another thread than the worker's first, and in a process
/// that the handler has forked; PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `conn` until return. Copies `topic`, which is NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_subscribe(conn: *mut prefork_conn, topic: *const c_char) -> c_int {
    // SAFETY: what the caller promises.
    let topic = unsafe { text(topic) };
    // SAFETY: what the caller promises.
    unsafe { with_topic(conn, topic, Worker::subscribe) }
}

/// As `prefork_subscribe()`, with a name of `topic_len` bytes that is not NUL-terminated.
///
/// Returns as `prefork_subscribe()`.
/// Process: worker.
/// # Safety
/// Borrows `conn` until return. Copies `topic_len` bytes at `topic`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_subscribe_n(
    conn: *mut prefork_conn,
    topic: *const c_char,
    topic_len: usize,
) -> c_int {
    // SAFETY: what the caller promises.
    let topic = unsafe { text_n(topic, topic_len) };
    // SAFETY: what the caller promises.
    unsafe { with_topic(conn, topic, Worker::subscribe) }
}

/// Ends a stream's subscription to a topic.
///
/// Returns PREFORK_OK; PREFORK_GONE if it has none; otherwise as `prefork_subscribe()`.
/// Process: worker.
/// # Safety
/// Borrows `conn`, and `topic`, which is NUL-terminated, until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_unsubscribe(conn: *mut prefork_conn, topic: *const c_char) -> c_int {
    // SAFETY: what the caller promises.
    let topic = unsafe { text(topic) };
    // SAFETY: what the caller promises.
    unsafe { with_topic(conn, topic, Worker::unsubscribe) }
}

/// As `prefork_unsubscribe()`, with a name of `topic_len` bytes that is not NUL-terminated.
///
/// Returns as `prefork_unsubscribe()`.
/// Process: worker.
/// # Safety
/// Borrows `conn`, and `topic_len` bytes at `topic`, until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_unsubscribe_n(
    conn: *mut prefork_conn,
    topic: *const c_char,
    topic_len: usize,
) -> c_int {
    // SAFETY: what the caller promises.
    let topic = unsafe { text_n(topic, topic_len) };
    // SAFETY: what the caller promises.
    unsafe { with_topic(conn, topic, Worker::unsubscribe) }
}

/// Ends all subscriptions of a stream, if it has any.
///
/// Returns PREFORK_OK; PREFORK_STATE and PREFORK_GONE as `prefork_subscribe()`; PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `conn` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_unsubscribe_all(conn: *mut prefork_conn) -> c_int {
    guard(|| {
        // SAFETY: `conn` is NULL or lent to the caller.
        let conn = unsafe { open_stream(conn) }?;
        answered(Worker::current().ok_or(prefork_status::PREFORK_STATE)?.unsubscribe_all(conn))
    })
}

/// Says what becomes of a stream if what is published to its topics comes faster than its client reads, that is if more
/// bytes than the setting `max-pending` would wait. PREFORK_SLOW_SKIP is the default. What was not written is counted:
/// `skipped` of `prefork_worker_status`.
///
/// Returns PREFORK_OK, PREFORK_STATE (in blocking style), PREFORK_GONE (in `on_close`), PREFORK_INVALID or
/// PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `conn` until return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_conn_set_slow(conn: *mut prefork_conn, slow: c_int) -> c_int {
    guard(|| {
        // SAFETY: `conn` is NULL or lent to the caller.
        let conn = unsafe { open_stream(conn) }?;
        conn.set_slow(match slow {
            0 => Slow::Skip,
            1 => Slow::Close,
            _ => return Err(prefork_status::PREFORK_INVALID),
        });
        Ok(prefork_status::PREFORK_OK as c_int)
    })
}

/// Writes bytes to all streams of all workers that have subscribed to a topic, this worker's included; those of others
/// get them by way of the master. Each stream gets all of the bytes or none (`prefork_conn_set_slow()`), and what one
/// worker publishes in the order it was published. The bytes are written as they are: publish whole frames to
/// WebSocket connections.
///
/// A stream that is on its way to another worker meanwhile (`on_handover`) gets the bytes there, once and in that
/// order, but not those that were published before that worker was forked; and not if more than 2 MiB are published
/// meanwhile. `skipped` counts both. Of two workers' publications one stream may get either first.
///
/// Never waits. A worker that is too busy to read its messages for 3 seconds does not get what is published until it
/// has room again.
///
/// Returns PREFORK_OK, or a status, with which no stream gets it: PREFORK_TOO_LARGE (name and bytes are longer than
/// the setting `max-message`, or the bytes than `max-pending`), PREFORK_FULL (four messages of that size wait to be
/// sent already), PREFORK_GONE (the master is gone), PREFORK_INVALID (the topic, as for `prefork_subscribe()`),
/// PREFORK_STATE, PREFORK_NULL.
/// Process: worker.
/// # Safety
/// Borrows `worker` until return. Copies `topic`, which is NUL-terminated, and `size` bytes at `data`, which
/// may be NULL if `size` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_publish(
    worker: *mut prefork_worker,
    topic: *const c_char,
    data: *const c_void,
    size: usize,
) -> c_int {
    // SAFETY: what the caller promises.
    let topic = unsafe { text(topic) };
    // SAFETY: what the caller promises.
    unsafe { publish(worker, topic, data, size, Worker::publish) }
}

/// As `prefork_publish()`, with a name of `topic_len` bytes that is not NUL-terminated.
///
/// Returns as `prefork_publish()`.
/// Process: worker.
/// # Safety
/// Borrows `worker` until return. Copies `topic_len` bytes at `topic`, and `size` bytes at `data`, which may
/// be NULL if `size` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_publish_n(
    worker: *mut prefork_worker,
    topic: *const c_char,
    topic_len: usize,
    data: *const c_void,
    size: usize,
) -> c_int {
    // SAFETY: what the caller promises.
    let topic = unsafe { text_n(topic, topic_len) };
    // SAFETY: what the caller promises.
    unsafe { publish(worker, topic, data, size, Worker::publish) }
}

/// As `prefork_publish()`, to the streams of all other workers.
///
/// Returns as `prefork_publish()`.
/// Process: worker.
/// # Safety
/// Borrows `worker` until return. Copies `topic`, which is NUL-terminated, and `size` bytes at `data`, which
/// may be NULL if `size` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_publish_elsewhere(
    worker: *mut prefork_worker,
    topic: *const c_char,
    data: *const c_void,
    size: usize,
) -> c_int {
    // SAFETY: what the caller promises.
    let topic = unsafe { text(topic) };
    // SAFETY: what the caller promises.
    unsafe { publish(worker, topic, data, size, Worker::publish_elsewhere) }
}

/// As `prefork_publish_elsewhere()`, with a name of `topic_len` bytes that is not NUL-terminated.
///
/// Returns as `prefork_publish_elsewhere()`.
/// Process: worker.
/// # Safety
/// Borrows `worker` until return. Copies `topic_len` bytes at `topic`, and `size` bytes at `data`, which may
/// be NULL if `size` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefork_publish_elsewhere_n(
    worker: *mut prefork_worker,
    topic: *const c_char,
    topic_len: usize,
    data: *const c_void,
    size: usize,
) -> c_int {
    // SAFETY: what the caller promises.
    let topic = unsafe { text_n(topic, topic_len) };
    // SAFETY: what the caller promises.
    unsafe { publish(worker, topic, data, size, Worker::publish_elsewhere) }
}

/// Calls a function with a stream and the name of a topic.
///
/// # Safety
/// As for `prefork_subscribe`.
unsafe fn with_topic(
    conn: *mut prefork_conn,
    topic: Result<&str>,
    f: impl FnOnce(&Worker, &Conn, &str) -> std::result::Result<(), Undelivered>,
) -> c_int {
    guard(|| {
        // SAFETY: what the caller promises.
        let conn = unsafe { borrow(conn) }?;
        let topic = name(topic)?;
        answered(f(Worker::current().ok_or(prefork_status::PREFORK_STATE)?, conn, topic))
    })
}

/// Calls a function with the name of a topic and bytes.
///
/// # Safety
/// As for `prefork_publish`.
unsafe fn publish(
    worker: *mut prefork_worker,
    topic: Result<&str>,
    data: *const c_void,
    size: usize,
    f: impl FnOnce(&Worker, &str, &[u8]) -> std::result::Result<(), Undelivered>,
) -> c_int {
    guard(|| {
        // SAFETY: what the caller promises.
        let worker = unsafe { borrow(worker) }?;
        let topic = name(topic)?;
        // SAFETY: what the caller promises.
        answered(f(worker, topic, unsafe { bytes(data, size) }?))
    })
}

/// The name of a topic.
fn name(topic: Result<&str>) -> Result<&str> {
    topic.and_then(|topic| if is_name(topic) { Ok(topic) } else { Err(prefork_status::PREFORK_INVALID) })
}
