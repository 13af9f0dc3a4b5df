//! Descriptors: none leaks, and running out of them loses no connection.
#![allow(clippy::unwrap_used)]

mod util;

use std::time::Duration;
use util::load::at_once;
use util::{Client, Start, Style, comes_true, proc, wait_until};

#[test]
fn no_descriptor_leaks_in_100_000_connections() {
    let server = Start::new(Style::Request).start();
    let (master, workers) = (proc::descriptors(server.pid), server.workers());
    let before: Vec<_> = workers.iter().map(|&w| proc::descriptors(w)).collect();
    let load = server.load(8, "pid");
    util::comes_true(Duration::from_secs(90), || load.done() >= 100_000);
    let tally = load.stop();
    assert!(tally.faults.is_empty() && tally.answered() >= 100_000, "{tally:?}");
    assert_eq!(server.workers(), workers);
    wait_until("the workers have what they had", || {
        workers.iter().map(|&w| proc::descriptors(w)).collect::<Vec<_>>() == before
    });
    assert_eq!(proc::descriptors(server.pid), master);
    server.stop();
}

#[test]
fn no_descriptor_leaks_in_other_styles_or_if_clients_reset_or_workers_die() {
    for style in [Style::Connection, Style::Data] {
        let mut server = Start::new(style).start();
        server.says("died: SIGKILL");
        let load = server.load(4, "pid");
        for slot in [0, 1, 0] {
            load.go_on_for(1000);
            for _ in 0..50 {
                server.connect().reset();
            }
            let pid = server.worker_in(slot);
            proc::signal(pid, libc::SIGKILL);
            server.replaces(pid);
        }
        load.stop();
        let workers = server.workers();
        let same = || proc::kinds(workers[0]) == proc::kinds(workers[1]);
        wait_until("no worker has a connection left", same);
        server.stop(); // compares the master's
    }
}

#[test]
fn a_master_without_a_free_descriptor_pauses_and_resumes_when_it_has_one() {
    let mut server = Start::new(Style::Request).start();
    server.says("accept: Too many open files");
    let open = proc::descriptors(server.pid);
    let free = (0..).find(|n| open.iter().all(|(number, _)| number != n)).unwrap();
    proc::limit(server.pid, "nofile", free);
    let mut clients: Vec<_> = (0..50).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|c| c.send_command("pid").unwrap());
    server.wait_for_line("accept: Too many open files");
    let before = proc::cpu(server.pid);
    comes_true(Duration::from_secs(1), || false);
    let used = proc::cpu(server.pid) - before;
    assert!(used < Duration::from_millis(50), "the master took {used:?} of a second");
    // It has kept back what it needs to replace a worker.
    let victim = server.worker_in(0);
    server.says("died: SIGKILL");
    proc::signal(victim, libc::SIGKILL);
    server.replaces(victim);
    proc::limit(server.pid, "nofile", 1024);
    for client in &mut clients {
        assert!(client.answer().is_ok());
    }
    drop(clients);
    server.stop();
}

#[test]
fn a_worker_that_runs_out_of_descriptors_leaves_connections_to_others() {
    for style in [Style::Request, Style::Data] {
        let server = Start::new(style).start();
        let poor = server.worker_in(0);
        proc::limit(poor, "nofile", 48);
        // Each stays open, so that the worker never gets a descriptor back.
        let mut clients: Vec<_> = (0..200).map(|_| server.connect()).collect();
        clients.iter_mut().for_each(|c| c.send_command("count hits").unwrap());
        for client in &mut clients {
            assert_eq!(client.answer(), Ok("count".into()), "{style:?}");
        }
        assert_eq!(server.dir.count("hits"), 200);
        assert!(proc::descriptors(poor).len() < 48);
        // When it has room again it takes its share again.
        clients.clear();
        proc::limit(poor, "nofile", 1024);
        wait_until("it serves again", || server.ask("pid") == Ok(poor.to_string()));
        server.stop();
    }
}

#[test]
fn a_blocking_worker_without_descriptors_leaves_connections_to_others() {
    let server = Start::new(Style::Connection).start();
    let poor = server.worker_in(0);
    proc::limit(poor, "nofile", 8);
    let tally = server.ask_at_once(20, "count hits");
    assert_eq!((tally.answered(), server.dir.count("hits")), (20, 20), "{tally:?}");
    proc::limit(poor, "nofile", 1024);
    wait_until("it serves again", || server.ask("pid") == Ok(poor.to_string()));
    server.stop();
}

// The kernel counts the descriptors in flight of each user (`ETOOMANYREFS`, unix(7)).
#[test]
fn the_limit_on_descriptors_in_flight_of_an_ordinary_user_loses_nothing() {
    for style in Style::ALL {
        let server = Start::new(style).by_ordinary_user().start();
        server.workers().into_iter().for_each(proc::freeze);
        let results = at_once(150, |i| {
            let mut client = Client::connect(server.address(), style)?;
            client.send_command("count hits")?;
            if i == 149 {
                // By now the master has offered what it could.
                comes_true(Duration::from_millis(300), || false);
                server.workers().into_iter().for_each(|pid| proc::signal(pid, libc::SIGCONT));
            }
            client.answer()
        });
        assert!(results.iter().all(|r| *r == Ok("count".into())), "{style:?}: {results:?}");
        assert_eq!(server.dir.count("hits"), 150, "{style:?}");
        server.stop();
    }
}

#[test]
fn stopped_workers_do_not_take_more_and_more_descriptors_of_the_master() {
    let server = Start::new(Style::Request).start();
    let before = proc::descriptors(server.pid).len();
    let workers = server.workers();
    workers.iter().copied().for_each(proc::freeze);
    let mut clients: Vec<_> = (0..10).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|c| c.send_command("pid").unwrap());
    comes_true(Duration::from_secs(1), || false);
    let held = proc::descriptors(server.pid).len() - before;
    assert!(held <= workers.len(), "{held} more descriptors");
    workers.into_iter().for_each(|pid| proc::signal(pid, libc::SIGCONT));
    for client in &mut clients {
        client.answer().unwrap();
    }
    drop(clients);
    server.stop();
}

#[test]
fn a_master_without_a_free_descriptor_loses_no_connection_queued_for_a_dead_worker() {
    let mut server = Start::new(Style::Request).start();
    server.says("died: SIGKILL");
    server.may_say("Too many open files");
    let victim = server.worker_in(0);
    proc::freeze(victim);
    let mut clients: Vec<_> = (0..20).map(|_| server.connect()).collect();
    let open = proc::descriptors(server.pid);
    let free = (0..).find(|n| open.iter().all(|(number, _)| number != n)).unwrap();
    proc::limit(server.pid, "nofile", free);
    proc::signal(victim, libc::SIGKILL);
    server.replaces(victim);
    proc::limit(server.pid, "nofile", 1024);
    clients.iter_mut().for_each(|c| c.send_command("count hits").unwrap());
    for client in &mut clients {
        assert_eq!(client.answer(), Ok("count".into()));
    }
    assert_eq!(server.dir.count("hits"), 20);
    drop(clients);
    server.stop();
}
