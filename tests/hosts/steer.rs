//! A host in Rust with an event loop of its own, for the tests: takes the same commands as `tests/steer.c` and prints the same.
#![allow(clippy::unwrap_used, unsafe_code)]

use prefork::{
    ALL, Config, Datagram, Departed, ErrorKind, Event, Exit, Handler, Kind, LastExit, MASTER, Message,
    MessageKind, Messages, Request, Response, Role, Running, Sender, Server, Staying, To, Undelivered,
    Worker, WorkerStatus,
};
use std::error::Error;
use std::fmt::Write as _;
use std::io::{ErrorKind as Io, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd};
use std::path::Path;
use std::process::exit;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, SystemTime};
use std::{env, fs, thread};

fn main() {
    count_signals();
    let mut host = Host { running: None, settings: env::args().skip(1).collect(), killed: 0, cut: 0 };
    host.begin_serving();
    // SAFETY: standard input is open, and nothing else reads it.
    let mut input = unsafe { fs::File::from_raw_fd(0) };
    let mut held = Vec::new();
    loop {
        if host.wait() {
            let mut bytes = [0; 4096];
            match input.read(&mut bytes) {
                Ok(0) => return drop(host.running.take()),
                Ok(n) => held.extend_from_slice(&bytes[..n]),
                Err(e) => assert_eq!(e.kind(), Io::Interrupted),
            }
            while let Some(end) = held.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = held.drain(..=end).collect();
                host.obey(std::str::from_utf8(&line).unwrap().trim_end());
            }
        }
        host.step();
    }
}

struct Host {
    running: Option<Running>,
    settings: Vec<String>,
    killed: u32,
    cut: u64,
}

/// Standard output is a pipe: a worker must not find in its buffer what the master has yet to write.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

/// The numbers that C has for the same refusals.
fn number(error: &prefork::Error) -> i32 {
    match error.kind() {
        ErrorKind::Gone => -13,
        ErrorKind::State => -4,
        ErrorKind::System => -5,
        ErrorKind::Config => -6,
        ErrorKind::Listen => -7,
        ErrorKind::Handler => -8,
        ErrorKind::Misconfigured => -19,
        _ => -99,
    }
}

fn status(result: &prefork::Result<()>) -> i32 {
    result.as_ref().map_or_else(number, |()| 0)
}

fn sent(result: Result<(), Undelivered>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(Undelivered::Gone) => -13,
        Err(Undelivered::Impossible) => -4,
        Err(other) => panic!("{other:?}"),
    }
}

fn tell(what: &str, result: &prefork::Result<()>) {
    let text = result.as_ref().err().map(ToString::to_string).unwrap_or_default();
    say(&format!("{what} {} {text}", status(result)));
}

// ---- the master

impl Host {
    fn begin_serving(&mut self) {
        let mut server =
            Server::factory(|_| Steered).set("workers", "2").on_event(happened).on_reload(may_reload);
        server = server.on_message(reported).on_start(|s| say(&format!("listening on {}", s.addresses[0])));
        let mut has_address = false;
        for pair in self.settings.chunks(2) {
            has_address |= pair[0] == "listen";
            server = server.set(&pair[0], &pair[1]);
        }
        let server = if has_address { server } else { server.listen("127.0.0.1:0") };
        let started = server.start().map(|running| self.running = Some(running));
        tell("start", &started);
    }

    /// Waits for work; returns true if there are commands.
    fn wait(&self) -> bool {
        let watched = self.running.as_ref().map_or(-1, |r| r.as_fd().as_raw_fd());
        let due = self.running.as_ref().and_then(Running::timeout);
        let due = due.map_or(-1, |due| i32::try_from(due.as_millis()).unwrap());
        let mut fds = [0, watched].map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
        // SAFETY: two structures that live through the call.
        let n = unsafe { libc::poll(fds.as_mut_ptr(), 2, due) };
        n > 0 && fds[0].revents != 0
    }

