//! Answers by chance: handlers that take any time and write any number of bytes in any way, clients that read and send at any
//! speed, under short deadlines. Each byte of each answer is checked; what ends early must be the client's fault.
//!
//! A run has a seed, which is printed; `PREFORK_SEED` runs that one again.
#![allow(clippy::unwrap_used)]

mod util;

use socket2::Socket;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, Once};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use util::answers::{Answer, Checker, Form, LARGEST, Reached, bytes};
use util::client::Address;
use util::load::at_once;
use util::random::Random;
use util::reader::connect;
use util::{Mode, Start, Style};

/// Clients at the same time.
const CLIENTS: usize = 40;
/// Connections of a run, of which those in blocking style take a worker each all the time.
const CONNECTIONS: u64 = 200;
const BLOCKING: u64 = 120;
/// Runs at the same time.
const RUNS: usize = 2;
/// The precision of deadlines, and of the clients' own clocks.
const MARGIN: Duration = Duration::from_millis(40);
/// The time in which a client that waits for bytes is run when they have come.
const AWAKE: Duration = Duration::from_millis(150);
/// The moments at which the machine has let a thread that slept wait for longer than [`AWAKE`]: clients may then have broken rules
/// without a look at the clock.
static STALLS: Mutex<Vec<Instant>> = Mutex::new(Vec::new());

/// Looks for stalls from now on.
fn look_for_stalls() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::thread::spawn(|| {
            loop {
                let before = Instant::now();
                std::thread::sleep(ms(10));
                if before.elapsed() > AWAKE {
                    STALLS.lock().unwrap().push(Instant::now());
                }
            }
        });
    });
}

/// A client that takes so many bytes in time has shown the server that it reads: neither kernel tells of less.
const NOTICED: usize = 256 << 10;
/// The most that a client sends at a time.
const WRITE: usize = 64 << 10;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// The server of one run.
#[derive(Debug)]
struct Rules {
    style: Style,
    workers: usize,
    accept: Mode,
    defer: bool,
    header: Duration,
    idle: Duration,
    body: Duration,
    write: Duration,
    pending: usize,
    max_body: usize,
}

impl Rules {
    fn by_chance(style: Style, random: &mut Random) -> Self {
        // A body that does not fit is cut, so few runs have little room for those.
        let pending = match style {
            Style::Request => random.one_of(&[256 << 10, 32 << 20, 32 << 20, 32 << 20]),
            _ => random.one_of(&[3000, 64 << 10, 300 << 10, 1 << 20, 16 << 20]),
        };
        Self {
            style,
            workers: if style == Style::Connection { 16 } else { 3 + random.below(4) as usize },
            accept: random.one_of(&Mode::ALL),
            defer: random.once_in(4),
            header: random.time(ms(500), ms(900)),
            idle: random.time(ms(500), ms(900)),
            body: random.time(ms(500), ms(900)),
            write: random.time(ms(400), ms(700)),
            pending,
            max_body: if style == Style::Data {
                random.one_of(&[2 << 10, 64 << 10, 8 << 20])
            } else {
                8 << 20
            },
        }
    }

    fn start(&self) -> Start {
        let time = |t: Duration| format!("{}ms", t.as_millis());
        let start = Start::new(self.style)
            .module(self.style.answers())
            .workers(self.workers)
            .accept(self.accept)
            .set("header-timeout", &time(self.header))
            .set("idle-timeout", &time(self.idle))
            .set("body-timeout", &time(self.body))
            .set("write-timeout", &time(self.write))
            .set("max-pending", &self.pending.to_string())
            .set("max-body", &self.max_body.to_string())
            .listen("127.0.0.1:0");
        let start = if self.defer { start.set("defer-accept", "1s") } else { start };
        let path = format!("unix:{}", start.dir().file("socket").display());
        start.listen(path)
    }

    fn longest(&self) -> Duration {
        [self.header, self.idle, self.body, self.write].into_iter().max().unwrap()
    }

    /// The time that a client may be silent between two commands.
    fn between(&self) -> Duration {
        if self.style == Style::Connection { self.body } else { self.idle }
    }

    /// The time that a client may be silent within a command.
    fn within(&self, command: &Command) -> Duration {
        if command.is_request || self.style == Style::Connection { self.body } else { self.idle }
    }
}

