//! The wall clock is set a day forward and back under a running server (libfaketime(1), for its processes alone): every deadline
//! is monotonic, so that only `Date` changes.
#![allow(clippy::unwrap_used)]

mod util;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use util::{Load, PATIENCE, RELOAD, Server, Start, Style, proc, wait_until};

const DAY: i64 = 86_400;
/// Days the clock is off, one after the other: each step is a jump of one, two or three of them.
const JUMPS: [i64; 6] = [1, 0, -1, 1, -2, 0];

/// A server whose clock is set by a file. Each of its times is short against a day, and long enough for the test.
fn start(style: Style, settings: &[(&str, &str)]) -> Server {
    let mut start = Start::new(style).own_module();
    for (name, value) in [("boot-timeout", "15s"), ("drain-timeout", "15s"), ("max-age", "1h")] {
        start = start.set(name, value);
    }
    start = settings.iter().fold(start, |start, (name, value)| start.set(name, value));
    let clock = start.dir().file("clock");
    start.dir().file("clock.new");
    fs::write(&clock, "+0").unwrap();
    // In the preloaded program the variable is as the dynamic linker takes it.
    let shell = ["2000-01-01", "sh", "-c", "echo $LD_PRELOAD"];
    let library = Command::new("faketime").args(shell).output().unwrap().stdout;
    let library = String::from_utf8(library).unwrap();
    let mut server = start
        .env("LD_PRELOAD", Some(library.trim().as_ref()))
        .env("FAKETIME_TIMESTAMP_FILE", Some(clock.as_os_str()))
        .env("FAKETIME_NO_CACHE", Some("1".as_ref()))
        .env("FAKETIME_DONT_FAKE_MONOTONIC", Some("1".as_ref()))
        .env("DONT_FAKE_MONOTONIC", Some("1".as_ref()))
        .env("FAKETIME_DISABLE_SHM", Some("1".as_ref()))
        .start();
    server.may_say("control: ");
    server
}

/// Sets the clock `days` days off the machine's.
fn set(server: &Server, days: i64) {
    let new = server.dir.path().join("clock.new");
    fs::write(&new, format!("{:+}", days * DAY)).unwrap();
    fs::rename(new, server.dir.path().join("clock")).unwrap();
}

/// Seconds since 1970, of the machine.
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

/// By how much the master's clock is off: its events are stamped with it.
fn off(server: &Server) -> i64 {
    let mut client = UnixStream::connect(&server.control_files()[0]).unwrap();
    client.write_all(b"{\"verb\":\"events\"}\n").unwrap();
    let lines = BufReader::new(client).lines();
    let event = lines.map_while(Result::ok).find(|line| line.contains("\"setup\"")).unwrap();
    let event: serde_json::Value = serde_json::from_str(&event).unwrap();
    event["time_ms"].as_i64().unwrap() / 1000 - now()
}

/// By how much a worker's clock is off, as `Date` says.
fn date_off(server: &Server) -> i64 {
    let mut client = server.connect();
    client.send_command("pid").unwrap();
    let head = client.http_answer().unwrap().head;
    let date = head.lines().find_map(|l| l.strip_prefix("Date: ")).unwrap().to_owned();
    // `date` reads what RFC 9110 has for a date.
    let out = Command::new("date").args(["-u", "+%s", "-d", &date]).output().unwrap();
    String::from_utf8(out.stdout).unwrap().trim().parse::<i64>().unwrap() - now()
}

/// Sets the clock and waits until every process has noticed.
#[track_caller]
fn jump(server: &Server, days: i64) {
    set(server, days);
    let near = |seconds: i64| (seconds - days * DAY).abs() <= 5;
    wait_until("the master's clock is off", || near(off(server)));
    if server.style == Style::Request {
        wait_until("Date follows", || (0..4).all(|_| near(date_off(server))));
    }
}

#[test]
fn a_clock_that_jumps_under_load_changes_nothing() {
    for style in Style::ALL {
        let server = start(style, &[("timeout", "20s")]);
        let pids = server.workers();
        let load = server.load(4, "pid");
        let kept = Load::keep(server.address(), style, usize::from(style != Style::Connection), "pid");
        // Idle, and one in its handler.
        let mut idle = server.connect();
        idle.ask("pid").unwrap();
        if style == Style::Connection {
            // It would have its worker to itself.
            assert!(idle.end().is_ok());
        }
        let cpu = proc::cpu(server.pid);
        let begun = Instant::now();
        for days in JUMPS {
            jump(&server, days);
            load.go_on_for(200);
            assert_eq!(server.workers(), pids, "{style:?}");
        }
        assert!(proc::cpu(server.pid) - cpu < begun.elapsed(), "{style:?}");
        if style != Style::Connection {
            assert!(idle.ask("pid").is_ok(), "{style:?}");
        }
        drop(idle);
        let mut tally = load.stop();
        tally.merge(kept.stop());
        assert!(tally.faults.is_empty(), "{style:?}: {tally:?}");
        server.stop();
    }
}

