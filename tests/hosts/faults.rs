//! A server in Rust whose handlers do what they should not: `faults MODE STYLE`.
#![allow(clippy::unwrap_used, unsafe_code)]

use prefork::{MASTER, Request, Response, Server, Started, Worker};
use std::fs::File;
use std::io::Write;
use std::os::fd::FromRawFd;
use std::time::Duration;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let server = match args[1].as_str() {
        "closed" => {
            // As a program that makes itself a daemon.
            // SAFETY: takes no pointers; nothing in this process has them open otherwise.
            (0..3).for_each(|fd| assert_eq!(unsafe { libc::close(fd) }, 0));
            Server::http(prints)
        }
        "thread" => Server::http(calls_elsewhere),
        other => panic!("{other}"),
    };
    let stopped = server.listen("127.0.0.1:0").workers(2).on_start(tell).run();
    if let Err(e) = stopped {
        eprintln!("{e}");
        std::process::exit(1);
    }
}

/// To descriptor 9, where the test reads, whatever standard output is.
fn tell(started: &Started) {
    // SAFETY: open as long as this process lives, and not closed here.
    let mut to = unsafe { File::from_raw_fd(9) };
    writeln!(to, "listening on {}", started.addresses.join(", ")).unwrap();
    std::mem::forget(to);
}

fn prints(_: &Request<'_>, res: &mut Response) {
    println!("printed");
    eprintln!("printed");
    res.body("end").unwrap();
}

/// Answers with the results of calls in a second thread, to which the compiler would not let a worker go.
fn calls_elsewhere(_: &Request<'_>, res: &mut Response) {
    let address = std::ptr::from_ref(Worker::current().unwrap()) as usize;
    let calls = move || {
        // SAFETY: none; what this does is what the library has to refuse. The worker lives as long as the process.
        let worker = unsafe { &*(address as *const Worker) };
        let sent = worker.send(MASTER, 1, b"x");
        let asked = worker.request(MASTER, 1, b"x", Duration::ZERO, |_| std::process::abort());
        format!("{sent:?} {asked:?} {:?} {:?}", worker.reply(b"x"), Worker::current())
    };
    res.body(std::thread::spawn(calls).join().unwrap()).unwrap();
}
