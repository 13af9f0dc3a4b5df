//! A host with an event loop of its own that owns the master: what it can ask, what it is told, and that it stays a host.
#![allow(clippy::unwrap_used)]

mod util;

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use util::host::{Link, program, search};
use util::{Dir, PATIENCE, Style, client, proc, wait_until};

/// `tests/steer.c`, or another program that takes orders, a line each.
struct Host {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    seen: Vec<String>,
    address: Option<client::Address>,
    dir: Dir,
}

fn unique(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{name}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

impl Host {
    /// Two workers, ready.
    fn start() -> Self {
        let mut host = Self::run(program("tests/steer.c", &unique("steer"), Link::Shared), &[]);
        host.reads("start 0");
        host.reads("event setup 0 0 0");
        host.is_up([1, 2]);
        host
    }

    fn run(program: PathBuf, args: &[&str]) -> Self {
        let dir = Dir::new();
        let mut command = Command::new("env");
        command.arg(search()).arg(program).args(args).current_dir(dir.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (send, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        let stdin = child.stdin.take();
        Self { child, stdin, lines, seen: Vec::new(), address: None, dir }
    }

    /// Sends an order.
    fn order(&mut self, order: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{order}").unwrap();
    }

    /// Sends an order and returns what is said of it: a line that begins with the same word.
    #[track_caller]
    fn ask(&mut self, order: &str) -> String {
        self.order(order);
        let word = order.split(' ').next().unwrap().to_owned() + " ";
        self.reads(&word)
    }

    /// The next line that begins so. Those in front of it are kept.
    #[track_caller]
    fn reads(&mut self, start: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|e| panic!("{start:?}: {e}; it said {:#?}", self.seen));
            self.seen.push(line.clone());
            if line.starts_with(start) {
                return line.trim_end().to_owned();
            }
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
        self.child.id() as i32
    }

    /// The answer to one request.
    fn get(&self, path: &str) -> Result<String, util::Fault> {
        let mut client = util::Client::connect(self.address.as_ref().unwrap(), Style::Request)?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
        client.send(request.as_bytes())?;
        client.http_answer().map(|a| a.body)
    }

    /// The events of a worker so far, by name.
    fn events(&self, id: u32) -> Vec<&str> {
        let events = self.seen.iter().filter_map(|l| l.strip_prefix("event "));
        let of = events.filter_map(|l| l.split_once(&format!(" {id} ")));
        of.map(|(name, _)| name).filter(|name| !name.contains(' ')).collect()
    }

    /// The program ends by itself, well.
    #[track_caller]
    fn ends(mut self) {
        drop(self.stdin.take());
        wait_until("the end", || self.child.try_wait().unwrap().is_some());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn events_come_in_the_order_of_what_happens() {
    let mut host = Host::start();
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
    // A callback may ask for more, but not for a step.
    assert_eq!(host.reads("meanwhile"), "meanwhile 0 -4");
    let gone = host.reads("event exit");
    assert!(
        gone.ends_with(" 1 0 0 reload 1") || host.seen.iter().any(|l| l.contains("0 0 reload 1")),
        "{gone}"
    );

    std::fs::write(host.dir.path().join("broken"), "").unwrap();
    assert_eq!(host.ask("reload"), "reload 0");
    let line = host.reads("event reload rolled back");
    assert_eq!(
        line,
        "event reload rolled back 7 0 3 worker 7 (slot 0): worker_start returned 1; 2 canary, 70 0; this is|broken"
    );
    let gone = host.seen.iter().find(|l| l.starts_with("event exit 7 ")).unwrap();
    assert!(gone.ends_with("boot failure 0 ; this is|broken"), "{gone}");
    std::fs::remove_file(host.dir.path().join("broken")).unwrap();

    assert_eq!(host.ask("scale 3"), "scale 0");
    host.is_up([8]);
    assert_eq!(host.ask("scale 1"), "scale 0");
    for _ in 0..2 {
        assert!(host.reads("event exit").ends_with("0 0 scale 1"));
    }
    assert_eq!(host.events(8), ["fork", "online", "ready", "listening", "disconnect", "exit"]);
    assert_eq!(host.ask("stop"), "stop 0");
    assert!(host.reads("event exit").ends_with("0 0 stop 1"));
    assert_eq!(host.reads("event"), "event stopped 0 0 0");
    assert_eq!(host.reads("ended"), "ended 0 killed 0 fd -4");
    assert_eq!(host.ask("role"), "role 0");
    host.ends();
}

#[test]
fn the_host_keeps_its_children_and_its_signals() {
    let mut host = Host::start();
    for _ in 0..3 {
        // Workers are there, but not among the children that it waits for.
        host.order("child");
        assert!(host.reads("child 7").starts_with("child 7"));
    }
    proc::signal(host.pid(), libc::SIGTERM);
    wait_until("its own handler of SIGTERM", || host.ask("signals") == "signals 1 1");
    assert_eq!(proc::children(host.pid()).len(), 2);
    assert_eq!(host.get("/").unwrap().split(' ').count(), 3);
    // Where nobody may know how a child ended, it is replaced all the same.
    assert_eq!(host.ask("ignore"), "ignore 1");
    assert_eq!(host.ask("kill 1 9"), "kill 0");
    assert_eq!(host.reads("event exit"), "event exit 1 0 1 -1 0 killed 1");
    host.is_up([3]);
    assert_eq!(host.ask("free"), "free 1");
    assert_eq!(proc::children(host.pid()), [0; 0]);
    host.ends();
}

#[test]
fn other_processes_are_refused() {
    let mut host = Host::start();
    let refused = "reload -4 scale -4 fork -4 drain -4 kill -4 stop -4 step -4 run -4 start -4 set -4";
    let said = host.get("/wrong").unwrap();
    assert!(said.starts_with("role 2 ") && said.ends_with(&format!("self 1 {refused}")), "{said}");
    // A child of the host has a copy of the server, and lets it go.
    host.order("copy");
    let line = host.reads("role");
    assert_eq!(line, format!("role 0 0 0 0 self 0 {refused}"));
    assert_eq!(host.reads("copy ended"), "copy ended 0");
    let nested = host.get("/nested").unwrap();
    assert!(nested.starts_with("-4 run: this process is worker "), "{nested}");
    assert_eq!(host.ask("second"), "second -4 run: a server runs in this process already");
    assert_eq!(host.ask("role"), "role 1");
    assert_eq!(host.ask("look"), "look 0 generation 1 slots 2 workers 2");
    assert_eq!(host.get("/").unwrap().split(' ').count(), 3);
    host.ends();
}

#[test]
fn no_worker_is_forked_from_several_threads() {
    let mut host = Host::start();
    assert_eq!(host.ask("thread"), "thread 0");
    assert_eq!(host.ask("kill 2 9"), "kill 0");
    let line = host.reads("event error");
    assert!(line.contains("start worker in slot 1: this process has 2 threads, expected 1"), "{line}");
    // The other one serves.
    assert!(host.get("/").unwrap().starts_with("1 0 "));
    host.ends();
}

#[test]
fn the_table_shows_every_worker_until_it_is_reaped() {
    let mut host = Host::start();
    host.order("table");
    assert_eq!(host.reads("row"), "row 1 0 1 state 2 connected 1 1");
    assert_eq!(host.reads("row"), "row 2 1 1 state 2 connected 1 1");
    assert_eq!(host.reads("table"), "table 2");
    assert_eq!(host.ask("worker 2"), "worker 0 2 2");
    // As much as the caller's header knows.
    assert_eq!(host.ask("short 2"), "short 0 8 2 99");
    assert_eq!(host.ask("worker 9"), "worker -13 0 0");
    assert_eq!(host.ask("drain 9"), "drain -13 worker 9: no such worker");
    assert_eq!(host.ask("kill 9 9"), "kill -13 worker 9: no such worker");
    assert!(host.ask("kill 2 999").starts_with("kill -5 signal 999 to worker 2: "));
    assert_eq!(host.ask("last 1"), "last -13 0 0 0 0 0");
    assert_eq!(host.ask("drain 2"), "drain 0");
    assert_eq!(host.reads("event exit"), "event exit 2 1 1 0 0 drain 1");
    assert_eq!(host.ask("worker 2"), "worker -13 0 0");
    assert_eq!(host.ask("last 1"), "last 0 2 0 0 5 1");
    assert_eq!(host.ask("scale 0"), "scale -6 scale to 0 workers: expected 1 to 1024");
    assert_eq!(host.ask("scale 1025"), "scale -6 scale to 1025 workers: expected 1 to 1024");
    host.ends();
}

/// More than a channel takes at once: the rest goes when the descriptor says that there is room.
#[test]
fn messages_of_any_size_go_from_one_step_to_the_next() {
    let mut host = Host::start();
    for (id, size) in [(1, 16), (2, 16 * 1024 * 1024), (1, 9_000_000)] {
        assert_eq!(host.ask(&format!("message {id} {size}")), "message 0");
        assert_eq!(host.reads("report"), format!("report {id} 6 {size}"));
    }
    assert_eq!(host.ask("message 9 1"), "message -13");
    host.ends();
}

#[test]
fn a_worker_leaves_on_its_own_account() {
    let mut host = Host::start();
    assert_eq!(host.get("/leave").unwrap(), "0");
    let line = host.reads("event exit");
    assert!(line.ends_with(" 0 0 left 1"), "{line}");
    host.is_up([3]);
    assert_eq!(host.ask("look"), "look 0 generation 1 slots 2 workers 2");
    host.ends();
}

#[test]
fn one_more_worker_has_variables_of_its_own() {
    let mut host = Host::start();
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
    host.ends();
}

#[test]
fn one_server_after_the_other_leaves_nothing_behind() {
    let mut host = Host::start();
    let mut left = Vec::new();
    for _ in 0..4 {
        assert_eq!(host.ask("stop"), "stop 0");
        assert_eq!(host.reads("ended"), "ended 0 killed 0 fd -4");
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

#[test]
fn the_example_is_told_by_keys() {
    let example = program("ffi-examples/loop.c", "loop", Link::Shared);
    let mut host = Host::run(example, &["127.0.0.1:0", "2"]);
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
