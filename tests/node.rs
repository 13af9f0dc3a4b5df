//! Unmodified Node apps as workers: the master plays the primary of Node's cluster. `NODE` chooses another program than `node`.
#![allow(clippy::unwrap_used)]

mod util;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use util::client::Address;
use util::{Client, Load, Server, Start, Style, comes_true, proc, wait_until};

fn node() -> OsString {
    std::env::var_os("NODE").unwrap_or_else(|| "node".into())
}

/// The start of a server with an app of `tests/node`, copied into the test's directory.
fn app(script: &str, workers: usize, options: &[&str]) -> Start {
    app_of(node(), script, workers, options, &[])
}

fn app_of(program: OsString, script: &str, workers: usize, options: &[&str], args: &[&str]) -> Start {
    let start = Start::new(Style::Request).workers(workers);
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node").join(script);
    fs::copy(from, start.dir().file(script)).unwrap();
    let mut words: Vec<OsString> = vec![env!("CARGO_BIN_EXE_prefork").into()];
    words.extend(["--workers".into(), workers.to_string().into()]);
    words.extend(options.iter().map(OsString::from));
    words.extend(["--".into(), program, script.into()]);
    words.extend(args.iter().map(OsString::from));
    start.program(words).of_programs()
}

/// A worker that is no Node; with `mode` it says how it misbehaves.
fn fake(mode: &str, workers: usize, options: &[&str]) -> Start {
    let options = [&["--protocol", "node"], options].concat();
    app_of("python3".into(), "fake.py", workers, &options, &[mode])
}

/// What a verb of `prefork` prints.
fn verb(server: &Server, words: &[&str]) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_prefork"))
        .args(words)
        .env("PREFORK_RUNTIME_DIR", server.dir.runtime())
        .output()
        .unwrap();
    assert!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn ask(address: &Address, command: &str) -> String {
    Client::connect(address, Style::Request).unwrap().ask_last(command).unwrap()
}

#[test]
fn an_app_is_served_in_turn_and_has_its_numbers() {
    let mut server = app("app.js", 3, &["--env", "PLACE={8000+slot}"]).start();
    let mut served = BTreeMap::new();
    for _ in 0..60 {
        *served.entry(server.ask("slot").unwrap()).or_insert(0) += 1;
    }
    assert_eq!(served.into_values().collect::<Vec<_>>(), [20, 20, 20]);
    let port = server.port();
    assert_eq!(server.ask("client").unwrap(), format!("127.0.0.1 {port}"));
    let mut client = server.connect();
    let (pid, slot) = (client.ask("pid").unwrap(), client.ask("slot").unwrap());
    assert_eq!(client.ask("pid").unwrap(), pid, "a kept connection stays with its worker");
    assert_eq!(client.ask("env PLACE").unwrap(), format!("800{slot}"));
    assert_eq!(client.ask("env PREFORK_SLOT").unwrap(), slot);
    assert_eq!(client.ask("env PREFORK_GENERATION").unwrap(), "1");
    drop(client);
    server.may_say("control: ");
    let list = verb(&server, &["ls"]);
    assert!(list.contains("app ") && list.contains("3/3"), "{list}");
    let shown = verb(&server, &["show"]);
    assert!(shown.contains(&pid) && shown.contains(&format!("127.0.0.1:{port}")), "{shown}");
    server.stop();
}

#[test]
fn an_app_may_have_several_servers_on_free_ports_and_paths() {
    let server = app("two.js", 2, &[]).start();
    let socket = server.dir.file("app.sock");
    let said = |address: &Address| ask(address, "x").split(' ').next().unwrap().to_owned();
    // That of slot 0 alone may come later than the others.
    let mut found: Vec<String> = server.addresses.iter().map(said).collect();
    found.retain(|name| name != "only");
    found.sort();
    assert_eq!(found, ["first", "path", "second"]);
    assert!(server.addresses.contains(&Address::Unix(socket)));
    // A free port is the same for all workers.
    let first = server.addresses.iter().find(|address| said(address) == "first").unwrap();
    let pids: std::collections::BTreeSet<String> = (0..8).map(|_| ask(first, "x")).collect();
    assert_eq!(pids.len(), 2, "{pids:?}");
    server.stop();
}

