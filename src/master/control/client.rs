//! One client of the control socket: what it sent, what it is to get, what it waits for. Nothing here waits, and nothing grows
//! beyond a bound.

use crate::control::protocol::{self, MAX_REQUEST, Refusal, RefusalKind, Reply, Request, write_line};
use crate::sys::peer::Peer;
use crate::sys::socket;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// How long a client may take to send a request, and to take a reply (milliseconds).
pub const PATIENCE: u64 = 5_000;
/// Bytes of events that may wait for a client, beside what the kernel holds.
const MAX_BEHIND: usize = 64 * 1024;
/// Later than any time.
const NEVER: u64 = u64::MAX;

/// What a client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// Nothing: it is its turn to ask.
    No,
    /// The end of the reload to this generation; `None`: of the next one to begin.
    Reload(Option<u32>),
    /// So many workers; there were so many before.
    Scale { to: usize, from: usize },
    /// The end of this worker.
    Drain(u32),
    /// The end.
    Stop,
    /// Whatever happens.
    Events,
}

/// A client.
#[derive(Debug)]
pub struct Client {
    pub socket: OwnedFd,
    pub peer: Peer,
    pub waits: Waits,
    inbox: Vec<u8>,
    out: Vec<u8>,
    sent: usize,
    /// Nothing is read any more; it is gone when it has got its last reply.
    closing: bool,
    /// It has closed its sending side.
    ended: bool,
    /// It cannot be spoken to.
    broken: bool,
    deadline: u64,
    /// Messages it was not told of since the last one that it was.
    left_out: u64,
}

impl Client {
    /// A client that has just connected.
    pub fn new(socket: OwnedFd, peer: Peer, now: u64) -> Self {
        Self {
            socket,
            peer,
            waits: Waits::No,
            inbox: Vec::new(),
            out: Vec::new(),
            sent: 0,
            closing: false,
            ended: false,
            broken: false,
            deadline: now + PATIENCE,
            left_out: 0,
        }
    }

    /// The next request, where it is the client's turn and a whole one is there. `Err`: what came is none.
    pub fn next_request(&mut self) -> Option<Result<Request, String>> {
        if self.waits != Waits::No || self.closing || self.broken || !self.is_flushed() {
            return None;
        }
        self.read();
        if let Some(end) = self.inbox.iter().position(|&b| b == b'\n') {
            let request = protocol::parse(&self.inbox[..end]);
            self.inbox.drain(..=end);
            return Some(request);
        }
        (self.inbox.len() >= MAX_REQUEST)
            .then(|| Err(format!("expected a line of at most {MAX_REQUEST} bytes")))
    }

    /// Takes what is there, as far as a request may be long.
    pub fn read(&mut self) {
        while self.inbox.len() < MAX_REQUEST && !self.ended {
            self.inbox.reserve_exact(MAX_REQUEST - self.inbox.len());
            match socket::recv_append(self.socket.as_fd(), &mut self.inbox) {
                Ok(0) => self.ended = true,
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.broken = true,
            }
            if self.broken {
                return;
            }
        }
    }

    /// Gives the client a reply; it has [`PATIENCE`] to take it.
    pub fn reply(&mut self, reply: &Reply, now: u64) {
        self.broken |= write_line(reply, &mut self.out).is_err();
        self.deadline = now + PATIENCE;
        self.flush();
    }

    /// As [`Client::reply`], for the last time.
    pub fn dismiss(&mut self, kind: RefusalKind, text: impl Into<String>, now: u64) {
        self.reply(&Reply::Error(Refusal { kind, text: text.into() }), now);
        self.waits = Waits::No;
        self.closing = true;
    }

    /// Gives the client an event, as a line. One that is too far behind is told so and dismissed: `false`.
    pub fn tell(&mut self, line: &[u8], now: u64) -> bool {
        if self.out.len() - self.sent + line.len() > MAX_BEHIND {
            self.dismiss(RefusalKind::TooSlow, "events came faster than they were read", now);
            return false;
        }
        self.out.extend_from_slice(line);
        self.flush();
        true
    }

    /// Whether to tell it of a message: how many it was not told of before that. `None`: what it has not read yet is enough; this
    /// one is left out too.
    pub fn room_for_message(&mut self) -> Option<u64> {
        if self.out.len() - self.sent > MAX_BEHIND / 2 {
            self.left_out += 1;
            return None;
        }
        Some(std::mem::take(&mut self.left_out))
    }