    fn step(&mut self) {
        let Some(running) = &mut self.running else { return };
        match running.step(Some(Duration::ZERO)) {
            Ok(None) => return,
            Ok(Some(stopped)) => (self.killed, self.cut) = (stopped.killed, stopped.cut),
            Err(e) => say(&format!("ended {} {e}", number(&e))),
        }
        self.running = None;
        say(&format!("ended 0 killed {} fd -4 cut {}", self.killed, self.cut));
    }

    fn obey(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let n = words.get(1).and_then(|w| w.parse().ok()).unwrap_or(0);
        match words[0] {
            "start" => return self.begin_serving(),
            "crash" => crash(),
            "role" => return say(&format!("role {}", role_number())),
            "child" => return child(),
            "ignore" => {
                // SAFETY: a disposition, no handler.
                let before = unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
                return say(&format!("ignore {}", u8::from(before == count as *const () as usize)));
            }
            "signals" => {
                let (terms, deaths) = (TERMS.load(Relaxed), DEATHS.load(Relaxed));
                return say(&format!("signals {terms} {}", u8::from(deaths > 0)));
            }
            "thread" => {
                thread::spawn(|| thread::sleep(Duration::from_secs(1000)));
                return say("thread 0");
            }
            "second" => {
                let other = Server::factory(|_| Steered).start().map(drop);
                return tell("second", &other);
            }
            "left" => {
                let maps = fs::read_to_string("/proc/self/maps").unwrap().lines().count();
                let open = fs::read_dir("/proc/self/fd").unwrap().count();
                return say(&format!("left {open} descriptors {maps} maps"));
            }
            "free" => {
                self.running = None;
                // SAFETY: asks for children; no status is wanted.
                let none = unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) } < 0;
                return say(&format!("free {}", u8::from(none)));
            }
            _ => {}
        }
        let Some(running) = &mut self.running else { return say(&format!("{} -4", words[0])) };
        let id = n as u32;
        match words[0] {
            "reload" => tell("reload", &running.reload()),
            "upgrade" => tell("upgrade", &running.upgrade()),
            "scale" => tell("scale", &running.scale(n)),
            "stop" => tell("stop", &running.stop()),
            "drain" => {
                let patience = words.get(2).map(|ms| Duration::from_millis(ms.parse().unwrap()));
                tell("drain", &running.drain(id, patience));
            }
            "kill" => tell("kill", &running.kill(id, words[2].parse().unwrap())),
            "fork" => {
                let pairs: Vec<_> = words[1..].iter().map(|w| w.split_once('=').unwrap_or(("", w))).collect();
                match running.fork(&pairs) {
                    Ok(slot) => say(&format!("fork {slot}")),
                    Err(e) => say(&format!("fork {} {e}", number(&e))),
                }
            }
            "message" => {
                let bytes = vec![0; words[2].parse().unwrap()];
                say(&format!(
                    "message {}",
                    sent(running.messages().send(To::Worker(id), MessageKind(5), &bytes))
                ));
            }
            "table" => {
                let workers = running.status().workers;
                for w in &workers {
                    // SAFETY: takes no pointers; signal 0 only asks.
                    let there = unsafe { libc::kill(w.worker.pid, 0) } == 0;
                    say(&format!("row {} there {}", record(w), u8::from(there)));
                }
                say(&format!("table {}", workers.len()));
            }
            "worker" => match running.worker(id) {
                Some(w) => say(&format!("worker 0 {} {}", w.worker.id, w.state as u32)),
                None => say("worker -13 0 0"),
            },
            "last" => match running.last_exit(n) {
                Some(last) => {
                    let (code, signal) = ended(last.exit);
                    let (reason, intended) = (last.reason as u32, u8::from(last.reason.is_intended()));
                    say(&format!("last 0 {} {code} {signal} {reason} {intended}", last.worker.id));
                }
                None => say("last -13 0 0 0 0 0"),
            },
            "look" => {
                let s = running.status();
                let (generation, slots, workers) = (s.generation, s.total, s.workers.len());
                say(&format!("look 0 generation {generation} slots {slots} workers {workers}"));
            }
            "copy" => copy(running),
            "usurp" => self.usurp(),
            other => say(&format!("{other}?")),
        }
    }
}