#[test]
fn a_listener_of_one_worker_alone_is_served_by_that() {
    let mut server = app("two.js", 2, &[]).start();
    server.may_say("listening on ");
    let mut only = None;
    wait_until("the listener of slot 0", || {
        let shown = verb(&server, &["ls", "--json"]);
        let addresses: Vec<Address> =
            shown.split('"').filter_map(|text| text.parse().ok().map(Address::Tcp)).collect();
        only = addresses.into_iter().find(|address| ask(address, "x").starts_with("only"));
        only.is_some()
    });
    let only = only.unwrap();
    let pids: std::collections::BTreeSet<String> = (0..8).map(|_| ask(&only, "x")).collect();
    assert_eq!(pids.len(), 1, "{pids:?}");
    server.dir.file("app.sock");
    server.stop();
}

#[test]
fn a_websocket_stays_with_its_worker() {
    let server = app("chat.js", 2, &[]).start();
    let script = "const { WebSocket } = require('/usr/share/nodejs/ws'); const s = new WebSocket(process.argv[1]); const seen = []; \
                  s.on('open', () => { for (let i = 0; i < 20; i++) s.send('m' + i); }); \
                  s.on('message', (data) => { seen.push(String(data)); if (seen.length === 20) { console.log(seen.join()); s.close(); } });";
    let url = format!("ws://{}", server.tcp());
    let out = Command::new(node()).args(["-e", script, &url]).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let pid = text.split(' ').next().unwrap().to_owned();
    let expected: Vec<_> = (0..20).map(|n| format!("{pid} m{n}")).collect();
    assert_eq!(text.trim(), expected.join(","), "{}", String::from_utf8_lossy(&out.stderr));
    server.stop();
}

#[test]
fn reloads_under_load_cost_no_client_that_closes_its_connection() {
    let mut server = app("app.js", 2, &[]).start();
    let load = server.load(8, "version");
    for _ in 0..3 {
        load.go_on_for(100);
        server.reload();
    }
    fs::write(server.dir.file("version"), "v2").unwrap();
    server.reload();
    load.go_on_for(100);
    let tally = load.stop();
    assert!(tally.faults.is_empty(), "{tally:?}");
    assert_eq!(tally.answers.keys().collect::<Vec<_>>(), ["v1", "v2"]);
    assert_eq!(server.ask("version").unwrap(), "v2");
    server.stop();
}

#[test]
fn a_worker_that_has_finished_and_does_not_end_gets_the_signal() {
    let mut server = app("app.js", 2, &["--env", "STAYS=1"]).start();
    let first = server.workers();
    server.reload();
    let gone = || first.iter().all(|pid| proc::state(*pid).is_none());
    assert!(comes_true(Duration::from_secs(8), gone), "the drain-timeout is 30 s");
    // What it still has is finished first.
    let mut client = server.connect();
    client.send_command("sleep 1500").unwrap();
    wait_until("the request is read", || server.connections() == 1);
    std::thread::sleep(Duration::from_millis(200));
    server.signal(libc::SIGTERM);
    assert_eq!(client.answer().unwrap(), "slept");
    drop(client);
    server.ends();
}

#[test]
fn a_broken_release_is_rolled_back_with_its_last_words() {
    let mut server = app("app.js", 2, &[]).start();
    let before = server.workers();
    fs::write(server.dir.file("version"), "broken").unwrap();
    server.may_say("");
    let why = server.reload_fails();
    assert!(why.contains("exit code 1"), "{why}");
    assert!(server.stderr().iter().any(|line| line.contains("this release is broken")));
    assert_eq!(server.workers(), before);
    assert_eq!(server.ask("version").unwrap(), "v1");
    server.stop();
}

#[test]
fn what_a_stopped_and_then_killed_worker_has_not_read_is_answered_by_others() {
    let mut server = app("app.js", 2, &[]).start();
    let pid: i32 = server.ask("pid").unwrap().parse().unwrap();
    proc::freeze(pid);
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let mut client = server.connect();
            client.send_command("pid").unwrap();
            client
        })
        .collect();
    server.says("died: SIGKILL");
    proc::signal(pid, libc::SIGKILL);
    for mut client in clients {
        assert_ne!(client.answer().unwrap(), pid.to_string());
    }
    server.replaces(pid);
    server.stop();
}

