//! `prefork::testing`: handlers of every style without a process.
#![allow(clippy::unwrap_used)]

use prefork::testing::TestWorker;
use prefork::{
    ALL, Conn, EndReason, Handler, Kind, Later, MASTER, Message, MessageKind, Request, Response, Sender,
    Take, To, Undelivered, Worker,
};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

/// Answers requests in every way there is.
#[derive(Default)]
struct App {
    calls: Rc<RefCell<Vec<String>>>,
    bodies: usize,
}

impl App {
    fn note(&self, what: impl Into<String>) {
        self.calls.borrow_mut().push(what.into());
    }
}

impl Handler for App {
    fn kind(&self) -> Kind {
        Kind::Request
    }

    fn takes_streams(&self) -> bool {
        true
    }

    fn takes_datagrams(&self) -> bool {
        true
    }

    fn takes_heads(&self) -> bool {
        true
    }

    fn start(&mut self, worker: &Worker) -> Result<(), Box<dyn std::error::Error>> {
        self.note(format!("start {} {} {}", worker.id(), worker.slot(), worker.generation()));
        Ok(())
    }

    fn stop(&mut self, _worker: &Worker) {
        self.note("stop");
    }

    fn on_drain(&mut self, _worker: &Worker) {
        self.note("drain");
    }

    fn on_head(&mut self, req: &Request<'_>, res: &mut Response) -> Take {
        match req.path() {
            "/pieces" => Take::Pieces,
            "/refused" => {
                res.status(413).unwrap();
                res.body("too much\n").unwrap();
                Take::Refuse
            }
            _ => Take::Whole,
        }
    }

    fn on_body(&mut self, _req: &Request<'_>, piece: &[u8], _last: bool) {
        self.bodies += piece.len();
    }

    fn on_request(&mut self, req: &Request<'_>, res: &mut Response) {
        let worker = Worker::current().unwrap();
        match req.path() {
            "/" => {
                let (method, query) = (req.method(), req.query().unwrap_or(""));
                res.body(format!("{method} {query} from {}", req.peer())).unwrap();
            }
            "/echo" => {
                res.header("Content-Type", "text/plain").unwrap();
                res.body(req.body()).unwrap();
            }
            "/pieces" => res.body(format!("{} bytes", self.bodies)).unwrap(),
            "/panic" => panic!("on purpose"),
            "/upgrade" => res.upgrade("echo").unwrap(),
            "/never" => drop(Box::leak(Box::new(res.later()))),
            "/half-a-minute" => {
                let later = res.later();
                worker.after(Duration::from_secs(30), move |_| end(later, "half a minute later"));
            }
            "/thread" => {
                // A response stays in the worker's thread.
                KEPT.set(Some(res.later()));
                let waker = worker.waker();
                thread::spawn(move || {
                    thread::sleep(Duration::from_millis(20));
                    waker.wake(|_| end(KEPT.take().unwrap(), "from a thread")).unwrap();
                });
            }
            _ => res.status(404).unwrap(),
        }
    }

    fn on_open(&mut self, conn: &Conn) {
        conn.write(b"welcome ").unwrap();
    }

    fn on_data(&mut self, conn: &Conn) {
        let data = conn.data().to_vec();
        conn.consume(data.len());
        conn.write(&data).unwrap();
    }

    fn on_close(&mut self, conn: &Conn) {
        self.note(format!("closed {:?}", conn.end_reason().unwrap()));
    }

    fn on_datagram(&mut self, datagram: &prefork::Datagram<'_>) {
        for _ in 0..20 {
            datagram.reply(format!("{} from {}", datagram.data().len(), datagram.peer()).as_bytes()).unwrap();
        }
    }
}

thread_local! {
    static KEPT: RefCell<Option<Later>> = const { RefCell::new(None) };
}

fn end(mut later: Later, text: &'static str) {
    later.body(text).unwrap();
    later.end().unwrap();
}

