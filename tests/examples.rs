//! The examples of `ffi-examples/` that are about connections which live: server-sent events, a proxy.
#![allow(clippy::unwrap_used)]

mod util;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;
use util::handler::compile;
use util::{Server, Start, Style};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn example(name: &str) -> PathBuf {
    let path = Path::new(ROOT).join("ffi-examples").join(name);
    let source = fs::read_to_string(path).unwrap();
    assert!(source.lines().count() < 120, "{name} is long");
    compile(&source, &["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"])
}

/// curl(1), which reads events.
struct Events(Child, BufReader<ChildStdout>);

impl Events {
    fn of(server: &Server) -> Self {
        let url = format!("http://{}/events", server.tcp());
        let mut curl = Command::new("curl").args(["-sN", &url]).stdout(Stdio::piped()).spawn().unwrap();
        let mut events = BufReader::new(curl.stdout.take().unwrap());
        let mut line = String::new();
        events.read_line(&mut line).unwrap();
        assert_eq!(line, ": welcome\n");
        Self(curl, events)
    }

    /// The next event that is no tick; empty at the end.
    fn next(&mut self) -> String {
        let mut event = String::new();
        loop {
            let mut line = String::new();
            if self.1.read_line(&mut line).unwrap() == 0 {
                return event;
            }
            match line.as_str() {
                "\n" if event.is_empty() || event.starts_with("event: tick") => event.clear(),
                "\n" => return event,
                _ => event += &line,
            }
        }
    }

    fn tick(&mut self) {
        let (mut line, mut ticks) = (String::new(), false);
        while !(ticks && line == "\n") {
            line.clear();
            assert!(self.1.read_line(&mut line).unwrap() > 0);
            ticks |= line.starts_with("event: tick");
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn post(server: &Server, text: &str) {
    let url = format!("http://{}/", server.tcp());
    let status = Command::new("curl").args(["-sf", "--data-binary", text, &url]).status().unwrap();
    assert!(status.success());
}

fn sends_events(mut server: Server) {
    let mut clients: Vec<Events> = (0..6).map(|_| Events::of(&server)).collect();
    for n in 0..5 {
        post(&server, &format!("hello {n}\nin two lines"));
        for client in &mut clients {
            assert_eq!(client.next(), format!("data: hello {n}\ndata: in two lines\n"));
        }
    }
    clients.iter_mut().for_each(Events::tick);
    // Clients that have gone harm no others.
    drop(clients.split_off(3));
    post(&server, "still here");
    for client in &mut clients {
        assert_eq!(client.next(), "data: still here\n");
    }
    // A reload closes none: their new workers send them what comes next.
    for n in 0..4 {
        server.reload();
        server.rests();
        let text = format!("after reload {n}");
        post(&server, &text);
        for client in &mut clients {
            assert_eq!(client.next(), format!("data: {text}\n"));
        }
        clients.iter_mut().for_each(Events::tick);
    }
    // A stop ends them in order.
    server.signal(libc::SIGTERM);
    for client in &mut clients {
        assert_eq!(client.next(), "");
        assert!(client.0.wait().unwrap().success());
    }
    server.ends();
}

#[test]
fn events_of_all_workers_reach_all_clients() {
    sends_events(Start::new(Style::Request).module(example("sse.c")).start());
}

#[test]
fn events_of_all_workers_reach_all_clients_in_rust() {
    let program = [util::host::example("sse").into_os_string(), "127.0.0.1:0".into()];
    sends_events(Start::new(Style::Request).program(program).start());
}

/// The proxy in front of a server of this test's, which serves each connection with `serve`.
fn proxy(options: &[(&str, &str)], serve: impl Fn(TcpStream) + Send + Clone + 'static) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for connection in listener.incoming() {
            let (serve, connection) = (serve.clone(), connection.unwrap());
            thread::spawn(move || serve(connection));
        }
    });
    in_front_of(port, options)
}

fn in_front_of(port: u16, options: &[(&str, &str)]) -> Server {
    let mut words: Vec<String> =
        [env!("CARGO_BIN_EXE_prefork"), "--workers", "1", "--listen", "127.0.0.1:0"].map(String::from).into();
    words.extend(options.iter().map(|(name, value)| format!("--{name}={value}")));
    words.extend([example("proxy.c").display().to_string(), "127.0.0.1".into(), port.to_string()]);
    Start::new(Style::Data).workers(1).program(words).start()
}

fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i % 251) as u8).collect()
}