#[test]
fn what_a_worker_has_read_and_not_accepted_is_answered_by_others_when_it_dies() {
    let mut server = fake("silent", 1, &[]).start();
    let pid = server.workers()[0];
    let clients: Vec<_> = (0..6)
        .map(|_| {
            let mut client = server.connect();
            client.send_command("x").unwrap();
            client
        })
        .collect();
    wait_until("the worker has read all", || server.dir.count("taken") == 6);
    // Its successor plays along.
    server.dir.make("go-on");
    server.says("died: SIGKILL");
    proc::signal(pid, libc::SIGKILL);
    for mut client in clients {
        assert_eq!(client.answer().unwrap(), "0");
    }
    server.stop();
}

#[test]
fn a_worker_that_does_not_answer_hangs() {
    let mut server = fake("silent", 1, &["--timeout", "300ms"]).start();
    let pid = server.workers()[0];
    let mut client = server.connect();
    client.send_command("x").unwrap();
    wait_until("the worker has read it", || server.dir.count("taken") == 1);
    server.dir.make("go-on");
    server.may_say("");
    server.says("SIGABRT");
    server.replaces(pid);
    assert_eq!(client.answer().unwrap(), "0");
    server.stop();
}

#[test]
fn what_a_worker_does_not_accept_goes_to_another() {
    let server = fake("refuse", 2, &[]).start();
    for _ in 0..30 {
        assert_eq!(server.ask("x").unwrap(), "1");
    }
    server.stop();
}

#[test]
fn workers_that_have_all_the_connections_they_want_cost_the_master_nothing() {
    let server = app("app.js", 2, &["--env", "MAX_CONNECTIONS=1"]).start();
    let mut kept: Vec<Client> = Vec::new();
    for _ in 0..2 {
        let mut client = server.connect();
        client.ask("pid").unwrap();
        kept.push(client);
    }
    let mut waiting = server.connect();
    waiting.send_command("pid").unwrap();
    let before = proc::cpu(server.pid);
    std::thread::sleep(Duration::from_secs(1));
    let used = proc::cpu(server.pid) - before;
    assert!(used < Duration::from_millis(100), "{used:?}");
    assert!(!waiting.has_bytes());
    kept.pop();
    waiting.answer().unwrap();
    drop((waiting, kept));
    server.stop();
}

#[test]
fn a_worker_that_breaks_the_protocol_is_replaced_and_told_and_the_others_serve() {
    for (mode, says) in [
        ("garbage", "it wrote a line that is no JSON to its channel"),
        ("long", "a line of more than"),
        ("handle", "a descriptor, which nobody asked for"),
        ("unknown", "it speaks an unknown protocol: \"dance\""),
        ("flood", "it does not read"),
    ] {
        let mut server = fake(mode, 2, &[]).launch();
        // The first workers are ready before the one says it, or the start fails with the reason.
        let came = comes_true(util::PATIENCE, || {
            server.has_exited() || server.stdout().iter().any(|line| line.contains("listening on"))
        });
        assert!(came, "{mode}");
        if server.has_exited() {
            server.says(says);
            server.may_say("");
            server.ends_with(1);
            continue;
        }
        server.comes_up();
        server.says(says);
        server.may_say("");
        server.wait_for_line(says);
        server.dir.make("go-on");
        for _ in 0..4 {
            server.ask("x").unwrap();
        }
        server.stop();
    }
}

#[test]
fn nonsense_that_is_well_formed_harms_nobody() {
    let mut server = fake("nonsense", 2, &[]).start();
    server.may_say("");
    for _ in 0..10 {
        assert_eq!(server.ask("x").unwrap(), "1", "the other has closed the listener");
    }
    server.stop();
}

#[test]
fn a_program_that_cannot_serve_is_told_in_a_line() {
    let refused = app_of("no-such-program".into(), "app.js", 1, &["--protocol", "node"], &[]).refused();
    assert_eq!(refused.stderr, "prefork: start no-such-program: No such file or directory (os error 2)\n");
    let refused = app("app.js", 1, &["--cwd", "/no/such"]).refused();
    assert!(refused.stderr.contains("cwd /no/such: No such file or directory"), "{}", refused.stderr);
    let refused = app("app.js", 1, &["--env", "LISTEN_AFTER=-1", "--boot-timeout", "1s"]).refused();
    assert!(refused.stderr.contains("not ready within the boot-timeout"), "{}", refused.stderr);
}

