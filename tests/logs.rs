//! No log line is worth a connection: if standard error cannot be written, the server continues.
#![allow(clippy::unwrap_used)]

mod util;

use std::fs::File;
use std::io::{ErrorKind, PipeReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use util::{Load, Start, Style, proc, wait_until};

/// A full pipe without a reader.
#[allow(unsafe_code)]
fn full_pipe() -> (PipeReader, OwnedFd) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let fd = writer.as_raw_fd();
    // SAFETY: takes no pointers; the descriptor is open.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    // SAFETY: as above.
    unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) };
    while !matches!(writer.write(&[b'x'; 4096]), Err(e) if e.kind() == ErrorKind::WouldBlock) {}
    // A server finds it blocking, as pipes of shells and supervisors are.
    // SAFETY: as above.
    unsafe { libc::fcntl(fd, libc::F_SETFL, flags) };
    (reader, writer.into())
}

/// Deaths, good and bad reloads, scaling: everything that is logged.
fn goes_on(start: Start) {
    let server = start.own_module().start();
    let load = server.load(2, "version");
    let kept = Load::keep(server.address(), server.style, 2, "version");
    load.go_on_for(20);
    assert!(kept.stop().faults.is_empty());
    for n in 0..3 {
        let pid = server.worker_in(n % 2);
        proc::signal(pid, libc::SIGKILL);
        server.replaces(pid);
        load.go_on_for(10);
    }
    server.install_bytes(b"broken");
    server.signal(libc::SIGHUP);
    load.go_on_for(20);
    server.install(&Style::Request.version("v2"));
    server.signal(libc::SIGHUP);
    wait_until("the new code answers", || server.ask("version") == Ok("v2".into()));
    let tally = load.stop();
    // Connections lost by the kills.
    assert!(tally.failed() <= 6, "{tally:?}");
    server.stop();
}

#[test]
fn a_full_pipe_without_a_reader_stops_no_process() {
    let (_reader, writer) = full_pipe();
    goes_on(Start::new(Style::Request).stderr(writer));
}

#[test]
fn a_pipe_whose_reader_has_closed_stops_no_process() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    goes_on(Start::new(Style::Request).stderr(writer));
}

#[test]
fn a_full_disk_stops_no_process() {
    goes_on(Start::new(Style::Request).stderr(File::options().write(true).open("/dev/full").unwrap()));
}

#[test]
fn a_limit_on_the_size_of_files_stops_no_process() {
    const LIMIT: u64 = 64 << 20;
    let start = Start::new(Style::Request);
    let log = File::options().append(true).create(true).open(start.dir().file("log")).unwrap();
    log.set_len(LIMIT).unwrap();
    goes_on(start.through(&["prlimit", &format!("--fsize={LIMIT}")]).stderr(log));
}

#[test]
fn a_closed_standard_error_stops_no_process() {
    goes_on(Start::new(Style::Request).through(&["sh", "-c", "exec \"$@\" 2>&-", "sh"]));
}

#[test]
fn a_panic_is_answered_even_if_its_message_cannot_be_written() {
    let (_reader, writer) = full_pipe();
    let demo = [env!("CARGO_BIN_EXE_prefork"), "demo", "--workers", "2", "--listen", "127.0.0.1:0"];
    let server = Start::new(Style::Request).program(demo).stderr(writer).start();
    for _ in 0..4 {
        let mut client = server.connect();
        client.send_command("panic").unwrap();
        assert_eq!(client.http_answer().unwrap().status, 500);
    }
    server.stop();
}
