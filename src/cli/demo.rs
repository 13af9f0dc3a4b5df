//! The built-in handler of `prefork demo`: a small page for each feature. Runs in a worker.

use prefork::{Refused, Request, Response, Server};
use std::fmt::Write;
use std::time::Duration;

const PATHS: [(&str, &str); 7] = [
    ("/", "this page; call it again to see the workers take turns"),
    ("/hello", "hello world"),
    ("/stream", "five parts, chunked: curl -iN"),
    ("/echo", "what you send: curl -d hello"),
    ("/slow?ms=500", "an answer after half a second; meanwhile the other workers serve"),
    ("/panic", "a bug in the handler: 500, and the worker lives"),
    ("/crash", "a worse bug: the worker dies during the request, and is replaced"),
];

/// Returns a server with the demo handler.
pub fn server() -> Server {
    Server::factory(|worker| {
        let (id, slot, pid) = (worker.id(), worker.slot(), std::process::id());
        let mut demo = Demo { worker: format!("worker {id} in slot {slot}, process {pid}"), requests: 0 };
        prefork::http(move |req, res| demo.answer(req, res))
    })
}

struct Demo {
    worker: String,
    requests: u64,
}

impl Demo {
    fn answer(&mut self, req: &Request<'_>, res: &mut Response) -> Result<(), Refused> {
        self.requests += 1;
        match req.path() {
            "/" => self.page(req, res),
            "/hello" => res.body_static(b"hello world\n"),
            "/stream" => stream(res),
            "/echo" => echo(req, res),
            "/slow" => slow(req, res),
            "/panic" => panic!("demo: asked to panic"),
            "/crash" => std::process::abort(),
            _ => {
                res.status(404)?;
                res.body_static(b"no such page; / lists all\n")
            }
        }
    }

    /// Answers with plain text, or with the same and links to a browser.
    fn page(&self, req: &Request<'_>, res: &mut Response) -> Result<(), Refused> {
        let browser = req.header("accept").is_some_and(|v| v.windows(9).any(|w| w == b"text/html"));
        let mut text = format!("prefork demo\n\n{}, its request {}\n\ntry:\n", self.worker, self.requests);
        for (path, about) in PATHS {
            let pad = " ".repeat(14 - path.len());
            // Writing to a String cannot fail.
            let _ = match browser {
                true => writeln!(text, "  <a href=\"{path}\">{path}</a>{pad}{about}"),
                false => writeln!(text, "  {path}{pad}{about}"),
            };
        }
        if browser {
            text =
                format!("<!doctype html><meta charset=utf-8><title>prefork demo</title><pre>{text}</pre>\n");
        }
        res.header("Content-Type", if browser { "text/html" } else { "text/plain" })?;
        res.body(text)
    }
}

fn stream(res: &mut Response) -> Result<(), Refused> {
    res.header("Content-Type", "text/plain")?;
    (1..=5).try_for_each(|n| res.write(format!("part {n} of 5\n").as_bytes()))
}

fn echo(req: &Request<'_>, res: &mut Response) -> Result<(), Refused> {
    res.header("Content-Type", "text/plain")?;
    match req.body() {
        [] => res.body_static(b"nothing was sent; try: curl -d hello\n"),
        body => res.body(body),
    }
}

/// Sleeps, as a handler that waits for a database.
fn slow(req: &Request<'_>, res: &mut Response) -> Result<(), Refused> {
    let wanted = req.query().and_then(|q| q.strip_prefix("ms=")).and_then(|ms| ms.parse().ok());
    let ms = wanted.unwrap_or(500).min(10_000);
    std::thread::sleep(Duration::from_millis(ms));
    res.body(format!("after {ms} ms\n"))
}
