//! A server in Rust whose handlers do what they should not: `faults MODE STYLE`.
#![allow(clippy::unwrap_used, unsafe_code)]

use prefork::{
    Conn, Datagram, ErrorKind, Event, Handler, Kind, MASTER, Message, MessageKind, Misconfigured, Request,
    Response, Server, Started, To, Worker,
};
use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
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
        "fail" => fails(&args[2]),
        "start" => does_not_start(&args[2]),
        "twin" => forks(&args[2]),
        other => panic!("{other}"),
    };
    let address = if args[2] == "datagram" { "udp:127.0.0.1:0" } else { "127.0.0.1:0" };
    let server = server.listen(address).set("header-timeout", args.get(3).map_or("60s", |time| time));
    let here = args[1] == "twin" && args[2] == "on_start";
    let on_start = move |started: &Started| {
        tell(started);
        twin(here);
    };
    let stopped = server.workers(2).on_start(on_start).run();
    if let Err(e) = stopped {
        eprintln!("{e:?}");
        std::process::exit(if e.kind() == ErrorKind::Misconfigured { 78 } else { 1 });
    }
}

/// To descriptor 9, where the test reads, whatever standard output is.
fn tell(started: &Started) {
    // SAFETY: open as long as this process lives, and not closed here.
    let mut to = unsafe { File::from_raw_fd(9) };
    writeln!(to, "listening on {}", started.addresses.join(", ").replace("udp:", "udp://")).unwrap();
    std::mem::forget(to);
}

/// Forks in this callback of the master, once.
fn forks(callback: &str) -> Server {
    let (mut at_event, mut at_message) = (callback == "on_event", callback == "on_message");
    let server = Server::http(|_, res| {
        Worker::current().unwrap().send(MASTER, MessageKind(1), b"x").unwrap();
        res.body("served")
    });
    let server = server.on_event(move |event| {
        if matches!(event, Event::Ready { .. }) {
            twin(std::mem::take(&mut at_event));
        }
    });
    server.on_message(move |_, _| twin(std::mem::take(&mut at_message)))
}

fn twin(here: bool) {
    if here {
        // SAFETY: this process has one thread.
        let pid = unsafe { libc::fork() };
        // SAFETY: NULL is allowed.
        assert!(pid == 0 || unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) } == pid);
    }
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
        let sent = worker.send(MASTER, MessageKind(1), b"x");
        let asked = worker.request(MASTER, MessageKind(1), b"x", Duration::ZERO, |_| std::process::abort());
        format!("{sent:?} {asked:?} {:?} {:?}", worker.reply(b"x"), Worker::current())
    };
    res.body(std::thread::spawn(calls).join().unwrap()).unwrap();
}

/// An error with a cause.
#[derive(Debug)]
struct Outer(io::Error);

impl fmt::Display for Outer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("look up the customer")
    }
}

impl Error for Outer {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

fn outer() -> Outer {
    Outer(io::Error::new(io::ErrorKind::ConnectionRefused, Outer(io::Error::other("no route"))))
}

fn fails(style: &str) -> Server {
    match style {
        "typed" => Server::http(|_, _| Err(outer())),
        "boxed" => Server::http(|_, _| Err::<(), Box<dyn Error>>(outer().into())),
        "sendable" => Server::http(|_, _| Err::<(), Box<dyn Error + Send + Sync>>(outer().into())),
        "text" => Server::http(|_, _| Err("two\nlines")),
        "panic" => Server::http(|_, _| -> () { panic!("on purpose") }),
        "others" => Server::factory(|_| PanicsElsewhere),
        "gone" => Server::http(|_, res| {
            loop {
                res.write(&[0; 65_536])?;
                std::thread::sleep(Duration::from_millis(1));
            }
            #[expect(unreachable_code, reason = "it gives the type")]
            Ok::<(), Box<dyn Error>>(())
        }),
        "connection" => Server::blocking(reads),
        "data" => Server::stream(reads),
        "datagram" => Server::datagram(|datagram: &Datagram<'_>| match datagram.data() {
            b"panic" => panic!("on purpose"),
            _ => Err(outer()),
        }),
        other => panic!("{other}"),
    }
}

/// Its workers fail before they serve: all, or those after the first two.
fn does_not_start(how: &str) -> Server {
    let how = how.to_owned();
    Server::factory(move |worker| -> Result<Box<dyn Handler>, Box<dyn Error + Send + Sync>> {
        let wrong = || Misconfigured::new(outer());
        match how.as_str() {
            "factory" => Err(outer().into()),
            "wrong" => Err(wrong().into()),
            "wrapped" => Err(io::Error::other(wrong()).into()),
            "later" if worker.id() > 2 => Err(wrong().into()),
            "later" if worker.slot() == 0 => Ok(Box::new(prefork::http(|_, res| res.body("first")))),
            "later" => Ok(Box::new(Starts(None))),
            "start" => Ok(Box::new(Starts(Some(|| outer().into())))),
            "start-wrong" => Ok(Box::new(Starts(Some(|| Misconfigured::new(outer()).into())))),
            other => panic!("{other}"),
        }
    })
}

/// A handler whose start may fail.
struct Starts(Option<fn() -> Box<dyn Error>>);

impl Handler for Starts {
    fn kind(&self) -> Kind {
        Kind::Request
    }

    fn start(&mut self, _: &Worker) -> Result<(), Box<dyn Error>> {
        self.0.map_or(Ok(()), |error| Err(error()))
    }

    fn on_request(&mut self, _: &Request<'_>, res: &mut Response) {
        res.body("second").unwrap();
    }
}

/// Answers one line; "fail" and "panic" are done as said.
fn reads(conn: &Conn) -> Result<(), Box<dyn Error>> {
    let mut line = [0; 100];
    let n = conn.read(&mut line)?;
    match &line[..n] {
        b"fail\n" => Err(outer().into()),
        b"panic\n" => panic!("on purpose"),
        line => Ok(conn.write(line)?),
    }
}

/// Panics in each callback that is not called for a client.
struct PanicsElsewhere;

impl Handler for PanicsElsewhere {
    fn kind(&self) -> Kind {
        Kind::Request
    }

    fn on_request(&mut self, _: &Request<'_>, res: &mut Response) {
        let worker = Worker::current().unwrap();
        worker
            .request(To::Worker(worker.id()), MessageKind(1), b"x", Duration::ZERO, |_| panic!("on purpose"))
            .unwrap();
        res.body("asked").unwrap();
    }

    fn on_message(&mut self, _: &Worker, _: &Message<'_>) {
        panic!("on purpose");
    }

    fn on_drain(&mut self, _: &Worker) {
        panic!("on purpose");
    }

    fn stop(&mut self, _: &Worker) {
        panic!("on purpose");
    }
}