#[test]
fn requests_are_answered_as_in_a_server() {
    let worker = TestWorker::new(App::default()).unwrap();
    let res = worker.get("/?n=1").peer("203.0.113.7:4711").send();
    assert_eq!((res.status(), res.text()), (200, "GET n=1 from 203.0.113.7:4711"));
    assert!(res.keeps_connection() && res.header("content-length") == Some("29"));
    assert!(worker.get("/").send().text().contains("from 127.0.0.1:"));
    let res = worker.post("/echo").header("Connection", "close").body("some bytes").send();
    assert_eq!((res.body(), res.header("Content-Type")), (&b"some bytes"[..], Some("text/plain")));
    assert!(!res.keeps_connection());
    let res = worker.put("/echo").chunks(["one ", "two"]).send();
    assert_eq!(res.text(), "one two");
    let res = worker.request("HEAD", "/echo").send();
    assert_eq!((res.status(), res.body()), (200, &b""[..]));
    assert_eq!(worker.delete("/nothing").send().status(), 404);
    // The same connection, several times, and what no client of ours would send.
    let client = res.into_client();
    for n in 0..3 {
        assert!(client.get(&format!("/?{n}")).send().text().starts_with(&format!("GET {n}")));
    }
    let raw = worker.connect();
    raw.send("GET / HTTP/1.1\r\n\r\n");
    assert_eq!(raw.response().status(), 400);
    assert!(raw.is_closed());
    assert_eq!(worker.status().requests, 9);
}

