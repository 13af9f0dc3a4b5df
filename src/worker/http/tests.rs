//! The engine over socket pairs, in one process.

use super::*;
use crate::scoreboard::Scoreboard;
use crate::sys::time::Time;
use crate::worker::engine::Deadline;
use crate::worker::handler::{Handler, http};
use crate::worker::http::later::Answering;
use crate::worker::touched::Touched;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

mod cases;
mod connections;
mod later;
mod responses;
mod splits;
mod uploads;

/// The handler that the table of cases expects.
fn fixture(req: &Request<'_>, res: &mut Response) -> Result<(), Refused> {
    match req.path() {
        "/hello" => res.body_static(b"hello\n"),
        "/echo" => res.body(req.body()),
        "/204" => res.status(204),
        "/304" => res.status(304),
        "/inspect" => {
            let text = format!("method={}\ntarget={}\nhost={}\n", req.method(), req.target(), req.host());
            res.body(
                [text.as_bytes(), b"x-test=[", req.header("x-test").unwrap_or_default(), b"]\n"].concat(),
            )
        }
        "/close" => {
            res.close();
            res.body("bye\n")
        }
        "/stream" => {
            for part in ["one ", "", "two ", "three\n"] {
                res.write(part.as_bytes())?;
            }
            Ok(())
        }
        "/file" => {
            let len = req.query().unwrap_or("20").parse().unwrap();
            res.file(std::fs::File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap(), 2, len)
        }
        "/peer" => res.body(format!("{} by {}", req.peer(), req.listener())),
        "/flood" => (0..64).try_for_each(|_| res.write(&[b'y'; 50_000])),
        "/fail" => Err(Refused::Gone),
        "/big" => res.body_owned(Box::new(vec![b'x'; 3_000_000])),
        "/panic" => panic!("as asked"),
        "/late-panic" => {
            res.write(&[b'x'; 100_000])?;
            panic!("as asked")
        }
        "/upgrade" => res.upgrade("echo"),
        _ => Ok(()),
    }
}

/// An engine, its surroundings and one connection.
struct Bench {
    config: Config,
    page: crate::scoreboard::WorkerPage,
    handler: Box<dyn Handler>,
    engine: HttpEngine,
    conn: HttpConn,
    server: Option<UnixStream>,
    /// The connection, while the handler keeps a response.
    answering: Option<Answering>,
    touched: Touched,
    client: UnixStream,
    now: u64,
    draining: bool,
    upgraded: Option<Vec<u8>>,
    deadline: Option<Deadline>,
}

impl Bench {
    fn new() -> Self {
        Self::with(Config::default(), http(fixture))
    }

    fn with(config: Config, handler: impl Handler + 'static) -> Self {
        let (server, client) = UnixStream::pair().unwrap();
        client.set_nonblocking(true).unwrap();
        Self {
            engine: HttpEngine::new(&config, true, handler.takes_heads()),
            config,
            page: Scoreboard::new(1).unwrap().page(crate::ids::Page(0)),
            handler: Box::new(handler),
            conn: HttpConn::default(),
            server: Some(server),
            answering: None,
            touched: Touched::default(),
            client,
            now: Time::now().as_millis(),
            draining: false,
            upgraded: None,
            deadline: None,
        }
    }

