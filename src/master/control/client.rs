//! One client of the control socket: its requests, the replies to it, and what it awaits. It never blocks the master, and
//! its buffers are bounded.

use crate::control::protocol::{
    self, MAX_REQUEST, Refusal, RefusalKind, ReloadState, Reply, Request, Verdict, write_line,
};
use crate::error::Error;
use crate::event::{Departed, Event};
use crate::ids::{Generation, WorkerId};
use crate::master::kept::{Kept, KeptFd};
use crate::sys::peer::Peer;
use crate::sys::socket;
use crate::sys::time::Time;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// The time that a client has to send a request, and to take a reply.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// The most bytes of events that are queued for a client, without those in the kernel.
const MAX_BEHIND: usize = 64 * 1024;

/// The outcome that a client awaits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Awaits {
    /// None: it is the client's turn to send a request.
    Nothing,
    /// The end of the reload to this generation, or of the next one to begin.
    Reload(Option<Generation>),
    /// The end of the upgrade: it has failed, or the new program awaits the end of its reload.
    Upgrade,
    /// The readiness of `to` workers; there were `from` before.
    Scale { to: usize, from: usize },
    /// The end of this worker.
    Drain(WorkerId),
    /// The end of the run.
    Stop,
    /// Every event.
    Events,
    /// As [`Awaits::Reload`], and then the end of the old workers.
    ReloadAndOld(Option<Generation>),
    /// The end of the workers of all generations before this one, if it was committed, or else of this one.
    Gone { generation: Generation, is_committed: bool },
}

/// A client, for the program that takes over in an upgrade.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedClient {
    socket: KeptFd,
    peer: (i32, u32),
    awaits: Awaits,
    #[serde(default)]
    departed: Departed,
    inbox: Vec<u8>,
    unsent: Vec<u8>,
    left_out: u64,
}

/// A client.
#[derive(Debug)]
pub struct Client {
    pub socket: OwnedFd,
    pub peer: Peer,
    pub awaits: Awaits,
    /// What has become of the connections of old workers while it waited for the end of these.
    pub departed: Departed,
    /// True if it has closed the connection; requests that it sent before are still executed.
    pub hung_up: bool,
    inbox: Vec<u8>,
    out: Vec<u8>,
    sent: usize,
    /// True if it gets no more replies, and nothing is read from it any more.
    closing: bool,
    /// True if it has closed its sending side.
    ended: bool,
    /// True if reading or writing has failed.
    broken: bool,
    deadline: Time,
    /// Events of messages that were left out since the last one that was sent.
    left_out: u64,
}

