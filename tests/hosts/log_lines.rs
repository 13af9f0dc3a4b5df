//! A host in Rust with a log of its own, for the tests: as `tests/log_lines.c`.
#![allow(clippy::unwrap_used)]

use prefork::{LogLevel, Result, Server};
use std::io::Write;

fn main() -> Result<()> {
    let address = std::env::args().nth(1).unwrap();
    let mut lines = 0;
    Server::http(|req, res| match req.path() {
        "/panic" => panic!("asked to"),
        _ => res.body("hello\n"),
    })
    .set("log-level", "debug")
    .workers(1)
    .listen(address)
    .on_log(move |level, line| {
        lines += 1;
        let level = if level == LogLevel::Error { "error" } else { "other" };
        println!("{} {lines} {level} {line}", std::process::id());
        assert!(!line.contains("SIGUSR1"), "a callback that panics");
    })
    .on_start(|started| {
        println!("listening on http://{}", started.addresses[0]);
        std::io::stdout().flush().unwrap();
    })
    .run()?;
    Ok(())
}
