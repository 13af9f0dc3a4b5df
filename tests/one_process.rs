//! A server that is one process: it serves as a worker does, drains, ends by exit; valgrind and sanitizers run it and find what a
//! handler does wrong.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod util;

use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use util::client::Address;
use util::handler::{compile, host_with};
use util::host::example;
use util::{Client, Server, Start, Style, comes_true, proc, wait_until};

const SOURCE: &str = include_str!("one_process.c");
/// What runs at the end of the handler in `tests/one_process.c`, in order.
const END: [&str; 3] = ["worker_stop", "exit handler", "destructor"];

fn start(style: Style) -> Server {
    Start::new(style).one_process().start()
}

fn ask(server: &Server, path: &str) -> String {
    server.connect().ask(path).unwrap()
}

/// With `tests/one_process.c`, which says what runs at its end.
fn serves_with(flags: &[&str]) -> Server {
    let mut server = Start::new(Style::Request).one_process().module(compile(SOURCE, flags)).start();
    END.iter().for_each(|line| server.says(line));
    server
}

#[test]
fn each_style_is_served_by_the_process_itself() {
    for style in Style::ALL {
        let server = start(style);
        let (pid, mut client) = (server.pid.to_string(), server.connect());
        for (command, answer) in
            [("pid", pid.as_str()), ("id", "1"), ("slot", "0"), ("generation", "1"), ("repeat ab", "ab")]
        {
            let got = client.ask(command).unwrap();
            assert!(got.starts_with(answer), "{style:?} {command}: {got}");
        }
        assert_eq!(client.ask_last("listener").unwrap(), "0");
        let many: Vec<_> = (0..50).map(|_| server.connect()).collect();
        for client in many {
            assert_eq!(client.ask_last("pid").unwrap(), pid);
        }
        assert!(proc::children(server.pid).is_empty());
        server.stop();
    }
}

#[test]
fn datagrams_and_connections_are_served_beside_each_other() {
    let start = Start::new(Style::Request).one_process().listen("udp:127.0.0.1:0").listen("127.0.0.1:0");
    let server = start.start();
    let Address::Udp(address) = *server.address() else { panic!() };
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(util::PATIENCE)).unwrap();
    client.connect(address).unwrap();
    for n in 0..50 {
        client.send(format!("pid {n}").as_bytes()).unwrap();
        let mut answer = [0; 100];
        let len = client.recv(&mut answer).unwrap();
        assert_eq!(String::from_utf8_lossy(&answer[..len]), format!("{} pid {n}", server.pid));
    }
    let tcp = Client::connect(&server.addresses[1], Style::Request).unwrap();
    assert_eq!(tcp.ask_last("listener").unwrap(), "1");
    server.stop();
}

#[test]
fn a_unix_socket_is_removed_at_the_end() {
    let start = Start::new(Style::Data).one_process();
    let path = start.dir().path().join("s");
    let server = start.listen(format!("unix:{}", path.display())).start();
    assert_eq!(ask(&server, "pid"), server.pid.to_string());
    // That nothing is left is seen to in the end of any test.
    server.stop();
}

#[test]
fn a_signal_drains_it() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT] {
        for style in Style::ALL {
            let server = start(style);
            let mut busy = server.client_at_gate();
            server.signal(signal);
            server.dir.make("g");
            assert_eq!(busy.answer().unwrap(), "gate", "{style:?}");
            drop(busy);
            server.ends();
        }
    }
}

#[test]
fn an_idle_connection_does_not_delay_the_end_and_an_open_stream_is_cut_at_the_drain_timeout() {
    let server = start(Style::Request);
    let mut idle = server.connect();
    idle.ask("pid").unwrap();
    server.signal(libc::SIGTERM);
    server.ends();

    let server = Start::new(Style::Data).one_process().set("drain-timeout", "300ms").start();
    let mut open = server.connect();
    open.ask("pid").unwrap();
    server.signal(libc::SIGTERM);
    server.ends_with(6);

    // Until then it is served.
    let server = start(Style::Data);
    let mut open = server.connect();
    open.ask("pid").unwrap();
    server.signal(libc::SIGTERM);
    wait_until("the address is free", || Client::connect(server.address(), Style::Data).is_err());
    assert_eq!(open.ask("pid").unwrap(), server.pid.to_string());
    open.ask_last("slot").unwrap();
    server.ends();
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let server = start(Style::Data);
    let mut open = server.connect();
    open.ask("pid").unwrap();
    server.interrupt_twice(libc::SIGINT);
    server.ends();
}