/// The moment at which a client begins to send.
#[derive(Clone, Copy, Debug)]
enum When {
    /// So long after what it has sent before, or after it has connected.
    After(Duration),
    /// So long after the answer to what it has sent before.
    AfterAnswer(Duration),
}

struct Command {
    when: When,
    sent: Vec<u8>,
    /// The size of the parts that are sent at a time, and the time between them.
    part: usize,
    gap: Duration,
    /// The size of its head or line.
    head: usize,
    is_request: bool,
    /// The time that the handler takes.
    works: Duration,
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy(&self.sent[..self.head]);
        let body = self.sent.len() - self.head;
        write!(f, "{:?} {text:?}+{body} by {} each {:?}", self.when, self.part, self.gap)
    }
}

/// The end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The server closes after the last answer.
    Closed,
    /// The client ends its side after its last command.
    HalfClose,
    /// The client closes when it has the last answer.
    Leave,
    /// The client waits until the server closes.
    Wait,
    /// The client begins with another request and waits.
    Partial,
}

/// The way a client reads.
#[derive(Debug)]
struct Pace {
    /// The size of the receive buffer, if it is not the system's.
    buffer: Option<usize>,
    /// The size of its reads at first, the time between them, and the number of them.
    size: usize,
    gap: Duration,
    slow_reads: u64,
    /// The number of bytes after which it pauses, and for how long.
    pauses: Vec<(usize, Duration)>,
}

/// All that a client does on one connection, and the answers that are due.
#[derive(Debug)]
struct Script {
    address: usize,
    commands: Vec<Command>,
    strays: Vec<Stray>,
    /// The client ends its side behind them.
    ends_too: bool,
    end: End,
    pace: Pace,
    /// A body may be too large for the handler to write.
    may_be_cut: bool,
    answers: Vec<Answer>,
}

/// Bytes that are not due, and the time before them.
struct Stray {
    gap: Duration,
    sent: &'static [u8],
}

impl fmt::Debug for Stray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} after {:?}", self.sent.len(), self.gap)
    }
}

const STRAY: [&[u8]; 4] = [b"\r\n", b"x", b"GET /s/0/0/1/1/0 HTTP/1.1\r\nHost: a\r\n\r\n", &[b'z'; 100_000]];

impl Script {
    fn by_chance(rules: &Rules, random: &mut Random) -> Self {
        let count = 1 + random.below(4) as usize;
        let mut script = Self {
            address: random.below(2) as usize,
            commands: Vec::new(),
            strays: Vec::new(),
            ends_too: random.once_in(6),
            end: random.one_of(&[
                End::Closed,
                End::Closed,
                End::Closed,
                End::HalfClose,
                End::Leave,
                End::Wait,
                End::Partial,
            ]),
            pace: Pace {
                buffer: None,
                size: 1 << 16,
                gap: Duration::ZERO,
                slow_reads: 0,
                pauses: Vec::new(),
            },
            may_be_cut: false,
            answers: Vec::new(),
        };
        let mut is_stream = rules.style != Style::Request;
        for left in (0..count).rev() {
            let closes = left == 0 && script.end == End::Closed;
            if is_stream {
                script.add_line(closes, rules, random);
            } else if left > 0 && random.once_in(8) {
                script.add_upgrade(rules, random);
                is_stream = true;
            } else {
                script.add_request(closes, rules, random);
            }
            script.choose_sending(rules, random);
        }
        if is_stream && script.end == End::Partial {
            script.end = End::Wait;
        }
        if script.end == End::Partial {
            script.answers.push(Answer { form: Form::Refusal, size: 0, salt: 0 });
        }
        if script.end == End::Closed {
            let stray = random.one_of(&STRAY);
            if random.once_in(4) {
                script.commands.last_mut().unwrap().sent.extend_from_slice(stray);
            }
            let most = if stray.len() > 1000 { 3 } else { 8 };
            for _ in 0..random.below(most) {
                let most = random.one_of(&[0, 0, 30, 300]);
                let gap = random.time(ms(0), ms(most));
                script.strays.push(Stray { gap, sent: stray });
            }
        }
        script.choose_pace(rules, random);
        script
    }

