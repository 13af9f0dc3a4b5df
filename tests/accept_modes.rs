//! The modes of accepting: the master, all workers from one backlog, or each worker from its own. What holds in all, and in each.
#![allow(clippy::unwrap_used)]

mod util;

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use util::client::Address;
use util::{Client, Dir, Fault, Mode, Start, Style, proc, wait_until};

/// Every style with every mode.
fn all() -> impl Iterator<Item = (Style, Mode)> {
    Style::ALL.into_iter().flat_map(|style| Mode::ALL.map(|mode| (style, mode)))
}

/// The modes in which workers accept.
const WORKERS: [Mode; 2] = [Mode::Shared, Mode::ReusePort];

#[test]
fn every_kind_of_address_is_served_in_every_mode() {
    for (style, mode) in all() {
        let dir = Arc::new(Dir::new());
        let unix = format!("unix:{}", dir.path().join("socket").display());
        let start = Start::new(style).within(&dir).accept(mode);
        let server = start.listen("127.0.0.1:0").listen("[::1]:0").listen(unix).start();
        for (index, address) in server.addresses.iter().enumerate().cycle().take(12) {
            let client = Client::connect(address, style).unwrap();
            assert_eq!(client.ask_last("listener"), Ok(index.to_string()), "{style:?} {mode:?}");
        }
        server.stop();
    }
}

#[test]
fn connections_spread_over_the_workers() {
    for (style, mode) in all() {
        let server = Start::new(style).workers(3).accept(mode).start();
        let mut slots = BTreeMap::new();
        for _ in 0..150 {
            *slots.entry(server.ask("slot").unwrap()).or_insert(0) += 1;
        }
        // Of workers with one backlog those that are awake may leave little for the others.
        let least = if mode == Mode::Shared { 1 } else { 25 };
        assert!(slots.len() == 3 && slots.values().all(|&n| n >= least), "{style:?} {mode:?}: {slots:?}");
        server.stop();
    }
}

#[test]
fn a_worker_at_its_limit_accepts_no_more_until_a_connection_ends() {
    for (style, workers, limit) in [(Style::Data, 1, 3), (Style::Request, 1, 2), (Style::Connection, 1, 1)] {
        for mode in Mode::ALL {
            let server =
                Start::new(style).workers(workers).accept(mode).set("max-conns", &limit.to_string()).start();
            let mut held: Vec<_> = (0..workers * limit).map(|_| server.connect()).collect();
            held.iter_mut().for_each(|c| assert_eq!(c.ask("slot"), Ok("0".into())));
            if style == Style::Request {
                // Idle ones would be closed.
                held.iter_mut().for_each(|c| c.send(b"GET /slot HTTP/1.1\r\n").unwrap());
                server.has_read();
            }
            let mut waits = server.connect();
            waits.send_command("slot").unwrap();
            waits.patience(Duration::from_millis(200));
            assert_eq!(waits.answer(), Err(Fault::TimedOut), "{style:?} {mode:?}");
            held.pop();
            waits.patience(util::PATIENCE);
            assert_eq!(waits.answer(), Ok("0".into()), "{style:?} {mode:?}");
            drop((waits, held));
            server.stop();
        }
    }
}

#[test]
fn of_workers_that_share_a_backlog_one_with_room_accepts_the_next() {
    let server = Start::new(Style::Data).accept(Mode::Shared).set("max-conns", "3").start();
    let mut held: Vec<_> = (0..6).map(|_| server.connect()).collect();
    let slots: Vec<_> = held.iter_mut().map(|c| c.ask("slot").unwrap()).collect();
    assert_eq!(slots.iter().filter(|s| *s == "0").count(), 3, "{slots:?}");
    let mut waits = server.connect();
    waits.send_command("slot").unwrap();
    waits.patience(Duration::from_millis(200));
    assert_eq!(waits.answer(), Err(Fault::TimedOut));
    let slot = slots[4].clone();
    drop(held.remove(4));
    waits.patience(util::PATIENCE);
    assert_eq!(waits.answer(), Ok(slot));
    drop((waits, held));
    server.stop();
}

#[test]
fn while_one_worker_is_busy_the_others_accept_all() {
    for style in Style::ALL {
        let server = Start::new(style).accept(Mode::Shared).start();
        let mut busy = server.connect();
        busy.send_command("gate g").unwrap();
        wait_until("the handler runs", || server.dir.at_gate("g") == 1);
        for _ in 0..50 {
            server.ask("pid").unwrap();
        }
        server.dir.make("g");
        assert_eq!(busy.answer(), Ok("gate".into()));
        drop(busy);
        server.stop();
    }
}