#[test]
fn a_second_signal_in_a_call_that_does_not_return_ends_the_process() {
    let (program, module) = (env!("CARGO_BIN_EXE_prefork"), Style::Request.handler());
    let dir = util::Dir::new();
    let mut server = Tool::start(Command::new(program).arg("--one-process"), &module, dir.path());
    let mut busy = Client::connect(&server.address, Style::Request).unwrap();
    busy.send_command("gate g").unwrap();
    wait_until("the handler runs", || dir.at_gate("g") == 1);
    proc::signal(server.pid(), libc::SIGINT);
    std::thread::sleep(Duration::from_millis(1100));
    proc::signal(server.pid(), libc::SIGINT);
    let status = server.child.wait().unwrap();
    assert_eq!(status.signal(), Some(libc::SIGINT));
}

#[test]
fn signals_without_a_meaning_say_so() {
    let mut server = start(Style::Request);
    for (signal, line) in [
        (libc::SIGHUP, "SIGHUP: one process cannot reload; nothing done"),
        (libc::SIGUSR2, "SIGUSR2: one process cannot be upgraded; nothing done"),
        (libc::SIGUSR1, "SIGUSR1: there are no log files to reopen; nothing done"),
    ] {
        server.says(line);
        server.signal(signal);
        server.wait_for_line(line);
    }
    for signal in [libc::SIGPIPE, libc::SIGXFSZ, libc::SIGURG] {
        server.signal(signal);
    }
    assert_eq!(ask(&server, "pid"), server.pid.to_string());
    server.stop();
}

#[test]
fn exit_handlers_and_destructors_run_and_a_worker_that_leaves_ends_the_run() {
    for path in ["leave", "who"] {
        let server = serves_with(&[]);
        let answer = ask(&server, path);
        if path == "who" {
            assert_eq!(answer, "1 0 1 1");
            server.signal(libc::SIGTERM);
        }
        wait_until("the end", || server.stderr().len() >= END.len());
        assert_eq!(server.stderr(), END, "in this order");
        server.ends();
    }
}

#[test]
fn the_module_is_loaded_by_its_own_path() {
    let module = compile(SOURCE, &[]);
    let server = serves_with(&[]);
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", server.pid)).unwrap();
    assert!(maps.contains(module.to_str().unwrap()), "{maps}");
    server.stop();
}

#[test]
fn messages_reach_the_process_itself_or_say_why_not() {
    let server = serves_with(&[]);
    ask(&server, "send");
    let expected = ["send self 0", "send all 0", "send 7 0", "publish 0"];
    let answers = ["message 1", "message 2", "self 5", "other -13", "master -18"];
    let mut told = String::new();
    let all_there = comes_true(util::PATIENCE, || {
        told = ask(&server, "told");
        told.matches(';').count() == expected.len() + answers.len()
    });
    assert!(all_there, "{told}");
    let mut told: Vec<_> = told.split(';').filter(|one| !one.is_empty()).collect();
    assert_eq!(told[..expected.len()], expected);
    told.sort_unstable();
    let mut all = [&expected[..], &answers].concat();
    all.sort_unstable();
    assert_eq!(told, all);
    server.stop();
}

/// A stream is asked to go to worker 7; whatever it says is published to its own topic.
const STREAMS: &str = r#"
#include <prefork.h>

static void on_open(prefork_conn *conn, void *state)
{
    (void)state;
    prefork_subscribe(conn, "all");
}

static void on_data(prefork_conn *conn, void *state)
{
    (void)state;
    prefork_slice in = prefork_conn_data(conn);
    prefork_publish(prefork_worker_self(), "all", in.data, in.len);
    prefork_conn_consume(conn, in.len);
    prefork_conn_transfer(conn, 7);
}

static ptrdiff_t on_handover(prefork_conn *conn, void *buffer, size_t room, void *state)
{
    (void)conn, (void)buffer, (void)room, (void)state;
    return 0;
}

