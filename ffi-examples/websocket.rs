//! WebSocket: sends clients their messages back. `cargo run --release --example websocket`, then
//! `python3 -m websockets ws://127.0.0.1:8080`.
//!
//! The first argument is the address; others are settings, `NAME=VALUE`. MAX_MESSAGE (bytes) and PING_MS are variables of the
//! environment.

#[allow(dead_code, reason = "it has what all examples need")]
mod websocket_stream;

use prefork::{Conn, Server};
use std::env;
use std::time::Duration;
use tungstenite::Message;
use websocket_stream::{WebSocketHandler, WebSockets, send};

struct Echo;

impl WebSocketHandler for Echo {
    fn on_message(&mut self, conn: &Conn, message: Message) {
        // An error is the end of the connection.
        let _ = send(conn, message);
    }

    // It keeps nothing of them.
    fn on_handover(&mut self, _conn: &Conn) -> Option<Vec<u8>> {
        Some(Vec::new())
    }

    fn on_takeover(&mut self, _conn: &Conn, _version: u32, _state: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

fn number(name: &str, otherwise: usize) -> usize {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn main() -> prefork::Result<()> {
    let mut args = env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:8080".into());
    let mut server = Server::factory(|_| WebSockets {
        handler: Echo,
        max_message: number("MAX_MESSAGE", 8 << 20),
        ping: Duration::from_millis(number("PING_MS", 30_000) as u64),
        is_draining: false,
    });
    for setting in args {
        let (name, value) = setting.split_once('=').unwrap_or((&setting, "on"));
        server = server.set(name, value);
    }
    server
        .listen(address)
        .on_start(|started| println!("listening on http://{}", started.addresses.join(", http://")))
        .run()?;
    Ok(())
}
