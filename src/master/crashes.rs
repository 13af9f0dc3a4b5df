//! What workers that died were doing: read from their pages, which they may have filled with anything.

use crate::event::{Crash, Exit};
use crate::scoreboard::{Word, WorkerPage};
use crate::sys::crash::{self, Found};
use crate::sys::socket;
use crate::sys::time::Time;
use std::time::Duration;

/// Reads what a worker that has ended was doing; `None` if it does not say, or has ended by itself in no call of its handler. `program` is
/// the file of this program, if the handler is in another one: its functions that have called the handler are left out.
pub fn read(page: WorkerPage, exit: Exit, now: Time, program: Option<&str>) -> Option<Crash> {
    let callback = printable(page.callback().as_bytes_until_nul());
    let since = page.get(Word::BusySince);
    let since = Some(since).filter(|since| *since != 0 && !callback.is_empty());
    let mut crash =
        Crash { lasted: since.map(|since| now - Time::from_millis(since)), callback, ..Crash::default() };
    let Exit::Signal { number, .. } = exit else {
        return (exit != Exit::Code(0) && !crash.callback.is_empty()).then_some(crash);
    };
    if let Some(found) = crash::read(page.crash_area(), number) {
        tell(found, &mut crash);
        leave_out_callers(&mut crash.backtrace, program);
        crash.backtrace = crash.backtrace.into_iter().map(demangled).collect();
    }
    (!crash.callback.is_empty() || !crash.backtrace.is_empty()).then_some(crash)
}

fn tell(found: Found, crash: &mut Crash) {
    crash.address = found.address;
    crash.backtrace =
        found.frames.split(|byte| *byte == b'\n').filter(|l| !l.is_empty()).map(printable).collect();
    if crash.callback.is_empty() {
        return;
    }
    // What called the callback says nothing, unless there is nothing else.
    if let Some(last) = crash.backtrace.iter().rposition(|frame| !is_own(frame)) {
        crash.backtrace.truncate(last + 1);
    }
    crash.lasted = found.lasted.map(Duration::from_millis);
    if !found.method.is_empty() {
        crash.request = Some(format!("{} {}", printable(&found.method), printable(&found.target)));
    }
    crash.peer = socket::describe_address(&found.peer);
}

/// Leaves out the functions of a file at the outer end of a stack, unless they are all of it.
fn leave_out_callers(backtrace: &mut Vec<String>, program: Option<&str>) {
    let Some(program) = program else { return };
    let of_program = format!("({program}+0x");
    let others = backtrace.iter().rposition(|frame| !frame.contains(&of_program));
    backtrace.truncate(others.map_or(backtrace.len(), |last| last + 1));
}

/// A frame with the name of a function in Rust as its source has it.
#[cfg(feature = "cli")]
fn demangled(frame: String) -> String {
    match frame.split_once("+0x").map(|(name, rest)| (rustc_demangle::try_demangle(name), rest)) {
        // Without the hash behind the name.
        Some((Ok(name), rest)) => format!("{name:#}+0x{rest}"),
        _ => frame,
    }
}

#[cfg(not(feature = "cli"))]
fn demangled(frame: String) -> String {
    frame
}

/// Parts of the names of functions of prefork, and of Rust's library.
const OWN: [&str; 8] =
    ["7prefork", "3std", "4core", "5alloc", "$LT$prefork..", "$LT$std..", "$LT$core..", "$LT$alloc.."];

/// True for a function of prefork or of Rust's library, by its name as linkers have it, in either form.
fn is_own(frame: &str) -> bool {
    let name = frame.split(" (").next().unwrap_or_default();
    let is_rust = name.starts_with("_ZN") || name.starts_with("_R");
    is_rust && OWN.iter().any(|own| name.contains(own)) || name.starts_with("__rust_try")
}

/// A text of a worker's, with control characters escaped.
fn printable(bytes: &[u8]) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.into() };
    String::from_utf8_lossy(bytes).chars().map(escape).collect()
}

/// The bytes of a word-aligned text before the first NUL.
trait UntilNul {
    fn as_bytes_until_nul(&self) -> &[u8];
}

