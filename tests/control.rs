//! The control socket and the verbs that speak over it, with real masters and the real program.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod util;

use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use util::{Dir, Server, Start, Style, handler, proc, wait_until};

/// The output and the exit code of a verb.
#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    #[track_caller]
    fn done(self) -> String {
        assert!(self.code == 0 && self.err.is_empty(), "{self:?}");
        self.out
    }

    #[track_caller]
    fn json(self) -> Value {
        serde_json::from_str(&self.done()).unwrap()
    }

    /// The one line of a failure.
    #[track_caller]
    fn failed(self, code: i32) -> String {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.err.starts_with("prefork: ") && self.err.lines().count() == 1, "{self:?}");
        self.err
    }
}

fn command(dir: &Dir, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_prefork"));
    command.args(args).env("PREFORK_RUNTIME_DIR", dir.runtime()).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn start_verb(dir: &Dir, args: &[&str]) -> Child {
    command(dir, args).spawn().unwrap()
}

fn end_of(child: Child) -> Ran {
    let out = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: out.status.code().unwrap(), out: text(out.stdout), err: text(out.stderr) }
}

fn verb(dir: &Dir, args: &[&str]) -> Ran {
    end_of(start_verb(dir, args))
}

fn web() -> Start {
    Start::new(Style::Request).set("name", "web")
}

/// A server that may log who has given it commands.
fn started(start: Start) -> Server {
    let mut server = start.start();
    server.may_say("control: ");
    server.may_say("reload to generation");
    server
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

fn socket_of(server: &Server) -> PathBuf {
    server.control_files().pop().expect("a control socket")
}

/// Waits for an object of a stream of them that has all of `wanted`.
#[track_caller]
fn wait_for(events: &mut impl BufRead, wanted: &[(&str, Value)]) -> Value {
    let mut seen = Vec::new();
    loop {
        let mut line = String::new();
        events.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "{wanted:?} did not come: {seen:#?}");
        let event: Value = serde_json::from_str(&line).unwrap();
        if wanted.iter().all(|(key, value)| &event[*key] == value) {
            return event;
        }
        seen.push(event);
    }
}

#[test]
fn ls_lists_every_server() {
    let dir = Arc::new(Dir::new());
    assert_eq!(verb(&dir, &["ls", "--json"]).json(), Value::Array(vec![]));
    let nothing = verb(&dir, &["ls"]);
    assert!(nothing.code == 0 && nothing.err.contains("no server runs"), "{nothing:?}");

    let a = started(web().within(&dir).workers(3));
    let b = started(Start::new(Style::Data).within(&dir));
    a.ask("pid").unwrap();
    wait_until("the request is counted", || verb(&dir, &["show", "web", "--json"]).json()["requests"] == 1);
    let text = verb(&dir, &["ls"]).done();
    let [head, first, second] = text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
    assert_eq!(
        head.split_whitespace().collect::<Vec<_>>(),
        [
            "NAME",
            "PID",
            "VERSION",
            "STATE",
            "WORKERS",
            "GEN",
            "UPTIME",
            "REQUESTS",
            "MEMORY",
            "OLD",
            "ADDRESSES"
        ]
    );
    let handler = Style::Data.handler();
    let file = handler.file_stem().unwrap().to_str().unwrap();
    assert!(
        first.starts_with(&format!("{file} ")) && first.contains(&b.pid.to_string()),
        "called after its file: {text}"
    );
    assert!(second.starts_with("web ") && second.contains(" 3/3 "), "{text}");
    assert!(second.ends_with(&format!("127.0.0.1:{}", a.port())), "{text}");
    assert!(!text.contains('\x1b'), "no colours without a terminal");

    let json = verb(&dir, &["ls", "--json"]).json();
    let web = &json[1];
    assert_eq!(web["name"], "web");
    assert_eq!(
        (web["pid"].as_i64(), web["ready"].as_u64(), web["total"].as_u64()),
        (Some(a.pid.into()), Some(3), Some(3))
    );
    assert_eq!((&web["version"], &web["generation"]), (&env!("CARGO_PKG_VERSION").into(), &1.into()));
    assert_eq!((&web["state"], &web["requests"]), (&"serving".into(), &1.into()));
    assert_eq!(web["addresses"][0], format!("127.0.0.1:{}", a.port()));
    assert!(web["memory"].as_u64().unwrap() > 100_000 && web["uptime_ms"].as_u64().is_some(), "{web}");
    a.stop();
    b.stop();
}