impl Host {
    /// A copy of the master runs a server of its own, and makes calls about the other one.
    fn usurp(&mut self) {
        // SAFETY: this process has one thread; the copy ends without unwinding.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let mut own = Server::factory(|_| Steered).listen("127.0.0.1:0").start().unwrap();
            let mut other = self.running.take().unwrap();
            let [reload, kill] = [other.reload(), other.kill(1, libc::SIGKILL)].map(|r| status(&r));
            let step = status(&other.step(Some(Duration::ZERO)).map(drop));
            let send = sent(other.messages().send(To::Worker(1), MessageKind(5), b""));
            drop(other);
            let (role, stop) = (role_number(), status(&own.stop()));
            say(&format!("usurp reload {reload} kill {kill} step {step} send {send} role {role} own {stop}"));
            drop(own);
            // SAFETY: ends the copy, and runs nothing of what the host would.
            unsafe { libc::_exit(0) }
        }
        say(&format!("usurper ended {}", wait_for(pid)));
    }
}

fn reported(_: &Messages, message: &Message<'_>) {
    let number = u64::from_ne_bytes(message.bytes().try_into().unwrap());
    let Sender::Worker(from) = message.from() else { panic!("{message:?}") };
    say(&format!("report {from} {} {number}", message.kind()));
}

fn happened(event: &Event) {
    let (id, slot, generation) = event.worker().map_or((0, 0, 0), |w| (w.id, w.slot, w.generation));
    let head = |generation: u32| format!("event {} {id} {slot} {generation}", event.name());
    let line = head(generation);
    say(&match event {
        Event::Listening { address: bound, .. } => {
            let port = bound.port.map_or(-1, i32::from);
            format!("{line} {} {} {port} ", bound.text, bound.family)
        }
        Event::Exit { exit, reason, stderr, connections, .. } => {
            let (code, signal) = ended(*exit);
            let intended = u8::from(reason.is_intended());
            let cut = connections.as_ref().map_or(0, |connections| connections.cut);
            let cut = if cut > 0 { format!(" cut {cut}") } else { String::new() };
            format!("{line} {code} {signal} {reason} {intended}{cut} {}", said(stderr))
        }
        Event::Message { kind, size, .. } => format!("{line} {kind} {size} "),
        Event::Error { text, .. } => format!("{line} {text}"),
        Event::Reload { generation, failure: None, .. } => {
            format!("{} ", head(*generation))
        }
        Event::Reload { generation, failure: Some(failure), .. } => {
            let id = failure.worker.unwrap_or(0);
            let (code, signal) = failure.exit.map_or((-1, 0), ended);
            let (reason, stage, said) = (&failure.reason, failure.stage, said(&failure.stderr));
            let name = event.name();
            format!(
                "event {name} {id} 0 {generation} {reason}; {} {stage}, {code} {signal}{said}",
                stage as u32
            )
        }
        Event::Gone { generation, .. } => format!("{} ", head(*generation)),
        Event::Stopped { killed, cut: 0, .. } => format!("{line} {killed} "),
        Event::Stopped { killed, cut, .. } => format!("{line} {killed} cut {cut} "),
        _ => format!("{line} "),
    });
    match event {
        Event::Reload { connections: Some(connections), failure: None, .. } => {
            let Staying { workers, requests, kept_responses, streams, within, .. } = connections.staying;
            say(&format!(
                "stays moved {} over {} workers {workers} requests {requests} responses {kept_responses} streams {streams} limit {}",
                connections.moved,
                connections.handed_over,
                u8::from(within.is_some())
            ));
        }
        Event::Exit { connections, .. } => {
            departed(event, connections.as_deref().copied().unwrap_or_default())
        }
        Event::Gone { connections, .. } => departed(event, *connections),
        _ => {}
    }
}

fn departed(event: &Event, departed: Departed) {
    let Departed { moved, handed_over, ended, cut, lost, .. } = departed;
    let name = event.name();
    say(&format!("departed {name} moved {moved} over {handed_over} ended {ended} cut {cut} lost {lost}"));
}

