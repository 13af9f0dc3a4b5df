//! Streams that go from worker to worker with their state: at a reload and wherever a worker drains, and on purpose.
#![allow(clippy::unwrap_used)]

mod util;

use std::fs;
use std::path::{Path, PathBuf};
use util::handler::compile;
use util::{Client, Server, Start, Style, wait_until};

fn module(flags: &[&str]) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/handover.c");
    compile(&fs::read_to_string(source).unwrap(), flags)
}

fn start(workers: usize) -> Start {
    Start::new(Style::Data).workers(workers).module(module(&[]))
}

fn ask(client: &mut Client, command: &str) -> String {
    client.ask(command).unwrap()
}

/// What a stream says of its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Who {
    worker: u32,
    pid: i32,
    generation: u32,
    version: u32,
    moves: u32,
    closed: u32,
}

fn who(client: &mut Client) -> Who {
    let line = ask(client, "who");
    let n: Vec<u32> = line.split(' ').map(|word| word.parse().unwrap()).collect();
    let [worker, pid, generation, version, moves, closed] = n[..] else { panic!("{line}") };
    Who { worker, pid: pid.cast_signed(), generation, version, moves, closed }
}

/// Waits until its worker is of this generation.
fn moved(client: &mut Client, generation: u32) -> Who {
    let mut found = who(client);
    wait_until("the stream is with a new worker", || {
        found = who(client);
        found.generation == generation
    });
    found
}

#[test]
fn a_stream_goes_on_in_the_new_worker_with_its_state() {
    let mut server = start(2).start();
    let mut clients: Vec<_> = (0..10).map(|_| server.connect()).collect();
    for client in &mut clients {
        assert_eq!(ask(client, "count a"), "a 1");
        assert_eq!(ask(client, "state 1000"), "ok");
        assert_eq!(who(client).moves, 0);
    }
    for generation in 2..5 {
        server.reload();
        for client in &mut clients {
            let found = moved(client, generation);
            assert_eq!((found.moves, found.version, found.closed), (generation - 1, 1, 0));
        }
    }
    server.rests();
    server.stop();
}
