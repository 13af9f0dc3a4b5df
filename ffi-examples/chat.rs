//! Chat rooms over WebSocket: who says something is heard by all in the room, whichever worker they are at.
//! `cargo run --release --example chat`, then `python3 -m websockets ws://127.0.0.1:8080`.
//!
//! The first argument is the address; others are settings, `NAME=VALUE`.
//! "/join ROOM" leaves the room that one was in; "/name NAME"; anything else is said in the room.
//!
//! A room is a topic of prefork: a message is made one WebSocket frame, once, and written to every connection that has
//! subscribed, in all workers. Who reads too slowly misses messages, whole ones.

#[allow(dead_code, reason = "it has what all examples need")]
mod websocket_stream;

use prefork::{Conn, Server, Worker};
use std::collections::HashMap;
use std::env;
use std::time::Duration;
use tungstenite::Message;
use websocket_stream::{WebSocketHandler, WebSockets, close, publish, send};

struct Guest {
    name: String,
    room: Option<String>,
}

struct Rooms {
    worker: &'static Worker,
    /// By the ids of their connections.
    guests: HashMap<u64, Guest>,
}

impl Rooms {
    fn leave(&mut self, conn: &Conn) {
        let Some(guest) = self.guests.get_mut(&conn.id()) else { return };
        if let Some(room) = guest.room.take() {
            let _ = self.worker.unsubscribe(conn, &room);
            let _ = publish(self.worker, &room, format!("{} leaves", guest.name));
        }
    }
}

impl WebSocketHandler for Rooms {
    fn on_open(&mut self, conn: &Conn) {
        let name = format!("guest {}.{}", self.worker.id(), conn.id());
        self.guests.insert(conn.id(), Guest { name, room: None });
    }

    fn on_message(&mut self, conn: &Conn, message: Message) {
        let Message::Text(text) = message else { return close(conn, 1003, "text, please") };
        if let Some(room) = text.strip_prefix("/join ") {
            if !(1..=63).contains(&room.len()) {
                let _ = send(conn, "no such room".into());
                return;
            }
            self.leave(conn);
            let Some(guest) = self.guests.get_mut(&conn.id()) else { return };
            guest.room = Some(room.into());
            let _ = self.worker.subscribe(conn, room);
            let _ = publish(self.worker, room, format!("{} joins", guest.name));
            return;
        }
        let Some(guest) = self.guests.get_mut(&conn.id()) else { return };
        let answer = match (text.strip_prefix("/name "), &guest.room) {
            (Some(name), _) if (1..=31).contains(&name.len()) => {
                guest.name = name.into();
                "ok"
            }
            (Some(_), _) => "no such name",
            (None, None) => "/join ROOM first",
            (None, Some(room)) => {
                let _ = publish(self.worker, room, format!("{}: {text}", guest.name));
                return;
            }
        };
        let _ = send(conn, answer.into());
    }

    fn on_close(&mut self, conn: &Conn) {
        self.leave(conn);
        self.guests.remove(&conn.id());
    }
}

fn main() -> prefork::Result<()> {
    let mut args = env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:8080".into());
    let mut server = Server::factory(|_| WebSockets {
        handler: Rooms { worker: Worker::current().expect("in a worker"), guests: HashMap::new() },
        max_message: 1024,
        ping: Duration::from_secs(30),
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
