//! Generations that drain beside each other: a reload waits for none of them, and past a bound the oldest ends.
#![allow(clippy::unwrap_used)]

mod util;

use std::process::{Command, Stdio};
use util::{Client, Server, Start, Style, proc, wait_until};

/// A verb of the command line with this server; returns its exit code and what it printed.
fn verb(server: &Server, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new("timeout");
    command.args(["30", env!("CARGO_BIN_EXE_prefork")]).args(args);
    command.env("PREFORK_RUNTIME_DIR", server.dir.runtime()).stdin(Stdio::null());
    let out = command.output().unwrap();
    (out.status.code(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
}

/// The line about a worker that was told to end and had one stream.
const ENDED: &str = "has ended at its deadline, and 1 connection with it";

/// A stream of the generation that serves now.
fn stream(server: &Server) -> (Client, String) {
    let mut client = server.connect();
    let generation = client.ask("generation").unwrap();
    (client, generation)
}

#[test]
fn a_bad_deployment_is_put_back_while_a_download_of_the_first_generation_goes_on() {
    for style in Style::ALL {
        // Neither has an end of its own: only the client of the first generation ends its worker.
        let start = Start::new(style).set("drain-timeout", "0").own_module();
        let mut server = start.start();
        server.may_say("control: ");
        let first = std::fs::read(server.module()).unwrap();
        let mut client = server.client_at_gate();
        let old = server.workers();
        server.install(&style.version("v2"));
        server.reload();
        assert_eq!(server.ask("version"), Ok("v2".into()), "{style:?}");
        server.install_bytes(&first);
        let (code, said) = verb(&server, &["reload"]);
        assert_eq!(code, Some(0), "{style:?}: {said}");
        assert_eq!(server.ask("version"), Ok("v1".into()), "{style:?}");
        assert_eq!(server.ask("generation"), Ok("3".into()), "{style:?}");
        server.reload();
        assert_eq!(server.ask("generation"), Ok("4".into()), "{style:?}");
        wait_until("of the old only its worker is left", || {
            let left = server.workers();
            left.len() == 3 && left.iter().filter(|pid| old.contains(pid)).count() == 1
        });
        server.dir.make("g");
        assert_eq!(client.answer(), Ok("gate".into()), "{style:?}");
        drop(client);
        server.rests();
        server.stop();
    }
}

#[test]
fn of_more_generations_than_may_drain_the_oldest_ends() {
    let start = Start::new(Style::Data).workers(1).set("drain-timeout", "0").set("max-draining", "2");
    let mut server = start.start();
    server.says(ENDED);
    let mut streams = Vec::new();
    for generation in 1..6 {
        streams.push(stream(&server));
        assert_eq!(streams.last().unwrap().1, generation.to_string());
        server.reload();
        if streams.len() == 3 {
            let (mut oldest, generation) = streams.remove(0);
            assert_eq!(oldest.rest(), Ok(vec![]), "generation {generation}: an end of file, not a reset");
        }
        for (client, generation) in &mut streams {
            assert_eq!(client.ask("generation").as_ref(), Ok(&*generation));
        }
    }
    wait_until("those have ended", || server.workers().len() == 3);
    drop(streams);
    server.rests();
    server.stop();
}

#[test]
fn a_reload_that_fails_ends_nothing() {
    let start = Start::new(Style::Data).workers(1).set("drain-timeout", "0").set("max-draining", "1");
    let mut server = start.own_module().start();
    server.says(ENDED);
    let mut first = stream(&server);
    server.reload();
    let mut second = stream(&server);
    server.dir.make("refuse");
    for _ in 0..3 {
        server.may_say("before it was ready");
        server.reload_fails();
    }
    for (client, generation) in [&mut first, &mut second] {
        assert_eq!(client.ask("generation").as_ref(), Ok(&*generation));
    }
    server.dir.remove("refuse");
    server.reload();
    assert_eq!(first.0.rest(), Ok(vec![]));
    assert_eq!(second.0.ask("generation"), Ok("2".into()));
    drop(second);
    server.rests();
    server.stop();
}

#[test]
fn a_worker_that_does_not_end_when_it_is_told_to_is_killed() {
    let start = Start::new(Style::Data).workers(1).set("drain-timeout", "0").set("max-draining", "1");
    let mut server = start.start();
    server.says("was killed; 1 connection lost");
    let (_first, _) = stream(&server);
    let stopped = server.worker_in(0);
    server.reload();
    proc::freeze(stopped);
    let second = stream(&server);
    server.reload();
    wait_until("it is gone", || proc::state(stopped).is_none());
    drop(second);
    server.rests();
    server.stop();
}

#[test]
fn there_is_room_for_each_worker_that_is_forked_whatever_drains() {
    // So few descriptors that there can be only a few workers beside the one that serves.
    let limited = |hard: u32| {
        let prlimit = ["prlimit", &format!("--nofile={hard}:{hard}")];
        Start::new(Style::Data)
            .through(&prlimit)
            .workers(1)
            .set("drain-timeout", "0")
            .set("max-draining", "1024")
    };
    let said = limited(20).refused().stderr;
    let need = said.split_once("need ").unwrap().1.split_once(' ').unwrap().0;
    let mut server = limited(need.parse::<u32>().unwrap() + 8).start();
    server.may_say("died: SIGKILL");
    server.says(ENDED);
    let mut streams = Vec::new();
    let mut most = 0;
    for round in 0..12 {
        streams.push(stream(&server).0);
        if round % 4 == 3 {
            let serves = server.ask("pid").unwrap();
            proc::signal(serves.parse().unwrap(), libc::SIGKILL);
            wait_until("a successor serves", || server.ask("pid").is_ok_and(|pid| pid != serves));
        } else {
            server.reload();
        }
        most = most.max(server.workers().len());
    }
    assert!((3..=5).contains(&most), "{most}");
    drop(streams);
    server.rests();
    server.stop();
}
