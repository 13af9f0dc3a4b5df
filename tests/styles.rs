//! README's table of what the clients of each style see when a worker leaves, or the server stops: every style, in every event.
#![allow(clippy::unwrap_used)]

mod util;

use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use util::handler::{ECHO_IN_C, compile};
use util::{Client, Fault, Server, Start, Style, proc, wait_until};

/// What a worker that leaves may take (milliseconds).
const DRAIN: u64 = 1500;
/// Requests after which a worker is recycled: more than those of the clients.
const REQUESTS: &str = "100";
/// Clients of each kind: some for each worker.
const EACH: usize = 4;

/// Streams answer with what they get; a response is kept for a while. Built with a state of streams or without.
const HANDLER: &str = r#"
#include <prefork.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static prefork_worker *self;

static int start(prefork_worker *worker, void **state)
{
    uint32_t slot = 0, generation = 0;
    (void)state;
    self = worker;
    prefork_role(NULL, &slot, &generation);
    return slot == 1 && generation > 1 && access(getenv("BROKEN"), F_OK) == 0;
}

static void end(prefork_worker *worker, void *arg)
{
    (void)worker;
    prefork_response_body(arg, "late", 4);
    prefork_response_end(arg);
}

static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    prefork_slice path = prefork_request_path(req);
    (void)state;
    if (memcmp(path.data, "/keep", path.len) == 0)
        prefork_timer_start(self, strtoul(getenv("KEEPS"), NULL, 10), 0, end, prefork_response_later(res));
    else if (memcmp(path.data, "/up", path.len) == 0)
        prefork_response_upgrade(res, "echo");
    else
        prefork_response_body(res, "now", 3);
}

static int on_takeover(prefork_conn *conn, uint32_t version, const void *bytes, size_t size, void *state)
{
    (void)conn;
    (void)version;
    (void)bytes;
    (void)size;
    (void)state;
    return 0;
}

PREFORK_MODULE(.worker_start = start, .on_request = on_request, .on_data = echo, .state_version = STATE,
               .on_handover = no_state, .on_takeover = on_takeover)
"#;

/// With a state of streams, and without.
static MODULES: LazyLock<[PathBuf; 2]> = LazyLock::new(|| {
    ["-DSTATE=1", "-DSTATE=0"]
        .map(|state| compile(&[ECHO_IN_C, HANDLER].concat(), &["-Wextra", "-Werror", "-D_GNU_SOURCE", state]))
});

/// What happens to the workers that have the clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Reload,
    RollBack,
    ScaleDown,
    Recycle,
    Drain,
    Upgrade,
    Stop,
    StopAtOnce,
    WorkerKilled,
    MasterKilled,
}

use Cause::*;

/// What a client sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    /// What was in progress is answered.
    Answered,
    /// The connection goes on, longer than a worker that leaves may take.
    GoesOn,
    /// It is served until the time of its worker is over, then closed or reset.
    StaysUntilDeadline,
    /// It is closed or reset within that time.
    Closed,
}

use Sight::*;

struct Clients {
    requests: Vec<Client>,
    kept: Vec<Client>,
    idle: Vec<Client>,
    streams: Vec<Client>,
}

