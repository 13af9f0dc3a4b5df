//! A server for the shared case runner, by hand: `cargo test --lib -- --ignored serve --nocapture`.

use super::*;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use std::collections::HashMap;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};

#[test]
#[ignore = "serves until killed"]
fn serve() {
    let mut config = Config::default();
    config.limits.body = 8 << 20;
    let listener = TcpListener::bind("127.0.0.1:8077").unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut poll = Poll::new().unwrap();
    poll.registry().register(&mut SourceFd(&listener.as_raw_fd()), Token(0), Interest::READABLE).unwrap();
    let mut events = Events::with_capacity(64);
    let mut engine = HttpEngine::new(&config);
    let mut handler = http(fixture);
    let seat = Scoreboard::new(1).unwrap().seat(0);
    let mut conns: HashMap<usize, (OwnedFd, HttpConn)> = HashMap::new();
    let mut count = 0;
    let mut again: Vec<usize> = Vec::new();
    let mut expiry: HashMap<usize, (Deadline, u64)> = HashMap::new();
    loop {
        poll.poll(
            &mut events,
            Some(std::time::Duration::from_millis(if again.is_empty() { 100 } else { 0 })),
        )
        .unwrap();
        let now = crate::sys::time::monotonic_ms();
        let mut todo: Vec<(usize, bool, bool, bool)> = Vec::new();
        for t in again.drain(..) {
            todo.push((t, true, false, false));
        }
        for (t, (_, at)) in &expiry {
            if *at <= now {
                todo.push((*t, false, false, true));
            }
        }
        for e in &events {
            if e.token() == Token(0) {
                while let Ok((s, _)) = listener.accept() {
                    s.set_nodelay(true).unwrap();
                    count += 1;
                    poll.registry()
                        .register(
                            &mut SourceFd(&s.as_raw_fd()),
                            Token(count),
                            Interest::READABLE | Interest::WRITABLE,
                        )
                        .unwrap();
                    conns.insert(count, (s.into(), HttpConn::default()));
                }
            } else {
                todo.push((e.token().0, true, e.is_read_closed(), false));
            }
        }
        for (t, _, end, late) in todo {
            let Some((fd, conn)) = conns.get_mut(&t) else { continue };
            let mut cx = Context { handler: &mut handler, config: &config, seat, now, draining: false };
            let next = match late {
                true => engine.on_deadline(fd.as_fd(), conn, &mut cx),
                false => engine.on_readable(fd.as_fd(), 0, conn, end, &mut cx),
            };
            match next {
                Next::Wait { deadline, .. } => {
                    let ms = if deadline == Deadline::Linger { 2000 } else { 10_000 };
                    match expiry.get(&t) {
                        Some((d, _))
                            if *d == deadline
                                && matches!(d, Deadline::Header | Deadline::Linger)
                                && !late => {}
                        _ => drop(expiry.insert(t, (deadline, now + ms))),
                    }
                }
                Next::Again => again.push(t),
                Next::Close | Next::Upgrade(_) => {
                    engine.on_gone(conn);
                    conns.remove(&t);
                    expiry.remove(&t);
                }
            }
        }
    }
}
