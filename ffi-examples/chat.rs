//! Chat rooms over WebSocket: who says something is heard by all in the room, whichever worker they are at.
//! `cargo run --release --example chat`, then `python3 -m websockets ws://127.0.0.1:8080/ROOM`, then lines: "/name NAME", or what is to be
//! said. The first argument is the address; others are settings, `NAME=VALUE`.
//!
//! A room is a topic of prefork: a message is made one WebSocket frame, once, and written to every connection that has
//! subscribed, in all workers. Who reads too slowly misses messages, whole ones. Nobody notices a reload.

#[allow(dead_code, reason = "it has what all examples need")]
mod websocket_stream;

use prefork::{Conn, Request, Response, Server, Worker};
use std::any::Any;
use std::collections::HashMap;
use std::env;
use std::time::Duration;
use tungstenite::Message;
use websocket_stream::{WebSocketHandler, WebSockets, accept, close, publish, send};

struct Guest {
    room: String,
    name: String,
}

struct Rooms {
    /// By the ids of their connections.
    guests: HashMap<u64, Guest>,
}

impl Rooms {
    fn say_all(&self, guest: &Guest, what: &str) {
        // What cannot be published now is lost, for all alike.
        let _ = Worker::current().map(|worker| publish(worker, &guest.room, format!("{}{what}", guest.name)));
    }
}

impl WebSocketHandler for Rooms {
    /// The path is the room.
    fn on_request(&mut self, req: &Request<'_>, res: &mut Response) {
        let room = req.path();
        if room.len() > 63 {
            let _ = res.status(404);
        } else if accept(req, res) {
            // Refused only if the response upgraded nothing.
            let _ = res.set_user(room.to_owned());
        }
    }

    fn on_open(&mut self, conn: &Conn, user: Option<Box<dyn Any>>) {
        let (Some(room), Some(worker)) = (user.and_then(|user| user.downcast().ok()), Worker::current())
        else {
            return;
        };
        let guest = Guest { room: *room, name: format!("guest {}.{}", worker.id(), conn.id()) };
        let _ = worker.subscribe(conn, &guest.room);
        self.say_all(&guest, " joins");
        self.guests.insert(conn.id(), guest);
    }

    fn on_message(&mut self, conn: &Conn, message: Message) {
        let Message::Text(text) = message else { return close(conn, 1003, "text, please") };
        let Some(guest) = self.guests.get_mut(&conn.id()) else { return };
        let answer = match text.strip_prefix("/name ") {
            Some(name) if (1..=31).contains(&name.len()) => {
                guest.name = name.into();
                "ok"
            }
            Some(_) => "no such name",
            None => return self.say_all(&self.guests[&conn.id()], &format!(": {text}")),
        };
        // An error is the end of the connection.
        let _ = send(conn, answer.into());
    }

    fn on_close(&mut self, conn: &Conn) {
        if let Some(guest) = self.guests.remove(&conn.id()) {
            self.say_all(&guest, " leaves");
        }
    }

    // The subscription goes to the other worker by itself. A room has no line feed.
    fn on_handover(&mut self, conn: &Conn) -> Option<Vec<u8>> {
        self.guests.remove(&conn.id()).map(|guest| format!("{}\n{}", guest.room, guest.name).into())
    }

    fn on_takeover(&mut self, conn: &Conn, version: u32, state: &[u8]) -> Result<(), String> {
        let guest = str::from_utf8(state).ok().and_then(|text| text.split_once('\n'));
        let (room, name) = guest.filter(|_| version == 1).ok_or("no guest")?;
        self.guests.insert(conn.id(), Guest { room: room.into(), name: name.into() });
        Ok(())
    }
}

fn main() -> prefork::Result<()> {
    let mut args = env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:8080".into());
    let mut server = Server::factory(|_| WebSockets {
        handler: Rooms { guests: HashMap::new() },
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