    /// Takes the time that the handler works off `random`, in its two parts.
    fn work(rules: &Rules, random: &mut Random) -> [u64; 2] {
        let longest = rules.longest();
        let works = match random.below(40) {
            0..28 => Duration::ZERO,
            28..37 => random.time(ms(1), ms(40)),
            37..39 => random.time(ms(1), longest / 2),
            _ => random.time(longest * 4 / 5, longest * 8 / 5),
        };
        let before = match random.below(3) {
            0 => Duration::ZERO,
            1 => works,
            _ => random.time(Duration::ZERO, works),
        };
        [before, works - before].map(|t| t.as_millis() as u64)
    }

    fn size(random: &mut Random) -> usize {
        let magnitude = random.below(1 + LARGEST.ilog2() as u64);
        random.below(1 << magnitude) as usize
    }

    /// The size of the pieces that the handler writes: at most so many that it takes no time.
    fn piece(size: usize, most: usize, random: &mut Random) -> usize {
        let most = size.min(most).max(1);
        let piece = if random.once_in(4) { most } else { 1 + random.below(most as u64) as usize };
        piece.max(size / 2000).min(most)
    }

    /// A request, the last of which may be the end of the connection.
    fn add_request(&mut self, closes: bool, rules: &Rules, random: &mut Random) {
        let (size, salt) = (Self::size(random), random.below(251) as usize);
        let (how, [before, amid]) = (random.one_of(&['b', 's', 'f', 'w', 'w']), Self::work(rules, random));
        let closed_by = if closes { random.below(3) } else { 3 };
        let how_text = if closed_by == 0 { how.to_ascii_uppercase() } else { how };
        let (field, minor) = match closed_by {
            1 => ("Connection: close\r\n", 1),
            2 => ("", 0),
            _ => ("", 1),
        };
        let piece = Self::piece(size, rules.pending, random);
        let path = format!("/{how_text}/{before}/{amid}/{size}/{piece}/{salt}");
        let body = if random.once_in(5) { random.below(100_000) as usize } else { 0 };
        let (method, length) =
            if body > 0 { ("POST", format!("Content-Length: {body}\r\n")) } else { ("GET", String::new()) };
        let mut sent =
            format!("{method} {path} HTTP/1.{minor}\r\nHost: a\r\n{field}{length}\r\n").into_bytes();
        let head = sent.len();
        sent.extend_from_slice(bytes(0, body));
        self.answers.push(Answer { form: Form::Response, size, salt });
        let waiting: usize = self.answers.iter().map(|answer| answer.size + 1000).sum();
        // Chunks have heads of their own.
        self.may_be_cut |= how == 'w' && waiting * 2 > rules.pending;
        self.add(sent, head, true, before + amid);
    }

    fn add_upgrade(&mut self, rules: &Rules, random: &mut Random) {
        let [before, amid] = Self::work(rules, random);
        let works = before + amid;
        let fields = "Host: a\r\nConnection: upgrade\r\nUpgrade: answers\r\n";
        let sent = format!("GET /u/{works}/0/0/0/0 HTTP/1.1\r\n{fields}\r\n").into_bytes();
        let head = sent.len();
        self.answers.push(Answer { form: Form::Switch, size: 0, salt: 0 });
        self.add(sent, head, true, works);
    }

    /// A command to a handler in blocking style or of a stream.
    fn add_line(&mut self, closes: bool, rules: &Rules, random: &mut Random) {
        let (size, salt) = (Self::size(random).max(1), random.below(251) as usize);
        let (how, [before, amid]) = (random.one_of(&['w', 'w', 'e']), Self::work(rules, random));
        let how_text = if closes { how.to_ascii_uppercase() } else { how };
        let piece = Self::piece(size, rules.pending, random);
        let mut sent = format!("{how_text}/{before}/{amid}/{size}/{piece}/{salt}\n").into_bytes();
        let head = sent.len();
        if how == 'e' {
            sent.extend_from_slice(bytes(salt, size));
        }
        self.answers.push(Answer { form: Form::Plain, size, salt });
        self.add(sent, head, false, before + amid);
    }

    fn add(&mut self, sent: Vec<u8>, head: usize, is_request: bool, works: u64) {
        let (when, part, gap) = (When::After(Duration::ZERO), sent.len(), Duration::ZERO);
        self.commands.push(Command { when, sent, part, gap, head, is_request, works: ms(works) });
    }

