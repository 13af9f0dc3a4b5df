//! The log: one line at a time, to the host's callback or on standard error. A line that cannot be written is dropped: no log is worth
//! a connection. In any process; what a master has set up, its workers inherit.

use crate::config::{Config, LogLevel, LogTime};
use crate::role::{Role, role};
use crate::sys::{output, socket, stderr};
use std::cell::RefCell;
use std::fmt::Arguments;
use std::fmt::Write as _;
use std::marker::PhantomData;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

/// The length of the longest line (bytes): a pipe takes such a line whole or not at all (pipe(7), PIPE_BUF).
const LONGEST: usize = 4000;

/// What a host has called with each line.
pub(crate) type OnLog = Rc<RefCell<dyn FnMut(LogLevel, &str)>>;

/// The least important level that is logged.
static LEVEL: AtomicU8 = AtomicU8::new(LogLevel::Info as u8);
/// True if the time and the level stand before a line.
static WITH_TIME: AtomicBool = AtomicBool::new(false);
/// True if the level stands before a line as the journal reads it (sd-daemon(3)).
static IN_JOURNAL: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// The host's callback. Lines come from the thread that runs the server; another one's are written to standard error.
    static CALLBACK: RefCell<Option<OnLog>> = const { RefCell::new(None) };
}

/// The callback of a host is called until this is dropped.
pub(crate) struct Hosted(PhantomData<Rc<()>>);

impl Drop for Hosted {
    fn drop(&mut self) {
        // At the end of a thread it is gone already.
        let _ = CALLBACK.try_with(|callback| callback.try_borrow_mut().map(|mut callback| callback.take()));
    }
}

/// Applies the settings of the server that this process is about to be, and has its lines given to the host's callback if it has one.
pub(crate) fn set_up(config: &Config, on_log: Option<OnLog>) -> Hosted {
    LEVEL.store(config.log_level as u8, Relaxed);
    WITH_TIME.store(config.log_time == LogTime::On, Relaxed);
    IN_JOURNAL.store(config.log_time != LogTime::Off && stderr::is_journal(), Relaxed);
    CALLBACK.set(on_log);
    Hosted(PhantomData)
}

/// True if lines of this level are logged.
pub(crate) fn is_enabled(level: LogLevel) -> bool {
    level as u8 <= LEVEL.load(Relaxed)
}

/// Logs a line, in a worker with its id, with control characters escaped.
pub(crate) fn line(level: LogLevel, text: Arguments<'_>) {
    let is_wanted = is_enabled(level);
    if !is_wanted && !logger::takes(level) {
        return;
    }
    let mut line = match role() {
        Role::Worker { id, .. } => format!("worker {id}: "),
        Role::Master | Role::None => String::new(),
    };
    for c in text.to_string().chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    let callback = CALLBACK.try_with(|callback| callback.try_borrow().ok()?.clone());
    let is_told = match callback.ok().flatten() {
        Some(callback) => !is_wanted || tell(&callback, level, &line),
        // A logger has a level of its own.
        None => logger::tell(level, &line),
    };
    if !is_told && is_wanted {
        copy(&formatted(level, &line));
    }
}

/// Calls the host's callback with a line; false if it panics, or if it is that which logs.
fn tell(callback: &OnLog, level: LogLevel, line: &str) -> bool {
    let Ok(mut callback) = callback.try_borrow_mut() else { return false };
    // A panic there must not end what logs.
    catch_unwind(AssertUnwindSafe(|| callback(level, line))).is_ok()
}

/// The logger that the program has installed by the `log` crate.
#[cfg(feature = "log")]
mod logger {
    use super::LogLevel;
    use log::{Level, LevelFilter};
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// True if there is a logger, and it takes lines of this level.
    pub fn takes(level: LogLevel) -> bool {
        level_of(level) <= log::max_level()
    }

    /// Gives a line to the logger; false if there is none.
    pub fn tell(level: LogLevel, line: &str) -> bool {
        let is_there = log::max_level() != LevelFilter::Off;
        // A panic there must not end what logs.
        is_there
            && catch_unwind(AssertUnwindSafe(|| log::log!(target: "prefork", level_of(level), "{line}")))
                .is_ok()
    }

    fn level_of(level: LogLevel) -> Level {
        match level {
            LogLevel::Error => Level::Error,
            LogLevel::Warn => Level::Warn,
            LogLevel::Info => Level::Info,
            LogLevel::Debug => Level::Debug,
        }
    }
}