#[test]
fn nothing_is_served_before_all_first_workers_are_ready() {
    for mode in WORKERS {
        let dir = Arc::new(Dir::new());
        dir.make("late");
        let path = dir.path().join("socket");
        let start =
            Start::new(Style::Data).within(&dir).accept(mode).listen(format!("unix:{}", path.display()));
        let starting = std::thread::spawn(|| start.start());
        wait_until("one worker is late", || dir.at_gate("ready") == 1 && path.exists());
        let mut client = Client::connect(&Address::Unix(path), Style::Data).unwrap();
        client.send_command("slot").unwrap();
        client.patience(Duration::from_millis(200));
        assert_eq!(client.answer(), Err(Fault::TimedOut), "{mode:?}");
        dir.make("ready");
        client.patience(util::PATIENCE);
        assert!(client.answer().is_ok(), "{mode:?}");
        let server = starting.join().unwrap();
        drop(client);
        server.stop();
    }
}

#[test]
fn a_kill_under_load_loses_only_connections_in_progress_in_the_worker() {
    const CLIENTS: usize = 6;
    for (style, mode) in all() {
        let mut server = Start::new(style).accept(mode).start();
        server.says("died: SIGKILL");
        let load = server.load(CLIENTS, "sleep 2");
        const KILLS: u64 = 6;
        for n in 0..KILLS {
            load.go_on_for(30 + n % 7);
            let victim = server.worker_in((n % 2) as u32);
            proc::signal(victim, libc::SIGKILL);
            wait_until("a successor", || {
                !proc::children(server.pid).contains(&victim) && server.workers().len() == 2
            });
        }
        load.go_on_for(30);
        let tally = load.stop();
        // A worker with an event loop has accepted its share of the clients; a blocking one has one.
        let share = if style == Style::Connection { 1 } else { CLIENTS as u64 };
        assert!(tally.failed() <= KILLS * share, "{style:?} {mode:?}: {tally:?}");
        assert!(tally.answered() > 150, "{style:?} {mode:?}: {tally:?}");
        server.stop();
    }
}

#[test]
fn connections_in_progress_in_a_killed_worker_are_counted_in_the_log() {
    for mode in Mode::ALL {
        let mut server = Start::new(Style::Data).workers(1).accept(mode).start();
        server.says("died: SIGKILL; 3 connections in progress lost, 0 kept");
        let mut held: Vec<_> = (0..4).map(|_| server.connect()).collect();
        held.iter_mut().for_each(|c| assert!(c.ask("pid").is_ok()));
        let mut last = held.pop().unwrap();
        last.end().unwrap();
        assert_eq!(last.rest(), Ok(vec![]));
        // The worker answers this when it has closed the other.
        held[0].ask("pid").unwrap();
        proc::signal(server.worker_in(0), libc::SIGKILL);
        held.into_iter().for_each(|mut c| assert!(c.answer().is_err()));
        server.wait_for_line("died: SIGKILL");
        server.stop();
    }
}

#[test]
fn a_backlog_outlives_its_worker() {
    for (style, mode) in all() {
        let mut server = Start::new(style).accept(mode).start();
        server.says("died: SIGKILL");
        server.workers().into_iter().for_each(proc::freeze);
        let mut clients: Vec<_> = (0..20).map(|_| server.connect()).collect();
        clients.iter_mut().for_each(|c| c.send_command("count hits").unwrap());
        clients.iter_mut().for_each(|c| c.end().unwrap());
        server.workers().into_iter().for_each(|pid| proc::signal(pid, libc::SIGKILL));
        for mut client in clients {
            assert_eq!(client.answer(), Ok("count".into()), "{style:?} {mode:?}");
        }
        assert_eq!(server.dir.count("hits"), 20, "{style:?} {mode:?}");
        server.stop();
    }
}

#[test]
fn clients_of_a_slot_without_a_worker_are_served_by_others() {
    for (style, mode) in all() {
        let mut server = Start::new(style).accept(mode).start();
        server.says("died: SIGKILL");
        server.says("before it was ready");
        server.dir.make("refuse");
        proc::signal(server.worker_in(0), libc::SIGKILL);
        server.wait_for_line("before it was ready");
        for _ in 0..60 {
            assert_eq!(server.ask("slot"), Ok("1".into()), "{style:?} {mode:?}");
        }
        server.dir.remove("refuse");
        wait_until("the slot serves again", || server.ask("slot") == Ok("0".into()));
        server.stop();
    }
}