#[test]
fn a_clock_that_jumps_during_a_reload_neither_speeds_it_up_nor_delays_it() {
    for days in [1, -1] {
        let mut server = start(Style::Request, &[]);
        server.may_say(RELOAD);
        let mut client = server.connect();
        let busy: i32 = client.ask("pid").unwrap().parse().unwrap();
        client.send_command("gate g").unwrap();
        wait_until("a request is in progress", || server.dir.at_gate("g") == 1);
        // The new workers start, and the first one takes its time.
        server.dir.make("wait");
        server.signal(libc::SIGHUP);
        wait_until("the canary starts", || server.workers().len() == 3);
        set(&server, days);
        wait_until("the master's clock is off", || (off(&server) - days * DAY).abs() <= 5);
        assert_eq!(server.lines_with("is rolled back"), 0);
        server.dir.remove("wait");
        // Now the old ones drain, and one of them takes its time too.
        server.wait_for_line("is complete");
        set(&server, -days);
        wait_until("the master's clock is off", || (off(&server) + days * DAY).abs() <= 5);
        wait_until("idle workers have exited", || server.workers().len() == 3);
        assert!(server.workers().contains(&busy), "it is still there");
        server.dir.make("g");
        assert_eq!(client.answer(), Ok("gate".into()));
        drop(client);
        server.stop();
    }
}

#[test]
fn a_clock_that_jumps_during_a_stop_does_not_cut_requests_in_progress() {
    for days in [1, -1] {
        let server = start(Style::Request, &[]);
        let mut client = server.connect();
        client.send_command("gate g").unwrap();
        wait_until("a request is in progress", || server.dir.at_gate("g") == 1);
        server.signal(libc::SIGTERM);
        wait_until("the other one has left", || server.workers().len() == 1);
        set(&server, days);
        wait_until("the master's clock is off", || (off(&server) - days * DAY).abs() <= 5);
        server.dir.make("g");
        assert_eq!(client.answer(), Ok("gate".into()));
        server.ends();
    }
}

#[test]
fn a_clock_that_jumps_neither_hides_a_hang_nor_causes_one() {
    for days in [1, -1] {
        let mut server = start(Style::Request, &[("timeout", "1s")]);
        server.says("hangs in its handler");
        server.says("died: SIGABRT");
        let mut client = server.connect();
        client.send_command("loop").unwrap();
        let begun = Instant::now();
        set(&server, days);
        wait_until("it is seen", || server.lines_with("hangs in its handler") == 1);
        let seen = begun.elapsed();
        assert!(seen >= Duration::from_millis(900) && seen < PATIENCE / 2, "{seen:?}");
        server.wait_for_line("died: SIGABRT");
        wait_until("a successor", || server.workers().len() == 2);
        drop(client);
        server.stop();
    }
}

#[test]
fn a_clock_that_jumps_does_not_speed_up_restarts() {
    let mut server = start(Style::Request, &[]);
    server.may_say("died");
    let pid = server.worker_in(0);
    server.dir.make("die");
    proc::signal(pid, libc::SIGKILL);
    wait_until("they are tried less often", || server.lines_with("before it was ready") >= 5);
    let before = server.lines_with("before it was ready");
    let begun = Instant::now();
    for days in JUMPS.iter().cycle() {
        set(&server, *days);
        assert!(server.ask("pid").is_ok());
        if begun.elapsed() > Duration::from_secs(2) {
            break;
        }
    }
    // By now they are at least 400 ms apart.
    let tried = server.lines_with("before it was ready") - before;
    assert!(tried <= 6, "{tried} in {:?}", begun.elapsed());
    server.dir.remove("die");
    wait_until("it heals", || server.workers().len() == 2 && server.slots() == [0, 1]);
    server.stop();
}

#[test]
fn a_clock_that_jumps_delays_no_deadline() {
    for days in [1, -1] {
        let mut server = start(Style::Request, &[("boot-timeout", "2s"), ("drain-timeout", "2s")]);
        server.may_say(RELOAD);
        server.says("died before it was ready");
        server.says("had not ended at its deadline and was killed");
        let in_time = |begun: Instant| {
            let took = begun.elapsed();
            assert!(took >= Duration::from_millis(1900) && took < Duration::from_secs(10), "{took:?}");
        };
        // A canary that is never ready.
        server.dir.make("wait");
        let begun = Instant::now();
        server.signal(libc::SIGHUP);
        wait_until("the canary starts", || server.workers().len() == 3);
        set(&server, days);
        server.wait_for_line("is rolled back");
        in_time(begun);
        server.dir.remove("wait");
        // A request that does not end while all stop.
        let mut client = server.connect();
        client.send_command("gate never").unwrap();
        wait_until("a request is in progress", || server.dir.at_gate("never") == 1);
        let begun = Instant::now();
        server.signal(libc::SIGTERM);
        wait_until("the other one has left", || server.workers().len() == 1);
        set(&server, -days);
        wait_until("the end", || server.has_exited());
        in_time(begun);
        server.dir.file("never");
        server.ends_with(5);
    }
}
