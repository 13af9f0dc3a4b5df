//! A module in Rust that uses all that a worker has; the environment variable VERSION at its build is its version. Clients ask by
//! paths.
#![forbid(unsafe_code)]

use prefork::{Conn, Datagram, Handler, Interest, Kind, Later, Message, MessageKind, Misconfigured, Request, Response, Role, Take, To, Worker, role};
use std::cell::{Cell, RefCell};
use std::error::Error;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A question.
const WHO: MessageKind = MessageKind(7);

struct Module {
    beats: Rc<Cell<u32>>,
}

/// A handler, or an error by the second argument (the first is the test's directory).
fn make(worker: &Worker) -> Result<Box<dyn Handler>, Box<dyn Error>> {
    match worker.args().get(1).map(|arg| arg.to_bytes()) {
        Some(b"text") => Err("no database".into()),
        Some(b"wrong") => Err(Box::new(std::io::Error::other(Misconfigured::new("no greeting")))),
        Some(b"panic") => panic!("on purpose"),
        _ => Ok(Box::new(Module { beats: Rc::default() })),
    }
}

prefork::module!(|worker| make(worker));

thread_local! {
    /// Responses that a callback is to end.
    static WAITING: RefCell<Vec<Later>> = const { RefCell::new(Vec::new()) };
}

/// Ends a response that was kept.
fn answer(text: &str) {
    let mut later = WAITING.take().pop().unwrap();
    later.body(text).unwrap();
    later.end().unwrap();
}

fn here() -> String {
    let worker = Worker::current().unwrap();
    assert_eq!(role(), Role::Worker { id: worker.id(), slot: worker.slot(), generation: worker.generation() });
    format!("worker {} of {}", worker.id(), worker.generation())
}

impl Handler for Module {
    fn kind(&self) -> Kind {
        Kind::Request
    }

    fn takes_streams(&self) -> bool {
        true
    }

    fn takes_heads(&self) -> bool {
        true
    }

    fn takes_datagrams(&self) -> bool {
        true
    }

    fn start(&mut self, worker: &Worker) -> Result<(), Box<dyn Error>> {
        let beats = self.beats.clone();
        worker.every(Duration::from_millis(1), move |_| beats.set(beats.get() + 1)).ok_or("no timer")?;
        Ok(())
    }

    fn on_head(&mut self, req: &Request<'_>, res: &mut Response) -> Take {
        if req.path() != "/refused" {
            return Take::Whole;
        }
        res.status(403).unwrap();
        Take::Refuse
    }

    fn on_request(&mut self, req: &Request<'_>, res: &mut Response) {
        let worker = Worker::current().unwrap();
        match req.path() {
            "/version" => res.body(env!("VERSION")).unwrap(),
            "/here" => res.body(here()).unwrap(),
            "/args" => res.body(format!("{:?}", &worker.args()[1..])).unwrap(),
            "/beats" => res.body(self.beats.get().to_string()).unwrap(),
            "/panic" => panic!("on purpose"),
            "/timer" => {
                WAITING.with_borrow_mut(|waiting| waiting.push(res.later()));
                worker.after(Duration::from_millis(1), |_| answer(&here())).unwrap();
            }
            "/thread" => {
                WAITING.with_borrow_mut(|waiting| waiting.push(res.later()));
                let waker = worker.waker();
                std::thread::spawn(move || waker.wake(|_| answer(&here())).unwrap());
            }
            "/watch" => {
                WAITING.with_borrow_mut(|waiting| waiting.push(res.later()));
                let (mut ours, mut theirs) = UnixStream::pair().unwrap();
                theirs.write_all(b"x").unwrap();
                let fd = ours.try_clone().unwrap();
                let read = move |worker: &Worker, fd, _| {
                    ours.read_exact(&mut [0]).unwrap();
                    assert!(worker.unwatch(&fd));
                    answer(&here());
                };
                worker.watch(&fd, Interest::READ, read).unwrap();
                std::mem::forget((fd, theirs));
            }
            "/ask" => {
                WAITING.with_borrow_mut(|waiting| waiting.push(res.later()));
                let other = worker.id() ^ 3;
                let reply =
                    |reply: Result<&[u8], _>| answer(str::from_utf8(reply.unwrap()).unwrap());
                worker.request(To::Worker(other), WHO, b"who", Duration::from_secs(10), reply).unwrap();
            }
            // Until the master says that it takes too long.
            "/hang" => {
                let begun = Instant::now();
                while !worker.is_overdue() && begun.elapsed() < Duration::from_secs(10) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                res.body(worker.is_overdue().to_string()).unwrap();
            }
            "/chat" => res.upgrade("chat").unwrap(),
            _ => res.status(404).unwrap(),
        }
    }

    fn on_message(&mut self, worker: &Worker, message: &Message<'_>) {
        assert_eq!((message.kind(), message.bytes()), (WHO, &b"who"[..]));
        worker.reply(here().as_bytes()).unwrap();
    }

    fn on_open(&mut self, conn: &Conn) {
        Worker::current().unwrap().subscribe(conn, "all").unwrap();
        conn.write(b"open\n").unwrap();
    }

    fn on_data(&mut self, conn: &Conn) {
        let bytes = conn.data().to_vec();
        conn.consume(bytes.len());
        Worker::current().unwrap().publish("all", &bytes).unwrap();
    }

    fn state_version(&self) -> u32 {
        1
    }

    fn on_handover(&mut self, _: &Conn) -> Option<Vec<u8>> {
        Some(env!("VERSION").into())
    }

    fn on_takeover(&mut self, conn: &Conn, _: u32, state: &[u8]) -> Result<(), String> {
        conn.write(format!("from {} to {}\n", String::from_utf8_lossy(state), env!("VERSION")).as_bytes())
            .map_err(|e| e.to_string())
    }

    fn on_datagram(&mut self, datagram: &Datagram<'_>) {
        datagram.reply(datagram.data()).unwrap();
    }
}