fn get(client: &mut Client, path: &str) {
    client.send(format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n").as_bytes()).unwrap();
}

fn is_served(client: &mut Client) -> bool {
    let sent = client.send(b"GET /now HTTP/1.1\r\nHost: t\r\n\r\n");
    sent.is_ok() && client.http_answer().is_ok_and(|answer| answer.body == "now")
}

fn echoes(client: &mut Client) -> bool {
    let (mut got, mut buf) = (Vec::new(), [0; 64]);
    if client.send(b"still here").is_err() {
        return false;
    }
    while !got.ends_with(b"still here") {
        match client.read_some(&mut buf) {
            Ok(n) if n > 0 => got.extend_from_slice(&buf[..n]),
            _ => return false,
        }
    }
    true
}

/// A client whose request becomes a stream.
fn stream(server: &Server) -> Client {
    let mut client = server.connect();
    client.send(b"GET /up HTTP/1.1\r\nHost: t\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n").unwrap();
    assert!(echoes(&mut client));
    client
}

fn clients(server: &Server) -> Clients {
    let idle = || {
        let mut client = server.connect();
        assert!(is_served(&mut client));
        client
    };
    let clients = Clients {
        streams: (0..EACH).map(|_| stream(server)).collect(),
        idle: (0..EACH).map(|_| idle()).collect(),
        requests: (0..EACH).map(|_| idle()).collect(),
        kept: (0..EACH).map(|_| idle()).collect(),
    };
    let Clients { requests, kept, .. } = &clients;
    for client in requests {
        client.half().send(b"POST /now HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n\r\nab").unwrap();
    }
    kept.iter().for_each(|client| get(&mut client.half(), "/keep"));
    server.has_read();
    clients
}

fn start(start: Start, cause: Cause) -> Server {
    let broken = start.dir().file("broken");
    let start = start.env("BROKEN", Some(broken.as_os_str())).set("drain-timeout", &format!("{DRAIN}ms"));
    // Longer than the event takes, and shorter than a worker may take to leave.
    let keeps = if matches!(cause, StopAtOnce | WorkerKilled) { "60000" } else { "700" };
    let start = start.env("KEEPS", Some(keeps.as_ref()));
    let start = if cause == Recycle { start.set("max-requests", REQUESTS) } else { start };
    let mut server = start.workers(2).start();
    for line in ["reload to generation", "control: ", "worker ", "upgrade: ", "stop: ", "prefork: "] {
        server.may_say(line);
    }
    server
}

/// Has it happen to all workers that have clients, or to one of them; returns when it has begun for each.
fn happen(server: &mut Server, cause: Cause) {
    let first = server.workers();
    let left = |server: &Server| first.iter().filter(|pid| proc::children(server.pid).contains(pid)).count();
    let verdicts = |server: &Server, text: &str| server.lines_with(text);
    match cause {
        Reload => {
            server.signal(libc::SIGHUP);
            wait_until("the reload is over", || verdicts(server, "reload to generation 2 is complete") == 1);
        }
        RollBack => {
            server.dir.make("broken");
            server.signal(libc::SIGHUP);
            wait_until("it is rolled back", || {
                verdicts(server, "reload to generation 2 is rolled back") == 1
            });
            server.dir.remove("broken");
        }
        ScaleDown => {
            server.signal(libc::SIGTTOU);
            server.scaled_to(1);
        }
        // One after the other: the second when the first has gone.
        Recycle => {
            let mut client = server.connect();
            wait_until("a new worker", || {
                assert!(client.ask("pid").is_ok());
                proc::children(server.pid).len() == 3
            });
        }
        Drain => {
            let mut stop = Command::new(env!("CARGO_BIN_EXE_prefork"));
            stop.args(["stop", "1", "--no-wait"]).env("PREFORK_RUNTIME_DIR", server.dir.runtime());
            assert!(stop.output().unwrap().status.success());
            wait_until("a new worker", || proc::children(server.pid).len() == 3);
        }
        Upgrade => {
            server.signal(libc::SIGUSR2);
            wait_until("it has taken over", || verdicts(server, "reload to generation 2 is complete") == 1);
        }
        Stop => server.signal(libc::SIGTERM),
        StopAtOnce => {
            server.interrupt_twice(libc::SIGTERM);
            wait_until("the master has ended", || server.has_exited());
        }
        WorkerKilled => {
            first.iter().for_each(|pid| proc::signal(*pid, libc::SIGKILL));
            wait_until("they are gone", || left(server) == 0);
        }
        MasterKilled => server.signal(libc::SIGKILL),
    }
}

/// True if a stream, or a connection in blocking style, is closed or reset by then.
fn closes_by(client: &mut Client, until: Instant) -> bool {
    client.patience(until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)));
    let mut buf = [0; 64];
    loop {
        match client.read_some(&mut buf) {
            Ok(0) | Err(Fault::Reset | Fault::Closed) => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}

fn request(client: &mut Client) -> Sight {
    let answer = client.send(b"cd").and_then(|()| client.http_answer());
    if answer.is_ok_and(|answer| answer.body == "now") { Answered } else { Closed }
}

fn kept(client: &mut Client) -> Sight {
    if client.http_answer().is_ok_and(|answer| answer.body == "late") { Answered } else { Closed }
}

/// The first look at what lasts is at once, the second one when every worker that leaves has had its time.
fn lasting(clients: &mut [Client], late: Instant, works: fn(&mut Client) -> bool) -> Vec<Sight> {
    let at_first: Vec<bool> = clients.iter_mut().map(works).collect();
    let at_last = |(client, worked): (&mut Client, bool)| {
        if !worked {
            return Closed;
        }
        let closes = closes_by(client, late);
        client.patience(util::PATIENCE);
        if !closes && works(client) { GoesOn } else { StaysUntilDeadline }
    };
    clients.iter_mut().zip(at_first).map(at_last).collect()
}

/// All see the same, or as many of them as one of the two workers had.
#[track_caller]
fn all_see(sights: &[Sight], wanted: &[Sight], what: &str) {
    assert!(sights.iter().all(|sight| wanted.contains(sight)), "{what}: {sights:?}, not {wanted:?}");
}

/// Clients of a module, whose streams have a state or none.
#[track_caller]
fn module_sees(cause: Cause, request_sees: Sight, idle_sees: Sight, streams_see: [&[Sight]; 2]) {
    for (has_none, module) in MODULES.iter().enumerate() {
        let mut server = start(Start::new(Style::Request).module(module.clone()), cause);
        let mut clients = clients(&server);
        let late = Instant::now() + Duration::from_millis(DRAIN + 2000);
        happen(&mut server, cause);
        let what = format!("{cause:?}, streams {}", ["with a state", "without"][has_none]);
        let answers: Vec<_> = clients.requests.iter_mut().map(request).collect();
        all_see(&answers, &[request_sees], &format!("{what}: a request"));
        let streams = lasting(&mut clients.streams, late, echoes);
        all_see(&streams, streams_see[has_none], &format!("{what}: a stream"));
        let answers: Vec<_> = clients.kept.iter_mut().map(kept).collect();
        all_see(&answers, &[request_sees], &format!("{what}: a kept response"));
        let idle = lasting(&mut clients.idle, late, is_served);
        all_see(&idle, &[idle_sees], &format!("{what}: an idle connection"));
        drop(clients);
        ends(server, cause);
    }
}

/// Clients of a handler in blocking style: what is in progress, and the connection after it.
#[track_caller]
fn blocking_sees(cause: Cause, request_sees: Sight, after: &[Sight]) {
    let mut server = start(Start::new(Style::Connection), cause);
    let mut clients: Vec<_> = (0..2).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| drop(client.ask("pid").unwrap()));
    clients.iter_mut().for_each(|client| client.send(b"pi").unwrap());
    let late = Instant::now() + Duration::from_millis(DRAIN + 2000);
    happen(&mut server, cause);
    for client in &mut clients {
        let answer = client.send(b"d\n").and_then(|()| client.answer());
        assert_eq!(if answer.is_ok() { Answered } else { Closed }, request_sees, "{cause:?}: blocking style");
    }
    let sights = lasting(&mut clients, late, |client| client.ask("pid").is_ok());
    all_see(&sights, after, &format!("{cause:?}: blocking style, afterwards"));
    drop(clients);
    ends(server, cause);
}

