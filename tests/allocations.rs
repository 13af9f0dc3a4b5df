//! No heap allocation per connection in the master, and none per connection or per request in a warm worker.
//!
//! This program is both the test and, called with `serve`, the server: its allocator counts into a page that both see, in one
//! place for the master and one for each worker.
#![allow(clippy::unwrap_used)]

mod util;

use prefork::{Conn, Request, Response, Server};
use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering::Relaxed};
use util::{Client, Start, Style, proc};

/// Where allocations are counted; null in a process that does not count.
static COUNTS: AtomicPtr<AtomicU64> = AtomicPtr::new(std::ptr::null_mut());
/// Which of the counters is this process's: 0 for the master, 1 + slot for a worker.
static PLACE: AtomicUsize = AtomicUsize::new(0);
const PAGE: usize = 4096;

struct Counting;

impl Counting {
    fn count() {
        let counts = COUNTS.load(Relaxed);
        if !counts.is_null() {
            // SAFETY: points to a page of counters that is never unmapped.
            #[allow(unsafe_code)]
            let counters = unsafe { std::slice::from_raw_parts(counts, PAGE / 8) };
            counters[PLACE.load(Relaxed)].fetch_add(1, Relaxed);
        }
    }
}

#[allow(unsafe_code)]
// SAFETY: everything is left to the system's allocator; counting touches no memory of its own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count();
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::count();
        // SAFETY: as the caller promised.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::count();
        // SAFETY: as the caller promised.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [_, "serve", style, page] => serve(style, Path::new(page)),
        [_, rest @ ..] if rest.contains(&"--list") => {}
        _ => {
            requests_in_a_warm_worker();
            connections_in_a_warm_worker();
            println!("allocations: ok");
        }
    }
}

// ---- the server