    /// Chooses when the last command is sent, and how fast.
    fn choose_sending(&mut self, rules: &Rules, random: &mut Random) {
        let is_first = self.commands.len() == 1;
        let command = self.commands.last_mut().unwrap();
        let limit = if is_first && (command.is_request || rules.style == Style::Connection) {
            rules.header
        } else {
            rules.between()
        };
        let pause = match random.below(12) {
            0..5 => Duration::ZERO,
            5..9 => random.time(ms(1), ms(30)),
            9..11 => random.time(limit / 2, limit * 17 / 20),
            _ if random.once_in(3) => random.time(limit, limit * 2),
            _ => Duration::ZERO,
        };
        command.when = match random.below(4) {
            _ if is_first && !random.once_in(4) => When::After(Duration::ZERO),
            0 => When::After(pause),
            1 => When::After(Duration::ZERO),
            _ if is_first => When::After(pause),
            _ => When::AfterAnswer(pause),
        };
        if random.once_in(3) {
            let parts = 2 + random.below(30) as usize;
            command.part = command.sent.len().div_ceil(parts);
            command.gap = match random.below(8) {
                0..5 => Duration::ZERO,
                5..7 => random.time(ms(0), rules.header / 2 / parts as u32),
                _ if random.once_in(3) => random.time(ms(0), rules.header * 3 / parts as u32),
                _ => ms(1),
            };
        }
    }

    fn choose_pace(&mut self, rules: &Rules, random: &mut Random) {
        let total: usize = self.answers.iter().map(|answer| answer.size).sum();
        self.pace.buffer = random.one_of(&[None, None, Some(16 << 10), Some(100 << 10)]);
        if random.once_in(2) {
            // So many bytes that each kernel notices them within a part of the write-timeout; some slower than that.
            let reads = 1 + random.below(60);
            let time = if random.once_in(10) { rules.write } else { rules.write / 4 };
            self.pace.size = NOTICED / reads as usize;
            self.pace.gap = random.time(time / reads as u32 / 2, time / reads as u32);
            self.pace.slow_reads = random.below(4 * reads);
        }
        for _ in 0..random.below(3) {
            let pause = match random.below(15) {
                0..14 => random.time(ms(1), rules.write / 5),
                _ => random.time(rules.write, rules.write * 2),
            };
            let at = if random.once_in(3) { 0 } else { random.below(total as u64 + 1) as usize };
            self.pace.pauses.push((at, pause));
        }
        self.pace.pauses.sort_unstable();
    }
}

/// A connection, of which one thread reads and another one sends.
struct Connection<'a> {
    rules: &'a Rules,
    script: &'a Script,
    socket: Socket,
    is_unix: bool,
    connected: Instant,
    /// The number of complete answers; `None` if the connection has ended.
    complete: Mutex<Option<usize>>,
    changed: Condvar,
    conduct: Conduct,
    waits: Mutex<Waits>,
    log: Mutex<Vec<String>>,
}

/// The time that the server may have waited for the client.
#[derive(Clone, Copy)]
struct Waits {
    /// The earliest time at which it can have begun to wait for the next bytes.
    since: Instant,
    /// The time at which its last bytes have come, for which it then cannot have waited. A client that is not run sees them late.
    seen: Instant,
    /// The time for which it must wait.
    limit: Duration,
    /// The next bytes belong to a line, of which a part is answered.
    is_within_line: bool,
    /// The earliest time at which it can have begun to wait for the rest of a head.
    head_since: Option<Instant>,
}

/// The rules that a client has broken.
#[derive(Debug, Default)]
struct Conduct {
    /// It was silent for too long.
    silent: AtomicBool,
    /// It was silent for too long within bytes that are sent back.
    stalled: AtomicBool,
    /// It sent a head too slowly.
    slow_head: AtomicBool,
    /// It read too slowly.
    slow_reader: AtomicBool,
    /// It was silent for so long that the server may have stopped dropping what it sends.
    late_stray: AtomicBool,
}