#[test]
fn a_port_in_use_is_told() {
    let other = std::net::TcpListener::bind("[::]:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let refused = app("app.js", 1, &["--env", &format!("ADDRESS={port}")]).refused();
    assert!(refused.stderr.contains(&format!("bind [::]:{port}: in use by process")), "{}", refused.stderr);
    assert!(refused.stderr.contains("EADDRINUSE"), "{}", refused.stderr);
}

#[test]
fn a_worker_that_exits_is_replaced_and_one_that_leaves_too() {
    let mut server = app("app.js", 2, &[]).start();
    let first: i32 = server.ask("pid").unwrap().parse().unwrap();
    server.says("died: exit code 3");
    let _ = Client::connect(server.address(), Style::Request).unwrap().ask_last("exit");
    wait_until("a successor", || server.workers().len() == 2 && server.lines_with("died") == 1);
    let before = server.workers();
    assert_eq!(server.ask("leave").unwrap(), "left");
    wait_until("another one", || server.workers().len() == 2 && server.workers() != before);
    assert_eq!(server.lines_with("died"), 1);
    let _ = first;
    server.stop();
}

#[test]
fn scaling_and_the_ready_message_of_pm2() {
    let options = ["--ready", "message", "--env", "SAY_READY=1", "--shutdown-message", "on"];
    let mut server = app("app.js", 1, &options).start();
    server.may_say("control: ");
    verb(&server, &["scale", "3"]);
    server.scaled_to(3);
    wait_until("three workers", || server.workers().len() == 3);
    assert_eq!(
        (0..9).map(|_| server.ask("slot").unwrap()).collect::<std::collections::BTreeSet<_>>().len(),
        3
    );
    verb(&server, &["scale", "2"]);
    server.scaled_to(2);
    wait_until("the message", || server.dir.count("shutdowns") == 1);
    server.stop();
}

#[test]
fn messages_of_the_app_are_events_and_large_ones_too() {
    let mut server = app("app.js", 1, &[]).start();
    for size in ["10", "3000000"] {
        assert_eq!(server.ask(&format!("send {size}")).unwrap(), "sent");
    }
    for _ in 0..4 {
        server.ask("pid").unwrap();
    }
    server.may_say("control: ");
    server.stop();
}

#[test]
fn a_worker_that_grows_is_replaced() {
    let mut server = app("app.js", 1, &["--max-memory", "150M"]).start();
    let pid = server.workers()[0];
    assert_eq!(server.ask("grow 200000000").unwrap(), "grown");
    server.may_say("");
    server.replaces(pid);
    server.stop();
}

#[test]
fn a_release_behind_a_link_is_found_anew_by_a_reload_and_a_respawn_stays_with_its_own() {
    let start = app("app.js", 1, &["--cwd", "current"]);
    let dir = start.dir().path().to_owned();
    for release in ["one", "two"] {
        fs::create_dir(start.dir().file(release)).unwrap();
        fs::copy(dir.join("app.js"), dir.join(release).join("app.js")).unwrap();
        fs::write(dir.join(release).join("version"), release).unwrap();
    }
    let link = |to: &str| {
        let _ = fs::remove_file(dir.join("current"));
        std::os::unix::fs::symlink(to, dir.join("current")).unwrap();
    };
    start.dir().file("current");
    link("one");
    let mut server = start.start();
    assert_eq!(server.ask("version").unwrap(), "one");
    link("two");
    let pid = server.workers()[0];
    server.says("died: SIGKILL");
    proc::signal(pid, libc::SIGKILL);
    server.replaces(pid);
    assert_eq!(server.ask("version").unwrap(), "one");
    server.reload();
    assert_eq!(server.ask("version").unwrap(), "two");
    server.stop();
}

#[test]
fn an_upgrade_is_refused() {
    let mut server = app("app.js", 1, &[]).start();
    server.says("workers are programs cannot be upgraded");
    server.signal(libc::SIGUSR2);
    server.wait_for_line("cannot be upgraded");
    server.stop();
}

#[test]
fn a_killed_master_leaves_no_worker() {
    let server = app("app.js", 2, &[]).start();
    let workers = server.workers();
    server.signal(libc::SIGKILL);
    wait_until("the workers are gone", || {
        workers.iter().all(|pid| matches!(proc::state(*pid), None | Some('Z')))
    });
    server.dies_out();
}

#[test]
fn kept_connections_are_closed_by_their_worker_and_no_request_is_lost_with_load() {
    let server = app("app.js", 2, &[]).start();
    let load = Load::keep(server.address(), Style::Request, 8, "pid");
    load.go_on_for(500);
    let tally = load.stop();
    assert!(tally.faults.is_empty(), "{tally:?}");
    server.stop();
}
