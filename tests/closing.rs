//! The end of a connection: the last answer arrives whole, whatever the client has sent beyond its request, and whenever.
#![allow(clippy::unwrap_used)]

mod util;

use socket2::SockRef;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use util::client::Address;
use util::load::at_once;
use util::random::Random;
use util::{Mode, Server, Start, Style, handler, proc, wait_until};

/// Answers `/HOW/MS/SIZE` after MS milliseconds with SIZE bytes, of which byte N is `N % 251`. HOW is a letter for the call that
/// sets the body; a capital one ends the connection by `prefork_response_close`. `/gate/HOW/SIZE` first says by the file `here`
/// that it runs, and waits for the file `go`.
const ANSWERS: &str = r#"
#define _GNU_SOURCE
#include <ctype.h>
#include <fcntl.h>
#include <prefork.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static char bytes[8 << 20];

static int start(prefork_worker *worker, void **state)
{
    size_t i;
    (void)worker, (void)state;
    for (i = 0; i < sizeof bytes; i++)
        bytes[i] = (char)(i % 251);
    return 0;
}

static void wait_ms(long ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    prefork_slice path = prefork_request_path(req);
    char text[64], how;
    unsigned long size, at, part;
    long ms = 0;
    int fd;

    (void)state;
    snprintf(text, sizeof text, "%.*s", (int)path.len, path.data);
    if (sscanf(text, "/gate/%c/%lu", &how, &size) == 2) {
        close(open("here", O_WRONLY | O_CREAT, 0666));
        while (access("go", F_OK) < 0)
            wait_ms(1);
        unlink("here");
    } else if (sscanf(text, "/%c/%ld/%lu", &how, &ms, &size) != 3) {
        abort();
    }
    if (ms)
        wait_ms(ms);
    if (isupper((unsigned char)how))
        prefork_response_close(res);
    switch (tolower((unsigned char)how)) {
    case 'b':
        prefork_response_body(res, bytes, size);
        break;
    case 's':
        prefork_response_body_static(res, bytes, size);
        break;
    case 'w':
        for (at = 0; at < size; at += part) {
            part = size - at < 5000 ? size - at : 5000;
            if (prefork_response_write(res, bytes + at, part) != PREFORK_OK)
                abort();
        }
        break;
    case 'f':
        fd = memfd_create("answer", MFD_CLOEXEC);
        if (write(fd, bytes, size) != (ssize_t)size || prefork_response_file(res, fd, 0, size) != PREFORK_OK)
            abort();
        break;
    default:
        abort();
    }
}

PREFORK_MODULE(.worker_start = start, .on_request = on_request)
"#;

fn start() -> Start {
    Start::new(Style::Request).module(handler::compile(ANSWERS, &[])).workers(1).set("max-pending", "32M")
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(s) => s.as_fd(),
            Self::Unix(s) => s.as_fd(),
        }
    }
}

/// A client that reads as much at a time as it is told.
struct Reader {
    socket: Socket,
    read: Vec<u8>,
}

impl Reader {
    fn connect(address: &Address) -> Self {
        let socket = match address {
            Address::Tcp(a) => Socket::Tcp(TcpStream::connect(a).unwrap()),
            Address::Unix(path) => Socket::Unix(UnixStream::connect(path).unwrap()),
            Address::Udp(_) => panic!("no connections there"),
        };
        SockRef::from(&socket).set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        SockRef::from(&socket).set_write_timeout(Some(Duration::from_secs(15))).unwrap();
        Self { socket, read: Vec::new() }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.socket {
            Socket::Tcp(s) => s.write_all(bytes),
            Socket::Unix(s) => s.write_all(bytes),
        }
    }

    /// Reads once; false at the end.
    fn step(&mut self, size: usize) -> io::Result<bool> {
        let at = self.read.len();
        self.read.resize(at + size, 0);
        let n = match &mut self.socket {
            Socket::Tcp(s) => s.read(&mut self.read[at..]),
            Socket::Unix(s) => s.read(&mut self.read[at..]),
        };
        self.read.truncate(at + n.as_ref().copied().unwrap_or(0));
        n.map(|n| n > 0)
    }