impl Connection<'_> {
    fn complete(&self) -> Option<usize> {
        *self.complete.lock().unwrap()
    }

    fn set_complete(&self, complete: Option<usize>) {
        *self.complete.lock().unwrap() = complete;
        self.changed.notify_all();
    }

    /// Waits for so many answers; false if the connection has ended.
    fn wait_for(&self, answers: usize) -> bool {
        let complete = self.complete.lock().unwrap();
        let complete = self.changed.wait_while(complete, |c| c.is_some_and(|c| c < answers)).unwrap();
        complete.is_some()
    }

    /// Remembers what has happened, for messages.
    fn log(&self, what: impl fmt::Display) {
        let time = self.connected.elapsed();
        self.log.lock().unwrap().push(format!("{time:.3?} {what}"));
    }

    /// Notes if the client has made the server wait too long.
    fn note_waits(&self, now: Instant) {
        let Waits { since, seen, limit, is_within_line, head_since } = *self.waits.lock().unwrap();
        let now = now + MARGIN;
        let is_silent = now > since + limit && now > seen + limit;
        note(&self.conduct.silent, is_silent);
        note(&self.conduct.stalled, is_silent && is_within_line);
        note(&self.conduct.slow_head, head_since.is_some_and(|since| now > since + self.rules.header));
    }

    /// Sends everything, as long as the connection lasts.
    fn send_all(&self) {
        let script = self.script;
        for (i, command) in script.commands.iter().enumerate() {
            match command.when {
                When::After(pause) => std::thread::sleep(pause),
                When::AfterAnswer(pause) => {
                    if !self.wait_for(i) {
                        return;
                    }
                    std::thread::sleep(pause);
                }
            }
            if self.complete().is_none() || self.send(command).is_err() {
                return;
            }
        }
        if script.end == End::Partial && self.wait_for(script.commands.len()) {
            self.note_waits(Instant::now());
            self.waits.lock().unwrap().head_since = Some(Instant::now());
            let _ = (&self.socket).write_all(b"GET / HT");
        }
        for Stray { gap, sent } in &script.strays {
            let before = Instant::now();
            std::thread::sleep(*gap);
            note(&self.conduct.late_stray, before.elapsed() > Duration::from_secs(3));
            // The server may have closed.
            if (&self.socket).write_all(sent).is_err() {
                return;
            }
        }
        if script.end == End::HalfClose || script.end == End::Closed && script.ends_too {
            let _ = self.socket.shutdown(Shutdown::Write);
        }
    }

    fn send(&self, command: &Command) -> io::Result<()> {
        let rules = self.rules;
        let (total, mut sent) = (command.sent.len(), 0);
        while sent < total {
            // At most so much at a time that the time of the write is the time at which it arrives.
            let end = (sent + WRITE).min((sent / command.part + 1) * command.part).min(total);
            if sent > 0 && sent % command.part == 0 {
                std::thread::sleep(command.gap);
            }
            let before = Instant::now();
            if command.is_request && sent == 0 {
                self.waits.lock().unwrap().head_since.get_or_insert(before);
            }
            (&self.socket).write_all(&command.sent[sent..end])?;
            let now = Instant::now();
            self.log(format_args!("sent {} of {total} in {:.3?}", end - sent, now - before));
            // A write that takes longer has waited for the server to read.
            self.note_waits(if now - before < ms(100) { now } else { before });
            let had_head = sent >= command.head;
            sent = end;
            let mut waits = self.waits.lock().unwrap();
            waits.since = waits.since.max(before);
            // A request is served when it is complete, a line when it is there.
            let begins = if command.is_request { sent == total } else { sent >= command.head && !had_head };
            if begins {
                waits.since += command.works;
            }
            waits.limit = if sent == total { rules.between() } else { rules.within(command) };
            waits.is_within_line = !command.is_request && sent < total;
            if sent >= command.head {
                waits.head_since = None;
            }
        }
        Ok(())
    }

    /// Reads everything up to the end of the connection; returns how far the answers have come, or what is wrong.
    fn read_all(&self) -> Result<Reached, String> {
        let (rules, script) = (self.rules, self.script);
        let mut checker = Checker::new(script.answers.iter().copied());
        let mut buf = vec![0; 1 << 16];
        let (mut reads, mut total) = (0, 0);
        // Of what it could have read: the number of bytes, and the time in which it did not read them.
        let (mut taken, mut idle, mut returned) = (0, Duration::ZERO, self.connected);
        let mut pauses = script.pace.pauses.iter().peekable();
        loop {
            let mut size = buf.len();
            if reads < script.pace.slow_reads {
                std::thread::sleep(script.pace.gap);
                size = script.pace.size.clamp(1, size);
            }
            while let Some((_, pause)) = pauses.next_if(|(at, _)| *at <= total) {
                std::thread::sleep(*pause);
            }
            if let Some((at, _)) = pauses.peek() {
                size = size.min(at - total);
            }
            idle += returned.elapsed();
            note(&self.conduct.slow_reader, idle > rules.write * 9 / 20);
            let called = Instant::now();
            let read = (&self.socket).read(&mut buf[..size]);
            returned = Instant::now();
            self.log(format_args!("read {read:?} of {size} in {:.3?}", returned - called));
            if matches!(read, Ok(1..)) && returned - called > MARGIN {
                // It has waited for these bytes: the server has just sent them.
                let mut waits = self.waits.lock().unwrap();
                waits.seen = waits.seen.max(returned - AWAKE);
            }
            let reset = match read {
                Ok(0) => false,
                Ok(n) => {
                    checker.feed(&buf[..n])?;
                    (reads, total, taken) = (reads + 1, total + n, taken + n);
                    if n < size || taken >= NOTICED {
                        (taken, idle) = (0, Duration::ZERO);
                    }
                    if self.complete() != Some(checker.complete) {
                        self.set_complete(Some(checker.complete));
                    }
                    if script.end == End::Leave && checker.is_done() {
                        return Ok(Reached::All);
                    }
                    continue;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => true,
                Err(e) => return Err(format!("{}: {e}", checker.place())),
            };
            let place = checker.place();
            let reached = checker.end();
            // A Unix socket cannot be reset.
            if reached == Reached::LooksComplete && !reset && !self.is_unix {
                return Err(format!("{place} look complete"));
            }
            self.judge(reached, reset).map_err(|wrong| format!("{place}: {wrong}"))?;
            return Ok(reached);
        }
    }

    /// Returns what is wrong with the end of the connection, if its client has not broken the rule that allows it.
    fn judge(&self, reached: Reached, reset: bool) -> Result<(), String> {
        let script = self.script;
        if reached != Reached::All && !(script.end == End::Partial && self.has_all()) {
            self.note_waits(Instant::now());
        }
        let [silent, stalled, slow_head, slow_reader, late_stray] = self.conduct.broken();
        let stall = STALLS.lock().unwrap().last().is_some_and(|at| *at > self.connected);
        let is_silent = silent || slow_head;
        let may_cut = stall || slow_reader || stalled || late_stray || script.may_be_cut;
        let is_right = match reached {
            Reached::All if reset => {
                // On a Unix socket the client learns that a byte has come between the server's last look and its close.
                let knows = self.is_unix && script.end == End::Closed && !script.strays.is_empty();
                knows || may_cut || is_silent
            }
            Reached::All => true,
            Reached::Border => may_cut || is_silent,
            Reached::Middle | Reached::LooksComplete => may_cut,
            Reached::Refused(408) => is_silent || script.end == End::Partial && self.has_all(),
            // Not even the first part of a body has found room.
            Reached::Refused(500) => script.may_be_cut,
            Reached::Refused(_) => false,
        };
        if !is_right {
            return Err(format!("{reached:?}, reset: {reset}"));
        }
        let waits = *self.waits.lock().unwrap();
        let due = match (script.end, reached, waits.head_since) {
            (End::Wait, Reached::All, _) => waits.since + waits.limit,
            (End::Partial, Reached::Refused(_), Some(since)) if self.has_all() => since + self.rules.header,
            _ => return Ok(()),
        };
        match due.checked_duration_since(Instant::now() + MARGIN) {
            Some(early) => Err(format!("closed too early by {early:?} and {MARGIN:?}")),
            None => Ok(()),
        }
    }

    fn has_all(&self) -> bool {
        self.complete() == Some(self.script.commands.len())
    }
}