/// As in C.
fn may_reload(generation: u32) -> Result<(), String> {
    if fs::exists("on-reload").unwrap() {
        // SAFETY: this process has one thread.
        unsafe { env::set_var("COLOUR", generation.to_string()) };
        say(&format!("on_reload {generation}"));
    }
    if fs::exists("refuse-reload").unwrap() { Err("not today".into()) } else { Ok(()) }
}

/// A worker's last lines, on one.
fn said(lines: &[String]) -> String {
    if lines.is_empty() { String::new() } else { format!("; {}", lines.join("|")) }
}

fn ended(exit: Exit) -> (i32, i32) {
    match exit {
        Exit::Code(code) => (code, 0),
        Exit::Signal { number, .. } => (-1, number),
        _ => (-1, 0),
    }
}

fn role_number() -> u32 {
    match prefork::role() {
        Role::None => 0,
        Role::Master => 1,
        Role::Worker { .. } => 2,
        other => panic!("{other:?}"),
    }
}

/// A worker as it is known to itself or to the master.
fn record(w: &WorkerStatus) -> String {
    let age = SystemTime::now().duration_since(w.started).unwrap_or_default();
    let last = w.last_exit.as_ref().map(|LastExit { worker, exit, reason: why, .. }| {
        let (code, signal) = ended(*exit);
        format!("{} {code} {signal} {} {}", worker.id, *why as u32, u8::from(why.is_intended()))
    });
    let mut text = format!("{} {} {} ", w.worker.id, w.worker.slot, w.worker.generation);
    let started = u8::from(age.abs_diff(w.age) < Duration::from_secs(1));
    let connected = u8::from(w.state.is_connected());
    let _ = write!(text, "state {} connected {connected} started {started} last ", w.state as u32);
    text + last.as_deref().unwrap_or("0 0 0 0 0")
}

/// The results of calls in a forked copy of the master.
fn copy(running: &mut Running) {
    let refused = |running: &mut Running| {
        let [reload, scale, drain] = [running.reload(), running.scale(1), running.drain(1, None)];
        let [fork, kill, stop] =
            [running.fork(&[]).map(drop), running.kill(1, libc::SIGKILL), running.stop()];
        let step = running.step(Some(Duration::ZERO)).map(drop);
        let start = Server::factory(|_| Steered).set("listen", "127.0.0.1:0");
        let listen = start.set("workers", "0").start().map(drop);
        let [reload, scale, fork, drain, kill, stop, step] =
            [reload, scale, fork, drain, kill, stop, step].map(|r| status(&r));
        let own = u8::from(Worker::current().is_some());
        let post = sent(running.messages().send(To::Worker(1), MessageKind(5), b""));
        say(&format!(
            "role {} self {own} reload {reload} scale {scale} fork {fork} drain {drain} kill {kill} stop {stop} step {step} \
             post {post} start {}",
            role_number(),
            status(&listen)
        ));
    };
    // SAFETY: this process has one thread; the copy ends without unwinding.
    match unsafe { libc::fork() } {
        0 => {
            refused(running);
            // SAFETY: ends the copy, and runs nothing of what the host would.
            unsafe { libc::_exit(0) }
        }
        pid => say(&format!("copy ended {}", wait_for(pid))),
    }
}

fn child() {
    // SAFETY: this process has one thread.
    match unsafe { libc::fork() } {
        // SAFETY: ends the child.
        0 => unsafe { libc::_exit(7) },
        pid => say(&format!("child {}", libc::WEXITSTATUS(wait_for(pid)))),
    }
}

fn wait_for(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: waits for a child of this process; `status` is writable.
    while unsafe { libc::waitpid(pid, &raw mut status, 0) } < 0
        && std::io::Error::last_os_error().kind() == Io::Interrupted
    {}
    status
}

// ---- signals of the host's own

static TERMS: AtomicU32 = AtomicU32::new(0);
static DEATHS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(number: i32) {
    let counter = if number == libc::SIGTERM { &TERMS } else { &DEATHS };
    counter.fetch_add(1, Relaxed);
}

/// As a host may have it to tell of its own crash, and then to die of it.
extern "C" fn crashed(number: i32) {
    let line = b"its own handler\n";
    // SAFETY: may be called in a handler (signal-safety(7)).
    unsafe { libc::write(1, line.as_ptr().cast(), line.len()) };
    // SAFETY: as above.
    unsafe { libc::signal(number, libc::SIG_DFL) };
}

