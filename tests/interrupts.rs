//! Signals that are not what they look like: one Ctrl-C that arrives twice, and job control that the kernel sends.
#![allow(clippy::unwrap_used)]

mod util;

use std::process::Command;
use std::time::{Duration, Instant};
use util::{Fault, Start, Style, proc, wait_until};

#[test]
fn an_interrupt_that_arrives_twice_cuts_nothing() {
    for second in [libc::SIGINT, libc::SIGTERM, libc::SIGQUIT] {
        for style in Style::ALL {
            let server = Start::new(style).start();
            let mut client = server.client_at_gate();
            server.signal(libc::SIGINT);
            wait_until("it stops", || server.refuses());
            server.signal(second);
            server.signal(second);
            server.dir.make("g");
            assert_eq!(client.answer(), Ok("gate".into()), "{style:?}, then signal {second}");
            drop(client);
            server.ends();
        }
    }
}

#[test]
fn a_second_interrupt_after_a_second_ends_it_at_once() {
    let mut server = Start::new(Style::Request).start();
    let mut client = server.client_at_gate();
    let first = Instant::now();
    server.signal(libc::SIGINT);
    wait_until("a second has passed", || first.elapsed() > Duration::from_millis(1100));
    server.signal(libc::SIGINT);
    assert!(matches!(client.answer(), Err(Fault::Reset | Fault::Closed)));
    server.may_say("lost");
    server.may_say("killed");
    server.ends();
}

#[test]
fn one_interrupt_through_a_wrapper_is_one() {
    // As `docker run` with a shell script for an entry point, or timeout(1): the group gets it, and the wrapper passes it on.
    let script = "trap 'kill -TERM $pid' INT TERM; \"$0\" \"$@\" & pid=$!; while kill -0 $pid 2>/dev/null; do wait $pid; done";
    let server = Start::new(Style::Request).through(&["sh", "-c", script]).start();
    let master = *proc::group(server.pid)
        .iter()
        .find(|&&pid| pid != server.pid && proc::children(pid).len() == 2)
        .expect("the master");
    let mut client = server.client_at_gate();
    proc::signal(-server.pid, libc::SIGTERM);
    wait_until("it stops", || server.refuses());
    server.dir.make("g");
    assert_eq!(client.answer(), Ok("gate".into()));
    drop(client);
    wait_until("it has ended", || proc::state(master).is_none());
    server.dies_out();
}

/// Starts a server in a background job of a terminal, whose other process reads the terminal: the kernel sends SIGTTIN to the job.
const BACKGROUND_JOB: &str = r#"
import os, signal, socket, subprocess, sys, time

master, slave = os.openpty()
if os.fork():
    os.close(slave)
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
os.setsid()
import fcntl, termios
fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
server = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, preexec_fn=lambda: os.setpgid(0, 0))
line = server.stdout.readline().decode()
port = int(line.rsplit(":", 1)[1])

def workers():
    with open("/proc/%d/task/%d/children" % (server.pid, server.pid)) as f:
        return len(f.read().split())

def served():
    # Signals come first in a turn of the master's loop.
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", port)) as s:
            s.sendall(b"GET /pid HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
            while s.recv(4096):
                pass

reader = os.fork()
if reader == 0:
    os.setpgid(0, server.pid)
    os.read(slave, 1)
    os._exit(0)
os.waitpid(reader, os.WUNTRACED)
served()
print("after the kernel's", workers())
os.kill(server.pid, signal.SIGTTIN)
while workers() != 3:
    time.sleep(0.005)
print("after a process's", workers())
os.kill(reader, signal.SIGKILL)
server.terminate()
print("ended with", server.wait())
"#;

#[test]
fn job_control_of_the_kernel_starts_no_worker() {
    let dir = util::Dir::new();
    let out = Command::new("timeout")
        .args(["60", "python3", "-c", BACKGROUND_JOB, env!("CARGO_BIN_EXE_prefork")])
        .args(["-w", "2", "-l", "127.0.0.1:0"])
        .arg(Style::Request.handler())
        .arg(dir.path())
        .env("PREFORK_RUNTIME_DIR", dir.runtime())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert_eq!(text, "after the kernel's 2\nafter a process's 3\nended with 0\n", "{out:?}");
}

#[test]
fn a_signal_to_scale_during_the_start_is_told() {
    let start = Start::new(Style::Request);
    start.dir().make("late");
    let mut server = start.launch();
    wait_until("the second worker starts", || server.dir.at_gate("ready") == 1);
    server.signal(libc::SIGTTIN);
    server.says("SIGTTIN: scale: the first workers are not all ready yet; nothing done");
    server.wait_for_line("SIGTTIN");
    server.dir.make("ready");
    server.comes_up();
    server.stop();
}
