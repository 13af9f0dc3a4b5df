//! Messages between processes: round trips a second, MiB a second, and the effect of a flood of them on connections.
//!
//!     cargo bench --bench messages
//!     cargo bench --bench messages -- one     the first two lines, and fewer rounds
//!     cargo bench --bench messages -- beside  connections without and with 250 MiB/s of messages in turn, the master on a CPU of its
//!                                             own: what the messages cost them in the master, whatever the scheduler does
//!
//! One line per measure: its name, the figure, its unit. The program is the server. For the first line, which shows what waking two
//! processes in turn takes on this machine, it starts itself again as the other end of two pipes; for the last five as the client,
//! which makes one connection after the other and reports their rate and latency.
#![allow(missing_docs, clippy::unwrap_used)]

use prefork::{
    Handler, Kind, MASTER, Message, MessageKind, Messages, Request, Response, Server, Started, To, Worker,
};
use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

const ROUNDS: u64 = 300_000;
const SMALL: [u8; 64] = [7; 64];
const LARGE: usize = 1 << 20;
const GIB: u64 = 1 << 30;
/// Large messages in flight at a time.
const WINDOW: u64 = 16;
const CLIENTS: usize = 4;
const CONNECTIONS: usize = 8_000;
/// Turns of `beside`, and connections in each.
const TURNS: usize = 10;
const FEW_CONNECTIONS: usize = 1_500;
/// Between two connections of a paced client: 2,000 a second with four of them.
const PAUSE: Duration = Duration::from_millis(2);
/// Between two large messages that a worker sends on the request of a client: 250 MiB/s, which leaves CPU time to spare.
const LUMP_PAUSE: Duration = Duration::from_millis(4);

// Types of messages.
const ASK: MessageKind = MessageKind(1);
const FLOOD: MessageKind = MessageKind(2);
const LUMP: MessageKind = MessageKind(3);
const TAKEN: MessageKind = MessageKind(4);
const DONE: MessageKind = MessageKind(5);

fn main() {
    let words: Vec<String> = std::env::args().collect();
    if words.get(1).is_some_and(|word| word == "echo") {
        return echo();
    }
    if let [_, word, address, connections] = &words[..] {
        let count = connections.parse().unwrap();
        match word.as_str() {
            "client" => return client(address, count, Duration::ZERO, false),
            "paced" => return client(address, count, PAUSE, false),
            "lumps" => return client(address, count, PAUSE, true),
            _ => {}
        }
    }
    let mode = words.get(1).map_or("", String::as_str);
    let (is_apart, rounds) = (mode == "beside", if mode == "one" { ROUNDS / 6 } else { ROUNDS });
    let steps = match mode {
        "one" => vec![1],
        "beside" => [8, 9].repeat(TURNS),
        _ => (1..=11).collect(),
    };
    if is_apart {
        move_to_cpu(0);
    } else {
        bare_pipe(rounds);
    }
    let server = Server::factory(move |worker| {
        if is_apart {
            move_to_cpu(1);
        }
        Bench { worker: worker.clone(), moved: Rc::default() }
    });
    let host = Rc::new(RefCell::new(Host {
        messages: server.messages(),
        steps: steps.into_iter(),
        step: 0,
        is_apart,
        rounds,
        address: String::new(),
        begun: Instant::now(),
        sent: 0,
        taken: 0,
    }));
    let (started, heard) = (host.clone(), host);
    let server = server.listen("127.0.0.1:0").workers(2);
    let server = server.on_start(move |what: &Started| {
        started.borrow_mut().address.clone_from(&what.addresses[0]);
        next(&started);
    });
    server.on_message(move |messages, message| hear(&heard, messages, message)).run().unwrap();
}

/// Round trips over two pipes to a process that sends back what it gets.
fn bare_pipe(rounds: u64) {
    let mut other = Command::new(std::env::current_exe().unwrap());
    let mut other = other.arg("echo").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut to, mut from) = (other.stdin.take().unwrap(), other.stdout.take().unwrap());
    let mut got = [0; SMALL.len()];
    let begun = Instant::now();
    for _ in 0..rounds {
        to.write_all(&SMALL).unwrap();
        from.read_exact(&mut got).unwrap();
        assert_eq!(got, SMALL);
    }
    print_rate("bare pipe, 1 at a time", rounds as f64, "round trips", begun);
    drop(to);
    other.wait().unwrap();
}

fn echo() {
    // Not Stdin and Stdout, which copy into buffers of their own.
    let mut from = File::from(io::stdin().as_fd().try_clone_to_owned().unwrap());
    let mut to = File::from(io::stdout().as_fd().try_clone_to_owned().unwrap());
    let mut bytes = [0; SMALL.len()];
    while from.read_exact(&mut bytes).is_ok() {
        to.write_all(&bytes).unwrap();
    }
}