#[test]
fn bodies_of_any_size_pass_in_pieces_or_are_refused() {
    let worker = TestWorker::options().set("max-body", "8M").start(App::default()).unwrap();
    let large = vec![b'x'; 5 << 20];
    assert_eq!(worker.post("/echo").body(&large).send().body(), large);
    assert_eq!(worker.post("/pieces").body(&large).send().text(), "5242880 bytes");
    let res = worker.post("/refused").header("Expect", "100-continue").body("").send();
    assert_eq!((res.status(), res.text(), res.interim()), (413, "too much\n", &[][..]));
    let res = worker.post("/echo").header("Expect", "100-continue").body("x").send();
    assert_eq!((res.status(), res.interim()), (200, &[][..]), "the body came with the head");
    let client = worker.connect();
    client.send("POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n");
    assert_eq!(client.receive_text(), "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("y");
    assert_eq!(client.response().text(), "y");
}

#[test]
fn an_upgraded_connection_is_a_stream() {
    let app = App::default();
    let calls = Rc::clone(&app.calls);
    let worker = TestWorker::new(app).unwrap();
    let res = worker.get("/upgrade").header("Connection", "upgrade").header("Upgrade", "echo").send();
    assert!(res.is_upgrade() && res.keeps_connection());
    let client = res.into_client();
    assert_eq!(client.receive(), b"welcome ");
    client.send("hello");
    client.expect("hel");
    client.expect("lo");
    assert!(!client.is_closed());
    client.finish();
    assert!(client.is_closed() && !client.is_reset());
    assert_eq!(*calls.borrow(), ["start 1 0 1", "closed Client"]);
    assert_eq!(worker.stop(), 0);
    assert_eq!(calls.borrow()[2..], ["drain", "stop"]);
}

#[test]
fn timers_and_deadlines_need_no_waiting() {
    let begun = Instant::now();
    let worker = TestWorker::new(App::default()).unwrap();
    let client = worker.get("/half-a-minute").start();
    let counted = Rc::new(Cell::new(0));
    let counter = Rc::clone(&counted);
    worker.call(|worker| {
        worker.every(Duration::from_secs(1), move |_| counter.set(counter.get() + 1)).unwrap();
    });
    worker.advance(Duration::from_millis(29_999));
    assert!(client.partial_response().is_none());
    assert_eq!(counted.get(), 29);
    worker.advance(Duration::from_millis(1));
    assert_eq!(client.response().text(), "half a minute later");
    assert_eq!(counted.get(), 30);
    // The deadline of a head that does not come.
    let slow = worker.connect();
    slow.send("GET / HT");
    worker.advance(Duration::from_secs(3600));
    assert_eq!(slow.response().status(), 408);
    assert_eq!(counted.get(), 3630);
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn threads_are_waited_for() {
    let worker = TestWorker::new(App::default()).unwrap();
    assert_eq!(worker.get("/thread").send().text(), "from a thread");
}

#[test]
fn a_response_that_never_comes_is_told_at_once() {
    let worker = TestWorker::new(App::default()).unwrap();
    let begun = Instant::now();
    let why = worker.get("/never").try_send().unwrap_err();
    assert!(
        why.starts_with("no response: the worker has nothing to do before its next timer or deadline, in "),
        "{why}"
    );
    assert!(why.contains("TestWorker::advance"), "{why}");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn panics_are_the_tests_or_are_kept() {
    let worker = TestWorker::new(App::default()).unwrap();
    let raised = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| worker.get("/panic").send()));
    assert_eq!(raised.unwrap_err().downcast_ref::<&str>(), Some(&"on purpose"));
    assert_eq!(worker.get("/").send().status(), 200, "it goes on");
    drop(worker);
    let worker = TestWorker::options().catch_panics().start(App::default()).unwrap();
    assert_eq!(worker.get("/panic").send().status(), 500);
    assert_eq!(worker.panics(), ["on purpose"]);
    assert!(worker.panics().is_empty());
    assert!(worker.log().iter().any(|line| line.contains("on_request") && line.contains("/panic")));
}

#[test]
fn errors_of_closures_are_answered_and_logged() {
    let worker = TestWorker::http(|_req, _res| -> Result<(), String> { Err("no luck".into()) }).unwrap();
    assert_eq!(worker.get("/x").send().status(), 500);
    let log = worker.log();
    assert!(log.len() == 1 && log[0].contains("GET /x") && log[0].ends_with("no luck"), "{log:?}");
}

#[test]
fn datagrams_are_answered() {
    let worker = TestWorker::new(App::default()).unwrap();
    let replies = worker.datagram_from("198.51.100.1:53", "ping");
    assert_eq!(replies, vec![b"4 from 198.51.100.1:53".to_vec(); 20]);
    assert_eq!(worker.datagram_from("[2001:db8::1]:53", "")[0], b"0 from [2001:db8::1]:53");
    let replies = worker.datagram(vec![0; 65_507]);
    assert!(replies[0].starts_with(b"65507 from 127.0.0.1:"), "{}", replies[0].escape_ascii());
}

#[test]
fn a_blocking_handler_talks_to_a_client_that_has_sent_everything() {
    let worker = TestWorker::blocking(|conn| -> std::io::Result<()> {
        conn.write(b"220 ready\r\n")?;
        let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            match conn.read(&mut buffer)? {
                0 => break,
                n => all.extend_from_slice(&buffer[..n]),
            }
        }
        // Far more than the sockets hold.
        for _ in 0..4 {
            conn.write(&all)?;
        }
        Ok(())
    })
    .unwrap();
    let client = worker.connect();
    let large = vec![b'a'; 3 << 20];
    client.send(&large);
    let received = client.receive();
    assert_eq!(received.len(), 11 + 4 * large.len());
    assert!(received.starts_with(b"220 ready\r\naaa") && client.is_closed() && !client.is_reset());
    // One that reads nothing of what comes.
    let worker = TestWorker::blocking(|conn| conn.write(b"bye\n")).unwrap();
    let client = worker.connect();
    client.send(&large);
    assert_eq!(client.receive_text(), "bye\n");
}

#[test]
fn a_client_that_does_not_read_fills_the_buffers() {
    let worker = TestWorker::options().set("max-pending", "1M").start(Flood).unwrap();
    let client = worker.connect();
    client.set_reading(false);
    client.send("go");
    assert!(worker.status().bytes_out < 1 << 20);
    client.set_reading(true);
    let received = client.receive();
    assert_eq!(received.len(), 1_000_000 + 5);
    assert!(received.ends_with(b"room\n"));
}

struct Flood;

impl Handler for Flood {
    fn kind(&self) -> Kind {
        Kind::Stream
    }

    fn on_data(&mut self, conn: &Conn) {
        conn.consume(conn.data().len());
        conn.write(&vec![0; 1_000_000]).unwrap();
        assert_eq!(conn.write(&vec![0; 500_000]).unwrap_err().kind(), std::io::ErrorKind::OutOfMemory);
    }

