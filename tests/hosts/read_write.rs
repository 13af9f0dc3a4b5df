//! A host in Rust whose handlers use connections and responses as `Read`, `Write` and `BufRead`; for the tests.
#![allow(clippy::unwrap_used)]

use prefork::{Conn, Handler, Kind, Request, Response, Result, Server};
use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::time::{Duration, Instant};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let server = match args[1].as_str() {
        "blocking" => Server::blocking(lines),
        "stream" => Server::factory(|_| Stream),
        _ => Server::http(answer),
    };
    let server = server.set("max-pending", "1M").workers(1).listen(&args[2]);
    let server = server.on_start(|started| {
        println!("listening on http://{}", started.addresses[0]);
        io::stdout().flush().unwrap();
    });
    server.run().map(drop)
}

/// A command in each line.
fn lines(conn: &Conn) -> io::Result<()> {
    let mut line = String::new();
    while conn.reader().read_line(&mut line)? > 0 {
        let (command, n) = line.trim_end().split_once(' ').unwrap();
        let n: u64 = n.parse().unwrap();
        match command {
            // What the reader has read ahead comes first, whoever reads next.
            "copy" => drop(io::copy(&mut conn.reader().take(n), &mut &*conn)?),
            "raw" => {
                let mut bytes = vec![0; n as usize];
                { conn }.read_exact(&mut bytes)?;
                { conn }.write_all(&bytes)?;
            }
            "lines" => {
                let lines: io::Result<Vec<String>> = BufReader::new(conn).lines().take(n as usize).collect();
                writeln!(conn, "{}", lines?.join("+"))?;
            }
            "read" => {
                conn.set_read_timeout(Some(Duration::from_millis(n)))?;
                let kind = conn.read(&mut [0; 10]).unwrap_err().kind();
                conn.set_read_timeout(None)?;
                writeln!(conn, "{kind:?}")?;
            }
            "deadline" => {
                conn.set_deadline(Some(Instant::now() + Duration::from_millis(n)))?;
                let mut all = Vec::new();
                let kind = conn.reader().read_to_end(&mut all).unwrap_err().kind();
                assert_eq!(conn.write(b"too late").unwrap_err().kind(), kind);
                conn.set_deadline(None)?;
                writeln!(conn, "{kind:?} {}", !all.is_empty())?;
            }
            _ => {
                conn.set_write_timeout(Some(Duration::from_millis(n)))?;
                let e = io::copy(&mut io::repeat(b'x'), &mut &*conn).unwrap_err();
                println!("write: {:?}", e.kind());
                return Ok(());
            }
        }
        line.clear();
    }
    Ok(())
}

/// Writes as much as there is room for, twice, and says how much that was.
struct Stream;

impl Handler for Stream {
    fn kind(&self) -> Kind {
        Kind::Stream
    }

    fn on_data(&mut self, conn: &Conn) {
        let mut line = String::new();
        match conn.reader().read_line(&mut line) {
            Ok(0) => return,
            Ok(_) => {}
            Err(e) => return println!("read_line: {:?} {line:?}", e.kind()),
        }
        fill(conn);
        println!("timeouts: {:?}", conn.set_deadline(None).unwrap_err().kind());
    }

    fn on_writable(&mut self, conn: &Conn) {
        println!("there is room");
        fill(conn);
    }
}

fn fill(mut conn: &Conn) {
    let (bytes, mut written) = (vec![b'x'; 700 << 10], 0);
    let kind = loop {
        match Write::write(&mut conn, &bytes) {
            Ok(n) => written += n,
            Err(e) => break e.kind(),
        }
    };
    let all = conn.write_all(&[0; 10]).map_err(|e| e.kind());
    println!("wrote {written} and {}: {kind:?} {all:?}", conn.pending());
}

/// Bytes that count, at most `left`, at most 1000 at once; then an error if there is one.
struct Source {
    at: usize,
    left: usize,
    error: Option<io::Error>,
}

impl Read for Source {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = buf.len().min(self.left).min(1000);
        for byte in &mut buf[..n] {
            *byte = self.at as u8;
            self.at += 1;
        }
        self.left -= n;
        if n == 0 { self.error.take().map_or(Ok(0), Err) } else { Ok(n) }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        println!("source dropped at {}", self.at);
    }
}

fn answer(req: &Request<'_>, res: &mut Response) -> std::result::Result<(), Box<dyn Error>> {
    let n: usize = req.query().unwrap_or("0").parse()?;
    let source = |error: Option<io::Error>| Source { at: 0, left: n, error };
    match req.path() {
        "/from" => drop(res.body_from(source(None), None)?),
        "/length" => drop(res.body_from(source(None), Some(300_000))?),
        "/fails" => drop(res.body_from(source(Some(io::Error::other("the disk is gone"))), None)?),
        "/writer" => {
            let mut out = res.writer();
            for line in 0..n {
                writeln!(out, "line {line}")?;
            }
        }
        "/late" => {
            res.body("whole")?;
            write!(res.writer(), "more")?;
        }
        _ => {
            res.header("X-One", "1")?;
            res.header("x-two", b"\xff")?;
            let own: Vec<String> =
                res.headers().map(|(name, value)| format!("{name}={}", value.escape_ascii())).collect();
            assert_eq!((res.header_value("X-TWO"), res.header_value("date")), (Some(&b"\xff"[..]), None));
            writeln!(res, "{} own", own.join(" "))?;
            for (name, value) in req.headers() {
                write!(res, "{name}={} ", value.escape_ascii())?;
            }
            let all: Vec<_> =
                req.header_all("x-many").map(<[u8]>::escape_ascii).map(|v| v.to_string()).collect();
            writeln!(res, "\nmany: {}", all.join("+"))?;
            writeln!(
                res,
                "text: {:?} {:?} {:?}",
                req.header_str("X-MANY"),
                req.header_str("x-bytes"),
                req.header_str("no")
            )?;
        }
    }
    Ok(())
}
