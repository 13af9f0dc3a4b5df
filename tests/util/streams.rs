//! Thousands of streams that count, in one thread: each sends numbered commands, a few of them ahead of the answers, and checks
//! that answer N is the answer to command N and comes from a state that has seen N commands. Some read late.

use super::random::Random;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What the streams have seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Answers, all of them right.
    pub answers: u64,
    /// Streams that were ended by the server.
    pub ended: u64,
    /// What was wrong, the first of each stream.
    pub wrong: Vec<String>,
    /// The longest that a stream without a late reader has waited for an answer.
    pub longest: Duration,
}

/// The streams, which run until they are stopped.
pub struct Streams {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    thread: Option<JoinHandle<Seen>>,
}

struct One {
    socket: TcpStream,
    sent: u64,
    answered: u64,
    out: Vec<u8>,
    read: Vec<u8>,
    /// When the oldest command without an answer was sent.
    since: Instant,
    reads_late: bool,
    reads_at: Instant,
    sends_at: Instant,
}

impl Streams {
    /// Opens `count` streams, of which each has up to `ahead` commands without an answer, and sends the next ones every `pause`.
    pub fn start(address: SocketAddr, count: usize, ahead: u64, pause: Duration) -> Self {
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&answers));
        let thread = std::thread::spawn(move || run(address, count, ahead, pause, &stopped, &counted));
        Self { stop, answers, thread: Some(thread) }
    }

    /// The answers so far.
    pub fn answers(&self) -> u64 {
        self.answers.load(Relaxed)
    }

    /// Sends no more, waits until every command is answered, and returns what was seen.
    pub fn stop(mut self) -> Seen {
        self.stop.store(true, Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

fn open(address: SocketAddr, random: &mut Random) -> One {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.set_nodelay(true).unwrap();
    let now = Instant::now();
    One {
        socket,
        sent: 0,
        answered: 0,
        out: Vec::new(),
        read: Vec::new(),
        since: now,
        reads_late: random.once_in(10),
        reads_at: now,
        sends_at: now,
    }
}

fn run(
    address: SocketAddr,
    count: usize,
    ahead: u64,
    pause: Duration,
    stop: &AtomicBool,
    answers: &AtomicU64,
) -> Seen {
    let mut random = Random::new(7);
    let mut poll = mio::Poll::new().unwrap();
    let register = |poll: &mio::Poll, one: &One, at: usize| {
        let fd = one.socket.as_raw_fd();
        poll.registry()
            .register(&mut mio::unix::SourceFd(&fd), mio::Token(at), mio::Interest::READABLE)
            .unwrap();
    };
    let mut all: Vec<One> = (0..count).map(|_| open(address, &mut random)).collect();
    all.iter().enumerate().for_each(|(at, one)| register(&poll, one, at));
    let mut events = mio::Events::with_capacity(1024);
    let (mut seen, mut stops_at) = (Seen::default(), None);
    loop {
        let stopping = stop.load(Relaxed);
        let deadline = *stops_at.get_or_insert_with(|| Instant::now() + Duration::from_secs(3600));
        if stopping && deadline > Instant::now() + Duration::from_secs(60) {
            stops_at = Some(Instant::now() + Duration::from_secs(30));
        }
        poll.poll(&mut events, Some(Duration::from_millis(5))).unwrap();
        let ready: Vec<usize> = events.iter().map(|event| event.token().0).collect();
        let now = Instant::now();
        // Those that read late, and those whose time to send has come.
        let ready = ready.into_iter().map(|at| (at, true)).chain((0..all.len()).map(|at| (at, false)));
        for (at, is_ready) in ready {
            let one = &mut all[at];
            let sent =
                if stopping { one.send(&mut random) } else { one.send_more(ahead, pause, now, &mut random) };
            let result = match sent {
                Ok(())
                    if is_ready && !one.reads_late || one.reads_late && (stopping || one.reads_at <= now) =>
                {
                    one.receive(now, &mut seen, &mut random)
                }
                other => other,
            };
            if let Err(why) = result {
                seen.ended += u64::from(why.is_empty());
                if !why.is_empty() {
                    seen.wrong.push(format!("stream {at}: {why}"));
                }
                all[at] = open(address, &mut random);
                register(&poll, &all[at], at);
            }
        }
        answers.store(seen.answers, Relaxed);
        if stopping && all.iter().all(|one| one.answered == one.sent) {
            return seen;
        }
        if Instant::now() > deadline {
            let waiting = all.iter().enumerate().filter(|(_, one)| one.answered < one.sent);
            let text = |(at, one): (usize, &One)| format!("stream {at}: {} of {}", one.answered, one.sent);
            seen.wrong.extend(waiting.map(text));
            return seen;
        }
    }
}

impl One {
    /// Begins the next commands if their time has come. The error is empty if the server has ended the stream.
    fn send_more(
        &mut self,
        ahead: u64,
        pause: Duration,
        now: Instant,
        random: &mut Random,
    ) -> Result<(), String> {
        if self.sends_at <= now && self.out.is_empty() {
            if self.answered == self.sent {
                self.since = now;
            }
            while self.sent < self.answered + ahead {
                self.sent += 1;
                self.out.extend(format!("count {}\n", self.sent).bytes());
            }
            self.sends_at = now + pause;
        }
        self.send(random)
    }

    /// Now and then in parts.
    fn send(&mut self, random: &mut Random) -> Result<(), String> {
        while !self.out.is_empty() {
            let most = if random.once_in(10) { 1 + random.below(9) as usize } else { self.out.len() };
            match self.socket.write(&self.out[..most.min(self.out.len())]) {
                Ok(n) => drop(self.out.drain(..n)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return Err(String::new()),
            }
            if random.once_in(10) {
                break;
            }
        }
        Ok(())
    }

    /// Reads what has come. The error is empty if the server has ended the stream.
    fn receive(&mut self, now: Instant, seen: &mut Seen, random: &mut Random) -> Result<(), String> {
        self.reads_at = now + Duration::from_millis(random.below(2000));
        loop {
            let mut bytes = [0; 4096];
            match self.socket.read(&mut bytes) {
                Ok(0) => return Err(String::new()),
                Ok(n) => self.read.extend(&bytes[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return Err(String::new()),
            }
        }
        let mut used = 0;
        while let Some(end) = self.read[used..].iter().position(|b| *b == b'\n') {
            let line = &self.read[used..used + end];
            self.answered += 1;
            let expected = format!("{0} {0}", self.answered);
            if line != expected.as_bytes() {
                return Err(format!("expected {expected:?}, found {:?}", String::from_utf8_lossy(line)));
            }
            seen.answers += 1;
            if !self.reads_late {
                seen.longest = seen.longest.max(now - self.since);
            }
            self.since = now;
            used += end + 1;
        }
        self.read.drain(..used);
        Ok(())
    }
}