    fn on_writable(&mut self, conn: &Conn) {
        conn.write(b"room\n").unwrap();
        conn.close();
    }
}

/// A counter for each stream, which goes on in another worker; and messages of every sort.
#[derive(Default)]
struct Counter {
    keeps: bool,
    refuses: bool,
    log: Rc<RefCell<Vec<String>>>,
}

impl Handler for Counter {
    fn kind(&self) -> Kind {
        Kind::Stream
    }

    fn on_open(&mut self, conn: &Conn) {
        conn.user().replace(Box::new(0u32));
        Worker::current().unwrap().subscribe(conn, "news").unwrap();
    }

    fn on_data(&mut self, conn: &Conn) {
        let data = conn.data().to_vec();
        conn.consume(data.len());
        let worker = Worker::current().unwrap();
        match &data[..] {
            b"publish" => worker.publish("news", b"extra ").unwrap(),
            b"message" => worker.send(MASTER, MessageKind(7), b"to the master").unwrap(),
            b"self" => worker.send(To::Worker(worker.id()), MessageKind(8), b"to itself").unwrap(),
            b"all" => worker.send(ALL, MessageKind(9), b"to all").unwrap(),
            b"ask" => {
                let id = conn.id();
                worker
                    .request(
                        To::Worker(77),
                        MessageKind(10),
                        b"how many",
                        Duration::from_secs(5),
                        move |reply| {
                            let text = match reply {
                                Ok(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                                Err(e) => e.to_string(),
                            };
                            Worker::current().unwrap().conn(id).unwrap().write(text.as_bytes()).unwrap();
                        },
                    )
                    .unwrap();
            }
            _ => {
                let mut user = conn.user();
                let count = user.as_mut().unwrap().downcast_mut::<u32>().unwrap();
                *count += 1;
                conn.write(format!("{count} in {}\n", worker.id()).as_bytes()).unwrap();
            }
        }
    }

    fn on_close(&mut self, conn: &Conn) {
        self.log.borrow_mut().push(format!("{:?}", conn.end_reason()));
    }

    fn on_message(&mut self, worker: &Worker, message: &Message<'_>) {
        let text = format!("{} {} {}", message.from(), message.kind(), message.bytes().escape_ascii());
        self.log.borrow_mut().push(text);
        if message.is_request() && message.kind() != MessageKind(0) {
            worker.reply(b"an answer").unwrap();
        }
    }

    fn state_version(&self) -> u32 {
        3
    }

    fn on_handover(&mut self, conn: &Conn) -> Option<Vec<u8>> {
        let user = conn.user();
        let count = user.as_ref().unwrap().downcast_ref::<u32>().unwrap();
        (!self.keeps).then(|| count.to_le_bytes().to_vec())
    }

    fn on_takeover(&mut self, conn: &Conn, version: u32, state: &[u8]) -> Result<(), String> {
        if self.refuses {
            return Err("not here".into());
        }
        assert_eq!(version, 3);
        conn.user().replace(Box::new(u32::from_le_bytes(state.try_into().unwrap())));
        Ok(())
    }
}

#[test]
fn streams_go_on_in_another_worker() {
    let old = TestWorker::new(Counter::default()).unwrap();
    let client = old.connect();
    client.send("x");
    client.expect("1 in 1\n");
    let new = TestWorker::options().generation(2).start(Counter::default()).unwrap();
    old.hand_over_to(&new);
    assert!(old.has_ended());
    client.send("x");
    client.expect("2 in 2\n");
    // It has its topic there too.
    new.publish("news", "read me\n").unwrap();
    client.expect("read me\n");
    // One that is refused comes back, and stays until the deadline.
    let refusing = TestWorker::new(Counter { refuses: true, ..Counter::default() }).unwrap();
    new.hand_over_to(&refusing);
    assert!(!new.has_ended());
    client.send("x");
    client.expect("3 in 2\n");
    new.advance(Duration::from_secs(60));
    assert!(client.is_closed() && new.has_ended());
    assert!(new.log().iter().any(|line| line.contains("not here")));
}

#[test]
fn what_stays_ends_with_its_worker() {
    let log = Rc::default();
    let handler = Counter { keeps: true, log: Rc::clone(&log), ..Counter::default() };
    let worker = TestWorker::options().set("drain-timeout", "30s").start(handler).unwrap();
    let client = worker.connect();
    let other = TestWorker::new(Counter::default()).unwrap();
    worker.hand_over_to(&other);
    worker.advance(Duration::from_secs(29));
    assert!(!client.is_closed() && !worker.has_ended());
    worker.advance(Duration::from_secs(1));
    assert!(client.is_closed() && worker.has_ended());
    assert_eq!(*log.borrow(), [format!("{:?}", Some(EndReason::Worker))]);
    let (worker, client) = (other, client);
    drop(client);
    let _client = worker.connect();
    assert_eq!(worker.stop(), 1);
}

#[test]
fn kept_connections_go_on_too() {
    let old = TestWorker::new(App::default()).unwrap();
    let client = old.get("/").send().into_client();
    let new = TestWorker::new(App::default()).unwrap();
    old.hand_over_to(&new);
    assert!(old.has_ended() && !client.is_closed());
    assert_eq!(client.get("/").send().status(), 200);
    assert_eq!((old.status().requests, new.status().requests), (1, 1));
}

#[test]
fn messages_go_to_other_workers_or_to_the_test() {
    let (log, elsewhere) = (Rc::default(), Rc::default());
    let worker = TestWorker::new(Counter { log: Rc::clone(&log), ..Counter::default() }).unwrap();
    let other = TestWorker::new(Counter { log: Rc::clone(&elsewhere), ..Counter::default() }).unwrap();
    let (client, listener) = (worker.connect(), other.connect());
    for what in ["publish", "message", "self", "all", "ask"] {
        client.send(what);
    }
    client.expect("extra ");
    listener.expect("extra ");
    assert_eq!(*log.borrow(), ["worker 1 8 to itself"]);
    assert_eq!(*elsewhere.borrow(), ["worker 1 9 to all"]);
    let sent = worker.sent();
    let brief: Vec<_> = sent.iter().map(|m| (m.to, m.kind.0, &m.bytes[..], m.topic.as_deref())).collect();
    assert_eq!(
        brief,
        [
            (ALL, 0, &b"extra "[..], Some("news")),
            (MASTER, 7, b"to the master", None),
            (ALL, 9, b"to all", None),
            (To::Worker(77), 10, b"how many", None),
        ]
    );
    assert_eq!(worker.reply(&sent[1], Ok(b"")), Err(Undelivered::Impossible));
    worker.reply(&sent[3], Ok(b"forty-two\n")).unwrap();
    client.expect("forty-two\n");
    client.send("ask");
    worker.advance(Duration::from_secs(5));
    client.expect(Undelivered::TimedOut.to_string());
    client.send("ask");
    worker.reply(&worker.sent()[1], Err(Undelivered::Full)).unwrap();
    client.expect(Undelivered::Full.to_string());
    worker.message(Sender::Master, MessageKind(1), "hello").unwrap();
    assert_eq!(worker.ask(Sender::Worker(5), MessageKind(2), "well?").unwrap(), b"an answer");
    assert_eq!(worker.ask(Sender::Worker(5), MessageKind(0), "well?"), Err(Undelivered::Unanswered));
    assert_eq!(log.borrow()[1..], ["the master 1 hello", "worker 5 2 well?", "worker 5 0 well?"]);
}

#[test]
fn options_are_what_the_handler_sees() {
    let worker = TestWorker::options().id(9).slot(3).generation(4).args(["--verbose", "x"]);
    let worker = worker.listen("api=127.0.0.1:1").listen("admin=127.0.0.1:2").start_with(|worker| {
        let args: Vec<_> = worker.args().iter().map(|arg| arg.to_str().unwrap().to_owned()).collect();
        assert_eq!(args, ["--verbose", "x"]);
        worker.serve("admin", prefork::stream(|conn: &Conn| conn.write(b"admin\n"))).unwrap();
        prefork::http(|req: &Request<'_>, res: &mut Response| {
            let worker = Worker::current().unwrap();
            let name = worker.listener_name(req.listener());
            res.body(format!("{} {} {} {name}", worker.id(), worker.slot(), worker.generation()))
        })
    });
    let worker = worker.unwrap();
    assert_eq!(worker.get("/").listener("api").send().text(), "9 3 4 api");
    assert!(Worker::current().is_none() && prefork::role() == prefork::Role::None);
    let admin = worker.connect_to("admin");
    admin.send("x");
    admin.expect("admin\n");
}