#[test]
fn show_prints_a_server_and_its_workers() {
    let server = started(web());
    let mut client = server.connect();
    client.ask("pid").unwrap();
    let text = verb(&server.dir, &["show"]).done();
    for expected in
        ["name          web\n", "2 of 2 ready\n", "listening on  127.0.0.1:", "ID  SLOT  GEN", "RSS\n"]
    {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let pid = server.pid.to_string();
    for id in [
        &["show", "--json"][..],
        &["show", "web", "--json"],
        &["show", &pid, "--json"],
        &["show", "-n", &pid, "--json"],
        &["-n", "web", "show", "--json"],
    ] {
        let json = verb(&server.dir, id).json();
        assert_eq!((&json["name"], json["pid"].as_i64()), (&"web".into(), Some(server.pid.into())));
        let workers = json["workers"].as_array().unwrap();
        assert_eq!(workers.len(), 2);
        for (slot, worker) in workers.iter().enumerate() {
            assert_eq!(worker["slot"], slot);
            assert_eq!((&worker["state"], &worker["generation"]), (&"ready".into(), &1.into()));
            assert_eq!(worker["pid"].as_i64(), Some(server.worker_in(slot as u32).into()));
            assert!(worker["rss"].as_u64().unwrap() > 100_000, "{worker}");
            for figure in [
                "age_ms",
                "in_flight",
                "idle",
                "queued",
                "requests",
                "errors",
                "bytes_in",
                "bytes_out",
                "skipped",
            ] {
                assert!(worker[figure].is_u64(), "{figure}: {worker}");
            }
        }
        let sum = |figure| workers.iter().map(|w| w[figure].as_u64().unwrap()).sum::<u64>();
        assert_eq!((sum("in_flight"), sum("idle")), (1, 1));
    }
    let one = verb(&server.dir, &["show", "web/2", "--json"]).json();
    assert_eq!(one["id"], 2);
    assert_eq!(verb(&server.dir, &["show", "2", "--json"]).json()["slot"], one["slot"]);
    assert_eq!(verb(&server.dir, &["show", "2"]).done().lines().count(), 2);
    drop(client);
    server.stop();
}

#[test]
fn exit_code_3_means_not_found_and_2_ambiguous() {
    let dir = Arc::new(Dir::new());
    for missing in [
        &["show"][..],
        &["reload"],
        &["scale", "2"],
        &["stop"],
        &["events"],
        &["show", "7"],
        &["stop", "all"],
    ] {
        let text = verb(&dir, missing).failed(3);
        assert!(text.contains("no server runs") && text.contains(dir.runtime().to_str().unwrap()), "{text}");
    }
    let a = started(web().within(&dir));
    let text = verb(&dir, &["reload", "-n", "other"]).failed(3);
    assert!(text.contains("no such server") && text.contains(&format!("web (pid {})", a.pid)), "{text}");
    for worker in [&["show", "99"][..], &["stop", "web/99"], &["stop", "99", "-n", "web"]] {
        let text = verb(&dir, worker).failed(3);
        assert!(text.contains("no worker 99; there are: 1, 2"), "{text}");
    }
    let b = started(web().within(&dir));
    let both = [a.pid.to_string(), b.pid.to_string()];
    for unclear in [
        &["reload"][..],
        &["reload", "web"],
        &["show"],
        &["stop", "web"],
        &["stop", "-n", "web"],
        &["scale", "+1"],
    ] {
        let text = verb(&dir, unclear).failed(2);
        assert!(both.iter().all(|pid| text.contains(pid)), "{text}");
    }
    for usage in [
        &["scale"][..],
        &["scale", "many"],
        &["scale", "0"],
        &["reload", "--timeout", "soon"],
        &["show", "web/x"],
        &["reload", "web", "-n", "other"],
        &["ls", "more", "than-one"],
        &["scale", "many", "web"],
        &["scale", "web", "0"],
        &["scale", &both[0], "2"],
        &["scale", "web", "2", "-n", "other"],
        &["reload", "--no-wait", "--timeout", "1"],
    ] {
        verb(&dir, usage).failed(2);
    }
    verb(&dir, &["stop", "1"]).failed(3);
    assert_eq!(verb(&dir, &["ls", "--json"]).json().as_array().unwrap().len(), 2);
    verb(&dir, &["stop", "-n", &both[0]]).done();
    a.ends();
    verb(&dir, &["stop", "web"]).done();
    b.ends();
}

/// The object of a failure, which is told on standard error too.
#[track_caller]
fn error_of(ran: Ran, code: i32) -> Value {
    let json: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(json["error"]["code"], code, "{json}");
    let text = json["error"]["text"].as_str().unwrap().to_owned();
    assert!(ran.failed(code).contains(&text), "{text}");
    json
}

#[test]
fn a_failure_is_json_if_that_is_asked_for() {
    let dir = Arc::new(Dir::new());
    for verb_of in ["show", "reload", "stop", "events"] {
        error_of(verb(&dir, &[verb_of, "--json"]), 3);
    }
    error_of(verb(&dir, &["scale", "+1", "--json"]), 3);
    error_of(verb(&dir, &["ls", "web", "--json"]), 3);
    let a = started(web().within(&dir).own_module());
    for (args, code) in [
        (&["show", "other", "--json"][..], 3),
        (&["show", "web/99", "--json"], 3),
        (&["stop", "web/99", "--json"], 3),
        (&["scale", "2000", "--json"], 1),
        (&["reload", "web", "-n", "other", "--json"], 2),
    ] {
        error_of(verb(&dir, args), code);
    }
    a.install("/etc/passwd".as_ref());
    let json = error_of(verb(&dir, &["reload", "--json"]), 4);
    assert_eq!(json["outcome"], "rolled-back");

    // Of several servers each has its line.
    let b = started(web().within(&dir).set("name", "api"));
    let ran = verb(&dir, &["scale", "-n", "all", "2000", "--json"]);
    assert_eq!(ran.code, 1);
    let lines: Vec<Value> = ran.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let names: Vec<_> = lines.iter().map(|l| (l["name"].as_str().unwrap(), &l["error"]["code"])).collect();
    assert_eq!(names, [("api", &1.into()), ("web", &1.into())]);
    assert_eq!(lines[1]["pid"], a.pid);
    assert_eq!(ran.err.lines().count(), 2, "{ran:?}");
    a.stop();
    b.stop();
}

#[test]
fn a_server_is_called_after_its_handlers_file_without_the_extension() {
    let dir = Arc::new(Dir::new());
    let file = dir.file("shop.so");
    fs::copy(Style::Request.handler(), &file).unwrap();
    let a = started(Start::new(Style::Request).within(&dir).module(file));
    for id in ["shop", "shop.so"] {
        assert_eq!(verb(&dir, &["show", id, "--json"]).json()["name"], "shop", "{id}");
    }
    let json = verb(&dir, &["show", "shop", "--json"]).json();
    assert!(json["handler"].as_str().unwrap().ends_with("/shop.so"), "{json}");
    // One that has the very name comes first.
    let b = started(web().within(&dir).set("name", "shop.so"));
    assert_eq!(verb(&dir, &["show", "shop.so", "--json"]).json()["pid"], b.pid);
    a.stop();
    b.stop();
}

#[test]
fn a_program_that_embeds_a_server_is_called_after_its_own_file() {
    let host = handler::host(
        "#include <prefork.h>\n#include <stdio.h>\n\
         static void answer(prefork_request *q, prefork_response *r, void *s)\n\
         { (void)q; (void)s; prefork_response_body_static(r, \"x\", 1); }\n\
         static void started(const prefork_started *s, void *state)\n\
         { (void)state; printf(\"listening on http://%s\\n\", s->addresses[0]); fflush(stdout); }\n\
         int main(void)\n{\n\
         prefork_server *server = prefork_server_new();\n\
         prefork_server_on_request(server, answer, NULL);\n\
         prefork_server_on_start(server, started, NULL);\n\
         prefork_server_listen(server, \"127.0.0.1:0\");\n\
         prefork_server_workers(server, 2);\n\
         return prefork_server_run(server);\n}\n",
    );
    let server = started(Start::new(Style::Request).program([&host]));
    let json = verb(&server.dir, &["show", "--json"]).json();
    assert_eq!(json["name"], host.file_name().unwrap().to_str().unwrap());
    assert_eq!(json["handler"], host.to_str().unwrap());
    server.stop();
    // By a symbolic link: as the one who started it called it.
    let link = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("shop-{}", std::process::id()));
    std::os::unix::fs::symlink(&host, &link).unwrap();
    let server = started(Start::new(Style::Request).program([&link]));
    let text = verb(&server.dir, &["ls"]).done();
    assert!(text.contains(link.file_name().unwrap().to_str().unwrap()), "{text}");
    assert!(verb(&server.dir, &["show"]).done().contains(link.to_str().unwrap()));
    server.stop();
    std::fs::remove_file(link).unwrap();
}