    /// The rest up to the end of the connection, which must not be a reset.
    fn rest(&mut self) -> io::Result<()> {
        while self.step(1 << 16)? {}
        Ok(())
    }

    fn half_close(&self) {
        let _ = SockRef::from(&self.socket).shutdown(Shutdown::Write);
    }
}

/// Takes a response off the front of `bytes` and returns its body, or what is wrong with it.
fn take_response(bytes: &mut &[u8]) -> Result<Vec<u8>, String> {
    let end =
        bytes.windows(4).position(|w| w == b"\r\n\r\n").ok_or(format!("{} bytes, no head", bytes.len()))?;
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    *bytes = &bytes[end + 4..];
    if !head.starts_with("http/1.1 200 ok\r\n") {
        return Err(head);
    }
    let length = head.lines().find_map(|l| l.strip_prefix("content-length: "));
    let body = match length {
        Some(n) => take(bytes, n.parse().unwrap())?,
        None if head.contains("chunked") => return take_chunks(bytes),
        // A stream to an HTTP/1.0 client ends with the connection.
        None => take(bytes, bytes.len())?,
    };
    Ok(body.to_vec())
}

fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Result<&'a [u8], String> {
    let taken = bytes.split_off(..n).ok_or(format!("cut: {} bytes where {n} are due", bytes.len()))?;
    Ok(taken)
}

fn take_chunks(bytes: &mut &[u8]) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    loop {
        let line = bytes.windows(2).position(|w| w == b"\r\n").ok_or("cut in the size of a chunk")?;
        let size = String::from_utf8_lossy(take(bytes, line)?).into_owned();
        let size = usize::from_str_radix(&size, 16).map_err(|e| e.to_string())?;
        take(bytes, 2)?;
        body.extend_from_slice(take(bytes, size)?);
        if take(bytes, 2)? != b"\r\n" {
            return Err("no line end behind a chunk".into());
        }
        if size == 0 {
            return Ok(body);
        }
    }
}

/// True for the bytes that the handler sends, all of them and no other.
fn is_whole(body: &[u8], size: usize) -> bool {
    body.len() == size && body.iter().enumerate().all(|(i, b)| *b == (i % 251) as u8)
}

/// Returns what is wrong unless `bytes` are the answers, each complete, and the connection has ended without a reset.
fn check_answers(mut bytes: &[u8], sizes: &[usize], ended: io::Result<()>) -> Result<(), String> {
    for size in sizes {
        let body = take_response(&mut bytes).map_err(|wrong| format!("{wrong}, {ended:?}"))?;
        if !is_whole(&body, *size) {
            return Err(format!("{} other bytes than {size}, {ended:?}", body.len()));
        }
    }
    if !bytes.is_empty() {
        return Err(format!("{} bytes behind the last answer", bytes.len()));
    }
    ended.map_err(|e| format!("whole, and then {e}"))
}

#[track_caller]
fn assert_whole(reader: &mut Reader, size: usize, what: impl fmt::Display) {
    let ended = reader.rest();
    check_answers(&reader.read, &[size], ended).unwrap_or_else(|wrong| panic!("{what}: {wrong}"));
}

fn request(path: &str, minor: u8, close: bool) -> Vec<u8> {
    let close = if close { "Connection: close\r\n" } else { "" };
    format!("GET {path} HTTP/1.{minor}\r\nHost: a\r\n{close}\r\n").into_bytes()
}

const STRAY: [&[u8]; 4] = [b"\r\n", b"x", b"GET /s/0/1 HTTP/1.1\r\nHost: a\r\n\r\n", &[b'z'; 100_000]];