#[test]
fn a_stop_serves_all_waiting_clients() {
    for (style, mode) in all() {
        let server = Start::new(style).workers(1).accept(mode).start();
        let mut first = server.connect();
        first.send_command("gate g").unwrap();
        wait_until("the handler runs", || server.dir.at_gate("g") == 1);
        let mut queued: Vec<_> = (0..10).map(|_| server.connect()).collect();
        queued.iter_mut().for_each(|c| c.send_command("count hits").unwrap());
        queued.iter_mut().for_each(|c| c.end().unwrap());
        server.signal(libc::SIGTERM);
        server.dir.make("g");
        assert_eq!(first.answer(), Ok("gate".into()), "{style:?} {mode:?}");
        first.end().unwrap();
        for mut client in queued {
            assert_eq!(client.answer(), Ok("count".into()), "{style:?} {mode:?}");
            assert_eq!(client.rest(), Ok(vec![]), "{style:?} {mode:?}");
        }
        assert_eq!(server.dir.count("hits"), 10);
        server.ends();
    }
}

#[test]
fn a_stop_under_load_answers_all_accepted_requests() {
    const CLIENTS: usize = 8;
    for (style, mode) in all() {
        let server = Start::new(style).accept(mode).start();
        let load = server.load(CLIENTS, "pid");
        load.go_on_for(200);
        server.signal(libc::SIGTERM);
        load.go_on_for(20);
        let mut tally = load.stop();
        tally.faults.remove(&Fault::Refused);
        // The kernel resets connections that are not yet accepted when the listener closes. Accepted ones are not reset.
        let resets = tally.faults.remove(&Fault::Reset).unwrap_or(0);
        assert!(
            tally.faults.is_empty() && resets <= CLIENTS as u64,
            "{style:?} {mode:?}: {resets} {tally:?}"
        );
        server.ends();
    }
}

#[test]
fn workers_of_a_killed_master_finish_and_the_port_is_free() {
    for (style, mode) in all() {
        let server = Start::new(style).workers(2).accept(mode).start();
        let mut client = server.connect();
        client.send_command("gate g").unwrap();
        wait_until("the handler runs", || server.dir.at_gate("g") == 1);
        server.signal(libc::SIGKILL);
        wait_until("the listener is closed", || server.refuses());
        server.dir.make("g");
        assert_eq!(client.answer(), Ok("gate".into()), "{style:?} {mode:?}");
        client.end().unwrap();
        assert_eq!(client.rest(), Ok(vec![]), "{style:?} {mode:?}");
        let next = Start::new(style).accept(mode).listen(format!("127.0.0.1:{}", server.port())).start();
        assert!(next.ask("pid").is_ok(), "{style:?} {mode:?}");
        server.dies_out();
        next.stop();
    }
}

#[test]
fn a_second_master_on_the_same_address_is_refused() {
    for mode in Mode::ALL {
        let server = Start::new(Style::Request).accept(mode).start();
        let listen = format!("127.0.0.1:{}", server.port());
        let refused = Start::new(Style::Request).accept(mode).listen(listen).refused();
        assert_eq!((refused.code, refused.stderr.lines().count()), (Some(1), 1), "{mode:?}: {refused:?}");
        assert!(refused.stderr.contains("in use by process"), "{mode:?}: {refused:?}");
        assert!(server.ask("pid").is_ok());
        server.stop();
    }
}

#[test]
fn workers_without_descriptors_leave_the_backlog_to_others() {
    for mode in WORKERS {
        let mut server = Start::new(Style::Data).workers(1).accept(mode).start();
        let mut held: Vec<_> = (0..30).map(|_| server.connect()).collect();
        held.iter_mut().for_each(|c| assert!(c.ask("pid").is_ok()));
        let pid = server.worker_in(0).to_string();
        assert!(Command::new("prlimit").args(["--pid", &pid, "--nofile=40:40"]).status().unwrap().success());
        std::thread::sleep(Duration::from_millis(150)); // the worker reads its limit ten times a second
        let mut waiting: Vec<_> = (0..5).map(|_| server.connect()).collect();
        waiting.iter_mut().for_each(|c| c.send_command("pid").unwrap());
        for client in &mut waiting {
            client.patience(Duration::from_millis(50));
            assert_eq!(client.answer(), Err(Fault::TimedOut), "{mode:?}");
        }
        server.may_say("Too many open files");
        drop(held);
        waiting.iter_mut().for_each(|c| c.patience(util::PATIENCE));
        waiting.iter_mut().for_each(|c| assert!(c.answer().is_ok(), "{mode:?}"));
        drop(waiting);
        server.stop();
    }
}