#[test]
fn ls_lists_those_that_are_asked_for() {
    let dir = Arc::new(Dir::new());
    let a = started(web().within(&dir));
    let b = started(web().within(&dir));
    let c = started(web().within(&dir).set("name", "api"));
    let (pid, all) = (c.pid.to_string(), ["api", "web", "web"]);
    for (args, names) in [
        (&["ls", "web"][..], &all[1..]),
        (&["ls", "-n", "web"], &all[1..]),
        (&["-n", "web", "ls"], &all[1..]),
        (&["ls", "api"], &all[..1]),
        (&["ls", &pid], &all[..1]),
        (&["ls", "all"], &all),
    ] {
        let json = verb(&dir, &[args, &["--json"]].concat()).json();
        let found: Vec<_> = json.as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
        assert_eq!(found, names, "{args:?}");
        assert_eq!(verb(&dir, args).done().lines().count(), names.len() + 1, "{args:?}");
    }
    let text = verb(&dir, &["ls", "shop"]).failed(3);
    assert!(text.contains("shop: no such server") && text.contains("api (pid"), "{text}");
    [a, b, c].into_iter().for_each(Server::stop);
}

#[test]
fn scale_takes_its_server_before_or_behind_the_number() {
    let dir = Arc::new(Dir::new());
    let server = started(web().within(&dir));
    let other = started(web().within(&dir).set("name", "api").workers(1));
    let pid = server.pid.to_string();
    for (args, workers) in [
        (&["web", "+1"][..], 3),
        (&["+1", "web"], 4),
        (&["web", "-2"], 2),
        (&["-1", "web"], 1),
        (&["web", "3"], 3),
        (&["2", "web"], 2),
        (&[&pid, "+1"], 3),
        (&["-1", &pid], 2),
        (&["3", "-n", &pid], 3),
        (&["web", "2", "-n", "web"], 2),
    ] {
        let json = verb(&dir, &[&["scale"], args, &["--json"]].concat()).json();
        assert_eq!((&json["name"], &json["workers"]), (&"web".into(), &workers.into()), "{args:?}");
    }
    server.stop();
    other.stop();
}

/// Takes the socket's file away, or the whole directory, as logind does at the end of a session.
fn vanish(server: &Server, whole: bool) {
    if whole {
        fs::remove_dir_all(server.dir.runtime()).unwrap()
    } else {
        fs::remove_file(socket_of(server)).unwrap()
    }
}

#[test]
fn a_control_socket_that_vanishes_is_made_anew() {
    // At a reload at once; otherwise before long: the last one waits for the next of the looks, five seconds apart.
    for (whole, hup) in [(false, true), (true, true), (true, false)] {
        let mut server = started(web());
        server.says("is gone; made anew");
        let socket = socket_of(&server);
        vanish(&server, whole);
        verb(&server.dir, &["show"]).failed(3);
        if hup {
            server.signal(libc::SIGHUP);
        }
        wait_until("it is there again", || socket.exists());
        assert_eq!(verb(&server.dir, &["show", "web", "--json"]).json()["pid"], server.pid);
        server.rests();
        server.stop();
    }
}