fn ends(mut server: Server, cause: Cause) {
    match cause {
        Stop | StopAtOnce => wait_until("the master has ended", || server.has_exited()),
        MasterKilled => return server.dies_out(),
        _ => return server.stop(),
    }
    server.dies_out();
}

macro_rules! leaves {
    ($($name:ident: $cause:ident, $others:expr;)*) => {$(
        #[test]
        fn $name() {
            module_sees($cause, Answered, GoesOn, [&[GoesOn], $others]);
            // Both are the order to drain of a reload.
            if $cause != RollBack && $cause != Recycle {
                blocking_sees($cause, Answered, $others);
            }
        }
    )*};
}

leaves! {
    a_reload: Reload, &[StaysUntilDeadline];
    a_roll_back: RollBack, &[StaysUntilDeadline, GoesOn];
    a_scale_down: ScaleDown, &[StaysUntilDeadline, GoesOn];
    recycling: Recycle, &[StaysUntilDeadline, GoesOn];
    one_worker_that_is_told_to_leave: Drain, &[StaysUntilDeadline, GoesOn];
    an_upgrade: Upgrade, &[StaysUntilDeadline];
}

#[test]
fn a_stop() {
    let ended: &[Sight] = &[Closed, StaysUntilDeadline];
    module_sees(Stop, Answered, Closed, [ended, ended]);
    blocking_sees(Stop, Answered, ended);
}

#[test]
fn a_second_stop_and_kills_of_workers() {
    for cause in [StopAtOnce, WorkerKilled] {
        module_sees(cause, Closed, Closed, [&[Closed], &[Closed]]);
        blocking_sees(cause, Closed, &[Closed]);
    }
}

#[test]
fn a_kill_of_the_master() {
    let ended: &[Sight] = &[Closed, StaysUntilDeadline];
    module_sees(MasterKilled, Answered, Closed, [ended, ended]);
    blocking_sees(MasterKilled, Answered, ended);
}