impl Conduct {
    fn broken(&self) -> [bool; 5] {
        [&self.silent, &self.stalled, &self.slow_head, &self.slow_reader, &self.late_stray]
            .map(|flag| flag.load(Relaxed))
    }
}

fn note(flag: &AtomicBool, broken: bool) {
    flag.fetch_or(broken, Relaxed);
}

/// What has happened in a run.
#[derive(Debug, Default)]
struct Tally {
    bytes: AtomicU64,
    whole: AtomicUsize,
    cut: AtomicUsize,
    between: AtomicUsize,
    refused: AtomicUsize,
    /// The connections of clients that have broken each rule.
    broken: [AtomicUsize; 5],
}

/// One connection by chance. Returns what was done, and what is wrong.
fn by_chance(rules: &Rules, addresses: &[Address], random: &mut Random, tally: &Tally) -> Result<(), String> {
    let script = &Script::by_chance(rules, random);
    let address = &addresses[script.address];
    let socket = connect(address, script.pace.buffer).map_err(|e| e.to_string())?;
    let now = Instant::now();
    let limit = if rules.style == Style::Data { rules.idle } else { rules.header };
    let connection = &Connection {
        rules,
        script,
        socket,
        is_unix: matches!(address, Address::Unix(_)),
        connected: now,
        complete: Mutex::new(Some(0)),
        changed: Condvar::new(),
        conduct: Conduct::default(),
        waits: Mutex::new(Waits {
            since: now,
            seen: now,
            limit,
            is_within_line: false,
            head_since: (rules.style == Style::Request).then_some(now),
        }),
        log: Mutex::default(),
    };
    let judged = std::thread::scope(|scope| {
        scope.spawn(|| connection.send_all());
        let judged = connection.read_all();
        connection.set_complete(None);
        // Ends the other thread too.
        let _ = connection.socket.shutdown(Shutdown::Both);
        judged
    });
    let wrong = |wrong| {
        let log = connection.log.lock().unwrap();
        let last = log[log.len().saturating_sub(60)..].join("\n  ");
        format!("{wrong}\n{script:?}\n{:?}\n  {last}", connection.conduct)
    };
    let reached = judged.map_err(wrong)?;
    let count = match reached {
        Reached::All => &tally.whole,
        Reached::Border => &tally.between,
        Reached::Middle | Reached::LooksComplete => &tally.cut,
        Reached::Refused(_) => &tally.refused,
    };
    count.fetch_add(1, Relaxed);
    if reached == Reached::All {
        let size: usize = script.answers.iter().map(|answer| answer.size).sum();
        tally.bytes.fetch_add(size as u64, Relaxed);
    }
    for (count, broken) in tally.broken.iter().zip(connection.conduct.broken()) {
        count.fetch_add(usize::from(broken), Relaxed);
    }
    Ok(())
}