#[test]
fn reloads_under_load_lose_nothing() {
    for (style, mode) in all() {
        let mut server = Start::new(style).accept(mode).start();
        server.says("reload to generation");
        let load = server.load(6, "pid");
        for generation in 2..6 {
            load.go_on_for(40);
            server.signal(libc::SIGHUP);
            server.wait_for_line(&format!("reload to generation {generation} is complete"));
        }
        load.go_on_for(40);
        let tally = load.stop();
        assert_eq!(tally.failed(), 0, "{style:?} {mode:?}: {tally:?}");
        server.stop();
    }
}

#[test]
fn a_reload_moves_idle_connections_to_the_new_workers() {
    for mode in Mode::ALL {
        let mut server = Start::new(Style::Request).accept(mode).start();
        server.says("reload to generation");
        let old = server.workers();
        let mut idle: Vec<_> = (0..20).map(|_| server.connect()).collect();
        idle.iter_mut().for_each(|c| assert!(c.ask("pid").is_ok()));
        server.signal(libc::SIGHUP);
        wait_until("the old workers are gone", || server.workers().iter().all(|pid| !old.contains(pid)));
        for client in &mut idle {
            let pid = client.ask("pid").unwrap().parse().unwrap();
            assert!(!old.contains(&pid), "{mode:?}");
        }
        drop(idle);
        server.stop();
    }
}

#[test]
fn more_and_fewer_workers_under_load_lose_nothing() {
    for (style, mode) in all() {
        let mut server = Start::new(style).accept(mode).start();
        // It became ready before its SIGKILL arrived.
        server.may_say("died while draining: SIGKILL; 0 connections lost");
        let load = server.load(6, "pid");
        for (signal, workers) in [
            (libc::SIGTTIN, 3),
            (libc::SIGTTIN, 4),
            (libc::SIGTTOU, 3),
            (libc::SIGTTOU, 2),
            (libc::SIGTTOU, 1),
        ] {
            server.signal(signal);
            wait_until("the workers are as many", || server.workers().len() == workers);
            load.go_on_for(100);
        }
        server.signal(libc::SIGTTIN);
        wait_until("two workers serve", || server.workers().len() == 2);
        load.go_on_for(100);
        let tally = load.stop();
        assert_eq!(tally.failed(), 0, "{style:?} {mode:?}: {tally:?}");
        if mode == Mode::Master {
            server.stop();
        } else {
            // The sockets of removed slots are kept.
            server.signal(libc::SIGTERM);
            server.ends();
        }
    }
}

#[test]
fn another_program_takes_over_the_sockets() {
    for (style, mode) in all() {
        let mut server = Start::new(style).accept(mode).start();
        server.says("upgrade: version");
        server.says("reload to generation");
        let load = server.load(4, "pid");
        for generation in 2..4 {
            load.go_on_for(50);
            server.signal(libc::SIGUSR2);
            server.wait_for_line(&format!("reload to generation {generation} is complete"));
        }
        load.go_on_for(50);
        let tally = load.stop();
        assert_eq!(tally.failed(), 0, "{style:?} {mode:?}: {tally:?}");
        server.stop();
    }
}

#[test]
fn a_worker_that_hangs_is_detected_in_every_mode() {
    for mode in Mode::ALL {
        let mut server = Start::new(Style::Request).accept(mode).set("timeout", "300ms").start();
        server.says("hangs in its handler");
        server.says("died: SIG");
        let mut client = server.connect();
        client.send_command("gate never").unwrap();
        wait_until("the handler runs", || server.dir.at_gate("never") == 1);
        server.wait_for_line("hangs in its handler");
        // With a backlog per slot too, connections that wait for it go to the other worker.
        for _ in 0..20 {
            server.ask("pid").unwrap();
        }
        assert!(client.answer().is_err(), "{mode:?}");
        server.wait_for_line("died: SIG");
        server.stop();
    }
}

#[test]
fn a_worker_is_replaced_after_max_requests_in_every_mode() {
    for mode in Mode::ALL {
        let server = Start::new(Style::Request).workers(1).accept(mode).set("max-requests", "20").start();
        let before = server.workers();
        let load = server.load(2, "pid");
        wait_until("another worker serves", || server.workers().iter().all(|pid| !before.contains(pid)));
        let tally = load.stop();
        assert_eq!(tally.failed(), 0, "{mode:?}: {tally:?}");
        server.signal(libc::SIGTERM);
        server.ends();
    }
}