/// Sends `stray` while the handler runs, for each way to set a body.
fn send_while_the_handler_runs(server: &Server, stray: &[u8]) {
    for (how, size, minor) in [
        ('s', 1, 1),
        ('s', 1, 0),
        ('b', 100, 1),
        ('w', 100, 1),
        ('w', 100, 0),
        ('f', 100, 1),
        ('s', 100_000, 1),
        ('f', 100_000, 1),
        ('w', 300_000, 1),
        ('w', 300_000, 0),
        ('S', 1, 1),
    ] {
        let mut reader = Reader::connect(server.address());
        reader.send(&request(&format!("/gate/{how}/{size}"), minor, how != 'S')).unwrap();
        let here = server.dir.file("here");
        wait_until("the handler runs", || here.exists());
        reader.send(stray).unwrap();
        server.dir.make("go");
        let what = format!("{how} {size} HTTP/1.{minor}, {} bytes at {:?}", stray.len(), server.address());
        assert_whole(&mut reader, size, what);
        wait_until("the handler has ended", || !here.exists());
        server.dir.remove("go");
    }
}

#[test]
fn bytes_that_come_while_the_handler_runs_cost_nothing_of_the_answer() {
    let server = start().start();
    STRAY.iter().for_each(|stray| send_while_the_handler_runs(&server, stray));
    server.stop();
}

#[test]
fn so_on_other_sockets_and_however_connections_are_accepted() {
    for mode in [Mode::Shared, Mode::ReusePort] {
        let server = start().accept(mode).start();
        send_while_the_handler_runs(&server, STRAY[0]);
        server.stop();
    }
    let server = start().set("defer-accept", "5s").start();
    send_while_the_handler_runs(&server, STRAY[0]);
    server.stop();
    let unix = start();
    let path = format!("unix:{}", unix.dir().file("socket").display());
    let server = unix.listen(path).start();
    STRAY.iter().for_each(|stray| send_while_the_handler_runs(&server, stray));
    server.stop();
}

#[test]
fn bytes_that_come_while_an_answer_is_sent_cost_nothing_of_it() {
    let server = start().start();
    // The first does not fit into the buffers between the two; the others are the kernel's to send when the client begins.
    for size in [8 << 20, 2 << 20, 400_000, 20_000] {
        for how in ['s', 'f', 'w'] {
            let mut reader = Reader::connect(server.address());
            reader.send(&request(&format!("/{how}/0/{size}"), 1, true)).unwrap();
            reader.step(1000).unwrap();
            for _ in 0..20 {
                // One at a time, as the answer goes on.
                reader.send(b"\r\n").unwrap();
                reader.step(700).unwrap();
            }
            assert_whole(&mut reader, size, format!("{how} {size}"));
        }
    }
    server.stop();
}

/// One connection by chance: requests, speeds, stray bytes, a half-close. Says what was done, and what is wrong.
fn by_chance(address: &Address, seed: u64) -> Result<(), String> {
    let random = &mut Random::new(seed);
    let mut reader = Reader::connect(address);
    // Before the last request there may be others, on the same connection.
    let (mut sizes, mut sent, mut minor) = (Vec::new(), Vec::new(), 1);
    for left in (0..1 + random.below(3)).rev() {
        let magnitude = random.below(21);
        let size = random.below(2 << magnitude);
        let ms = random.below(50).saturating_sub(25);
        let by_handler = left == 0 && random.below(3) == 0;
        let how = ['b', 's', 'w', 'f'][random.below(4) as usize];
        let how = if by_handler { how.to_ascii_uppercase() } else { how };
        minor = if left == 0 && !by_handler { random.below(2) as u8 } else { 1 };
        sent.extend(request(&format!("/{how}/{ms}/{size}"), minor, left == 0 && !by_handler));
        sizes.push(size as usize);
    }
    let story = format!("{:?} with HTTP/1.{minor}", String::from_utf8_lossy(&sent));
    let stray = STRAY[random.below(3) as usize];
    let due = sent.len();
    if random.below(4) == 0 {
        sent.extend_from_slice(stray);
    }
    let piece = 1 + random.below(100) as usize;
    for (i, part) in sent.chunks(piece).enumerate() {
        match reader.send(part) {
            Err(e) if i * piece < due => return Err(format!("{story}: {e}")),
            // With the request complete the server may have answered and closed.
            _ => {}
        }
    }
    let mut strays = random.below(8);
    while strays > 0 && random.below(2) == 0 {
        std::thread::sleep(Duration::from_micros(random.below(8000)));
        let _ = reader.send(stray);
        strays -= 1;
    }
    if random.below(4) == 0 {
        reader.half_close();
        strays = 0;
    }
    let mut ended = Ok(true);
    for _ in 0..random.below(60) {
        std::thread::sleep(Duration::from_micros(random.below(1000)));
        let size = 1 + random.below(20_000) as usize;
        ended = reader.step(size);
        if !matches!(ended, Ok(true)) {
            break;
        }
        if strays > 0 && random.below(4) == 0 {
            let _ = reader.send(stray);
            strays -= 1;
        }
    }
    let mut ended = ended.and_then(|_| reader.rest());
    if matches!((&ended, address), (Err(e), Address::Unix(_)) if e.kind() == io::ErrorKind::ConnectionReset) {
        // A byte has come between the server's last look and its close. On a Unix socket the client learns of it, behind the
        // answer.
        ended = Ok(());
    }
    check_answers(&reader.read, &sizes, ended).map_err(|wrong| format!("{story}, then {stray:?}: {wrong}"))
}