/// Runs connections by chance against servers with settings by chance.
fn run_by_chance(style: Style) {
    let given = std::env::var("PREFORK_SEED").ok().map(|text| text.parse::<u64>().unwrap());
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let runs = if given.is_some() { 1 } else { RUNS };
    let wrong =
        at_once(runs, |run| one_run(style, given.unwrap_or_else(|| time.wrapping_add(run as u64 * 7919))));
    wrong.into_iter().for_each(|wrong| wrong.unwrap_or_else(|wrong| panic!("{wrong}")));
}

fn one_run(style: Style, seed: u64) -> Result<(), String> {
    let rules = &Rules::by_chance(style, &mut Random::new(seed));
    println!("PREFORK_SEED={seed} {rules:?}");
    let server = rules.start().start();
    look_for_stalls();
    let connections = if style == Style::Connection { BLOCKING } else { CONNECTIONS };
    let (next, tally, start) = (AtomicU64::new(0), Tally::default(), Instant::now());
    let wrong = at_once(CLIENTS, |_| {
        loop {
            let i = next.fetch_add(1, Relaxed);
            if i >= connections {
                return None;
            }
            let random = &mut Random::new(seed.wrapping_add(1 + i));
            if let Err(wrong) = by_chance(rules, &server.addresses, random, &tally) {
                next.store(connections, Relaxed);
                return Some(format!("connection {i}: {wrong}"));
            }
        }
    });
    let stalls = STALLS.lock().unwrap().iter().filter(|at| **at > start).count();
    println!("{style:?}: {:?}: {tally:?}, {stalls} stalls", start.elapsed());
    server.stop();
    wrong.into_iter().flatten().next().map_or(Ok(()), |wrong| Err(format!("PREFORK_SEED={seed}, {wrong}")))
}

#[test]
fn responses_arrive_whole_unless_the_client_is_too_slow() {
    run_by_chance(Style::Request);
}

#[test]
fn streams_arrive_whole_unless_the_client_is_too_slow() {
    run_by_chance(Style::Data);
}

#[test]
fn what_is_written_in_blocking_style_arrives_whole_unless_the_client_is_too_slow() {
    run_by_chance(Style::Connection);
}
