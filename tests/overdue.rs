//! A handler in Rust that checks whether its call takes too long, and then returns.
//!
//! This program is both the test and, called with `serve`, the server.
#![allow(clippy::unwrap_used)]

mod util;

use prefork::Server;
use util::{Start, Style, wait_until};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [_, "serve"] => serve(),
        [_, rest @ ..] if rest.contains(&"--list") => {}
        _ => {
            a_loop_that_looks_ends_in_time_and_its_worker_lives();
            println!("overdue: ok");
        }
    }
}

fn serve() {
    let server = Server::factory(|worker| {
        let worker = worker.clone();
        prefork::http(move |req, res| {
            let mut rounds = 0u64;
            while req.path() == "/loop" && !worker.is_overdue() {
                rounds = std::hint::black_box(rounds + 1);
            }
            let pid = std::process::id();
            res.body(format!("{pid} {} {}", rounds > 0, worker.is_overdue()).as_bytes())
        })
    });
    let listening = |started: &prefork::Started| println!("listening on {}", started.addresses.join(", "));
    server.listen("127.0.0.1:0").workers(2).set("timeout", "300ms").on_start(listening).run().unwrap();
}

fn a_loop_that_looks_ends_in_time_and_its_worker_lives() {
    let words = [std::env::current_exe().unwrap().into_os_string(), "serve".into()];
    let mut server = Start::new(Style::Request).program(words).start();
    server.says("hangs in its handler");
    let pids = server.workers();
    let mut client = server.connect();
    for _ in 0..3 {
        let answer = client.ask("loop").unwrap();
        let (pid, rest) = answer.split_once(' ').unwrap();
        assert_eq!(rest, "true true");
        assert_eq!(client.ask("pid"), Ok(format!("{pid} false false")), "the next call");
        wait_until("it serves others again", || server.ask("pid") == Ok(format!("{pid} false false")));
    }
    assert_eq!(server.workers(), pids);
    drop(client);
    server.stop();
}
