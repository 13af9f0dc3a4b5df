//! Modules in Rust: the crate of docs/rust-module.md, the example, and one that uses all that a worker has, each a crate of its own. That
//! one is compiled with other layouts of Rust's types than the program that loads it has, as another compiler may choose.
#![allow(clippy::unwrap_used)]

mod util;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock};
use util::client::Address;
use util::{Client, Dir, Server, Start, Style, proc, wait_until};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const PREFORK: &str = env!("CARGO_BIN_EXE_prefork");

fn text(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap()
}

/// The first code block of a language in the guide's chapter.
fn block(language: &str) -> String {
    let chapter = text("docs/rust-module.md");
    chapter.split(&format!("\n```{language}\n")).nth(1).unwrap().split("\n```\n").next().unwrap().to_owned()
        + "\n"
}

/// Builds the crate of the guide with this code and this version, and copies its library to `to`.
fn build(source: &str, version: &str, to: &Path) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rust-module");
    fs::create_dir_all(folder.join("src")).unwrap();
    let manifest = block("toml");
    let dependency = manifest.lines().find(|line| line.starts_with("prefork = ")).unwrap();
    let options = dependency.split_once("tag = \"v0.1.0\", ").unwrap().1;
    let manifest = manifest.replace(dependency, &format!("prefork = {{ path = {ROOT:?}, {options}"));
    // A crate of its own, though it is in a folder of another's. The versions are those that are here.
    fs::write(folder.join("Cargo.toml"), manifest + "\n[workspace]\n").unwrap();
    fs::copy(Path::new(ROOT).join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    fs::write(folder.join("src/lib.rs"), source).unwrap();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // Not that of the tests: the library in it has other features.
    let target = folder.join("target");
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--offline", "--target-dir"]).arg(&target).current_dir(&folder);
    command
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", "-Zrandomize-layout -Dwarnings")
        .env("VERSION", version);
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    fs::copy(target.join("debug/libvisits.so"), to).unwrap();
}

/// The modules of all tests, built once.
struct Modules {
    guide: PathBuf,
    one: PathBuf,
    two: PathBuf,
}

static MODULES: LazyLock<Modules> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let [guide, one, two] = ["guide", "one", "two"].map(|name| folder.join(format!("rust-module-{name}.so")));
    build(&block("rust"), "", &guide);
    let source = text("tests/hosts/module.rs");
    build(&source, "one", &one);
    build(&source, "two", &two);
    Modules { guide, one, two }
});

fn start(module: &Path) -> Start {
    Start::new(Style::Request).module(module.to_owned()).own_module()
}

fn get(server: &Server, path: &str) -> (u16, String) {
    ask(&mut server.connect(), path)
}

