//! With the feature `log`: the lines that prefork itself logs go to the logger of the program.
#![allow(clippy::unwrap_used)]

mod util;

use std::ffi::OsString;
use std::path::PathBuf;
use util::{Server, Start, Style, wait_until};

fn logger() -> PathBuf {
    util::host::example_with("logger", "log,http")
}

fn start(level: &[&str]) -> Server {
    let words = [logger().into_os_string(), "127.0.0.1:0".into()].into_iter();
    let words = words.chain(level.iter().map(OsString::from));
    Start::new(Style::Request).workers(1).program(words).start()
}

#[test]
fn the_logger_of_the_program_gets_the_lines_of_master_and_workers() {
    let mut server = start(&["debug"]);
    let says = |pid: i32, text: &str| {
        let begins = format!("{pid} prefork {text}");
        wait_until(text, || server.stdout().iter().any(|line| line.starts_with(&begins)));
    };
    says(server.pid, "DEBUG worker 1 is ready");
    let worker = server.workers()[0];
    server.connect().http_answer_to("/panic").unwrap_or_default();
    says(worker, "ERROR worker 1: on_request: ");
    server.signal(libc::SIGUSR1);
    says(server.pid, "INFO SIGUSR1: ");
    server.may_say("panicked at");
    server.may_say("RUST_BACKTRACE");
    server.may_say("asked to");
    server.stop();
}

#[test]
fn a_line_that_the_logger_does_not_take_is_not_printed() {
    let server = start(&["error"]);
    server.signal(libc::SIGUSR1);
    let worker = server.workers()[0];
    util::proc::signal(worker, libc::SIGKILL);
    wait_until("a line that it takes", || {
        server.stdout().iter().any(|line| line.contains("ERROR worker 1 "))
    });
    assert!(!server.stdout().iter().any(|line| line.contains("SIGUSR1")));
    server.replaces(worker);
    // Nothing is on standard error.
    server.stop();
}

#[test]
fn without_a_logger_they_are_on_standard_error() {
    let mut server = start(&[]);
    server.says("prefork: SIGUSR1: ");
    server.signal(libc::SIGUSR1);
    server.wait_for_line("prefork: SIGUSR1: ");
    server.stop();
}