fn connect(server: &Server) -> TcpStream {
    let client = TcpStream::connect(server.tcp()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    client.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    client
}

#[test]
fn a_proxy_passes_both_directions_and_both_ends() {
    // Answers only when the client has ended its side, with what it has got.
    let server = proxy(&[], |mut connection| {
        let mut all = Vec::new();
        connection.read_to_end(&mut all).unwrap();
        connection.write_all(&all).unwrap();
    });
    for size in [0, 1, 100_000, 5_000_000] {
        let mut client = connect(&server);
        client.write_all(&bytes(size)).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        client.read_to_end(&mut all).unwrap();
        assert!(all == bytes(size), "{size}: {}", all.len());
    }
    server.stop();
}

#[test]
fn a_proxy_takes_no_more_than_the_other_side() {
    const SIZE: usize = 60 << 20;
    let settings = [("max-body", "65536"), ("max-pending", "65536")];
    // Reads nothing for a while, then all; then sends as much, which the client reads late.
    let server = proxy(&settings, |mut connection| {
        thread::sleep(Duration::from_secs(1));
        let mut all = vec![0; SIZE];
        connection.read_exact(&mut all).unwrap();
        assert!(all == bytes(SIZE));
        connection.write_all(&all).unwrap();
    });
    let worker = server.workers()[0];
    let before = resident(worker);
    let mut client = connect(&server);
    let mut writer = client.try_clone().unwrap();
    let sends = thread::spawn(move || writer.write_all(&bytes(SIZE)).unwrap());
    sends.join().unwrap();
    thread::sleep(Duration::from_millis(500));
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    assert!(all == bytes(SIZE), "{}", all.len());
    let grown = resident(worker).saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes more memory");
    server.stop();
}

/// The most memory that a process has had.
fn resident(pid: i32) -> u64 {
    let text = util::proc::status(pid, "VmHWM");
    text.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
}

#[test]
fn a_proxy_ends_one_side_when_the_other_goes() {
    // A server that closes at once.
    let server = proxy(&[], drop);
    for _ in 0..20 {
        let mut all = Vec::new();
        let _ = connect(&server).read_to_end(&mut all);
        assert!(all.is_empty());
    }
    server.stop();
    // None at all.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = in_front_of(free, &[]);
    let mut all = Vec::new();
    let _ = connect(&server).read_to_end(&mut all);
    assert!(all.is_empty());
    server.stop();
    // A client that goes; the server learns of it.
    let (tell, told) = std::sync::mpsc::channel();
    let server = proxy(&[], move |mut connection| {
        connection.write_all(b"x").unwrap();
        let _ = connection.read(&mut [0]);
        tell.send(()).unwrap();
    });
    for _ in 0..20 {
        let mut client = connect(&server);
        client.read_exact(&mut [0]).unwrap();
        drop(client);
        told.recv_timeout(Duration::from_secs(20)).unwrap();
    }
    server.stop();
}

#[test]
fn a_handler_in_cpp_has_an_object_per_worker_and_keeps_its_exceptions() {
    let path = Path::new(ROOT).join("ffi-examples/hello.cpp");
    let source = fs::read_to_string(path).unwrap();
    assert!(source.lines().count() < 100, "hello.cpp is long");
    let strict = ["-std=c++11", "-Wall", "-Wextra", "-Werror", "-pedantic"];
    let module = compile(&source, &[&["-x", "c++"], &strict[..], &["-Wl,--no-as-needed,-lstdc++"]].concat());
    let start = |greetings: &[&str]| {
        let words = [
            env!("CARGO_BIN_EXE_prefork"),
            "--workers",
            "1",
            "--listen",
            "127.0.0.1:0",
            module.to_str().unwrap(),
        ];
        Start::new(Style::Request).workers(1).program([&words, greetings].concat())
    };
    let server = start(&["good day"]).start();
    let curl = |args: &[&str], query: &str| {
        let url = format!("http://{}/{query}", server.tcp());
        let out =
            Command::new("curl").args(["-sS", "-w", "%{http_code}"]).args(args).arg(url).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    assert_eq!(curl(&[], "?name=you%20too"), "good day you too, for the 1st time\n200");
    assert_eq!(curl(&["--data-urlencode", "name=you too"], ""), "good day you too, for the 2nd time\n200");
    assert_eq!(curl(&[], "?name="), "a name is missing\n400");
    server.stop();
    let refused = start(&["a", "b"]).refused();
    assert_eq!(refused.code, Some(78), "{refused:?}");
    assert!(refused.stderr.contains("hello: one greeting, please"), "{refused:?}");
}