#[test]
fn a_client_outlives_the_socket_through_which_it_came() {
    let mut server = started(web());
    server.says("is gone; made anew");
    let mut events = BufReader::new(raw(&server));
    let mut line = String::new();
    events.read_line(&mut line).unwrap();
    events.get_mut().write_all(b"{\"verb\":\"events\"}\n").unwrap();
    wait_for(&mut events, &[("event", "setup".into())]);
    vanish(&server, true);
    server.signal(libc::SIGHUP);
    wait_for(&mut events, &[("event", "reload".into()), ("state", "committed".into())]);
    drop(events);
    server.rests();
    server.stop();
}

#[test]
fn a_control_socket_that_cannot_be_made_is_told_once_and_made_when_it_can() {
    let mut server = started(web());
    server.says("cannot be made anew");
    server.says("the control socket is there again");
    let (socket, runtime) = (socket_of(&server), server.dir.runtime());
    vanish(&server, true);
    fs::write(&runtime, "").unwrap();
    for n in 1..4 {
        server.signal(libc::SIGHUP);
        wait_until("a reload", || server.lines_with("is complete") == n);
    }
    assert_eq!(server.lines_with("cannot be made anew"), 1);
    fs::remove_file(&runtime).unwrap();
    server.signal(libc::SIGHUP);
    wait_until("it is there again", || socket.exists());
    server.rests();
    server.stop();
}

#[test]
fn all_means_every_server() {
    let dir = Arc::new(Dir::new());
    let a = started(web().within(&dir));
    let b = started(web().within(&dir).set("name", "api"));
    assert_eq!(verb(&dir, &["show", "all", "--json"]).json().as_array().unwrap().len(), 2);
    assert_eq!(verb(&dir, &["reload", "all"]).done().matches("generation 2 serves").count(), 2);
    verb(&dir, &["scale", "3", "-n", "all"]).done();
    // Those that the reload has replaced may be about to end.
    wait_until("three are left of each", || (a.workers().len(), b.workers().len()) == (3, 3));
    assert_eq!(verb(&dir, &["stop", "all"]).done().matches("stopped").count(), 2);
    a.ends();
    b.ends();
}

#[test]
fn reload_replaces_every_worker_and_prints_the_outcome() {
    let mut server = web().start();
    server.says("control: reload, by pid ");
    server.says("reload to generation 2");
    server.may_say("reload to generation 3");
    let before = server.workers();
    let text = verb(&server.dir, &["reload"]).done();
    let expected =
        format!("web (pid {}): generation 2 serves, from {}", server.pid, Style::Request.handler().display());
    assert!(text.starts_with(&expected) && text.lines().count() == 1, "{text}");
    // The last of the old ones may be about to exit.
    wait_until("all are new", || server.workers().iter().all(|pid| !before.contains(pid)));
    let json = verb(&server.dir, &["reload", "--json"]).json();
    assert_eq!((&json["outcome"], &json["generation"]), (&"committed".into(), &3.into()));
    assert_eq!((&json["name"], json["pid"].as_i64()), (&"web".into(), Some(server.pid.into())));
    server.stop();
}

#[test]
fn a_reload_that_fails_has_exit_code_4_and_prints_the_stage_and_the_reason() {
    let mut server = started(web().own_module());
    server.may_say("died before it was ready");
    let before = server.workers();
    let load = server.load(2, "pid");

    server.install("/etc/passwd".as_ref());
    let text = verb(&server.dir, &["reload"]).failed(4);
    assert!(text.contains("the reload to generation 2 was rolled back while the handler was read"), "{text}");
    assert!(text.contains("module.so"), "{text}");
    let ran = verb(&server.dir, &["reload", "--json"]);
    assert_eq!(ran.code, 4);
    let json: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&json["outcome"], &json["stage"]), (&"rolled-back".into(), &"preparing".into()));

    // It loads, but its worker_start crashes.
    server.install(&Style::Request.handler());
    server.dir.make("die");
    let text = verb(&server.dir, &["reload"]).failed(4);
    assert!(text.contains("at the first new worker: worker 3 (slot 0): SIGABRT"), "{text}");
    let ran = verb(&server.dir, &["reload", "--json"]);
    let json: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, &json["stage"], &json["worker"]), (4, &"canary".into(), &4.into()));
    assert_eq!(json["exit"]["signal"], "SIGABRT");
    server.dir.remove("die");

    // It refuses, and says so.
    server.dir.make("refuse");
    let text = verb(&server.dir, &["reload"]).failed(4);
    assert!(text.contains("worker_start") && text.contains("exit code "), "{text}");
    server.dir.remove("refuse");

    load.go_on_for(100);
    let tally = load.stop();
    assert_eq!(tally.failed(), 0, "{tally:?}");
    assert_eq!(server.workers(), before, "untouched");
    verb(&server.dir, &["reload"]).done();
    server.stop();
}

#[test]
fn a_module_that_is_never_ready_is_rolled_back_within_the_boot_timeout() {
    let mut server = started(web().own_module().set("boot-timeout", "500ms"));
    server.may_say("died before it was ready");
    let hangs = handler::compile(
        "#include <prefork.h>\n#include <unistd.h>\n\
         static int start(prefork_worker *w, void **s) { (void)w; (void)s; for (;;) pause(); }\n\
         static void on_request(prefork_request *q, prefork_response *r, void *s) { (void)q; (void)r; (void)s; }\n\
         PREFORK_MODULE(.worker_start = start, .on_request = on_request)\n",
        &[],
    );
    server.install(&hangs);
    let begin = Instant::now();
    let text = verb(&server.dir, &["reload"]).failed(4);
    assert!(text.contains("at the first new worker"), "{text}");
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    server.stop();
}