#[cfg(not(feature = "log"))]
mod logger {
    use super::LogLevel;

    pub fn takes(_: LogLevel) -> bool {
        false
    }

    pub fn tell(_: LogLevel, _: &str) -> bool {
        false
    }
}

/// Returns a line as it is written to standard error, in one write(2).
pub(crate) fn formatted(level: LogLevel, text: &str) -> String {
    let mut out = beginning(level);
    out.push_str(text);
    while out.len() > LONGEST {
        out.pop();
    }
    out.push('\n');
    out
}

/// Returns what stands before the text of a line.
#[doc(hidden)]
pub fn beginning(level: LogLevel) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    if IN_JOURNAL.load(Relaxed) {
        let _ = write!(out, "<{}>", level as u8);
    }
    if WITH_TIME.load(Relaxed) {
        let _ = write!(out, "{} {} ", timestamp(SystemTime::now()), level.name());
    }
    out + "prefork: "
}

/// Returns a time in UTC as RFC 3339 has it, with milliseconds: `2026-11-30T20:02:28.123Z`.
fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, ms) = (since.as_secs(), since.subsec_millis());
    let (year, month, day) = date(seconds / 86_400);
    let (h, m, s) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{ms:03}Z")
}

/// Returns the year, month and day of a number of days since 1970-01-01.
fn date(days: u64) -> (u64, u64, u64) {
    // Years that begin with March have their leap day at the end; 400 of them are 146,097 days. Day 0 is 0000-03-01.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // The months from March on have 31, 30, 31, 30, 31 days, and again.
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    (era * 400 + year + u64::from(month <= 2), month, day)
}

/// Writes lines of at most 4096 bytes together in one write(2). Returns false if they are dropped.
pub(crate) fn copy(lines: &str) -> bool {
    // A test reads its own.
    crate::sys::test_thread::keep_line(lines)
        || output::write_now(std::io::stderr().as_fd(), lines.as_bytes())
}

/// Prints text on standard output in one write that never waits; drops it if it would. For what a server prints while it runs.
#[doc(hidden)]
pub fn print(text: &str) {
    output::write_now(std::io::stdout().as_fd(), text.as_bytes());
}

/// True if standard error takes a line now: a reader that does not read must not block this process.
pub(crate) fn is_read() -> bool {
    socket::takes_a_line(std::io::stderr().as_fd())
}

/// Returns a number and what it counts: `1 worker`, `2 workers`.
#[doc(hidden)]
pub fn counted(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Logs a line, formatted as `format!` does, of a level: `log!(Warn, "{n} lost")`. Without a level it is [`crate::config::LogLevel::Info`].
macro_rules! log_line {
    ($level:ident, $($arg:tt)*) => {
        $crate::log::line($crate::config::LogLevel::$level, format_args!($($arg)*))
    };
    ($($arg:tt)*) => { $crate::log::line($crate::config::LogLevel::Info, format_args!($($arg)*)) };
}
// Under this name at once, it would be the crate `log` too.
pub(crate) use log_line as log;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_time_is_shown_as_rfc_3339_has_it() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.123Z"),
            (951_782_399, "2000-02-28T23:59:59.123Z"),
            (951_782_400, "2000-02-29T00:00:00.123Z"),
            (951_868_800, "2000-03-01T00:00:00.123Z"),
            (1_796_068_948, "2026-11-30T20:02:28.123Z"),
            (4_107_542_400, "2100-03-01T00:00:00.123Z"),
            (253_402_300_799, "9999-12-31T23:59:59.123Z"),
        ] {
            let time = UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(123_456);
            assert_eq!(timestamp(time), text);
        }
    }

    #[test]
    fn every_day_of_four_centuries_follows_the_one_before() {
        let mut last = date(0);
        for day in 1..146_097 {
            let (year, month, day) = date(day);
            assert!(
                match (year - last.0, month, day) {
                    (1, 1, 1) => (last.1, last.2) == (12, 31),
                    (0, month, 1) => last.1 + 1 == month && last.2 >= 28,
                    (0, month, day) => (last.1, last.2 + 1) == (month, day),
                    _ => false,
                },
                "{last:?} {year}-{month}-{day}"
            );
            last = (year, month, day);
        }
    }
}