fn serve(style: &str, page: &Path) {
    let file = File::options().read(true).write(true).open(page).unwrap();
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at a place of the kernel's choice, of a file that is a page long.
    #[allow(unsafe_code)]
    let at =
        unsafe { libc::mmap(std::ptr::null_mut(), PAGE, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    assert_ne!(at, libc::MAP_FAILED);
    COUNTS.store(at.cast(), Relaxed);
    let server = match style {
        "request" => Server::factory(|worker| {
            PLACE.store(1 + worker.slot() as usize, Relaxed);
            let file = File::open("body").unwrap();
            prefork::http(move |req, res| answer(&file, req, res))
        }),
        "connection" => Server::factory(|worker| {
            PLACE.store(1 + worker.slot() as usize, Relaxed);
            prefork::blocking(talk)
        }),
        _ => Server::factory(|worker| {
            PLACE.store(1 + worker.slot() as usize, Relaxed);
            prefork::stream(echo)
        }),
    };
    let listening = |started: &prefork::Started| println!("listening on {}", started.addresses.join(", "));
    server.listen("127.0.0.1:0").workers(2).on_start(listening).run().unwrap();
}

fn answer(file: &File, req: &Request<'_>, res: &mut Response) -> Result<(), prefork::Refused> {
    res.header("X-Method", req.method())?;
    match req.path() {
        "/static" => res.body_static(b"hello"),
        "/echo" => res.body(req.body()),
        "/stream" => (0..5).try_for_each(|_| res.write(b"part")),
        "/file" => res.file(file.try_clone().unwrap(), 0, 5),
        _ => res.status(404),
    }
}

fn talk(conn: &Conn) -> std::io::Result<()> {
    let mut buf = [0; 4096];
    loop {
        match conn.read(&mut buf)? {
            0 => return Ok(()),
            n => conn.write(&buf[..n])?,
        }
    }
}

fn echo(conn: &Conn) -> std::io::Result<()> {
    let mut buf = [0; 4096];
    loop {
        match conn.read(&mut buf) {
            Ok(0) => {
                conn.close();
                return Ok(());
            }
            Ok(n) => conn.write(&buf[..n])?,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(e),
        }
    }
}

// ---- the test

/// A server whose allocations are counted, and how to read them: the master's, then each worker's.
fn counted(style: Style) -> (util::Server, impl Fn() -> Vec<u64>) {
    let start = Start::new(style);
    let dir = std::sync::Arc::new(util::Dir::new());
    let page = dir.file("counts");
    std::fs::write(&page, [0; PAGE]).unwrap();
    std::fs::write(dir.file("body"), "hello").unwrap();
    let name = format!("{style:?}").to_lowercase();
    let words =
        [std::env::current_exe().unwrap().into_os_string(), "serve".into(), name.into(), (&page).into()];
    let server = start.within(&dir).program(words).start();
    let counts = move || {
        let bytes = std::fs::read(&page).unwrap();
        bytes.chunks_exact(8).take(3).map(|b| u64::from_ne_bytes(b.try_into().unwrap())).collect()
    };
    (server, counts)
}

/// A request of each sort, and the body it is answered with.
fn requests() -> Vec<(String, String, String)> {
    let big = "b".repeat(20_000);
    let head = "Host: test\r\nAccept: */*\r\nUser-Agent: test";
    let chunked = |parts: &[&str]| -> String {
        parts.iter().map(|p| format!("{:x}\r\n{p}\r\n", p.len())).collect::<String>() + "0\r\n\r\n"
    };
    let post = |fields: &str, body: &str| format!("POST /echo HTTP/1.1\r\n{head}\r\n{fields}\r\n\r\n{body}");
    [
        ("static body", format!("GET /static?q=1 HTTP/1.1\r\n{head}\r\n\r\n"), "hello".into()),
        ("request body", post("Content-Length: 5", "tests"), "tests".into()),
        ("large body", post("Content-Length: 20000", &big), big),
        ("chunked body", post("Transfer-Encoding: chunked", &chunked(&["ab", "cde"])), "abcde".into()),
        ("streamed response", format!("GET /stream HTTP/1.1\r\n{head}\r\n\r\n"), "part".repeat(5)),
        ("file", format!("GET /file HTTP/1.1\r\n{head}\r\n\r\n"), "hello".into()),
        ("no such path", format!("GET /none HTTP/1.1\r\n{head}\r\n\r\n"), String::new()),
    ]
    .map(|(name, request, body)| (name.to_owned(), request, body))
    .to_vec()
}

fn requests_in_a_warm_worker() {
    let (server, counts) = counted(Style::Request);
    for (name, request, body) in requests() {
        let keep_alive = |client: &mut Client, n: usize| {
            for _ in 0..n {
                client.send(request.as_bytes()).unwrap();
                assert_eq!(client.http_answer().unwrap().body, body, "{name}");
            }
        };
        let mut clients: Vec<_> = (0..4).map(|_| server.connect()).collect();
        clients.iter_mut().for_each(|c| keep_alive(c, 50));
        let before = counts();
        clients.iter_mut().for_each(|c| keep_alive(c, 250));
        assert_eq!(counts(), before, "1000 requests: {name}");

        let short = |n: usize| {
            for _ in 0..n {
                keep_alive(&mut server.connect(), 1);
            }
        };
        short(50);
        let before = counts();
        short(300);
        assert_eq!(counts(), before, "300 connections: {name}");
        println!("allocations: none for: {name}");
    }
    server.stop();
}

fn connections_in_a_warm_worker() {
    for style in Style::ALL {
        let (server, counts) = counted(style);
        let one = |client: &mut Client| match style {
            Style::Request => {
                client.send(b"GET /static HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
                assert_eq!(client.http_answer().unwrap().body, "hello");
            }
            _ => assert_eq!(client.ask("hello"), Ok("hello".into())),
        };
        // Some at the same time, some alone.
        let drive = |rounds: usize, width: usize| {
            for round in 0..rounds {
                // They wait for the master, which then gives them several in a message.
                let together = round % 2 == 1;
                if together {
                    proc::freeze(server.pid);
                }
                let mut clients: Vec<_> = (0..width).map(|_| server.connect()).collect();
                if together {
                    proc::signal(server.pid, libc::SIGCONT);
                }
                clients.iter_mut().for_each(one);
            }
        };
        // A blocking worker has one at a time, and a client keeps it.
        let width = if style == Style::Connection { 2 } else { 20 };
        // More at the same time than later, when those that are being closed add to those that are open.
        drive(20, if style == Style::Connection { 2 } else { 5 * width });
        let before = counts();
        drive(1000 / width, width);
        assert_eq!(counts(), before, "1000 connections: {style:?}");
        println!("allocations: none for: connections, {style:?}");
        server.stop();
    }
}