impl UntilNul for [u8; 16] {
    fn as_bytes_until_nul(&self) -> &[u8] {
        &self[..self.iter().position(|byte| *byte == 0).unwrap_or(self.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Page;
    use crate::scoreboard::Scoreboard;

    const KILLED: Exit = Exit::Signal { number: 9, core: false };

    #[test]
    fn a_worker_that_says_nothing_has_no_report() {
        let board = Scoreboard::new(1).unwrap();
        let page = board.page(Page(0));
        for exit in [KILLED, Exit::Code(0), Exit::Code(1), Exit::Unknown] {
            assert_eq!(read(page, exit, Time::from_millis(5), None), None);
        }
    }

    #[test]
    fn the_call_of_a_worker_that_was_killed_or_that_exited_in_it_is_known() {
        let board = Scoreboard::new(1).unwrap();
        let page = board.page(Page(0));
        page.show_callback("on_request");
        page.set(Word::BusySince, 40);
        let crash = read(page, KILLED, Time::from_millis(100), None).unwrap();
        assert_eq!(crash.to_string(), "in on_request, for 60 ms");
        assert!(read(page, Exit::Code(1), Time::from_millis(100), None).is_some());
        assert!(read(page, Exit::Code(0), Time::from_millis(100), None).is_none());
        page.hide_callback();
        assert_eq!(read(page, KILLED, Time::from_millis(100), None), None);
    }

    #[test]
    fn names_are_readable_and_what_has_called_the_handler_is_left_out() {
        let frames =
            |texts: &[&str]| texts.iter().map(|text| demangled((*text).to_owned())).collect::<Vec<_>>();
        let mangled = "_ZN7prefork6worker4call17h3b835ad969215d1eE+0x516 (prefork+0x6858a6)";
        let mut stack = frames(&[
            "planted+0x3 (a.1.1.so+0x5)",
            "(prefork+0x1)",
            "hello+0x1 (a.1.1.so+0x9)",
            mangled,
            "(prefork+0x7)",
        ]);
        if cfg!(feature = "cli") {
            assert_eq!(stack[3], "prefork::worker::call+0x516 (prefork+0x6858a6)");
        }
        let whole = stack.clone();
        leave_out_callers(&mut stack, None);
        assert_eq!(stack, whole);
        leave_out_callers(&mut stack, Some("prefork"));
        assert_eq!(stack, whole[..3]);
        let mut own = frames(&["(prefork+0x1)", mangled]);
        leave_out_callers(&mut own, Some("prefork"));
        assert_eq!(own.len(), 2);
    }

    #[test]
    fn functions_of_prefork_that_end_the_stack_are_left_out_unless_there_are_no_others() {
        let own = ["_ZN7prefork6unwind5named17hE+0x4a (prefork+0x1)", "__rust_try+0x1 (prefork+0x2)"];
        let others =
            ["add_item+0x12 (shop.1.1.so+0x1)", "_ZN4shop4main17hE+0x1 (shop+0x1)", "(libc.so.6+0x1)"];
        assert!(own.iter().all(|frame| is_own(frame)) && !others.iter().any(|frame| is_own(frame)));
        let told = |frames: &[&str]| {
            let mut crash = Crash { callback: "on_request".into(), ..Crash::default() };
            tell(Found { frames: frames.join("\n").into_bytes(), ..Found::default() }, &mut crash);
            crash.backtrace
        };
        assert_eq!(told(&[own[0], others[0], own[1], own[0]]), [own[0], others[0]]);
        assert_eq!(told(&own), own);
    }

    #[test]
    fn garbage_is_bounded_and_printable() {
        let board = Scoreboard::new(1).unwrap();
        let page = board.page(Page(0));
        for garbage in [u64::MAX, 0x0a0a_0a0a_0a0a_0a0a, 0x1b1b_1b1b_1b1b_1b1b, 0xfffd] {
            page.crash_area().iter().for_each(|w| w.store(garbage, std::sync::atomic::Ordering::Relaxed));
            page.crash_area()[0].store(9, std::sync::atomic::Ordering::Relaxed);
            page.set(Word::Callback, garbage);
            page.set(Word::CallbackRest, garbage);
            page.set(Word::BusySince, garbage);
            let crash = read(page, KILLED, Time::from_millis(100), None).unwrap();
            let all = format!("{crash} {}", crash.backtrace.concat());
            assert!(all.len() < 100_000 && !all.contains(char::is_control), "{all:?}");
        }
    }
}