const CLIENTS: usize = 8;

/// Runs clients by chance for a while; `PREFORK_SEED` is the seed of the one to run again.
fn run_by_chance(server: &Server, connections: u64) {
    let seed = std::env::var("PREFORK_SEED").ok().map(|text| text.parse::<u64>().unwrap());
    let first =
        seed.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64);
    println!("seeds from {first}");
    let next = AtomicU64::new(0);
    let connections = if seed.is_some() { 1 } else { connections };
    at_once(CLIENTS, |_| {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= connections {
                return;
            }
            let seed = first.wrapping_add(i);
            by_chance(server.address(), seed).unwrap_or_else(|wrong| panic!("PREFORK_SEED={seed}: {wrong}"));
        }
    });
}

#[test]
fn every_answer_arrives_whole_whatever_clients_send_and_however_they_read() {
    let server = start().workers(4).start();
    run_by_chance(&server, 400);
    server.stop();
    let unix = start();
    let path = format!("unix:{}", unix.dir().file("socket").display());
    let server = unix.workers(4).listen(path).start();
    run_by_chance(&server, 200);
    server.stop();
}

/// Uploads to a server that refuses it at once, `part` bytes a time with a pause in between, and returns the answer.
fn upload(server: &Server, total: usize, part: usize, pause: Duration) -> io::Result<String> {
    let mut reader = Reader::connect(server.address());
    reader.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {total}\r\n\r\n").as_bytes())?;
    let part = vec![b'z'; part];
    let mut sent = 0;
    while sent < total {
        reader.send(&part)?;
        sent += part.len();
        std::thread::sleep(pause);
    }
    reader.rest()?;
    Ok(String::from_utf8_lossy(&reader.read).into_owned())
}

#[test]
fn a_refusal_reaches_a_client_that_sends_everything_first() {
    let server = start().set("max-body", "1M").start();
    // Fast and long, beyond any buffer; and slow, with pauses, for more than 2 seconds.
    let answers = at_once(2, |i| match i {
        0 => upload(&server, 100 << 20, 1 << 16, Duration::ZERO),
        _ => upload(&server, 5 << 20, 1 << 20, Duration::from_millis(700)),
    });
    for answer in answers {
        assert!(answer.as_ref().is_ok_and(|a| a.starts_with("HTTP/1.1 413 ")), "{answer:?}");
    }
    server.stop();
}

#[test]
fn a_refused_client_that_neither_sends_nor_closes_is_closed_after_five_seconds() {
    let server = start().set("max-body", "1M").start();
    let worker = server.workers()[0];
    let before = proc::kinds(worker);
    let mut reader = Reader::connect(server.address());
    reader.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n").unwrap();
    reader.rest().unwrap();
    let start = Instant::now();
    assert_ne!(proc::kinds(worker), before, "the connection is closed already");
    wait_until("the server closes", || proc::kinds(worker) == before);
    let took = start.elapsed();
    assert!((Duration::from_secs(4)..Duration::from_secs(10)).contains(&took), "{took:?}");
    server.stop();
}