/// The master: runs one measure after the other.
struct Host {
    messages: Messages,
    /// Those that follow.
    steps: std::vec::IntoIter<u32>,
    step: u32,
    /// True if the master has a CPU of its own.
    is_apart: bool,
    rounds: u64,
    address: String,
    begun: Instant,
    sent: u64,
    taken: u64,
}

type Shared = Rc<RefCell<Host>>;

fn next(host: &Shared) {
    let mut h = host.borrow_mut();
    h.step = h.steps.next().unwrap_or(u32::MAX);
    h.begun = Instant::now();
    (h.sent, h.taken) = (0, 0);
    let (messages, step) = (h.messages.clone(), h.step);
    drop(h);
    match step {
        1 => ask(host, 1),
        2 => (0..64).for_each(|_| ask(host, 64)),
        // The same between a worker and the master, and between two workers.
        3 => messages.send(To::Worker(1), ASK, &0u32.to_le_bytes()).unwrap(),
        4 => messages.send(To::Worker(1), ASK, &2u32.to_le_bytes()).unwrap(),
        5 => (0..WINDOW).for_each(|_| lump(host)),
        6 => messages.send(To::Worker(1), FLOOD, &(GIB / LARGE as u64).to_le_bytes()).unwrap(),
        7 => start_client("client", &host.borrow()),
        8 => start_client("paced", &host.borrow()),
        9 => start_client("lumps", &host.borrow()),
        10 => {
            messages.send(To::Worker(1), FLOOD, &u64::MAX.to_le_bytes()).unwrap();
            start_client("client", &host.borrow());
        }
        11 => start_client("paced", &host.borrow()),
        _ => {
            Command::new("kill").arg(std::process::id().to_string()).status().unwrap();
        }
    }
}

fn report(host: &Shared, what: &str, amount: f64, unit: &str) {
    print_rate(what, amount, unit, host.borrow().begun);
}

fn print_rate(what: &str, amount: f64, unit: &str, begun: Instant) {
    println!("{what:56} {:8.0} {unit}/s", amount / begun.elapsed().as_secs_f64());
}

/// Sends a request to worker 1, and the next after its reply, until all rounds are done.
fn ask(host: &Shared, window: u64) {
    let mut h = host.borrow_mut();
    if h.sent == h.rounds {
        return;
    }
    let rounds = h.rounds;
    h.sent += 1;
    let again = host.clone();
    let answered = move |reply: Result<&[u8], _>| {
        assert_eq!(reply.unwrap(), SMALL);
        again.borrow_mut().taken += 1;
        if again.borrow().taken == rounds {
            report(&again, &format!("master asks worker, {window} at a time"), rounds as f64, "round trips");
            return next(&again);
        }
        ask(&again, window);
    };
    h.messages.request(To::Worker(1), MessageKind(0), &SMALL, Duration::from_secs(10), answered).unwrap();
}

fn lump(host: &Shared) {
    let mut h = host.borrow_mut();
    if h.sent * (LARGE as u64) < GIB {
        h.sent += 1;
        h.messages.send(To::Worker(1), LUMP, &vec![1; LARGE]).unwrap();
    }
}

fn hear(host: &Shared, messages: &Messages, message: &Message<'_>) {
    let step = host.borrow().step;
    match message.kind() {
        _ if message.is_request() => messages.reply(message.bytes()).unwrap(),
        TAKEN => {
            host.borrow_mut().taken += 1;
            if host.borrow().taken * LARGE as u64 == GIB {
                report(host, "master to worker, 1 MiB each", 1024.0, "MiB");
                return next(host);
            }
            lump(host);
        }
        DONE if step < 7 => {
            let what = ["worker asks master", "worker asks worker", "", "worker to worker, 1 MiB each"]
                [step as usize - 3];
            let (what, amount, unit) = match step {
                3 | 4 => (format!("{what}, 64 at a time"), ROUNDS as f64, "round trips"),
                _ => (what.to_owned(), 1024.0, "MiB"),
            };
            report(host, &what, amount, unit);
            next(host);
        }
        _ => {
            let pace = ["as fast as possible", "2000 a second"][usize::from(!matches!(step, 7 | 10))];
            let messages = match step {
                9 => ", with 250 MiB/s of messages",
                10.. => ", with unlimited messages",
                _ => "",
            };
            println!(
                "{:56} {}",
                format!("connections, {pace}{messages}"),
                String::from_utf8_lossy(message.bytes())
            );
            next(host);
        }
    }
}

#[expect(clippy::zombie_processes, reason = "the master does not wait; it ends soon after its client")]
fn start_client(how: &str, host: &Host) {
    let (prefix, count) = match host.is_apart {
        true => (&["taskset", "-c", "1"][..], FEW_CONNECTIONS),
        false => (&["env"][..], CONNECTIONS),
    };
    let mut command = Command::new(prefix[0]);
    command.args(&prefix[1..]).arg(std::env::current_exe().unwrap());
    command.args([how, &host.address, &count.to_string()]).spawn().unwrap();
}

