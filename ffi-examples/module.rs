//! A module in Rust: a crate whose `crate-type` is `cdylib`, which the command `prefork` loads, and loads anew on each reload. This one
//! numbers the lines that each client sends, and a reload brings new code without an end of the connections: their counts go with them.
//!
//!     cargo build --example module && prefork ./target/debug/examples/libmodule.so hello
//!     nc 127.0.0.1 8080
//!     cargo build --example module && prefork reload libmodule
#![forbid(unsafe_code)]

use prefork::{Conn, Handler, Kind, Misconfigured, Worker};
use std::collections::HashMap;

struct Lines {
    greeting: String,
    /// The lines of each client so far, by the number of its connection.
    counts: HashMap<u64, u64>,
}

impl Lines {
    /// The greeting is the first argument after the module.
    fn new(worker: &Worker) -> Result<Self, Misconfigured> {
        let greeting = worker.args().first().ok_or_else(|| Misconfigured::new("expected a greeting"))?;
        let greeting = greeting.to_str().map_err(Misconfigured::new)?.to_owned();
        Ok(Self { greeting, counts: HashMap::new() })
    }
}

impl Handler for Lines {
    fn kind(&self) -> Kind {
        Kind::Stream
    }

    fn on_data(&mut self, conn: &Conn) {
        let (mut answer, mut used) = (String::new(), 0);
        for line in conn.data().split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            assert_ne!(line, b"panic\n", "asked for");
            let count = self.counts.entry(conn.id()).or_default();
            *count += 1;
            answer += &format!("{}, line {count}\n", self.greeting);
            used += line.len();
        }
        conn.consume(used);
        let written = conn.write(answer.as_bytes());
        if written.is_err() || conn.at_end() {
            conn.close();
        }
    }

    fn on_close(&mut self, conn: &Conn) {
        self.counts.remove(&conn.id());
    }

    /// The version of what `on_handover` returns, for a later one that writes something else.
    fn state_version(&self) -> u32 {
        1
    }

    fn on_handover(&mut self, conn: &Conn) -> Option<Vec<u8>> {
        let count = self.counts.remove(&conn.id()).unwrap_or(0);
        Some(count.to_le_bytes().into())
    }

    fn on_takeover(&mut self, conn: &Conn, version: u32, state: &[u8]) -> Result<(), String> {
        let count = state.try_into().map_err(|_| format!("a state of version {version}"))?;
        self.counts.insert(conn.id(), u64::from_le_bytes(count));
        Ok(())
    }
}

prefork::module!(Lines::new);