static int on_takeover(prefork_conn *conn, uint32_t version, const void *data, size_t size, void *state)
{
    (void)conn, (void)version, (void)data, (void)size, (void)state;
    return 0;
}

PREFORK_MODULE(.on_open = on_open, .on_data = on_data, .state_version = 1, .on_handover = on_handover,
               .on_takeover = on_takeover)
"#;

#[test]
fn streams_get_what_is_published_and_stay_when_they_are_transferred() {
    let server = Start::new(Style::Data).one_process().module(compile(STREAMS, &[])).start();
    let (mut first, mut second) = (server.connect(), server.connect());
    wait_until("both are subscribed", || {
        second.ask("here").is_ok_and(|line| line == "here") && first.has_bytes()
    });
    for n in 0..5 {
        first.send_command(&format!("{n}")).unwrap();
        wait_until("it arrives", || second.answer() == Ok(n.to_string()));
    }
    drop((first, second));
    server.stop();
}

#[test]
fn what_cannot_be_is_refused_or_told() {
    let refused = Start::new(Style::Request).one_process().module("/nowhere.so".into()).refused();
    assert_eq!(refused.code, Some(1));
    assert_eq!(
        refused.stderr.trim_end(),
        "prefork: load /nowhere.so: No such file or directory (os error 2)"
    );
    let refused = Start::new(Style::Datagram).one_process().refused();
    assert!(refused.stderr.contains("the handler has on_datagram only"), "{}", refused.stderr);
    let start = Start::new(Style::Request).one_process().set("workers", "3");
    let mut server = start.start();
    server.says("--one-process: --workers 3 has no effect");
    assert_eq!(ask(&server, "pid"), server.pid.to_string());
    assert!(server.control_files().is_empty());
    server.stop();
}

#[test]
fn a_program_in_c_serves_in_one_process() {
    let program = host_with(SOURCE, &["-DHOST"]);
    let mut server = Start::new(Style::Request).workers(0).program([program]).start();
    let lines = ["start: -4 start: a server that is one process", "stop: -4", "run: 0", "blocked: 1 0"];
    lines.iter().chain(&END).for_each(|line| server.says(line));
    assert_eq!(ask(&server, "who"), "1 0 1 1");
    server.stop();
}

#[test]
fn a_program_in_rust_serves_in_one_process_twice() {
    let mut server = Start::new(Style::Request).workers(0).program([example("one_process")]).launch();
    for run in 1..=2 {
        let mut address = None;
        wait_until("it listens", || {
            let lines = server.stdout();
            let addresses: Vec<_> =
                lines.iter().filter_map(|l| l.strip_prefix("listening on http://")).collect();
            address = addresses.get(run - 1).map(|a| Address::Tcp(a.parse().unwrap()));
            address.is_some()
        });
        let client = Client::connect(&address.unwrap(), Style::Request).unwrap();
        let role = "Worker { id: 1, slot: 0, generation: 1 } 7";
        assert_eq!(client.ask_last("leave").unwrap(), role);
    }
    for line in ["one process: on_event, on_message and on_reload are not called", "stop", "drop"] {
        server.says(line);
    }
    server.says("run 1: Stopped { killed: 0, cut: 0 }, true");
    server.says("run 2: Stopped { killed: 0, cut: 0 }, true");
    server.ends();
}

/// A server run by a tool, which may be slow and have descriptors and threads of its own.
struct Tool {
    child: Child,
    address: Address,
    reader: Option<std::thread::JoinHandle<String>>,
}

impl Tool {
    fn start(command: &mut Command, module: &Path, argument: &Path) -> Self {
        command.args(["--listen", "127.0.0.1:0"]).arg(module).arg(argument);
        command.env_remove("LISTEN_FDS").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stderr.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let listening = lines.find_map(|line| Some(line.split_once("listening on http://")?.1.to_owned()));
        let Some(listening) = listening else {
            let _ = child.kill();
            panic!("{:?}: {}", child.wait(), reader.join().unwrap());
        };
        // The rest of the banner is to find a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address: Address::Tcp(listening.parse().unwrap()), reader: Some(reader) }
    }

    fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Sends requests, then stops it; returns what it wrote to standard error, and its exit code.
    fn serve(mut self, paths: &[&str]) -> (String, Option<i32>) {
        for path in paths {
            let client = Client::connect(&self.address, Style::Request).unwrap();
            client.patience(Duration::from_secs(60));
            // A sanitizer ends the process at the first fault.
            let _ = client.ask_last(path);
        }
        proc::signal_if_there(self.pid(), libc::SIGTERM);
        let status = self.child.wait().unwrap();
        (self.reader.take().unwrap().join().unwrap(), status.code())
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn valgrind(paths: &[&str]) -> (String, Option<i32>) {
    let mut command = Command::new("valgrind");
    command.args(["--leak-check=full", "--errors-for-leak-kinds=definite", "--error-exitcode=99"]);
    command.args([env!("CARGO_BIN_EXE_prefork"), "--one-process"]);
    Tool::start(&mut command, &compile(SOURCE, &[]), Path::new("x")).serve(paths)
}

#[test]
fn valgrind_finds_the_faults_of_a_handler_and_no_others() {
    let (text, code) = valgrind(&["who", "send", "told"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("ERROR SUMMARY: 0 errors"), "{text}");
    assert!(END.iter().all(|line| text.contains(line)), "{text}");

    let (text, code) = valgrind(&["read"]);
    assert_eq!(code, Some(99), "{text}");
    assert!(text.contains("Invalid read of size 1") && text.contains("planted_invalid_read"), "{text}");

    let (text, code) = valgrind(&["leak"]);
    assert_eq!(code, Some(99), "{text}");
    assert!(text.contains("4,321 bytes in 1 blocks are definitely lost"), "{text}");
    assert!(text.contains("planted_leak ("), "{text}");
}

/// The path of the compiler's library for AddressSanitizer, which must be loaded first since `prefork` is built without it.
fn sanitizer() -> PathBuf {
    let Output { stdout, .. } = Command::new("cc").arg("-print-file-name=libasan.so").output().unwrap();
    String::from_utf8(stdout).unwrap().trim().into()
}

fn address_sanitizer(paths: &[&str]) -> (String, Option<i32>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_prefork"));
    command.arg("--one-process").env("LD_PRELOAD", sanitizer());
    let module = compile(SOURCE, &["-fsanitize=address", "-fno-omit-frame-pointer"]);
    Tool::start(&mut command, &module, Path::new("x")).serve(paths)
}

#[test]
fn address_sanitizer_finds_the_faults_of_a_handler_and_no_others() {
    let (text, code) = address_sanitizer(&["who", "send", "told"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(!text.contains("Sanitizer"), "{text}");
    assert!(END.iter().all(|line| text.contains(line)), "{text}");

    let (text, code) = address_sanitizer(&["freed"]);
    assert_ne!(code, Some(0), "{text}");
    assert!(text.contains("heap-use-after-free") && text.contains("planted_use_after_free"), "{text}");

    let (text, code) = address_sanitizer(&["leak"]);
    assert_ne!(code, Some(0), "{text}");
    assert!(text.contains("LeakSanitizer: detected memory leaks"), "{text}");
    assert!(text.contains("4321 byte(s)") && text.contains("planted_leak"), "{text}");
}

#[test]
fn a_program_in_c_is_run_by_valgrind() {
    let host = |paths: &[&str]| {
        let mut command = Command::new("valgrind");
        command.args(["--leak-check=full", "--errors-for-leak-kinds=definite", "--error-exitcode=99"]);
        command.arg(host_with(SOURCE, &["-DHOST"]));
        Tool::start(&mut command, Path::new("x"), Path::new("x")).serve(paths)
    };
    let (text, code) = host(&["who"]);
    assert_eq!(code, Some(0), "{text}");
    let (text, code) = host(&["read", "leak"]);
    assert_eq!(code, Some(99), "{text}");
    for found in ["Invalid read of size 1", "planted_invalid_read (", "planted_leak ("] {
        assert!(text.contains(found), "{text}");
    }
}

#[test]
fn a_system_without_pidfds_is_told_so() {
    // As valgrind before it had the call.
    let out = Command::new("valgrind")
        .args([env!("CARGO_BIN_EXE_prefork"), "--workers", "1", "--listen", "127.0.0.1:0"])
        .arg(compile(SOURCE, &[]))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(text.contains("pidfd_open: not implemented; Linux 5.3 or newer"), "{text}");
}
