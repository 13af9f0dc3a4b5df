//! `prefork demo`: the banner, every path that it proposes, and the end.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};

struct Demo {
    child: Child,
    stdout: BufReader<ChildStdout>,
    banner: [String; 3],
    address: String,
}

impl Demo {
    fn start(options: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_prefork"));
        command.args(["demo", "--listen", "127.0.0.1:0"]).args(options).env("RUST_BACKTRACE", "0");
        command.env_remove("LISTEN_FDS").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let banner = [(); 3].map(|()| {
            let mut line = String::new();
            stdout.read_line(&mut line).unwrap();
            line.trim_end().to_owned()
        });
        let address = banner[0].rsplit("http://").next().unwrap().to_owned();
        Self { child, stdout, banner, address }
    }

    /// Sends a request and returns the whole response: nothing if the worker died.
    fn send(&self, request: &str) -> String {
        let mut client = TcpStream::connect(&self.address).unwrap();
        client.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }

    fn get(&self, target: &str) -> String {
        self.send(&format!("GET {target} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"))
    }

    /// Ends it as a service manager does; returns the output on stdout and stderr without the banner.
    fn stop(mut self) -> (String, String) {
        let pid = self.child.id();
        let sent = Command::new("sh").args(["-c", &format!("kill -TERM {pid}")]).status().unwrap();
        assert!(sent.success());
        let (mut out, mut err) = (String::new(), String::new());
        self.stdout.read_to_string(&mut out).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0), "{err}");
        (out, err)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // The workers end when their master has.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_banner_has_the_address_the_workers_and_commands_to_try() {
    let demo = Demo::start(&["--workers", "3", "--dispatch", "least-connections"]);
    let [first, second, third] = &demo.banner;
    let (version, address) = (env!("CARGO_PKG_VERSION"), &demo.address);
    assert!(!address.ends_with(":0"), "{first}");
    assert_eq!(*first, format!("prefork {version} listening on http://{address}"));
    assert_eq!(second, "3 workers (demo), dispatch least-connections");
    assert_eq!(*third, format!("try: curl http://{address}/   wrk -t2 -c64 http://{address}/"));
    assert_eq!(demo.stop(), (String::new(), String::new()));
}

#[test]
fn it_serves_once_the_banner_is_printed_and_lists_its_paths() {
    let demo = Demo::start(&["-w", "2"]);
    let page = demo.get("/");
    assert!(
        page.starts_with("HTTP/1.1 200 ") && page.contains("worker ") && page.contains("slot "),
        "{page}"
    );
    for path in ["/hello", "/stream", "/echo", "/slow?ms=500", "/panic", "/crash"] {
        assert!(page.contains(&format!("\n  {path} ")), "{path}: {page}");
    }
    let browser = "GET / HTTP/1.1\r\nHost: t\r\nAccept: text/html,*/*\r\nConnection: close\r\n\r\n";
    assert!(demo.send(browser).contains("<a href=\"/hello\">"));
    assert!(demo.get("/hello").ends_with("\r\n\r\nhello world\n"));
    assert!(demo.get("/slow?ms=1").ends_with("after 1 ms\n"));
    assert!(demo.get("/nowhere").starts_with("HTTP/1.1 404 "));
    let stream = demo.get("/stream");
    assert!(stream.contains("chunked") && stream.contains("part 5 of 5"), "{stream}");
    let echo = "POST /echo HTTP/1.1\r\nHost: t\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello";
    assert!(demo.send(echo).ends_with("\r\n\r\nhello"));
    demo.stop();
}

#[test]
fn a_panic_is_answered_with_500_and_a_crash_ends_a_worker() {
    let demo = Demo::start(&["-w", "1"]);
    assert!(demo.get("/").contains("worker 1 in slot 0"));
    assert!(demo.get("/panic").starts_with("HTTP/1.1 500 "));
    assert!(demo.get("/").contains("worker 1 in slot 0"), "a panic does not cost the worker");
    assert_eq!(demo.get("/crash"), "");
    assert!(demo.get("/").contains("worker 2 in slot 0"), "the next client gets a successor");
    let (_, log) = demo.stop();
    assert!(log.contains("demo: asked to panic") && log.contains("prefork: worker 1 (slot 0"), "{log}");
}

#[test]
fn a_closed_stdout_does_not_end_it() {
    let place = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = place.local_addr().unwrap();
    drop(place);
    let words = format!("exec {} demo -w 1 --listen {address} >&-", env!("CARGO_BIN_EXE_prefork"));
    let mut child = Command::new("sh").args(["-c", &words]).spawn().unwrap();
    let client = loop {
        match TcpStream::connect(address) {
            Ok(client) => break Some(client),
            Err(_) if child.try_wait().unwrap().is_some() => break None,
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(5)),
        }
    };
    let mut answer = String::new();
    let mut client = client.unwrap();
    client.write_all(b"GET /hello HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").unwrap();
    client.read_to_string(&mut answer).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(answer.ends_with("hello world\n"), "{answer}");
}