fn count_signals() {
    for (number, handler) in
        [(libc::SIGCHLD, count as extern "C" fn(i32)), (libc::SIGTERM, count), (libc::SIGSEGV, crashed)]
    {
        // SAFETY: handlers that are safe in signal context.
        unsafe { libc::signal(number, handler as *const () as usize) };
    }
}

fn crash() {
    // SAFETY: none: this is the fault to be provoked.
    unsafe { std::ptr::without_provenance_mut::<u8>(std::hint::black_box(8)).write_volatile(1) }
}

// ---- the workers

struct Steered;

impl Handler for Steered {
    fn kind(&self) -> Kind {
        Kind::Request
    }

    fn takes_datagrams(&self) -> bool {
        true
    }

    fn start(&mut self, worker: &Worker) -> Result<(), Box<dyn Error>> {
        let there = |name| Path::new(name).exists();
        if there("misconfigured") {
            exit(78);
        }
        let refuses = worker.generation() > 1 && there("broken") || there("refuse");
        if !refuses {
            return Ok(());
        }
        eprintln!("this is\nbroken");
        Err("worker_start returned 1".into())
    }

    fn on_drain(&mut self, worker: &Worker) {
        if Path::new("tell").exists() {
            let number = u64::from(worker.status().state as u32);
            let _ = worker.send(MASTER, MessageKind(77), &number.to_ne_bytes());
        }
    }

    fn on_message(&mut self, worker: &Worker, message: &Message<'_>) {
        let number = message.bytes().len() as u64;
        let _ = worker.send(MASTER, MessageKind(message.kind().0 + 1), &number.to_ne_bytes());
    }

    fn on_datagram(&mut self, datagram: &Datagram<'_>) {
        let _ = datagram.reply(datagram.data());
    }

    fn on_request(&mut self, req: &Request<'_>, res: &mut Response) {
        let mut words = req.path().split('/').skip(1);
        let (word, rest) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let worker = Worker::current().unwrap();
        let text = match word {
            "crash" => std::process::abort(),
            "exit" => exit(rest.parse().unwrap()),
            "gate" => wait_at_gate(rest),
            "me" => describe(worker),
            "leave" => {
                worker.leave();
                "0".into()
            }
            "wrong" => wrong(),
            "nested" => match Server::factory(|_| Steered).start() {
                Ok(_) => "0".into(),
                Err(e) => format!("{} {e}", number(&e)),
            },
            _ => {
                let colour = env::var("COLOUR").unwrap_or_else(|_| "-".into());
                format!("{} {} {colour}", worker.id(), worker.slot())
            }
        };
        let _ = res.body(text);
    }
}

/// The results of the host's calls in a worker; most do not compile there.
fn wrong() -> String {
    let post = sent(Server::factory(|_| Steered).messages().send(ALL, MessageKind(5), b""));
    let config = Config::default().check();
    let own = u8::from(Worker::current().is_some());
    format!("role {} self {own} post {post} check {}", role_number(), status(&config))
}

fn describe(worker: &Worker) -> String {
    let me = worker.status();
    let Role::Worker { id, slot, generation } = prefork::role() else { return "no worker".into() };
    let variable = |name| env::var(name).unwrap_or_default();
    let [a, b, c] = ["PREFORK_WORKER_ID", "PREFORK_SLOT", "PREFORK_GENERATION"].map(variable);
    let pid = u8::from(me.worker.pid == std::process::id() as i32);
    let role = role_number();
    format!("look 0 role {role} {id} {slot} {generation} environment {a} {b} {c} pid {pid}: {}", record(&me))
}

/// Reports that it is here, and waits until the test makes the file.
fn wait_at_gate(name: &str) -> String {
    let here = fs::File::options().create(true).append(true).open(format!("{name}.here"));
    here.unwrap().write_all(b".").unwrap();
    while !Path::new(name).exists() {
        thread::sleep(Duration::from_millis(1));
    }
    String::new()
}