#[test]
fn a_second_reload_waits_for_the_first() {
    let server = started(web());
    server.dir.make("wait");
    let first = start_verb(&server.dir, &["reload", "--json"]);
    wait_until("its first worker starts", || server.workers().len() == 3);
    let json = verb(&server.dir, &["reload", "--no-wait", "--json"]).json();
    assert_eq!((&json["accepted"], &json["queued"]), (&true.into(), &true.into()));
    verb(&server.dir, &["reload", "--timeout", "100ms"]).failed(5);
    let waiting =
        [start_verb(&server.dir, &["reload", "--json"]), start_verb(&server.dir, &["reload", "--json"])];
    wait_until("both were accepted", || {
        server.stderr().iter().filter(|l| l.contains("control: reload")).count() == 5
    });
    assert_eq!(verb(&server.dir, &["show", "--json"]).json()["state"], "reloading");
    server.dir.remove("wait");
    assert_eq!(end_of(first).json()["generation"], 2);
    for one in waiting {
        assert_eq!(end_of(one).json()["generation"], 3, "one reload serves all that waited for it");
    }
    server.stop();
}

#[test]
fn scale_waits_until_the_number_of_workers_is_reached() {
    let mut server = started(web());
    let dir = server.dir.clone();
    for (count, workers) in [("4", 4), ("+2", 6), ("-3", 3), ("3", 3), ("1", 1), ("2", 2)] {
        let text = verb(&dir, &["scale", count]).done();
        let some = if workers == 1 { "worker" } else { "workers" };
        assert_eq!(text, format!("web (pid {}): {workers} {some}\n", server.pid));
        assert_eq!(server.workers().len(), workers, "{count}");
    }
    assert_eq!(verb(&dir, &["scale", "+1", "--json"]).json()["workers"], 3);
    for beyond in ["-3", "1025", "+1022"] {
        let text = verb(&dir, &["scale", beyond]).failed(1);
        assert!(text.contains("expected 1 to 1024 workers, found") && text.contains("(3 run now)"), "{text}");
    }
    verb(&dir, &["scale", "2", "-n", "web"]).done();

    // New workers do not start: that is reported at once.
    dir.make("die");
    server.may_say("died before it was ready");
    let text = verb(&dir, &["scale", "3"]).failed(1);
    assert!(text.contains("died before it was ready: SIGABRT"), "{text}");
    dir.remove("die");
    verb(&dir, &["scale", "2"]).done();

    // Another scale in the meantime.
    let mut client = server.connect();
    client.send_command("gate g").unwrap();
    wait_until("a request is in progress", || dir.at_gate("g") == 1);
    let busy = (0..2).find(|&slot| verb(&dir, &["show", "--json"]).json()["workers"][slot]["in_flight"] == 1);
    if busy == Some(1) {
        let waiting = start_verb(&dir, &["scale", "1"]);
        wait_until("it was accepted", || server.stderr().iter().any(|l| l.contains("from 2 to 1")));
        // The slot has a worker again, while its former one still finishes.
        verb(&dir, &["scale", "3"]).done();
        assert!(end_of(waiting).failed(1).contains("superseded"));
    }
    dir.make("g");
    client.answer().unwrap();
    drop(client);
    verb(&dir, &["scale", "2"]).done();
    server.stop();
}

#[test]
fn stop_waits_until_the_master_has_ended() {
    for style in Style::ALL {
        let server = started(Start::new(style).set("name", "web"));
        let mut client = server.connect();
        client.send_command("gate g").unwrap();
        wait_until("a request is in progress", || server.dir.at_gate("g") == 1);
        let text = verb(&server.dir, &["stop", "--timeout", "100ms"]).failed(5);
        assert!(text.contains("it continues"), "{text}");
        let waiting = start_verb(&server.dir, &["stop", "--json"]);
        wait_until("it was accepted", || {
            server.stderr().iter().filter(|l| l.contains("control: stop")).count() == 2
        });
        // A second stop is not a stop at once.
        assert_eq!(verb(&server.dir, &["show", "--json"]).json()["state"], "stopping");
        for late in [&["reload"][..], &["scale", "3"]] {
            assert!(verb(&server.dir, late).failed(1).contains("the server is stopping"));
        }
        server.dir.make("g");
        assert_eq!(client.answer(), Ok("gate".into()), "{style:?}");
        drop(client);
        assert_eq!(end_of(waiting).json()["killed"], 0);
        assert!(matches!(proc::state(server.pid), None | Some('Z')), "it is gone when stop says so");
        server.ends();
    }
}

#[test]
fn stop_now_does_not_wait_for_requests() {
    let mut server = started(web());
    let mut client = server.connect();
    client.send_command("gate g").unwrap();
    wait_until("a request is in progress", || server.dir.at_gate("g") == 1);
    assert_eq!(verb(&server.dir, &["stop", "--now"]).done(), format!("web (pid {}): stopped\n", server.pid));
    assert!(client.answer().is_err());
    server.may_say("died while draining: SIGKILL; 1 connection lost");
    server.ends();
}

#[test]
fn a_worker_that_is_stopped_finishes_and_is_replaced() {
    let server = started(web());
    let load = server.load(2, "pid");
    let text = verb(&server.dir, &["stop", "1"]).done();
    assert_eq!(text, format!("web (pid {}): worker 1 has ended (exit code 0)\n", server.pid));
    let json = verb(&server.dir, &["stop", "web/2", "--json"]).json();
    assert_eq!(
        (&json["worker"], &json["killed"], &json["exit"]["code"]),
        (&2.into(), &false.into(), &0.into())
    );
    verb(&server.dir, &["stop", "2"]).failed(3);
    assert_eq!(load.stop().failed(), 0);
    server.stop();
}

