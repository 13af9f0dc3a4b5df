//! The end of a server: no accepted connection is lost, nothing is left, and it waits no longer than necessary.
#![allow(clippy::unwrap_used)]

mod util;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use util::{Fault, Server, Start, Style, comes_true, proc, wait_until};

/// The exit code of a stop that had to kill workers.
const TIMED_OUT: i32 = 5;

#[test]
fn requests_in_progress_and_waiting_ones_are_answered() {
    for style in Style::ALL {
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT] {
            let server = Start::new(style).workers(1).start();
            let mut first = server.client_at_gate();
            let mut queued: Vec<_> = (0..10).map(|_| server.connect()).collect();
            queued.iter_mut().for_each(|c| c.send_command("count hits").unwrap());
            queued.iter_mut().for_each(|c| c.end().unwrap());
            server.signal(signal);
            // A blocking worker takes one at a time: its master listens on until the backlog is empty.
            if style != Style::Connection {
                wait_until("new clients are refused", || server.refuses());
            }
            server.dir.make("g");
            assert_eq!(first.answer(), Ok("gate".into()), "{style:?}");
            first.end().unwrap();
            assert_eq!(first.rest(), Ok(vec![]), "{style:?}");
            for mut client in queued {
                assert_eq!(client.answer(), Ok("count".into()), "{style:?}");
                assert_eq!(client.rest(), Ok(vec![]), "{style:?}");
            }
            assert_eq!(server.dir.count("hits"), 10);
            server.ends();
        }
    }
}

#[test]
fn under_load_all_accepted_requests_are_answered() {
    const CLIENTS: usize = 8;
    for style in Style::ALL {
        let server = Start::new(style).start();
        let load = server.load(CLIENTS, "pid");
        load.go_on_for(200);
        server.signal(libc::SIGTERM);
        load.go_on_for(20);
        let mut tally = load.stop();
        tally.faults.remove(&Fault::Refused);
        // The kernel resets connections that are not yet accepted when the listener closes. Accepted ones are not reset.
        let resets = tally.faults.remove(&Fault::Reset).unwrap_or(0);
        assert!(tally.faults.is_empty() && resets <= CLIENTS as u64, "{style:?}: {resets} resets, {tally:?}");
        server.ends();
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    for style in Style::ALL {
        let mut server = Start::new(style).start();
        let mut client = server.client_at_gate();
        server.interrupt_twice(libc::SIGTERM);
        assert!(matches!(client.answer(), Err(Fault::Reset | Fault::Closed)), "{style:?}");
        server.may_say("lost");
        server.may_say("killed");
        server.ends();
    }
}

#[test]
fn idle_connections_are_closed_and_do_not_delay_the_stop() {
    for style in Style::ALL {
        let server = Start::new(style).start();
        let n = if style == Style::Connection { 2 } else { 20 };
        let mut clients: Vec<_> = (0..n).map(|_| server.connect()).collect();
        for client in &mut clients {
            client.ask("pid").unwrap();
        }
        if style != Style::Request {
            // A blocking handler that waits for its client does not count as idle, and a stream has an end of its own.
            clients.clear();
        }
        let start = Instant::now();
        server.signal(libc::SIGTERM);
        for mut client in clients {
            assert_eq!(client.rest(), Ok(vec![]), "{style:?}: an end of file, not a reset");
        }
        server.ends();
        assert!(start.elapsed() < Duration::from_secs(4), "{style:?}: {:?}", start.elapsed());
    }
}

#[test]
fn a_connection_that_does_not_end_is_cut_at_the_drain_timeout_and_reported() {
    for style in Style::ALL {
        let mut server = Start::new(style).set("drain-timeout", "300ms").start();
        let mut client = server.client_at_gate();
        server.says("killed");
        server.may_say("lost");
        server.signal(libc::SIGTERM);
        assert!(matches!(client.answer(), Err(Fault::Reset | Fault::Closed)), "{style:?}");
        server.ends_with(TIMED_OUT);
    }
}

#[test]
fn a_server_whose_workers_cannot_start_again_stops_too() {
    let mut server = Start::new(Style::Request).start();
    server.dir.make("die");
    server.says("died: SIGKILL");
    server.says("before it was ready");
    server.workers().into_iter().for_each(|pid| proc::signal(pid, libc::SIGKILL));
    server.wait_for_line("before it was ready");
    server.signal(libc::SIGTERM);
    server.ends();
}

#[test]
fn a_stopped_worker_does_not_keep_its_master_from_stopping() {
    let mut server = Start::new(Style::Request).set("drain-timeout", "300ms").start();
    proc::freeze(server.worker_in(1));
    server.says("killed");
    server.may_say("lost");
    server.signal(libc::SIGTERM);
    server.ends_with(TIMED_OUT);
}

#[test]
fn workers_of_a_killed_master_finish_and_exit_and_the_port_is_free() {
    for style in Style::ALL {
        let server = Start::new(style).start();
        let mut client = server.client_at_gate();
        server.signal(libc::SIGKILL);
        wait_until("the listener is closed", || server.refuses());
        let next = Start::new(style).listen(format!("127.0.0.1:{}", server.port())).start();
        assert!(next.ask("pid").is_ok(), "{style:?}");
        server.dir.make("g");
        assert_eq!(client.answer(), Ok("gate".into()), "{style:?}: it was in progress");
        client.end().unwrap();
        assert_eq!(client.rest(), Ok(vec![]), "{style:?}");
        server.dies_out();
        next.stop();
    }
}

#[test]
fn workers_of_a_killed_master_exit_at_the_drain_timeout_at_the_latest() {
    for style in [Style::Request, Style::Data] {
        let server = Start::new(style).set("drain-timeout", "300ms").start();
        // Half a request: it will never be complete.
        let mut client = server.connect();
        client.ask("pid").unwrap();
        client.send(b"GET /pi").unwrap();
        server.signal(libc::SIGKILL);
        assert!(comes_true(Duration::from_secs(5), || proc::group(server.pid).is_empty()), "{style:?}");
        drop(client);
        server.dies_out();
    }
}

#[test]
fn workers_of_a_killed_master_have_any_time_if_there_is_no_drain_timeout() {
    let live = |server: &Server| {
        assert!(
            !comes_true(Duration::from_millis(500), || proc::group(server.pid).is_empty()),
            "they have ended"
        );
    };
    for style in Style::ALL {
        let server = Start::new(style).set("drain-timeout", "0").start();
        let mut client = server.client_at_gate();
        server.signal(libc::SIGKILL);
        live(&server);
        server.dir.make("g");
        assert_eq!(client.answer(), Ok("gate".into()), "{style:?}");
        drop(client);
        server.dies_out();
    }
    // And in the worker's own loop. With the first answer the worker has read half of the next request too.
    let server = Start::new(Style::Request).set("drain-timeout", "0").start();
    let mut client = server.connect();
    client.send(b"GET /pid HTTP/1.1\r\nHost: t\r\n\r\nGET /pi").unwrap();
    let pid = client.answer().unwrap();
    server.signal(libc::SIGKILL);
    live(&server);
    client.send(b"d HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
    assert_eq!(client.answer(), Ok(pid));
    drop(client);
    server.dies_out();
}

#[test]
fn a_signal_to_the_whole_process_group_finishes_requests_too() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGQUIT] {
        let server = Start::new(Style::Request).workers(1).start();
        let mut client = server.client_at_gate();
        // As a terminal does at Ctrl-C, and a supervisor that stops a whole group.
        proc::signal(-server.pid, signal);
        wait_until("new clients are refused", || server.refuses());
        server.dir.make("g");
        assert_eq!(client.answer(), Ok("gate".into()), "signal {signal}");
        server.ends();
    }
}

