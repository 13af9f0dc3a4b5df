//! A host in Rust whose program has installed a logger by the crate `log`, for the tests.
#![allow(clippy::unwrap_used)]

use log::{LevelFilter, Log, Metadata, Record};
use prefork::{Result, Server};
use std::io::Write;

struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "prefork"
    }

    fn log(&self, record: &Record<'_>) {
        println!("{} {} {} {}", std::process::id(), record.target(), record.level(), record.args());
    }

    fn flush(&self) {}
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    if let Some(level) = args.get(2) {
        log::set_logger(&Logger).unwrap();
        log::set_max_level(level.parse::<LevelFilter>().unwrap());
    }
    Server::http(|req, res| match req.path() {
        "/panic" => panic!("asked to"),
        _ => res.body("hello\n"),
    })
    .workers(1)
    .listen(&args[1])
    .on_start(|started| {
        println!("listening on http://{}", started.addresses[0]);
        std::io::stdout().flush().unwrap();
    })
    .run()?;
    Ok(())
}
