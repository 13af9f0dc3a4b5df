//! A terminal, or a pipe, that is not read any more stops no server: lines are dropped.
#![allow(clippy::unwrap_used)]

mod util;

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};
use util::{Dir, Server, Start, Style, comes_true, proc, wait_until};

/// Both ends of a pseudoterminal: the one that its reader has, and the one that is a program's terminal.
#[allow(unsafe_code)]
fn terminal() -> (File, OwnedFd) {
    let reader = OpenOptions::new().read(true).write(true).open("/dev/ptmx").unwrap();
    let (mut number, unlock) = (0u32, 0u32);
    // SAFETY: both requests take a pointer to an int, which lives through the call (ioctl_tty(2)).
    unsafe { libc::ioctl(reader.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) };
    // SAFETY: as above.
    unsafe { libc::ioctl(reader.as_raw_fd(), libc::TIOCGPTN, &raw mut number) };
    let path = format!("/dev/pts/{number}");
    let terminal = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(path).unwrap();
    (reader, terminal.into())
}

/// Has the master write a line of 66 bytes each.
fn lines(server: &Server, count: usize) {
    for _ in 0..count {
        server.signal(libc::SIGUSR1);
        // One that comes before the one before it was read would be the same.
        let pending = || proc::status(server.pid, "ShdPnd").chars().all(|c| c == '0' || c.is_whitespace());
        assert!(comes_true(util::PATIENCE, pending), "the master stands still");
    }
}

#[test]
fn a_terminal_that_nobody_reads_stops_neither_master_nor_workers() {
    for style in Style::ALL {
        let (reader, terminal) = terminal();
        let server = Start::new(style).stderr(terminal).start();
        lines(&server, 400);
        assert_eq!(server.ask("slot").map(|_| ()), Ok(()), "{style:?}");
        server.stop();
        drop(reader);
    }
}

#[test]
fn what_a_terminal_shows_is_whole_when_it_is_read() {
    let (mut reader, terminal) = terminal();
    let server = Start::new(Style::Request).stderr(terminal).start();
    lines(&server, 3);
    let mut text = String::new();
    while text.matches("SIGUSR1").count() < 3 {
        let mut part = [0; 4096];
        let n = reader.read(&mut part).unwrap();
        text.push_str(&String::from_utf8_lossy(&part[..n]));
    }
    assert!(text.ends_with("nothing done\r\n"), "{text:?}");
    server.stop();
}

/// Writes as much as is taken without waiting.
fn fill(fd: &OwnedFd) {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let mut own = OpenOptions::new();
    let mut filler = own.write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path).unwrap();
    while !matches!(filler.write(&[b'x'; 64]), Err(e) if e.kind() == ErrorKind::WouldBlock) {}
}

#[test]
fn a_banner_that_nobody_reads_stops_no_server() {
    type Ends = (Box<dyn std::any::Any>, OwnedFd);
    let ends: [fn() -> Ends; 2] = [
        || {
            let (reader, writer) = std::io::pipe().unwrap();
            let writer = writer.into();
            fill(&writer);
            (Box::new(reader), writer)
        },
        || {
            let (reader, terminal) = terminal();
            fill(&terminal);
            (Box::new(reader), terminal)
        },
    ];
    for make in ends {
        let (reader, stdout) = make();
        let dir = Dir::new();
        let path = dir.file("s");
        let mut child = Command::new(env!("CARGO_BIN_EXE_prefork"))
            .args(["-w", "1", "-l", &format!("unix:{}", path.display())])
            .arg(Style::Request.handler())
            .arg(dir.path())
            .env("PREFORK_RUNTIME_DIR", dir.runtime())
            .stdin(Stdio::null())
            .stdout(stdout)
            .spawn()
            .unwrap();
        let address = util::client::Address::Unix(path);
        let served = || util::Client::connect(&address, Style::Request).and_then(|c| c.ask_last("slot"));
        wait_until("it serves", || served() == Ok("0".into()));
        proc::signal(child.id() as i32, libc::SIGTERM);
        assert!(child.wait().unwrap().success());
        drop(reader);
    }
}
