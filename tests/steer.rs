//! A host with an event loop of its own that owns the master: its commands, its events, and that its own state is left alone.
#![allow(clippy::unwrap_used)]

mod util;

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use util::host::{Link, example, program, search};
use util::{Client, PATIENCE, Server, Start, Style, client, proc, wait_until};

/// The language of a host. Both take the same commands and print the same lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Language {
    /// `tests/steer.c`.
    C,
    /// `tests/hosts/steer.rs`.
    Rust,
}
use Language::{C, Rust};

/// A program that takes commands, one per line.
struct Host {
    server: Server,
    orders: Option<std::io::PipeWriter>,
    seen: Vec<String>,
    /// The number of lines read so far.
    read: usize,
    address: Option<client::Address>,
}

/// The program in a language, with settings.
fn words(language: Language, settings: &[(&str, &str)]) -> Vec<OsString> {
    let program = match language {
        C => program("tests/steer.c", &unique("steer"), Link::Shared),
        Rust => example("steer"),
    };
    let settings = settings.iter().flat_map(|(name, value)| [name.into(), value.into()]);
    [program.into()].into_iter().chain(settings).collect()
}

fn unique(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{name}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

impl Host {
    /// Two workers, ready.
    fn start(language: Language) -> Self {
        Self::with(language, &[])
    }

    /// As [`Host::start`], with settings.
    fn with(language: Language, settings: &[(&str, &str)]) -> Self {
        let mut host = Self::launch(language, settings);
        host.serves();
        host
    }

    /// Waits until two workers are ready.
    #[track_caller]
    fn serves(&mut self) {
        self.reads("start 0");
        self.reads("event setup 0 0 0");
        self.server.comes_up();
        self.is_up([1, 2]);
    }

    fn launch(language: Language, settings: &[(&str, &str)]) -> Self {
        Self::run(words(language, settings))
    }

    fn run(words: impl IntoIterator<Item = OsString>) -> Self {
        Self::run_with(Start::new(Style::Request), words)
    }

    fn run_with(start: Start, words: impl IntoIterator<Item = OsString>) -> Self {
        let (input, orders) = std::io::pipe().unwrap();
        let server = start.program(words).through(&["env", &search()]).stdin(input);
        Self { server: server.launch(), orders: Some(orders), seen: Vec::new(), read: 0, address: None }
    }

    /// Sends a command.
    fn order(&mut self, order: &str) {
        writeln!(self.orders.as_mut().unwrap(), "{order}").unwrap();
    }

    /// Sends a command and returns its result: a line that begins with the same word.
    #[track_caller]
    fn ask(&mut self, order: &str) -> String {
        self.order(order);
        let word = order.split(' ').next().unwrap().to_owned() + " ";
        self.reads(&word)
    }

    /// The next line with this beginning. Those before it are kept.
    #[track_caller]
    fn reads(&mut self, start: &str) -> String {
        let begun = Instant::now();
        loop {
            let lines = self.server.stdout();
            for line in &lines[self.read..] {
                self.read += 1;
                self.seen.push(line.clone());
                if line.starts_with(start) {
                    return line.trim_end().to_owned();
                }
            }
            let (said, errors) = (&self.seen, self.server.stderr());
            assert!(begun.elapsed() < PATIENCE, "{start:?} does not come: {said:#?} {errors:#?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until these workers are ready, whatever the order, and learns the address.
    #[track_caller]
    fn is_up<const N: usize>(&mut self, ids: [u32; N]) {
        for id in ids {
            let start = format!("event listening {id} ");
            let line = match self.seen.iter().find(|l| l.starts_with(&start)) {
                Some(line) => line.trim_end().to_owned(),
                None => self.reads(&start),
            };
            let words: Vec<_> = line.split(' ').collect();
            let [.., address, family, port] = words.as_slice() else { panic!("{line}") };
            assert_eq!((*family, *address), ("4", format!("127.0.0.1:{port}").as_str()), "{line}");
            self.address = Some(client::Address::Tcp(address.parse().unwrap()));
        }
    }

    fn pid(&self) -> i32 {
        self.server.pid
    }

    fn connect(&self) -> Client {
        Client::connect(self.address.as_ref().unwrap(), Style::Request).unwrap()
    }

    /// The answer to one request.
    fn get(&self, path: &str) -> Result<String, util::Fault> {
        let mut client = Client::connect(self.address.as_ref().unwrap(), Style::Request)?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
        client.send(request.as_bytes())?;
        client.http_answer().map(|a| a.body)
    }

    /// A client whose request is in a worker's hands until the gate is made, and the worker's id.
    #[track_caller]
    fn at_gate(&self, gate: &str) -> (Client, u32) {
        let mut client = self.connect();
        let id = client.ask("who").unwrap().split(' ').next().unwrap().parse().unwrap();
        let before = self.server.dir.at_gate(gate);
        client.send_command(&format!("gate {gate}")).unwrap();
        wait_until("the handler runs", || self.server.dir.at_gate(gate) > before);
        (client, id)
    }

    /// The pid of a worker.
    fn pid_of(&self, slot: u32) -> i32 {
        self.server.worker_in(slot)
    }

    /// The events of a worker so far, by name.
    fn events(&self, id: u32) -> Vec<&str> {
        let events = self.seen.iter().filter_map(|l| l.strip_prefix("event "));
        let of = events.filter_map(|l| l.split_once(&format!(" {id} ")));
        of.map(|(name, _)| name).filter(|name| !name.contains(' ')).collect()
    }

    /// The program, now with this number of workers, ends by itself and leaves nothing; until then all is as at the start.
    #[track_caller]
    fn ends_with(mut self, workers: usize) {
        self.server.scaled_to(workers);
        self.server.settles();
        self.ends();
    }

    /// The program ends by itself, well, and leaves nothing.
    #[track_caller]
    fn ends(mut self) {
        drop(self.orders.take());
        self.server.ends();
    }
}

/// The log lines of deaths.
const DIED: &str = "died";

#[test]
fn events_are_reported_in_order() {
    for language in [C, Rust] {
        let mut host = Host::start(language);
        for line in [DIED, util::RELOAD, "this is", "broken"] {
            host.server.may_say(line);
        }
        assert_eq!(host.events(1), ["fork", "online", "ready", "listening"]);
        assert_eq!(host.ask("kill 1 9"), "kill 0");
        assert_eq!(host.reads("event exit"), "event exit 1 0 1 -1 9 killed 1");
        host.is_up([3]);
        let _ = host.get("/crash");
        assert!(host.reads("event exit").ends_with("-1 6 crash 0"));
        host.is_up([4]);

        assert_eq!(host.ask("reload"), "reload 0");
        assert_eq!(host.reads("event reload"), "event reload started 0 0 2");
        host.is_up([5, 6]);
        assert_eq!(host.reads("event reload"), "event reload committed 0 0 2");
        if language == C {
            // A callback may ask for more, but not for a step. In Rust that cannot be written.
            assert_eq!(host.reads("meanwhile"), "meanwhile 0 -4");
        }
        let gone = host.reads("event exit");
        assert!(
            gone.ends_with(" 1 0 0 reload 1") || host.seen.iter().any(|l| l.contains("0 0 reload 1")),
            "{gone}"
        );

        host.server.dir.make("broken");
        assert_eq!(host.ask("reload"), "reload 0");
        let line = host.reads("event reload rolled back");
        assert_eq!(
            line,
            "event reload rolled back 7 0 3 worker 7 (slot 0): worker_start returned 1; 2 canary, 70 0; this is|broken"
        );
        let gone = host.seen.iter().find(|l| l.starts_with("event exit 7 ")).unwrap();
        assert!(gone.ends_with("boot failure 0 ; this is|broken"), "{gone}");
        host.server.dir.remove("broken");

        assert_eq!(host.ask("scale 3"), "scale 0");
        host.is_up([8]);
        assert_eq!(host.ask("scale 1"), "scale 0");
        for _ in 0..2 {
            assert!(host.reads("event exit").ends_with("0 0 scale 1"));
        }
        assert_eq!(host.events(8), ["fork", "online", "ready", "listening", "disconnect", "exit"]);
        assert_eq!(host.ask("stop"), "stop 0");
        assert!(host.reads("event exit").ends_with("0 0 stop 1"));
        assert_eq!(host.reads("event"), "event stopped 0 0 0 0");
        assert_eq!(host.reads("ended"), "ended 0 killed 0 fd -4 cut 0");
        assert_eq!(host.ask("role"), "role 0");
        host.ends();
    }
}

/// Those that move, and those that stay, in the verdict and at the end.
#[test]
fn a_host_is_told_what_a_reload_does_with_connections() {
    for language in [C, Rust] {
        let mut host = Host::start(language);
        host.server.may_say(util::RELOAD);
        let mut clients: Vec<_> = (0..4).map(|_| host.connect()).collect();
        clients.iter_mut().for_each(|client| drop(client.ask("who").unwrap()));
        clients[0].send(b"GET /who HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n\r\nab").unwrap();
        host.server.settles();
        assert_eq!(host.ask("reload"), "reload 0");
        assert_eq!(
            host.reads("stays"),
            "stays moved 3 over 0 workers 1 requests 1 responses 0 streams 0 limit 1"
        );
        clients[0].send(b"cd").unwrap();
        clients[0].http_answer().unwrap();
        assert_eq!(host.reads("event gone"), "event gone 0 0 1");
        assert_eq!(host.reads("departed gone"), "departed gone moved 4 over 0 ended 0 cut 0 lost 0");
        assert!(clients.iter_mut().all(|client| client.ask("who").is_ok()));
        drop(clients);
        host.ends_with(2);
    }
}

/// The address really bound, the port the kernel has chosen, and the type in Node's words.
#[test]
fn listening_is_reported_for_every_kind_of_address() {
    for language in [C, Rust] {
        let sorts = ["127.0.0.1:0", "[::1]:0", "unix:socket", "udp:127.0.0.1:0", "udp:[::1]:0"];
        let mut host = Host::launch(language, &sorts.map(|address| ("listen", address)));
        host.server.comes_up();
        for id in [1, 2] {
            for (sort, family) in sorts.iter().zip(["4", "6", "unix", "udp4", "udp6"]) {
                let start = format!("event listening {id} ");
                let of = |l: &&String| l.starts_with(&start) && l.contains(&format!(" {family} "));
                wait_until("it is told", || host.server.stdout().iter().any(|l| of(&l)));
                let line = host.server.stdout().iter().find(of).unwrap().clone();
                let [.., address, _, port] = line.trim_end().split(' ').collect::<Vec<_>>()[..] else {
                    panic!("{line}")
                };
                match sort.strip_suffix(":0") {
                    None => assert_eq!((address, port), (*sort, "-1"), "{line}"),
                    Some(start) => {
                        assert_eq!(address, format!("{start}:{port}"), "{line}");
                        let number: u16 = port.parse().unwrap();
                        assert_ne!(number, 0);
                        if let Some(udp) = start.strip_prefix("udp:") {
                            let socket = std::net::UdpSocket::bind(format!("{udp}:0")).unwrap();
                            socket.set_read_timeout(Some(PATIENCE)).unwrap();
                            socket.send_to(b"there", address.strip_prefix("udp:").unwrap()).unwrap();
                            assert_eq!(socket.recv(&mut [0; 9]).unwrap(), 5, "{line}");
                        } else {
                            let there = client::Address::Tcp(address.parse().unwrap());
                            assert!(Client::connect(&there, Style::Request).unwrap().ask("x").is_ok());
                        }
                    }
                }
            }
        }
        host.ends_with(2);
    }
}

/// The reasons not covered elsewhere, each with its status and whether it was intended.
#[test]
fn an_exit_is_reported_with_its_reason() {
    for language in [C, Rust] {
        // Boot failure: ended before it was ready.
        let mut host = Host::start(language);
        for line in [DIED, "this is", "broken"] {
            host.server.may_say(line);
        }
        host.server.dir.make("refuse");
        assert_eq!(host.ask("scale 3"), "scale 0");
        assert_eq!(host.reads("event exit"), "event exit 3 2 1 70 0 boot failure 0 ; this is|broken");
        host.server.dir.remove("refuse");
        host.reads("event ready");
        host.ends_with(3);

        // Crash: also if it exits by itself, with any code.
        let mut host = Host::start(language);
        host.server.may_say(DIED);
        assert!(host.get("/exit/0").is_err());
        assert!(host.reads("event exit").ends_with(" 0 0 crash 0"));
        host.is_up([3]);
        assert!(host.get("/exit/3").is_err());
        assert!(host.reads("event exit").ends_with(" 3 0 crash 0"));
        host.is_up([4]);
        host.ends_with(2);

        // Hang.
        let mut host = Host::with(language, &[("timeout", "200ms")]);
        host.server.may_say(DIED);
        host.server.may_say("hangs in its handler");
        let client = host.at_gate("never");
        assert!(host.reads("event hang").starts_with("event hang "));
        assert!(host.reads("event exit").ends_with("-1 6 hang 0"));
        host.is_up([3]);
        drop(client);
        host.ends_with(2);

        // Recycle.
        let mut host = Host::with(language, &[("max-requests", "5")]);
        (0..20).for_each(|_| drop(host.get("/").unwrap()));
        assert!(host.reads("event exit").ends_with(" 0 0 recycle 1"));
        // Their successors are recycled soon as well.
        host.ends();

        // Drain timeout.
        let mut host = Host::start(language);
        host.server.says("had not ended at its deadline and was killed; 1 connection lost");
        let (client, id) = host.at_gate("never");
        assert_eq!(host.ask(&format!("drain {id} 100")), "drain 0");
        assert!(host.reads("event disconnect").starts_with(&format!("event disconnect {id} ")));
        let line = host.reads("event exit");
        assert!(
            line.starts_with(&format!("event exit {id} ")) && line.ends_with("-1 9 drain timeout 1 cut 1"),
            "{line}"
        );
        host.is_up([3]);
        drop(client);
        host.ends_with(2);
    }
}

#[test]
fn the_host_keeps_its_children_and_its_signals() {
    for language in [C, Rust] {
        let mut host = Host::start(language);
        host.server.may_say(DIED);
        for _ in 0..3 {
            // Workers run, but not among the children that it waits for.
            host.order("child");
            assert!(host.reads("child 7").starts_with("child 7"));
        }
        proc::signal(host.pid(), libc::SIGTERM);
        wait_until("its own handler of SIGTERM", || host.ask("signals") == "signals 1 1");
        assert_eq!(proc::children(host.pid()).len(), 2);
        assert_eq!(host.get("/").unwrap().split(' ').count(), 3);
        // If the status of a child is not kept, it is replaced nevertheless.
        assert_eq!(host.ask("ignore"), "ignore 1");
        assert_eq!(host.ask("kill 1 9"), "kill 0");
        assert_eq!(host.reads("event exit"), "event exit 1 0 1 -1 0 killed 1");
        host.is_up([3]);
        assert_eq!(host.ask("free"), "free 1");
        assert_eq!(proc::children(host.pid()), [0; 0]);
        host.ends();
    }
}

#[test]
fn other_processes_are_refused() {
    let mut host = Host::start(C);
    let refused = "reload -4 scale -4 fork -4 drain -4 kill -4 stop -4 step -4 run -4 start -4 set -4";
    let said = host.get("/wrong").unwrap();
    assert!(said.starts_with("role 2 ") && said.ends_with(&format!("self 1 {refused}")), "{said}");
    // A child of the host has a copy of the server, and drops it.
    host.order("copy");
    let line = host.reads("role");
    assert_eq!(line, format!("role 0 0 0 0 self 0 {refused}"));
    others_are_refused(host);

    let mut host = Host::start(Rust);
    assert_eq!(host.get("/wrong").unwrap(), "role 2 self 1 post -4 check 0");
    host.order("copy");
    let refused = "reload -4 scale -4 fork -4 drain -4 kill -4 stop -4 step -4 post -4";
    // It is not a master, and may become one.
    assert_eq!(host.reads("role"), format!("role 0 self 0 {refused} start 0"));
    others_are_refused(host);
}

fn others_are_refused(mut host: Host) {
    assert_eq!(host.reads("copy ended"), "copy ended 0");
    let nested = host.get("/nested").unwrap();
    assert!(nested.starts_with("-4 run: this process is worker "), "{nested}");
    assert_eq!(host.ask("second"), "second -4 run: a server runs in this process already");
    assert_eq!(host.ask("role"), "role 1");
    assert_eq!(host.ask("look"), "look 0 generation 1 slots 2 workers 2");
    assert_eq!(host.get("/").unwrap().split(' ').count(), 3);
    host.ends_with(2);
}

#[test]
fn a_forked_copy_that_runs_a_server_has_no_control_of_the_first_s_workers() {
    for language in [C, Rust] {
        let mut host = Host::start(language);
        let pids = host.server.workers();
        host.order("usurp");
        assert_eq!(host.reads("usurp "), "usurp reload -4 kill -4 step -4 send -4 role 1 own 0");
        assert_eq!(host.reads("usurper"), "usurper ended 0");
        assert_eq!(host.server.workers(), pids);
        assert_eq!(host.ask("look"), "look 0 generation 1 slots 2 workers 2");
        assert!(host.get("/").is_ok());
        host.ends_with(2);
    }
}

#[test]
fn no_worker_is_forked_from_several_threads() {
    for language in [C, Rust] {
        let mut host = Host::start(language);
        host.server.may_say(DIED);
        host.server.may_say("this process has 2 threads");
        assert_eq!(host.ask("thread"), "thread 0");
        assert_eq!(host.ask("kill 2 9"), "kill 0");
        let line = host.reads("event error");
        assert!(line.contains("start worker in slot 1: this process has 2 threads, expected 1"), "{line}");
        // The other one serves.
        assert!(host.get("/").unwrap().starts_with("1 0 "));
        host.ends();
    }
}

/// A host whose descriptors have this hard limit.
fn limited(language: Language, hard: u32, settings: &[(&str, &str)]) -> Host {
    let limit = format!("--nofile=64:{hard}");
    let words = ["prlimit".into(), limit.into()].into_iter().chain(words(language, settings));
    Host::run(words)
}

#[test]
fn workers_beyond_the_hard_limit_on_descriptors_are_refused_with_the_numbers() {
    for language in [C, Rust] {
        let mut host = limited(language, 128, &[]);
        host.serves();
        for order in ["scale 60", "fork COLOUR=red"] {
            // One by one it comes to the same limit.
            let (mut refused, mut n) = (host.ask(order), 0);
            while order.starts_with("fork") && !refused.starts_with("fork -") {
                n += 1;
                assert!(n < 20, "{refused}");
                refused = host.ask(order);
            }
            let word = order.split(' ').next().unwrap();
            assert!(refused.starts_with(&format!("{word} -5 ")), "{language:?} {order}: {refused}");
            let is_told = ["workers need ", "the hard limit is 128", "ulimit -n", "at most "];
            assert!(is_told.iter().all(|text| refused.contains(text)), "{language:?} {order}: {refused}");
            assert_eq!(host.ask("look"), format!("look 0 generation 1 slots {0} workers {0}", 2 + n));
        }
        assert_eq!(host.ask("scale 3"), "scale 0");
        wait_until("three are left", || host.server.workers().len() == 3);
        host.ends();

        let mut host = limited(language, 128, &[("workers", "60")]);
        let refused = host.reads("start");
        assert!(refused.starts_with("start -5 60 workers need "), "{language:?}: {refused}");
        assert!(refused.contains("the hard limit is 128") && refused.contains("ulimit -n"), "{refused}");
        host.ends();
    }
}

#[test]
fn a_wrong_configuration_of_the_first_workers_ends_the_run_with_a_status_of_its_own() {
    for language in [C, Rust] {
        let start = Start::new(Style::Request);
        start.dir().make("misconfigured");
        let mut host = Host::run_with(start, words(language, &[]));
        host.reads("start 0");
        let ended = host.reads("ended");
        assert!(ended.starts_with("ended -19 "), "{language:?}: {ended}");
        // The host may correct it and begin anew.
        host.server.dir.remove("misconfigured");
        host.order("start");
        host.reads("start 0");
        host.server.comes_up();
        host.ends();
    }
}

#[test]
fn the_table_shows_every_worker_until_it_is_reaped() {
    for language in [C, Rust] {
        let mut host = Host::start(language);
        let never = "started 1 last 0 0 0 0 0 there 1";
        host.order("table");
        assert_eq!(host.reads("row"), format!("row 1 0 1 state 2 connected 1 {never}"));
        assert_eq!(host.reads("row"), format!("row 2 1 1 state 2 connected 1 {never}"));
        assert_eq!(host.reads("table"), "table 2");
        assert_eq!(host.ask("worker 2"), "worker 0 2 2");
        if language == C {
            // As much as the caller's header knows.
            assert_eq!(host.ask("short 2"), "short 0 8 2 99");
        }
        assert_eq!(host.ask("worker 9"), "worker -13 0 0");
        assert_eq!(host.ask("drain 9"), "drain -13 worker 9: no such worker");
        assert_eq!(host.ask("kill 9 9"), "kill -13 worker 9: no such worker");
        assert!(host.ask("kill 2 999").starts_with("kill -5 signal 999 to worker 2: "));
        assert_eq!(host.ask("kill 2 0"), "kill 0");
        assert_eq!(host.ask("last 1"), "last -13 0 0 0 0 0");

        // A draining worker is in the table next to its successor, and so is a stopped one that was killed.
        let pid = host.pid_of(1);
        proc::freeze(pid);
        assert_eq!(host.ask("drain 2"), "drain 0");
        host.is_up([3]);
        assert_eq!(host.ask("worker 2"), "worker 0 2 4");
        host.order("table");
        let mut rows = [(); 3].map(|()| host.reads("row"));
        rows.sort();
        assert_eq!(rows[1], format!("row 2 1 1 state 4 connected 0 {never}"));
        assert_eq!(rows[2], format!("row 3 1 1 state 2 connected 1 {never}"));
        proc::signal(pid, libc::SIGCONT);
        assert_eq!(host.reads("event exit"), "event exit 2 1 1 0 0 drain 1");
        assert_eq!(host.ask("worker 2"), "worker -13 0 0");
        assert_eq!(host.ask("last 1"), "last 0 2 0 0 5 1");
        host.order("table");
        let row = [(); 2].map(|()| host.reads("row")).into_iter().find(|row| row.starts_with("row 3"));
        assert_eq!(row.unwrap(), "row 3 1 1 state 2 connected 1 started 1 last 2 0 0 5 1 there 1");
        assert_eq!(host.ask("scale 0"), "scale -6 scale to 0 workers: expected 1 to 1024");
        assert_eq!(host.ask("scale 1025"), "scale -6 scale to 1025 workers: expected 1 to 1024");
        host.ends_with(2);
    }
}

/// Its numbers in the role and in the environment, and the record that the master has of it.
#[test]
fn a_worker_knows_itself() {
    for language in [C, Rust] {
        let mut host = Host::start(language);
        host.server.may_say(DIED);
        host.server.may_say(util::RELOAD);
        assert_eq!(host.ask("role"), "role 1");
        let of_slot = |host: &Host, slot: u32| {
            let wanted = format!(" {slot} ");
            let mut said = String::new();
            wait_until("that worker answers", || {
                said = host.get("/me").unwrap();
                said.split("environment ").nth(1).unwrap()[1..].starts_with(&wanted)
            });
            said
        };
        let me = of_slot(&host, 1);
        let expected =
            "look 0 role 2 2 1 1 environment 2 1 1 pid 1: 2 1 1 state 2 connected 1 started 1 last 0 0 0 0 0";
        assert_eq!(me, expected);
        // Its successor knows how it ended.
        assert_eq!(host.ask("kill 2 9"), "kill 0");
        host.is_up([3]);
        let me = of_slot(&host, 1);
        let expected = "look 0 role 2 3 1 1 environment 3 1 1 pid 1: 3 1 1 state 2 connected 1 started 1 last 2 -1 9 10 1";
        assert_eq!(me, expected);
        assert_eq!(host.ask("reload"), "reload 0");
        host.reads("event reload committed");
        // The status of a draining worker by itself.
        host.server.dir.make("tell");
        assert_eq!(host.ask("drain 5"), "drain 0");
        assert_eq!(host.reads("report 5"), "report 5 77 4");
        host.is_up([6]);
        assert!(of_slot(&host, 1).starts_with("look 0 role 2 6 1 2 environment 6 1 2 pid 1: 6 1 2 state 2 "));
        host.ends_with(2);
    }
}

/// More than a channel takes at once: the rest goes when the descriptor says that there is room.
#[test]
fn messages_of_any_size_arrive_when_the_host_steps() {
    for language in [C, Rust] {
        let mut host = Host::start(language);
        for (id, size) in [(1, 16), (2, 16 * 1024 * 1024), (1, 9_000_000)] {
            assert_eq!(host.ask(&format!("message {id} {size}")), "message 0");
            // The event comes first, and says how long the message is; here that is a number.
            assert_eq!(host.reads("event message"), format!("event message {id} {} 1 6 8", id - 1));
            assert_eq!(host.reads("report"), format!("report {id} 6 {size}"));
        }
        assert_eq!(host.ask("message 9 1"), "message -13");
        host.ends_with(2);
    }
}

#[test]
fn a_worker_can_leave_by_itself() {
    for language in [C, Rust] {
        let mut host = Host::start(language);
        assert_eq!(host.get("/leave").unwrap(), "0");
        let line = host.reads("event exit");
        assert!(line.ends_with(" 0 0 left 1"), "{line}");
        host.is_up([3]);
        // A signal from another process counts the same; one through the master counts as intended by the master.
        proc::signal(host.pid_of(0), libc::SIGTERM);
        assert!(host.reads("event exit").ends_with(" 0 0 left 1"));
        host.is_up([4]);
        assert_eq!(host.ask("look"), "look 0 generation 1 slots 2 workers 2");
        host.ends_with(2);
    }
}

/// A worker counts as killed if it was sent a signal and ended by it; not if it ignored the signal or ended by another one.
#[test]
fn an_exit_is_reported_as_intended_only_if_it_was() {
    for language in [C, Rust] {
        let mut host = Host::start(language);
        host.server.may_say(DIED);
        // Finishes what it has first.
        let mut client = host.connect();
        let mut before = client.ask("x").unwrap();
        while !before.starts_with("1 ") {
            client = host.connect();
            before = client.ask("x").unwrap();
        }
        assert_eq!(host.ask("kill 1 15"), "kill 0");
        assert_eq!(host.reads("event disconnect"), "event disconnect 1 0 1");
        assert_eq!(host.reads("event exit"), "event exit 1 0 1 0 0 killed 1");
        assert!(client.ask("x").is_ok(), "its connection went to another");
        host.is_up([3]);
        // Has no meaning to a worker; its death afterwards is a crash.
        assert_eq!(host.ask("kill 3 1"), "kill 0");
        proc::signal(host.pid_of(0), libc::SIGKILL);
        assert_eq!(host.reads("event exit"), "event exit 3 0 1 -1 9 crash 0");
        host.is_up([4]);
        assert_eq!(host.ask("last 0"), "last 0 3 -1 9 1 0");
        assert_eq!(host.ask("kill 4 6"), "kill 0");
        assert_eq!(host.reads("event exit"), "event exit 4 0 1 -1 6 killed 1");
        host.is_up([5]);
        host.ends_with(2);
    }
}

#[test]
fn a_stop_reports_how_many_workers_were_killed() {
    for language in [C, Rust] {
        let mut host = Host::with(language, &[("drain-timeout", "300ms")]);
        host.server.says("had not ended at its deadline and was killed");
        let clients = [host.at_gate("never"), host.at_gate("never")];
        assert_eq!(host.ask("stop"), "stop 0");
        for _ in 0..2 {
            assert!(host.reads("event exit").ends_with("-1 9 drain timeout 1 cut 1"));
        }
        assert_eq!(host.reads("event stopped"), "event stopped 0 0 0 2");
        assert_eq!(host.reads("ended"), "ended 0 killed 2 fd -4 cut 0");
        assert_eq!(proc::children(host.pid()), [0; 0], "the last pid is reaped by then");
        drop(clients);
        host.ends();

        // What does not hang ends by itself, and what it had is told.
        let mut host = Host::with(language, &[("drain-timeout", "300ms")]);
        host.server.says("has ended at its deadline, and 1 connection with it");
        let mut client = host.connect();
        client.ask("who").unwrap();
        client.send(b"GET /who HT").unwrap();
        host.server.has_read();
        assert_eq!(host.ask("stop"), "stop 0");
        let exits = [host.reads("event exit"), host.reads("event exit")];
        assert!(exits.iter().any(|line| line.ends_with(" 0 0 stop 1 cut 1")), "{exits:?}");
        assert_eq!(host.reads("event stopped"), "event stopped 0 0 0 0 cut 1");
        assert_eq!(host.reads("ended"), "ended 0 killed 0 fd -4 cut 1");
        drop(client);
        host.ends();

        // A second one does not wait.
        let mut host = Host::start(language);
        host.server.may_say(DIED);
        let client = host.at_gate("never");
        assert_eq!(host.ask("stop"), "stop 0");
        assert_eq!(host.ask("stop"), "stop 0");
        assert!(host.reads("ended").starts_with("ended 0 killed "));
        drop(client);
        host.ends();
    }
}

/// As by a bug in the host's own code.
#[test]
fn a_host_that_crashes_loses_no_request() {
    for language in [C, Rust] {
        let mut host = Host::start(language);
        let (mut client, id) = host.at_gate("g");
        let idle = host.pid_of(2 - id);
        host.order("crash");
        // The host's own handler runs.
        host.reads("its own handler");
        wait_until("the host is gone", || host.server.has_exited());
        wait_until("the idle worker exits", || proc::state(idle).is_none_or(|s| s == 'Z'));
        host.server.dir.make("g");
        assert!(client.answer().is_ok());
        drop(client);
        let port = host.address.take().unwrap();
        wait_until("the port is free", || {
            matches!(Client::connect(&port, Style::Request), Err(util::Fault::Refused))
        });
        host.server.dies_out();
    }
}

#[test]
fn an_added_worker_has_its_own_environment() {
    for language in [C, Rust] {
        let mut host = Host::start(language);
        host.server.may_say(DIED);
        let colours = |host: &Host| -> Vec<String> {
            let mut all: Vec<_> = (0..12).map(|_| host.get("/").unwrap()).collect();
            all.sort();
            all.dedup();
            all
        };
        assert_eq!(host.ask("fork COLOUR=red SIZE=9"), "fork 2");
        host.is_up([3]);
        assert_eq!(colours(&host), ["1 0 -", "2 1 -", "3 2 red"]);
        // Its successor has them too.
        assert_eq!(host.ask("kill 3 9"), "kill 0");
        host.is_up([4]);
        assert_eq!(colours(&host), ["1 0 -", "2 1 -", "4 2 red"]);
        assert!(host.ask("fork COLOUR").starts_with("fork -6 "));
        assert!(host.ask("fork =red").starts_with("fork -6 "));
        // With the slot they are gone.
        assert_eq!(host.ask("scale 2"), "scale 0");
        host.reads("event exit 4");
        assert_eq!(host.ask("fork"), "fork 2");
        host.is_up([5]);
        assert_eq!(colours(&host), ["1 0 -", "2 1 -", "5 2 -"]);
        host.ends_with(3);
    }
}

#[test]
fn servers_that_run_one_after_the_other_leave_nothing() {
    for language in [C, Rust] {
        let mut host = Host::start(language);
        let mut left = Vec::new();
        for _ in 0..4 {
            assert_eq!(host.ask("stop"), "stop 0");
            assert_eq!(host.reads("ended"), "ended 0 killed 0 fd -4 cut 0");
            assert_eq!(proc::children(host.pid()), [0; 0]);
            left.push(host.ask("left"));
            host.seen.clear();
            assert_eq!(host.ask("start"), "start 0");
            host.is_up([1, 2]);
            assert_eq!(host.get("/").unwrap().split(' ').count(), 3);
        }
        assert!(left.windows(2).skip(1).all(|pair| pair[0] == pair[1]), "{left:?}");
        assert_eq!(host.ask("free"), "free 1");
        host.ends();
    }
}

/// Puts a file in another's place, as an installation does. Another process writes it, so that this one, whose other threads start
/// programs, does not have it open for writing when it is executed (ETXTBSY).
fn install(from: &Path, to: &Path) {
    let new = to.with_extension("new");
    assert!(Command::new("cp").args([from, &new]).status().unwrap().success());
    std::fs::rename(new, to).unwrap();
}

#[test]
fn a_host_has_its_program_replaced_and_is_told_why_it_could_not() {
    for language in [C, Rust] {
        let start = Start::new(Style::Request);
        let (path, script) = (start.dir().file("host"), start.dir().file("script"));
        std::fs::write(&script, "#!/bin/sh\nexit 0\n").unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let program = words(language, &[]).remove(0);
        install(program.as_ref(), &path);
        let mut host = Host::run_with(start, [path.clone().into()]);
        host.serves();
        for line in ["upgrade: ", util::RELOAD] {
            host.server.may_say(line);
        }
        install(&script, &path);
        // Both in one turn.
        host.order("upgrade\nupgrade");
        assert_eq!(host.reads("upgrade"), "upgrade 0");
        let second = host.reads("upgrade");
        assert!(second.starts_with("upgrade -4 ") && second.contains("one is under way"), "{second}");
        let why = host.reads("event error");
        assert!(why.contains("without a word that it can serve") && why.ends_with("continues"), "{why}");
        assert_eq!(host.ask("look"), "look 0 generation 1 slots 2 workers 2");

        install(program.as_ref(), &path);
        assert_eq!(host.ask("upgrade"), "upgrade 0");
        // The new program, from its beginning.
        host.reads("start 0");
        assert_eq!(host.reads("event reload committed"), "event reload committed 0 0 2");
        assert!(host.get("/").unwrap().split(' ').next().unwrap().parse::<u32>().unwrap() > 2);

        let (client, _) = host.at_gate("g");
        assert_eq!(host.ask("stop"), "stop 0");
        let late = host.ask("upgrade");
        assert!(late.starts_with("upgrade -4 "), "{late}");
        host.server.dir.make("g");
        drop(client);
        assert!(host.reads("ended").starts_with("ended 0 "));
        host.ends();
    }
}

/// What a reload's workers inherit is settled before the first of them is forked, and the host may refuse it.
#[test]
fn a_host_is_told_of_a_reload_before_its_first_fork_and_may_refuse_it() {
    for language in [C, Rust] {
        let start = Start::new(Style::Request);
        let path = start.dir().file("host");
        let program = words(language, &[]).remove(0);
        install(program.as_ref(), &path);
        let mut host = Host::run_with(start, [path.clone().into()]);
        host.serves();
        for line in ["upgrade: ", "control: ", util::RELOAD] {
            host.server.may_say(line);
        }
        let colours = |host: &Host| -> Vec<String> {
            let colour = |_| host.get("/").unwrap().split(' ').nth(2).unwrap().to_owned();
            let mut all: Vec<_> = (0..8).map(colour).collect();
            all.dedup();
            all
        };
        assert_eq!(colours(&host), ["-"]);
        host.server.dir.make("on-reload");
        for generation in ["2", "3"] {
            assert_eq!(host.ask("reload"), "reload 0");
            host.reads("event");
            assert_eq!(
                host.seen.last().unwrap().trim_end(),
                format!("event reload started 0 0 {generation}")
            );
            // The next line, before that of any fork.
            host.reads("");
            assert_eq!(host.seen.last().unwrap(), &format!("on_reload {generation}"));
            host.reads("event reload committed");
            wait_until("the old ones have ended", || host.server.workers().len() == 2);
            assert_eq!(colours(&host), [generation]);
        }

        // Refused: nothing has changed, whoever asked for it.
        let workers = host.server.workers();
        host.server.dir.make("refuse-reload");
        assert_eq!(host.ask("reload"), "reload 0");
        let line = host.reads("event reload rolled back");
        assert!(line.contains("refused by the host: not today; 1 preparing"), "{line}");
        assert!(host.seen.iter().rev().take(3).all(|line| !line.contains("fork")), "{:?}", host.seen);
        let mut verb = std::process::Command::new(env!("CARGO_BIN_EXE_prefork"));
        verb.args(["reload"]).env("PREFORK_RUNTIME_DIR", host.server.dir.runtime());
        let done = verb.output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(4), "{said}");
        assert!(said.contains("refused by the host: not today"), "{said}");
        assert_eq!(host.server.workers(), workers);
        assert_eq!(colours(&host), ["3"]);

        // So is the reload of an upgrade: the new program has the old workers.
        host.reads("event reload rolled back");
        assert_eq!(host.ask("upgrade"), "upgrade 0");
        host.reads("start 0");
        host.reads("on_reload 6");
        assert!(host.reads("event reload rolled back").contains("refused by the host: not today"));
        assert_eq!(host.server.workers(), workers);
        host.server.dir.remove("refuse-reload");
        assert_eq!(host.ask("upgrade"), "upgrade 0");
        host.reads("on_reload 7");
        host.reads("event reload committed");
        wait_until("the old ones have ended", || host.server.workers().len() == 2);
        assert_eq!(colours(&host), ["7"]);

        // A stop in the callback itself ends the reload.
        if let C = language {
            host.server.dir.make("stop-at-reload");
            assert_eq!(host.ask("reload"), "reload 0");
            assert!(host.reads("event reload rolled back").contains("the master stops"));
        } else {
            assert_eq!(host.ask("stop"), "stop 0");
        }
        assert!(host.reads("ended").starts_with("ended 0 killed 0"));
        host.ends();
    }
}

#[test]
fn the_example_is_controlled_by_keys() {
    let example = program("ffi-examples/loop.c", "loop", Link::Shared);
    let mut host = Host::run([example.into(), "127.0.0.1:0".into(), "2".into()]);
    host.server.may_say(util::RELOAD);
    let line = host.reads("listening on http://");
    let address = line["listening on http://".len()..].split(' ').next().unwrap();
    host.address = Some(client::Address::Tcp(address.parse().unwrap()));
    host.reads("listening on http://");
    host.order("r");
    host.reads("reload committed");
    assert!(host.get("/").unwrap().ends_with("of generation 2\n"));
    host.order("+");
    host.reads("listening on http://");
    proc::signal(host.pid(), libc::SIGHUP);
    host.reads("reload committed");
    host.order("q");
    host.reads("stopped");
    host.ends();
}