#[test]
fn events_report_a_reload_and_a_crash() {
    let mut server = started(web().workers(1));
    server.says("died: SIGKILL");
    let mut json = start_verb(&server.dir, &["events", "--json"]);
    let mut text = start_verb(&server.dir, &["events"]);
    let mut events = BufReader::new(json.stdout.take().unwrap());
    let mut lines = BufReader::new(text.stdout.take().unwrap());
    let setup = wait_for(&mut events, &[("event", "setup".into())]);
    assert_eq!((&setup["app"], setup["pid"].as_i64()), (&"web".into(), Some(server.pid.into())));
    assert_eq!((&setup["workers"], &setup["generation"]), (&1.into(), &1.into()));
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert!(line.contains("Z  setup       web: 1 worker of generation 1 on 127.0.0.1:"), "{line}");

    let old = server.workers()[0];
    verb(&server.dir, &["reload"]).done();
    let mut order = Vec::new();
    loop {
        let event = wait_for(&mut events, &[]);
        assert!(event["time_ms"].as_u64().unwrap() > 1_700_000_000_000, "{event}");
        let name = event["event"].as_str().unwrap().to_owned();
        order.push(match name.as_str() {
            "reload" => format!("reload {}", event["state"].as_str().unwrap()),
            _ => format!("{name} {}", event["worker"]["id"]),
        });
        match name.as_str() {
            "listening" => {
                assert_eq!((&event["address"], &event["type"]), (&"127.0.0.1".into(), &"4".into()));
                assert_eq!(event["port"], server.port());
            }
            "exit" => {
                assert_eq!(event["worker"]["pid"], old);
                assert_eq!((&event["reason"], &event["intended"]), (&"reload".into(), &true.into()));
                assert_eq!(event["exit"]["code"], 0);
                break;
            }
            _ => {}
        }
    }
    let (begin, end) = order.split_at(3);
    assert_eq!(begin, ["reload started", "fork 2", "online 2"]);
    let mut end = end.to_vec();
    end.sort();
    assert_eq!(end, ["disconnect 1", "exit 1", "listening 2", "ready 2", "reload committed"]);

    proc::signal(server.workers()[0], libc::SIGKILL);
    let exit = wait_for(&mut events, &[("event", "exit".into())]);
    assert_eq!((&exit["reason"], &exit["intended"]), (&"crash".into(), &false.into()));
    assert_eq!((&exit["exit"]["signal"], &exit["worker"]["generation"]), (&"SIGKILL".into(), &2.into()));
    wait_for(&mut events, &[("event", "ready".into())]);

    // Followers get the end as an event.
    server.signal(libc::SIGTERM);
    wait_for(&mut events, &[("event", "exit".into())]);
    assert!(json.wait().unwrap().success());
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    for expected in [
        "reload      to generation 2 started\n",
        "ready       worker 2 (slot 0, generation 2, pid ",
        "crash, SIGKILL\n",
        ": stop, exit code 0\n",
    ] {
        assert!(rest.contains(expected), "{expected}: {rest}");
    }
    assert!(text.wait().unwrap().success());
    server.ends();
}

#[test]
fn a_reader_of_events_that_closes_early_is_no_failure() {
    let server = started(web().workers(1));
    let mut child = start_verb(&server.dir, &["events"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    lines.read_line(&mut String::new()).unwrap();
    drop(lines);
    verb(&server.dir, &["reload"]).done();
    let ran = end_of(child);
    assert!(ran.code == 0 && ran.err.is_empty(), "{ran:?}");
    server.stop();
}

#[test]
fn only_its_user_can_open_the_socket_and_the_master_removes_it() {
    let mut server = started(web());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let socket = socket_of(&server);
    assert_eq!((mode(&server.dir.runtime()), mode(&socket)), (0o700, 0o600));
    assert_eq!(socket.file_name().unwrap().to_str().unwrap(), format!("web.{}.sock", server.pid));
    let copies = server.copies_of_module().len();
    assert_eq!(
        (fs::read_dir(server.dir.runtime()).unwrap().count(), copies),
        (2, 1),
        "nothing else is there"
    );
    // The end of a worker does not remove the file.
    server.says("died: ");
    let first = server.workers()[0];
    proc::signal(first, libc::SIGKILL);
    server.replaces(first);
    verb(&server.dir, &["stop", "2"]).done();
    // One that runs the exit handlers of C on its way out.
    let before = server.workers();
    let _ = server.ask("exit");
    wait_until("it is replaced", || {
        let now = server.workers();
        now.len() == 2 && now != before && server.lines_with("died: ") == 2
    });
    assert!(socket.exists());
    server.settles();
    server.signal(libc::SIGTERM);
    server.ends();
    assert!(!socket.exists());
}

#[test]
fn a_stale_socket_is_removed_when_found() {
    let dir = Arc::new(Dir::new());
    let server = started(web().within(&dir));
    let live = started(web().within(&dir).set("name", "live"));
    let (stale, pid) = (socket_of(&server), server.pid);
    server.signal(libc::SIGKILL);
    wait_until("every process is gone", || proc::group(pid).is_empty());
    assert!(stale.exists());
    let made = dir.runtime().join("made.4711.sock");
    drop(UnixListener::bind(&made).unwrap());
    let file = dir.runtime().join("file.4711.sock");
    fs::write(&file, "no socket").unwrap();
    let json = verb(&dir, &["ls", "--json"]).json();
    assert_eq!(json.as_array().unwrap().len(), 1, "{json}");
    assert_eq!(json[0]["name"], "live");
    assert!(!stale.exists() && !made.exists(), "removed");
    assert!(file.exists() && socket_of(&live).exists(), "not ours to remove");
    server.dies_out();
    live.stop();
}

#[test]
fn other_users_are_refused() {
    if !is_root() {
        eprintln!("not checked: only root can become another user");
        return;
    }
    let mut server = web().start();
    server.says("(uid 65534) is refused");
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    open(server.dir.path(), 0o777);
    let copy = server.dir.file("prefork");
    // By another process: a file that this one has open for writing cannot be executed, nor one a fork of it has.
    assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_prefork")).arg(&copy).status().unwrap().success());
    let other = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copy).args(args);
        let out = command.env("PREFORK_RUNTIME_DIR", server.dir.runtime()).output().unwrap();
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    };
    // The permissions of the directory keep them out.
    let (code, text) = other(&["stop"]);
    assert!(code == Some(3) && text.contains("is not accessible to this user"), "{text}");
    // If it were open, the kernel would report their user.
    open(&server.dir.runtime(), 0o755);
    let (code, text) = other(&["stop"]);
    assert!(code == Some(1) && text.contains("Permission denied"), "{text}");
    open(&socket_of(&server), 0o666);
    for verb in [&["stop"][..], &["reload"], &["events"], &["show"]] {
        let (code, text) = other(verb);
        assert_eq!(
            (code, text.contains("only the server's own user and root are admitted")),
            (Some(1), true),
            "{text}"
        );
    }
    let (code, _) = other(&["ls"]);
    assert_eq!(code, Some(0));
    server.stop();
}