impl Client {
    /// A client that has just connected.
    pub fn new(socket: OwnedFd, peer: Peer, now: Time) -> Self {
        Self {
            socket,
            peer,
            awaits: Awaits::Nothing,
            departed: Departed::default(),
            hung_up: false,
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

    /// Returns what another program continues with; `None` if the connection ends anyway.
    pub fn save<'a>(&'a self, kept: &mut Kept<'a>) -> Option<SavedClient> {
        let ends = self.closing || self.broken || self.hung_up;
        (!ends).then(|| SavedClient {
            socket: kept.keep(self.socket.as_fd()),
            peer: (self.peer.pid, self.peer.uid),
            awaits: self.awaits,
            departed: self.departed,
            inbox: self.inbox.clone(),
            unsent: self.out[self.sent..].to_vec(),
            left_out: self.left_out,
        })
    }

    /// Continues with a client of the former program. One that awaits the upgrade awaits this program's reload.
    ///
    /// # Errors
    /// [`crate::ErrorKind::State`]: its descriptor is not open.
    pub fn resume(saved: SavedClient, now: Time) -> Result<Self, Error> {
        let peer = Peer { pid: saved.peer.0, uid: saved.peer.1 };
        let awaits = if saved.awaits == Awaits::Upgrade { Awaits::Reload(None) } else { saved.awaits };
        Ok(Self {
            awaits,
            departed: saved.departed,
            inbox: saved.inbox,
            out: saved.unsent,
            left_out: saved.left_out,
            ..Self::new(saved.socket.adopt()?, peer, now)
        })
    }

    /// Returns the next request, if it is the client's turn and a whole one has arrived; or why the bytes are no request.
    pub fn next_request(&mut self) -> Option<Result<Request, String>> {
        if self.awaits != Awaits::Nothing || self.closing || self.broken || !self.is_flushed() {
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

    /// Reads what has arrived, up to the length of a request.
    pub fn read(&mut self) {
        while self.inbox.len() < MAX_REQUEST && !self.ended {
            self.inbox.reserve_exact(MAX_REQUEST - self.inbox.len());
            match socket::recv_append(self.socket.as_fd(), &mut self.inbox) {
                Ok(0) => self.ended = true,
                Ok(_) => {}
                Err(e) => {
                    self.broken |= e.kind() != io::ErrorKind::WouldBlock;
                    return;
                }
            }
        }
    }

    /// Gives the client a reply; it has [`PATIENCE`] to take it.
    pub fn reply(&mut self, reply: &Reply, now: Time) {
        self.broken |= write_line(reply, &mut self.out).is_err();
        self.deadline = now + PATIENCE;
        self.flush();
    }

    /// Notes the part of an event that matters to what it awaits.
    pub fn note(&mut self, event: &Event) {
        match (&mut self.awaits, event) {
            (
                Awaits::Reload(begun @ None) | Awaits::ReloadAndOld(begun @ None),
                Event::Reload { state: ReloadState::Started, generation, .. },
            ) => *begun = Some(Generation(*generation)),
            (
                Awaits::ReloadAndOld(_) | Awaits::Gone { .. },
                Event::Exit { connections: Some(connections), .. },
            ) => self.departed.add(**connections),
            _ => {}
        }
    }

    /// Gives the client a verdict; it goes on to wait for the end of old workers if it wants that.
    pub fn finish_reload(&mut self, verdict: Verdict, now: Time) {
        let wants_old = matches!(self.awaits, Awaits::ReloadAndOld(_));
        let generation = Generation(verdict.generation);
        let is_committed = verdict.outcome == ReloadState::Committed;
        self.finish(&Reply::Reload(verdict), now);
        if wants_old {
            self.awaits = Awaits::Gone { generation, is_committed };
        }
    }

    /// Gives the client the reply that it awaits.
    pub fn finish(&mut self, reply: &Reply, now: Time) {
        self.awaits = Awaits::Nothing;
        self.reply(reply, now);
    }

    /// Refuses what the client asked for. After some kinds of refusal the connection is closed ([`RefusalKind`]).
    pub fn refuse(&mut self, refusal: Refusal, now: Time) {
        use RefusalKind::{Denied, TooSlow, Usage};
        self.closing |= matches!(refusal.kind, Usage | Denied | TooSlow);
        self.finish(&Reply::Error(refusal), now);
    }

    /// Sends the client an event, as a line; or `false` if it is too far behind, and refused.
    pub fn send(&mut self, line: &[u8], now: Time) -> bool {
        if self.out.len() - self.sent + line.len() > MAX_BEHIND {
            self.refuse_too_slow("events came faster than they were read", now);
            return false;
        }
        self.out.extend_from_slice(line);
        self.flush();
        true
    }

    /// Returns the number of messages that were left out before this one; `None` if this one is to be left out too, because
    /// the client has enough to read.
    pub fn room_for_message(&mut self) -> Option<u64> {
        if self.out.len() - self.sent > MAX_BEHIND / 2 {
            self.left_out += 1;
            return None;
        }
        Some(std::mem::take(&mut self.left_out))
    }

    /// Sends as much as the client takes.
    pub fn flush(&mut self) {
        while !self.is_flushed() && !self.broken {
            match socket::send(self.socket.as_fd(), &self.out[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return self.forget_sent(),
                Err(_) => self.broken = true,
            }
        }
        // The buffer is freed: a status may be large, and the master stays small.
        self.out = Vec::new();
        self.sent = 0;
    }

    /// Frees the part that was sent, because a stream of events may never be flushed to its end.
    fn forget_sent(&mut self) {
        if self.sent > MAX_BEHIND {
            self.out.drain(..self.sent);
            self.sent = 0;
        }
    }

    fn is_flushed(&self) -> bool {
        self.sent == self.out.len()
    }

    /// True if nothing is left to read from it or to send to it.
    pub fn is_over(&self) -> bool {
        let done = self.closing || self.ended && self.awaits == Awaits::Nothing;
        self.broken || self.hung_up || self.is_flushed() && done
    }

    /// The time at which it is disconnected, because it keeps other clients from its place.
    pub fn deadline(&self) -> Time {
        // A client has no deadline while it waits for the master: an outcome takes its time, and events may be rare.
        if self.awaits == Awaits::Nothing || !self.is_flushed() && self.awaits != Awaits::Events {
            self.deadline
        } else {
            Time::NEVER
        }
    }

    /// Ends the connection at the deadline, with a refusal if the client may still take that.
    pub fn give_up(&mut self, now: Time) {
        if !self.closing && self.is_flushed() {
            self.refuse_too_slow("no request came for 5 seconds", now);
        }
        self.broken = true;
    }

    fn refuse_too_slow(&mut self, text: &str, now: Time) {
        self.refuse(Refusal { kind: RefusalKind::TooSlow, text: text.to_owned() }, now);
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
        (Client::new(ours, Peer { pid: 1, uid: 0 }, at(0)), theirs.into())
    }

    fn at(ms: u64) -> Time {
        Time::from_millis(ms)
    }

    fn stopped() -> Reply {
        Reply::Stopped { killed: 0, cut: 0 }
    }

    #[test]
    fn requests_come_one_at_a_time_however_they_are_cut() {
        let (mut client, mut peer) = pair();
        assert!(client.next_request().is_none());
        peer.write_all(b"{\"verb\":\"sta").unwrap();
        assert!(client.next_request().is_none());
        peer.write_all(b"tus\"}\n{\"verb\":\"reload\"}\n").unwrap();
        assert_eq!(client.next_request(), Some(Ok(Request::Status {})));
        client.awaits = Awaits::Stop;
        assert!(client.next_request().is_none());
        client.awaits = Awaits::Nothing;
        assert_eq!(client.next_request(), Some(Ok(Request::Reload { wait: false })));
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
    fn a_follower_that_does_not_read_is_refused() {
        let (mut client, mut peer) = pair();
        client.awaits = Awaits::Events;
        let line = [b'e'; 1000];
        let told = (0..10_000).take_while(|_| client.send(&line, at(7))).count();
        assert!(told < 10_000 && client.out.len() - client.sent <= MAX_BEHIND + 200);
        assert!(!client.is_over(), "it may still read the refusal");
        assert_eq!(client.deadline(), at(7) + PATIENCE);
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
    fn messages_are_left_out_and_counted_for_a_follower_that_does_not_read() {
        let (mut client, mut peer) = pair();
        client.awaits = Awaits::Events;
        let (line, mut told) = ([b'm'; 1000], 0);
        for _ in 0..10_000 {
            if let Some(left_out) = client.room_for_message() {
                assert_eq!(left_out, 0);
                assert!(client.send(&line, at(0)));
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
    fn a_stream_of_events_that_is_read_takes_little_memory_forever() {
        let (mut client, mut peer) = pair();
        client.awaits = Awaits::Events;
        let mut buf = vec![0; 1 << 20];
        for _ in 0..5_000 {
            assert!(client.send(&[b'e'; 1000], at(0)));
            let _ = peer.read(&mut buf).unwrap();
        }
        assert!(client.out.capacity() <= 4 * MAX_BEHIND);
    }

    #[test]
    fn only_a_client_that_keeps_others_waiting_has_a_deadline() {
        let (mut client, peer) = pair();
        assert_eq!(client.deadline(), at(0) + PATIENCE);
        client.reply(&stopped(), at(100));
        assert_eq!(client.deadline(), at(100) + PATIENCE, "from its reply to its next request");
        for awaits in [Awaits::Reload(None), Awaits::Events, Awaits::Stop] {
            client.awaits = awaits;
            assert_eq!(client.deadline(), Time::NEVER);
        }
        drop(peer);
        client.reply(&stopped(), at(100));
        assert!(client.is_over());
    }
}