fn refusal(f: impl FnOnce()) -> String {
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).unwrap_err();
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap()
}

#[test]
fn what_cannot_be_says_what_to_do() {
    struct Wrong;
    impl Handler for Wrong {
        fn kind(&self) -> Kind {
            Kind::Request
        }
        fn start(&mut self, _worker: &Worker) -> Result<(), Box<dyn std::error::Error>> {
            Err("no database".into())
        }
    }
    assert_eq!(TestWorker::new(Wrong).unwrap_err().to_string(), "no database");
    let wrong = TestWorker::with(|_| Err::<Wrong, _>(prefork::Misconfigured::new("no name"))).unwrap_err();
    assert_eq!((wrong.kind(), &*wrong.to_string()), (prefork::ErrorKind::Misconfigured, "no name"));
    let refused = TestWorker::options().set("max-bdy", "1").start(App::default()).unwrap_err().to_string();
    assert!(refused.contains("did you mean \"max-body\""), "{refused}");
    let udp_only = TestWorker::options().listen("udp:127.0.0.1:1");
    let refused = udp_only.start(prefork::http(|_: &Request<'_>, _: &mut Response| {})).unwrap_err();
    assert_eq!(refused.to_string(), "listen udp:127.0.0.1:1: the handler has no on_datagram");
    let worker = TestWorker::options().id(5).start(App::default()).unwrap();
    assert!(TestWorker::options().id(5).start(App::default()).unwrap_err().to_string().contains("number 5"));
    let stream = TestWorker::stream(|_: &Conn| {}).unwrap();
    let said = refusal(|| drop(stream.get("/").send()));
    assert_eq!(said, "GET / HTTP/1.1: the handler takes streams, and no requests: connect a client");
    let said = refusal(|| drop(stream.datagram("x")));
    assert_eq!(said, "the handler takes no datagrams: send a request, or connect a client");
    let datagrams = TestWorker::datagrams(|_: &prefork::Datagram<'_>| {}).unwrap();
    let said = refusal(|| drop(datagrams.connect()));
    assert_eq!(said, "the handler takes datagrams only: send a datagram");
    let said = refusal(|| drop(worker.connect_from("somewhere")));
    assert!(said.ends_with("found \"somewhere\""), "{said}");
    let said = refusal(|| worker.connect().expect("x"));
    assert!(said.starts_with("expected \"x\", received \"\": the worker has nothing to do"), "{said}");
    worker.stop();
    assert_eq!(refusal(|| drop(worker.connect())), "the worker has ended");
}

#[test]
fn callbacks_that_cause_each_other_for_ever_are_told() {
    fn again(worker: &Worker) {
        worker.after(Duration::ZERO, again);
    }
    let worker = TestWorker::options().patience(Duration::from_millis(200)).start(App::default()).unwrap();
    let said = refusal(|| worker.call(again));
    assert!(said.contains("do not come to rest within 200ms"), "{said}");
}

#[test]
fn tests_run_in_many_threads_and_leave_no_descriptor() {
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let all = |n: usize| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                thread::spawn(move || {
                    for _ in 0..n {
                        let worker = TestWorker::new(App::default()).unwrap();
                        assert_eq!(worker.get("/").send().status(), 200);
                        let client = worker.get("/half-a-minute").start();
                        worker.advance(Duration::from_secs(30));
                        assert_eq!(client.response().status(), 200);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
    };
    all(2);
    let before = open();
    all(100);
    // Other tests of this process run meanwhile.
    assert!(open() < before + 200, "{before}, {}", open());
}
