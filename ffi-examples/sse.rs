//! Server-sent events: a clock, and whatever anybody posts. What one worker is told reaches the clients of all. A reload closes none:
//! they go to other workers. Events that are posted while a client is on its way do not reach it.
//!
//!     cargo run --example sse -- 127.0.0.1:8080
//!     curl -N http://127.0.0.1:8080/events
//!     curl -d 'hello' http://127.0.0.1:8080/

use prefork::{ALL, Handler, Kind, Later, Message, MessageKind, Refused, Request, Response, Server, Worker};
use std::cell::RefCell;
use std::error::Error;
use std::rc::Rc;
use std::time::Duration;

/// The clients that wait for events: responses that go on.
type Clients = Rc<RefCell<Vec<Later>>>;

/// The type of messages to other workers: an event.
const POSTED: MessageKind = MessageKind(0);

struct Events {
    clients: Clients,
}

/// All that the callbacks of a turn write to a client leaves in one piece.
fn publish(clients: &Clients, event: &str) {
    // One that has gone, or reads too slowly, is ended: it connects again.
    for client in clients.borrow_mut().extract_if(.., |client| client.write(event.as_bytes()).is_err()) {
        let _ = client.end();
    }
}

impl Events {
    fn add(&self, mut client: Later) -> Result<(), Refused> {
        // The other worker needs to know nothing of it; here it is one that has gone.
        client.on_handover(|_| Some(Vec::new()))?;
        self.clients.borrow_mut().push(client);
        Ok(())
    }
}

impl Handler for Events {
    fn kind(&self) -> Kind {
        Kind::Request
    }

    fn start(&mut self, worker: &Worker) -> Result<(), Box<dyn Error>> {
        let (clients, mut seconds) = (Rc::clone(&self.clients), 0);
        let tick = move |_: &Worker| {
            seconds += 1;
            publish(&clients, &format!("event: tick\ndata: {seconds}\n\n"));
        };
        worker.every(Duration::from_secs(1), tick).map(drop).ok_or_else(|| "no timer".into())
    }

    fn on_request(&mut self, req: &Request<'_>, res: &mut Response) {
        let answered = match (req.method(), req.path()) {
            ("GET", "/events") => res
                .header("Content-Type", "text/event-stream")
                .and_then(|()| res.header("Cache-Control", "no-store"))
                .and_then(|()| res.write(b": welcome\n\n"))
                .and_then(|()| self.add(res.later())),
            ("POST", _) => {
                // An event has one line for each of its text's.
                let text = String::from_utf8_lossy(req.body());
                let event: String = text.lines().map(|line| format!("data: {line}\n")).collect();
                publish(&self.clients, &format!("{event}\n"));
                match Worker::current()
                    .map(|worker| worker.send(ALL, POSTED, format!("{event}\n").as_bytes()))
                {
                    Some(Ok(())) => Ok(()),
                    _ => res.status(503),
                }
            }
            _ => res.status(404),
        };
        if answered.is_err() {
            res.close();
        }
    }

    fn on_message(&mut self, _: &Worker, message: &Message<'_>) {
        publish(&self.clients, &String::from_utf8_lossy(message.bytes()));
    }

    fn state_version(&self) -> u32 {
        1
    }

    fn on_resume(&mut self, client: Later, _: u32, _: &[u8]) -> Result<(), String> {
        self.add(client).map_err(|e| e.to_string())
    }

    fn on_drain(&mut self, worker: &Worker) {
        if !worker.hands_over() {
            for client in self.clients.take() {
                let _ = client.end();
            }
        }
    }
}

fn main() -> prefork::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".into());
    let server = Server::factory(|_| Events { clients: Clients::default() }).listen(address);
    server
        .on_start(|started| println!("listening on http://{}", started.addresses.join(", http://")))
        .run()?;
    Ok(())
}