#[test]
fn root_may_control_a_server_of_an_ordinary_user() {
    if !is_root() {
        eprintln!("not checked: needs root");
        return;
    }
    let server = started(Start::new(Style::Request).set("name", "web").by_ordinary_user());
    let socket = socket_of(&server);
    assert_eq!(fs::metadata(&socket).unwrap().uid(), 65534);
    verb(&server.dir, &["reload"]).done();
    server.stop();
}

#[test]
fn an_ordinary_user_without_a_runtime_directory_gets_one_in_tmp() {
    if !is_root() {
        eprintln!("not checked: needs root");
        return;
    }
    let start = Start::new(Style::Request).set("name", "tmp").by_ordinary_user();
    let none: Option<&OsStr> = None;
    let server = started(start.env("PREFORK_RUNTIME_DIR", none).env("XDG_RUNTIME_DIR", none));
    let place = Path::new("/tmp/prefork-65534");
    let found = fs::metadata(place).unwrap();
    assert_eq!((found.uid(), found.permissions().mode() & 0o777), (65534, 0o700));
    let socket = place.join(format!("tmp.{}.sock", server.pid));
    assert!(socket.exists());
    server.stop();
    assert!(!socket.exists());
    let _ = fs::remove_dir(place);
}

#[test]
fn the_runtime_directory_of_the_session_is_used() {
    let dir = Arc::new(Dir::new());
    let session = dir.file("session");
    fs::create_dir(&session).unwrap();
    let server = started(
        web().within(&dir).env("PREFORK_RUNTIME_DIR", None).env("XDG_RUNTIME_DIR", Some(session.as_ref())),
    );
    let socket = session.join(format!("prefork/web.{}.sock", server.pid));
    assert!(socket.exists());
    let mut command = command(&dir, &["show", &server.pid.to_string(), "--json"]);
    command.env_remove("PREFORK_RUNTIME_DIR").env("XDG_RUNTIME_DIR", &session);
    assert_eq!(end_of(command.spawn().unwrap()).json()["name"], "web");
    server.stop();
    assert!(!socket.exists());
}

#[test]
fn a_server_without_a_control_socket_serves() {
    let dir = Arc::new(Dir::new());
    let off = started(web().within(&dir).set("control", "off"));
    assert!(off.control_files().is_empty());
    off.ask("pid").unwrap();
    off.stop();

    for (mode, why) in [(0o777, "others may write to it"), (0o000, "expected a directory")] {
        let _ = fs::remove_dir(dir.runtime());
        match mode {
            0 => fs::write(dir.runtime(), "").unwrap(),
            mode => {
                fs::create_dir(dir.runtime()).unwrap();
                fs::set_permissions(dir.runtime(), fs::Permissions::from_mode(mode)).unwrap();
            }
        }
        let mut server = web().within(&dir).start();
        server.says("no control socket, so `prefork ls` and the like will not find this server: ");
        server.says(why);
        server.ask("pid").unwrap();
        server.stop();
    }
}

#[test]
fn a_master_that_does_not_answer_is_reported_and_delays_no_other() {
    let dir = Arc::new(Dir::new());
    let a = started(web().within(&dir));
    let b = started(web().within(&dir).set("name", "live"));
    proc::freeze(a.pid);
    let begin = Instant::now();
    let json = verb(&dir, &["ls", "--json"]).json();
    assert_eq!((&json[0]["name"], &json[0]["answers"]), (&"live".into(), &true.into()));
    assert_eq!((&json[1]["name"], &json[1]["answers"]), (&"web".into(), &false.into()));
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert!(verb(&dir, &["ls"]).done().contains("no answer"));
    assert!(verb(&dir, &["reload", "web"]).failed(5).contains("does not answer"));
    verb(&dir, &["reload", "live"]).done();
    proc::signal(a.pid, libc::SIGCONT);
    verb(&dir, &["reload", "web"]).done();
    a.stop();
    b.stop();
}