fn ask(client: &mut Client, path: &str) -> (u16, String) {
    client.send(format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n").as_bytes()).unwrap();
    let answer = client.http_answer().unwrap();
    (answer.status, answer.body)
}

fn ok(text: &str) -> (u16, String) {
    (200, text.to_owned())
}

#[test]
fn the_crate_of_the_guide_serves() {
    let server = start(&MODULES.guide).start();
    let mut client = server.connect();
    for n in 1..=3 {
        assert_eq!(ask(&mut client, "/x"), ok(&format!("/x: visit {n} of this worker\n")));
    }
    drop(client);
    server.stop();
}

#[test]
fn the_example_keeps_its_connections_over_a_reload() {
    let example = util::host::example("module").with_file_name("libmodule.so");
    let mut server = Start::new(Style::Data).module(example.clone()).own_module().start();
    let dir = server.dir.path().display().to_string();
    let mut client = server.connect();
    for n in 1..=4 {
        client.send(b"x\nunfini").unwrap();
        assert_eq!(line(&mut client), format!("{dir}, line {}", 2 * n - 1));
        server.reload();
        client.send(b"shed\n").unwrap();
        assert_eq!(line(&mut client), format!("{dir}, line {}", 2 * n));
    }
    for line in ["panicked at", "assertion", "left:", "right:", "note:", "on_data: client", "asked for"] {
        server.may_say(line);
    }
    client.send(b"panic\n").unwrap();
    assert_eq!(client.rest().unwrap(), b"");
    server.stop();
    let refused =
        Start::new(Style::Request).program([PREFORK, "-l", "127.0.0.1:0", example.to_str().unwrap()]);
    let refused = refused.refused();
    assert_eq!(refused.code, Some(78), "{refused:?}");
    assert!(refused.stderr.ends_with("libmodule.so: expected a greeting\n"), "{refused:?}");
    assert_eq!(refused.stderr.lines().count(), 1, "{refused:?}");
}

#[test]
fn all_that_a_worker_has_is_there() {
    let mut server =
        start(&MODULES.one).listen("127.0.0.1:0").listen("udp:127.0.0.1:0").set("timeout", "100ms").start();
    let mut client = server.connect();
    let (_, here) = ask(&mut client, "/here");
    let other = if here == "worker 1 of 1" { "worker 2 of 1" } else { "worker 1 of 1" };
    for path in ["/timer", "/thread", "/watch"] {
        assert_eq!(ask(&mut client, path), ok(&here), "{path}");
    }
    assert_eq!(ask(&mut client, "/ask"), ok(other));
    assert_eq!(ask(&mut client, "/args"), ok("[]"));
    assert_eq!(ask(&mut client, "/refused").0, 403);
    wait_until("the timer beats", || ask(&mut client, "/beats").1.parse::<u32>().unwrap() > 2);
    for line in ["panicked at", "on purpose", "note:", "on_request: GET /panic from "] {
        server.says(line);
    }
    assert_eq!(get(&server, "/panic").0, 500);
    server.says("hangs in its handler");
    assert_eq!(get(&server, "/hang"), ok("true"));
    // Topics reach streams of all workers.
    let mut streams: Vec<_> = (0..4).map(|_| upgraded(&server)).collect();
    streams[0].send(b"to all\n").unwrap();
    streams.iter_mut().for_each(|stream| assert_eq!(line(stream), "to all"));
    let Address::Udp(address) = server.addresses[1] else { panic!("{:?}", server.addresses) };
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.send_to(b"x", address).unwrap();
    assert_eq!(socket.recv_from(&mut [0; 9]).unwrap(), (1, address));
    drop((client, streams));
    server.stop();
}

fn upgraded(server: &Server) -> Client {
    let mut stream = server.connect();
    let head = "GET /chat HTTP/1.1\r\nHost: t\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n";
    stream.send(head.as_bytes()).unwrap();
    while !line(&mut stream).is_empty() {}
    assert_eq!(line(&mut stream), "open");
    stream
}

fn line(stream: &mut Client) -> String {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        assert_eq!(stream.read_some(&mut byte).unwrap(), 1, "{:?}", String::from_utf8_lossy(&line));
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap().trim_end().to_owned()
}

#[test]
fn a_reload_brings_new_code_and_streams_go_on_in_it() {
    for accept in ["master", "shared"] {
        let mut server = start(&MODULES.one).set("accept", accept).start();
        assert_eq!(get(&server, "/version"), ok("one"));
        let mut stream = upgraded(&server);
        server.install(&MODULES.two);
        server.reload();
        assert_eq!(get(&server, "/version"), ok("two"));
        assert_eq!(get(&server, "/here").1.split_once(" of ").unwrap().1, "2");
        assert_eq!(line(&mut stream), "from one to two");
        // From Rust to C and back.
        server.install(&Style::Request.handler());
        stream.reset();
        server.reload();
        assert_eq!(server.ask("generation").unwrap(), "3");
        server.install(&MODULES.two);
        server.reload();
        assert_eq!(get(&server, "/version"), ok("two"));
        server.stop();
    }
}

#[test]
fn a_module_of_other_sources_is_refused_with_one_line() {
    // Another digit in the hash.
    let other = |from: &Path| {
        let mut bytes = fs::read(from).unwrap();
        let sign = format!("{}, sources ", env!("CARGO_PKG_VERSION"));
        let places: Vec<_> = bytes
            .windows(sign.len())
            .enumerate()
            .filter(|(_, w)| *w == sign.as_bytes())
            .map(|(at, _)| at)
            .collect();
        places.iter().for_each(|at| bytes[at + sign.len()] ^= 1);
        assert!(!places.is_empty());
        bytes
    };
    let dir = Arc::new(Dir::new());
    let file = dir.file("other.so");
    fs::write(&file, other(&MODULES.one)).unwrap();
    let refused = Start::new(Style::Request).within(&dir).module(file).refused();
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("other.so: built with prefork 0.1.0, sources "), "{refused:?}");
    assert_eq!(refused.stderr.lines().count(), 1, "{refused:?}");

    let mut server = start(&MODULES.one).start();
    server.install_bytes(&other(&MODULES.two));
    server.says("built with");
    let why = server.reload_fails();
    assert!(why.contains("built with prefork 0.1.0, sources "), "{why}");
    assert_eq!(get(&server, "/version"), ok("one"));
    server.stop();
}

#[test]
fn a_factory_that_fails_says_why() {
    for (arg, code, expected) in
        [("text", 1, ": no database"), ("wrong", 78, ": no greeting"), ("panic", 1, ": panic: on purpose")]
    {
        for options in [&[][..], &["--one-process"]] {
            let module = MODULES.one.to_str().unwrap();
            let words = [&[PREFORK, "-l", "127.0.0.1:0"], options, &[module, "dir", arg]].concat();
            let refused = Start::new(Style::Request).program(words).refused();
            assert_eq!(refused.code, Some(code), "{refused:?}");
            let last = refused.stderr.lines().last().unwrap();
            assert!(last.ends_with(expected) && last.contains("rust-module-one.so"), "{refused:?}");
            assert!(arg == "panic" || refused.stderr.lines().count() == 1, "{refused:?}");
        }
    }
}

#[test]
fn one_process_serves_and_ends_in_order() {
    let server = start(&MODULES.one).one_process().start();
    assert_eq!(get(&server, "/here"), ok("worker 1 of 1"));
    for path in ["/timer", "/thread", "/watch"] {
        assert_eq!(get(&server, path), ok("worker 1 of 1"));
    }
    let mut stream = upgraded(&server);
    stream.send(b"hello\n").unwrap();
    assert_eq!(line(&mut stream), "hello");
    drop(stream);
    server.signal(libc::SIGTERM);
    server.ends_with(0);
}

#[test]
fn workers_die_and_are_replaced_and_none_outlives_its_master() {
    let mut server = start(&MODULES.one).start();
    server.says("SIGKILL");
    let first = server.workers()[0];
    proc::signal(first, libc::SIGKILL);
    server.replaces(first);
    assert!(get(&server, "/here").1.ends_with(" of 1"));
    server.signal(libc::SIGKILL);
    server.dies_out();
}