    /// Sends what the client takes.
    pub fn flush(&mut self) {
        while !self.is_flushed() && !self.broken {
            match socket::send(self.socket.as_fd(), &self.out[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return self.forget_sent(),
                Err(_) => self.broken = true,
            }
        }
        // Not kept: a status may have been large, and the master is to stay small.
        self.out = Vec::new();
        self.sent = 0;
    }

    /// A stream is never flushed to its end where events keep coming.
    fn forget_sent(&mut self) {
        if self.sent > MAX_BEHIND {
            self.out.drain(..self.sent);
            self.sent = 0;
        }
    }

    fn is_flushed(&self) -> bool {
        self.sent == self.out.len()
    }

    /// Whether there is no more to be had from it or to be given to it.
    pub fn is_over(&self) -> bool {
        self.broken || self.is_flushed() && (self.closing || self.ended && self.waits == Waits::No)
    }

    /// When it has kept others waiting for too long.
    pub fn deadline(&self) -> u64 {
        // What is waited for has its own time, and events may be few.
        if self.waits == Waits::No || !self.is_flushed() && self.waits != Waits::Events {
            self.deadline
        } else {
            NEVER
        }
    }

    /// The deadline is over: it is told, if it may still hear that, and is gone.
    pub fn give_up(&mut self, now: u64) {
        if !self.closing && self.is_flushed() {
            self.dismiss(RefusalKind::TooSlow, "no request came for 5 seconds", now);
        }
        self.broken = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fdpass;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn pair() -> (Client, UnixStream) {
        let (ours, theirs) = fdpass::stream_pair().unwrap();
        (Client::new(ours, Peer { pid: 1, uid: 0 }, 0), theirs.into())
    }

    fn stopped() -> Reply {
        Reply::Stopped { killed: 0 }
    }

    #[test]
    fn requests_come_one_at_a_time_however_they_are_cut() {
        let (mut client, mut peer) = pair();
        assert!(client.next_request().is_none());
        peer.write_all(b"{\"verb\":\"sta").unwrap();
        assert!(client.next_request().is_none());
        peer.write_all(b"tus\"}\n{\"verb\":\"reload\"}\n").unwrap();
        assert_eq!(client.next_request(), Some(Ok(Request::Status {})));
        client.waits = Waits::Stop;
        assert!(client.next_request().is_none());
        client.waits = Waits::No;
        assert_eq!(client.next_request(), Some(Ok(Request::Reload {})));
        assert!(!client.is_over());
        peer.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(client.next_request().is_none() && client.is_over());
    }

    #[test]
    fn a_line_without_an_end_is_read_no_further_than_a_request_may_be_long() {
        let (mut client, mut peer) = pair();
        peer.write_all(&[b'x'; 3 * MAX_REQUEST]).unwrap();
        assert!(client.next_request().unwrap().is_err());
        assert_eq!((client.inbox.len(), client.inbox.capacity()), (MAX_REQUEST, MAX_REQUEST));
        // A line of exactly that length is one.
        let (mut client, mut peer) = pair();
        let mut line = br#"{"verb":"status"}"#.to_vec();
        line.resize(MAX_REQUEST - 1, b' ');
        line.push(b'\n');
        peer.write_all(&line).unwrap();
        assert_eq!(client.next_request(), Some(Ok(Request::Status {})));
    }

    #[test]
    fn who_does_not_read_events_is_told_and_dismissed() {
        let (mut client, mut peer) = pair();
        client.waits = Waits::Events;
        let line = [b'e'; 1000];
        let told = (0..10_000).take_while(|_| client.tell(&line, 7)).count();
        assert!(told < 10_000 && client.out.len() - client.sent <= MAX_BEHIND + 200);
        assert!(!client.is_over(), "it may still read the note");
        assert_eq!(client.deadline(), 7 + PATIENCE);
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            peer.read_to_string(&mut text).unwrap();
            text
        });
        while !client.is_over() {
            client.flush();
        }
        drop(client);
        let text = reader.join().unwrap();
        assert_eq!(text.matches('e').count() / 1000, told);
        assert!(text.ends_with("\"text\":\"events came faster than they were read\"}\n"), "{text:.100}");
    }

    #[test]
    fn who_does_not_read_of_messages_is_spared_them_and_told_how_many() {
        let (mut client, mut peer) = pair();
        client.waits = Waits::Events;
        let (line, mut told) = ([b'm'; 1000], 0);
        for _ in 0..10_000 {
            if let Some(spared) = client.room_for_message() {
                assert_eq!(spared, 0);
                assert!(client.tell(&line, 0));
                told += 1;
            }
        }
        assert!(told < 10_000 && !client.is_over());
        let mut buf = vec![0; told * 1000];
        while client.out.len() > client.sent {
            let _ = peer.read(&mut buf).unwrap();
            client.flush();
        }
        assert_eq!(client.room_for_message(), Some(10_000 - told as u64));
        assert_eq!(client.room_for_message(), Some(0));
    }

    #[test]
    fn a_stream_that_is_read_may_go_on_for_ever_in_little_memory() {
        let (mut client, mut peer) = pair();
        client.waits = Waits::Events;
        let mut buf = vec![0; 1 << 20];
        for _ in 0..5_000 {
            assert!(client.tell(&[b'e'; 1000], 0));
            let _ = peer.read(&mut buf).unwrap();
        }
        assert!(client.out.capacity() <= 4 * MAX_BEHIND);
    }

    #[test]
    fn only_who_keeps_others_waiting_has_a_deadline() {
        let (mut client, peer) = pair();
        assert_eq!(client.deadline(), PATIENCE);
        client.reply(&stopped(), 100);
        assert_eq!(client.deadline(), 100 + PATIENCE, "from its reply to its next request");
        for waits in [Waits::Reload(None), Waits::Events, Waits::Stop] {
            client.waits = waits;
            assert_eq!(client.deadline(), NEVER);
        }
        drop(peer);
        client.reply(&stopped(), 100);
        assert!(client.is_over());
    }
}