/// A client that speaks for itself.
fn raw(server: &Server) -> UnixStream {
    let client = UnixStream::connect(socket_of(server)).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    client
}

/// All that it receives until the connection is closed.
fn rest_of(mut client: UnixStream) -> Vec<Value> {
    let mut text = Vec::new();
    // A reset follows if not all was read.
    let _ = client.read_to_end(&mut text);
    String::from_utf8(text).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[test]
fn any_program_can_use_the_protocol() {
    let server = started(web());
    let mut client = raw(&server);
    client
        .write_all(b"{\"verb\":\"status\"}\n{\"verb\":\"scale\",\"to\":3}\n{\"verb\":\"status\"}\n")
        .unwrap();
    // As `nc -N` does: requests before end of file are answered.
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let replies = rest_of(client);
    let kinds: Vec<_> = replies.iter().map(|r| r["reply"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["hello", "status", "accepted", "scaled", "status"]);
    assert_eq!((&replies[0]["protocol"], &replies[0]["name"]), (&1.into(), &"web".into()));
    assert_eq!((&replies[1]["total"], &replies[4]["total"]), (&2.into(), &3.into()));
    verb(&server.dir, &["scale", "2"]).done();
    server.stop();
}

#[test]
fn abuse_of_the_socket_does_not_affect_the_service() {
    let server = started(web());
    let load = server.load(2, "pid");
    let mut slowest = Duration::ZERO;
    let mut measured = |what: &mut dyn FnMut()| {
        what();
        for _ in 0..50 {
            let begin = Instant::now();
            server.ask("pid").unwrap();
            slowest = slowest.max(begin.elapsed());
        }
    };

    // Garbage, and lines without an end.
    measured(&mut || {
        for garbage in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"\0\xff\n",
            b"{\"verb\":\"explode\"}\n",
            b"[]\n",
            b"\n",
            &[b'x'; 100_000],
        ] {
            let mut client = raw(&server);
            let _ = client.write_all(garbage);
            let replies = rest_of(client);
            assert_eq!(replies.len(), 2, "{replies:?}");
            assert_eq!((&replies[1]["reply"], &replies[1]["kind"]), (&"error".into(), &"usage".into()));
        }
    });

    // A hundred silent clients: sixteen are admitted, the others get a refusal; room is made after five seconds.
    let mut silent = Vec::new();
    measured(&mut || silent.extend((0..100).map(|_| raw(&server))));
    let begin = Instant::now();
    let text = verb(&server.dir, &["show"]);
    assert!(text.code == 5 || text.code == 0, "{text:?}");
    let ends: Vec<_> = silent.into_iter().map(rest_of).collect();
    assert!(begin.elapsed() < Duration::from_secs(12), "{:?}", begin.elapsed());
    let count = |kind: &str| ends.iter().filter(|e| e.last().is_some_and(|r| r["kind"] == kind)).count();
    assert_eq!((count("too-slow"), count("busy")), (16, 84), "{ends:?}");
    verb(&server.dir, &["show"]).done();

    // Half a request does not count either.
    let mut half = raw(&server);
    half.write_all(b"{\"verb\":").unwrap();

    // Followers leave room for clients with a request.
    let listeners: Vec<_> = (0..12)
        .map(|_| {
            let mut client = raw(&server);
            client.write_all(b"{\"verb\":\"events\"}\n").unwrap();
            client
        })
        .collect();
    wait_until("they are admitted", || {
        let ran = verb(&server.dir, &["events"]);
        ran.code == 1 && ran.err.contains("12 clients follow events already")
    });
    measured(&mut || {
        verb(&server.dir, &["reload"]).done();
    });
    drop(listeners);
    assert_eq!(rest_of(half).last().unwrap()["kind"], "too-slow");

    // A client that sends requests and does not read.
    let mut held = None;
    measured(&mut || {
        let mut deaf = raw(&server);
        deaf.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        while deaf.write_all(&b"{\"verb\":\"status\"}\n".repeat(100)).is_ok() {}
        held = Some(deaf);
    });
    drop(held);

    let tally = load.stop();
    assert_eq!(tally.failed(), 0, "{tally:?}");
    assert!(slowest < Duration::from_millis(500), "a request took {slowest:?}");
    server.stop();
}

#[test]
fn a_follower_that_does_not_read_is_disconnected_with_the_reason() {
    let mut server = started(web().workers(1));
    server.says("does not read its events; disconnected");
    server.may_say("died");
    let mut deaf = raw(&server);
    deaf.write_all(b"{\"verb\":\"events\"}\n").unwrap();
    let mut reloads = raw(&server);
    // Enough events to fill what the kernel and the master hold for it.
    let told = || server.stderr().iter().any(|l| l.contains("does not read"));
    let mut replies = BufReader::new(reloads.try_clone().unwrap());
    let mut line = String::new();
    replies.read_line(&mut line).unwrap();
    let begin = Instant::now();
    while !told() && begin.elapsed() < Duration::from_secs(60) {
        reloads.write_all(b"{\"verb\":\"reload\"}\n").unwrap();
        for _ in 0..2 {
            replies.read_line(&mut line).unwrap();
        }
    }
    let events = rest_of(deaf);
    let last = events.last().unwrap();
    assert_eq!((&last["reply"], &last["kind"]), (&"error".into(), &"too-slow".into()), "{last}");
    assert_eq!(events[1]["event"], "setup");
    drop((reloads, replies));
    server.stop();
}