    /// Calls the engine as the loop would, until it waits or closes.
    fn call(
        &mut self,
        mut f: impl FnMut(&mut HttpEngine, BorrowedFd<'_>, &mut HttpConn, &mut Context<'_>) -> Next,
    ) {
        let Some(server) = &self.server else { return };
        let mut cx = Context {
            handler: &mut *self.handler,
            config: &self.config,
            page: self.page,
            now: &mut Time::from_millis(self.now),
            draining: self.draining,
        };
        let mut next = f(&mut self.engine, server.as_fd(), &mut self.conn, &mut cx);
        while matches!(next, Next::Again) {
            next = self.engine.on_readable(server.as_fd(), 0, &mut self.conn, true, &mut cx);
        }
        match next {
            Next::Wait { deadline, .. } => self.deadline = Some(deadline),
            Next::Upgrade { read: early, .. } => self.upgraded = Some(early),
            Next::Later(exchange) => {
                let (fd, conn) = (self.server.take().unwrap().into(), std::mem::take(&mut self.conn));
                self.answering = Some(Answering::new(fd, conn, exchange, mio::Token(0), &self.touched));
                self.serve_later();
            }
            Next::Pause(upload) => {
                upload.attach(mio::Token(0), &self.touched);
                self.deadline = None;
            }
            Next::Close | Next::Linger | Next::Again | Next::Answered => {
                self.engine.on_gone(&mut self.conn, &mut cx);
                self.server = None;
            }
        }
    }

    /// Calls the engine for a connection whose handler keeps a response, as the loop would, and goes on with it afterwards.
    fn call_later(&mut self, mut f: impl FnMut(&mut HttpEngine, &mut Answering, &mut Context<'_>) -> Next) {
        let Some(mut answering) = self.answering.take() else { return };
        let mut cx = Context {
            handler: &mut *self.handler,
            config: &self.config,
            page: self.page,
            now: &mut Time::from_millis(self.now),
            draining: self.draining,
        };
        let mut next = f(&mut self.engine, &mut answering, &mut cx);
        while matches!(next, Next::Again) {
            next = self.engine.serve_later(&mut answering, &mut cx);
        }
        match next {
            Next::Wait { deadline, .. } => {
                self.deadline = Some(deadline);
                self.answering = Some(answering);
            }
            Next::Answered => {
                let (fd, conn) = answering.into_http().unwrap();
                (self.server, self.conn) = (Some(fd.into()), conn);
                self.call(|engine, fd, conn, cx| engine.on_writable(fd, 3, conn, cx));
            }
            _ => self.engine.on_gone_later(answering, &mut cx),
        }
    }

    /// Continues with a body that the handler has paused.
    fn resume_paused(&mut self) {
        self.conn.input.as_ref().unwrap().upload.as_ref().unwrap().resume();
        self.readable(false);
    }

    fn serve_later(&mut self) {
        self.call_later(HttpEngine::serve_later);
    }

    /// What the loop does at the end of a turn.
    fn serve_touched(&mut self) {
        while self.touched.borrow_mut().pop().is_some() {
            self.serve_later();
        }
    }

    fn readable(&mut self, at_end: bool) {
        self.call_later(|engine, answering, cx| engine.on_readable_later(answering, at_end, cx));
        self.call(|engine, fd, conn, cx| engine.on_readable(fd, 3, conn, at_end, cx));
    }

    fn send(&mut self, bytes: &[u8]) {
        // The engine may have closed the connection already.
        if self.client.write_all(bytes).is_ok() {
            self.readable(false);
        }
    }

    fn end(&mut self) {
        let _ = self.client.shutdown(std::net::Shutdown::Write);
        self.readable(true);
    }

    /// Everything the client can read; true if it ends with the connection.
    fn receive(&mut self) -> (Vec<u8>, bool) {
        let (mut all, mut part) = (Vec::new(), [0; 65_536]);
        loop {
            match self.client.read(&mut part) {
                Ok(0) => return (all, true),
                Ok(n) => all.extend_from_slice(&part[..n]),
                Err(_) if self.deadline == Some(Deadline::Write) && self.answering.is_some() => {
                    self.serve_later()
                }
                Err(_) if self.conn.output.is_some() => {
                    self.call(|engine, fd, conn, cx| engine.on_writable(fd, 3, conn, cx));
                }
                Err(_) => return (all, false),
            }
        }
    }

    fn text(&mut self) -> String {
        String::from_utf8_lossy(&self.receive().0).into_owned()
    }
}

fn statuses(text: &str) -> Vec<&str> {
    text.split("HTTP/1.1 ").skip(1).map(|r| &r[..3]).collect()
}