#[test]
fn connections_queued_for_a_stopped_worker_are_answered_by_others() {
    let mut server = Start::new(Style::Request).set("drain-timeout", "3s").start();
    server.says("had not ended at its deadline");
    let frozen = server.worker_in(0);
    proc::freeze(frozen);
    let mut clients: Vec<_> = (0..10).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|c| c.send_command("count hits").unwrap());
    server.signal(libc::SIGTERM);
    for client in &mut clients {
        client.end().unwrap();
        assert_eq!(client.answer(), Ok("count".into()));
    }
    assert_eq!(server.dir.count("hits"), 10);
    server.ends_with(TIMED_OUT);
}

#[test]
fn backlogs_are_emptied_however_many_addresses_there_are() {
    let mut start = Start::new(Style::Request).workers(1);
    for _ in 0..64 {
        start = start.listen("127.0.0.1:0");
    }
    let server = start.start();
    let mut client = server.client_at_gate();
    let mut queued: Vec<_> = (0..5).map(|_| server.connect()).collect();
    queued.iter_mut().for_each(|c| c.send_command("count hits").unwrap());
    server.signal(libc::SIGTERM);
    wait_until("new clients are refused", || server.refuses());
    server.dir.make("g");
    assert_eq!(client.answer(), Ok("gate".into()));
    for mut client in queued {
        client.end().unwrap();
        assert_eq!(client.answer(), Ok("count".into()));
    }
    client.end().unwrap();
    assert_eq!(server.dir.count("hits"), 5);
    server.ends();
}

#[test]
fn new_clients_do_not_delay_the_stop() {
    let server = Start::new(Style::Connection).start();
    let load = server.load(8, "pid");
    load.go_on_for(100);
    let start = Instant::now();
    server.signal(libc::SIGTERM);
    server.ends();
    assert!(start.elapsed() < Duration::from_secs(5), "it took {:?}", start.elapsed());
    load.stop();
}

#[test]
fn a_stop_that_kills_nobody_ends_with_0_whatever_a_reload_before_it_had_to_kill() {
    let mut server = Start::new(Style::Request).set("drain-timeout", "300ms").start();
    server.says("had not ended at its deadline and was killed");
    let still = server.worker_in(1);
    proc::freeze(still);
    server.reload();
    wait_until("it is gone", || proc::state(still).is_none());
    let mut events = Command::new(env!("CARGO_BIN_EXE_prefork"));
    events.args(["events", "--json"]).env("PREFORK_RUNTIME_DIR", server.dir.runtime());
    let mut events = events.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(events.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().contains(r#""event":"setup""#));
    server.signal(libc::SIGTERM);
    let last = lines.last().unwrap();
    assert!(last.contains(r#""event":"stopped""#) && last.contains(r#""killed":0"#), "{last}");
    assert!(events.wait().unwrap().success());
    server.ends();
}
