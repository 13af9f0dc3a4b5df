//! Streams that act on each other, in Rust: a line is a command, an answer is a line.
#![allow(clippy::unwrap_used)]

use prefork::{Conn, Handler, Kind, Server, Worker};
use std::cell::Cell;
use std::rc::Rc;

#[derive(Default)]
struct Rooms {
    kept: Option<Rc<Conn>>,
    /// The values of connections that were dropped.
    dropped: Rc<Cell<u32>>,
}

/// A value of a connection.
struct Value {
    dropped: Rc<Cell<u32>>,
    panics: bool,
}

impl Drop for Value {
    fn drop(&mut self) {
        self.dropped.set(self.dropped.get() + 1);
        assert!(!self.panics, "on purpose");
    }
}

impl Handler for Rooms {
    fn kind(&self) -> Kind {
        Kind::Stream
    }

    fn on_data(&mut self, conn: &Conn) {
        let worker = Worker::current().unwrap();
        while let Some(end) = conn.data().iter().position(|b| *b == b'\n') {
            let line = String::from_utf8_lossy(&conn.data()[..end]).into_owned();
            conn.consume(end + 1);
            let (name, rest) = line.split_once(' ').unwrap_or((&line, ""));
            let other = rest.parse().ok().and_then(|id| worker.conn(id));
            let answer = match name {
                "id" => conn.id().to_string(),
                "slot" => worker.slot().to_string(),
                "find" => if other.is_some() { "there" } else { "none" }.into(),
                "value" | "bomb" => {
                    let value = Value { dropped: Rc::clone(&self.dropped), panics: name == "bomb" };
                    *conn.user() = Some(Box::new(value));
                    "ok".into()
                }
                "dropped" => self.dropped.get().to_string(),
                "keep" => {
                    self.kept = other;
                    "ok".into()
                }
                "kept" => match self.kept.as_ref().unwrap().write(b"kept\n") {
                    Ok(()) => "written".into(),
                    Err(e) => e.to_string(),
                },
                _ => {
                    let text = format!("{rest}\n");
                    worker.each_conn(|conn| conn.write(text.as_bytes()).is_ok()).unwrap();
                    continue;
                }
            };
            conn.write(format!("{answer}\n").as_bytes()).unwrap();
        }
    }
}

/// Requests, and at the listener `line` an echo.
fn routes() -> Server {
    Server::factory(|worker| {
        worker.serve("line", prefork::stream(echo)).unwrap();
        assert!(worker.serve("nowhere", prefork::stream(echo)).unwrap_err().contains("no listener"));
        prefork::http(|req, res| {
            let worker = Worker::current().unwrap();
            res.body(worker.listener_name(req.listener()))
        })
    })
    .listen("api=127.0.0.1:0")
    .listen("line=127.0.0.1:0")
}

fn echo(conn: &Conn) -> std::io::Result<()> {
    conn.write(&conn.data())?;
    conn.consume(usize::MAX);
    Ok(())
}

fn main() {
    let server = match std::env::args().nth(1) {
        None => Server::factory(|_| Rooms::default()).listen("127.0.0.1:0"),
        Some(_) => routes(),
    };
    let workers = std::env::var("WORKERS").ok().and_then(|n| n.parse().ok()).unwrap_or(2);
    let server = server.workers(workers);
    let server = server.on_start(|started| println!("listening on {}", started.addresses.join(", ")));
    if let Err(e) = server.run() {
        eprintln!("{e}");
        std::process::exit(1);
    }
}