/// Moves this process to a CPU.
fn move_to_cpu(cpu: u32) {
    let mut command = Command::new("taskset");
    command.args(["-pc", &cpu.to_string(), &std::process::id().to_string()]).stdout(Stdio::null());
    assert!(command.status().unwrap().success());
}

/// The handler of a worker.
struct Bench {
    worker: Worker,
    moved: Rc<RefCell<Moved>>,
}

#[derive(Default)]
struct Moved {
    sent: u64,
    taken: u64,
    limit: u64,
}

impl Handler for Bench {
    fn kind(&self) -> Kind {
        Kind::Request
    }

    fn on_message(&mut self, worker: &Worker, message: &Message<'_>) {
        match message.kind() {
            _ if message.is_request() => worker.reply(message.bytes()).unwrap(),
            ASK => {
                let to = match u32::from_le_bytes(message.bytes().try_into().unwrap()) {
                    0 => To::Master,
                    id => To::Worker(id),
                };
                let left = Rc::new(RefCell::new(Moved { limit: ROUNDS, ..Moved::default() }));
                (0..64).for_each(|_| worker_asks(worker, &left, to));
            }
            FLOOD => {
                self.moved.take();
                self.moved.borrow_mut().limit = u64::from_le_bytes(message.bytes().try_into().unwrap());
                (0..WINDOW).for_each(|_| self.flood());
            }
            LUMP => worker.send(message.from(), TAKEN, b"").unwrap(),
            _ => {
                let mut moved = self.moved.borrow_mut();
                moved.taken += 1;
                if moved.taken == moved.limit {
                    return worker.send(MASTER, DONE, b"").unwrap();
                }
                drop(moved);
                self.flood();
            }
        }
    }

    fn on_request(&mut self, req: &Request<'_>, res: &mut Response) {
        if req.path() == "/lump" {
            // Refused if the machine is too busy for 250 MiB/s.
            let _ = self.worker.send(To::Worker(3 - self.worker.id()), LUMP, &vec![1; LARGE]);
        }
        if let Some(text) = req.path().strip_prefix("/done/") {
            self.worker.send(MASTER, DONE, text.replace(['/', '-'], " ").as_bytes()).unwrap();
        }
        let _ = res.body("hello world\n");
    }
}

impl Bench {
    fn flood(&self) {
        let mut moved = self.moved.borrow_mut();
        if moved.sent < moved.limit {
            moved.sent += 1;
            self.worker.send(To::Worker(2), LUMP, &vec![1; LARGE]).unwrap();
        }
    }
}

fn worker_asks(worker: &Worker, rounds: &Rc<RefCell<Moved>>, to: To) {
    let mut r = rounds.borrow_mut();
    if r.sent == r.limit {
        return;
    }
    r.sent += 1;
    let (again, this) = (rounds.clone(), worker.clone());
    let answered = move |reply: Result<&[u8], _>| {
        assert_eq!(reply.unwrap(), SMALL);
        again.borrow_mut().taken += 1;
        if again.borrow().taken == ROUNDS {
            return this.send(MASTER, DONE, b"").unwrap();
        }
        worker_asks(&this, &again, to);
    };
    worker.request(to, MessageKind(0), &SMALL, Duration::from_secs(10), answered).unwrap();
}

/// The client: makes connections with one request each, one after the other or at a steady rate. With `lumps`, it also makes
/// requests that have a worker send a large message, which are not counted.
fn client(address: &str, connections: usize, pause: Duration, lumps: bool) {
    let get = |path: &str| {
        let mut socket = TcpStream::connect(address).unwrap();
        write!(socket, "GET {path} HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n").unwrap();
        socket.read_to_end(&mut Vec::new()).unwrap()
    };
    let begun = Instant::now();
    let one = || {
        let timed = |n: usize| {
            let turn = begun + pause * n as u32;
            std::thread::sleep(turn.saturating_duration_since(Instant::now()));
            let begun = Instant::now();
            get("/");
            begun.elapsed()
        };
        (0..connections / CLIENTS).map(timed).collect::<Vec<_>>()
    };
    let done = AtomicBool::new(!lumps);
    let lump = || {
        let asked = (1..).take_while(|_| !done.load(Relaxed));
        asked.for_each(|n| {
            std::thread::sleep((begun + LUMP_PAUSE * n).saturating_duration_since(Instant::now()));
            get("/lump");
        });
    };
    let mut times: Vec<Duration> = std::thread::scope(|scope| {
        scope.spawn(lump);
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(one)).collect();
        let times = clients.into_iter().flat_map(|c| c.join().unwrap()).collect();
        done.store(true, Relaxed);
        times
    });
    let rate = connections as f64 / begun.elapsed().as_secs_f64();
    times.sort();
    let at = |percent: usize| times[times.len() * percent / 100 - 1].as_micros();
    get(&format!("/done/{rate:.0}-a-second,/median/{}-us,/p99/{}-us", at(50), at(99)));
}
