//! Handlers as people write them: the examples, the fixture, and modules in C++ and Rust, each loaded by the real program.
#![allow(clippy::unwrap_used)]

mod util;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use util::{Dir, Server, Start, Style, handler};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// In front of the source, where a library is only kept if it is told to be.
const SQLITE: &[&str] = &["-Wl,--no-as-needed", "-lsqlite3"];
const PREFORK: &str = env!("CARGO_BIN_EXE_prefork");

fn compiled(file: &str) -> PathBuf {
    linked(file, &[])
}

fn linked(file: &str, options: &[&str]) -> PathBuf {
    handler::compile(&fs::read_to_string(Path::new(ROOT).join(file)).unwrap(), options)
}

/// `prefork` with a module and its arguments, on a free port.
fn serve(module: &Path, args: &[&str]) -> Start {
    let module = module.to_str().unwrap();
    let words = [&[PREFORK, "--workers", "2", "--listen", "127.0.0.1:0", module], args].concat();
    Start::new(Style::Request).program(words)
}

/// The response of the fixture to GET.
fn get(server: &Server, target: &str) -> (u16, String, String) {
    let mut client = server.connect();
    client.send(format!("GET {target} HTTP/1.1\r\nHost: t\r\n\r\n").as_bytes()).unwrap();
    let answer = client.http_answer().unwrap();
    (answer.status, answer.head, answer.body)
}

/// The response to these bytes, up to end of file.
fn exchange(server: &Server, bytes: &str) -> String {
    let mut client = server.connect();
    client.send(bytes.as_bytes()).unwrap();
    client.end().unwrap();
    String::from_utf8(client.rest().unwrap()).unwrap()
}

#[test]
fn hello_answers_every_request() {
    let server = serve(&compiled("ffi-examples/hello.c"), &[]).start();
    let (status, head, body) = get(&server, "/any/thing");
    assert_eq!((status, body.as_str()), (200, "hello world\n"));
    assert!(head.to_ascii_lowercase().contains("content-length: 12\r\n"), "{head}");
    server.stop();
}

#[test]
fn echo_returns_its_input() {
    let server = serve(&compiled("ffi-examples/echo.c"), &[]).start();
    assert_eq!(exchange(&server, "one\ntwo"), "one\ntwo");
    let long = "0123456789".repeat(20_000);
    assert_eq!(exchange(&server, &long), long);
    server.stop();
}

#[test]
fn blocking_answers_line_by_line() {
    let server = serve(&compiled("ffi-examples/blocking.c"), &[]).start();
    let text = exchange(&server, "one\ntwo\nunfinished");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].starts_with("1 [worker ") && lines[0].ends_with("] one"), "{text}");
    assert!(lines[1].starts_with("2 [worker ") && lines[1].ends_with("] two"), "{text}");
    server.stop();
}

/// curl(1): the status and the body of the response.
fn ask(server: &Server, method: &str, target: &str, body: &[u8]) -> (u16, String) {
    let url = format!("http://{}{target}", server.tcp());
    let args = ["-sS", "-X", method, "--data-binary", "@-", "-w", "\n%{http_code}", &url];
    let mut curl =
        Command::new("curl").args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    curl.stdin.take().unwrap().write_all(body).unwrap();
    let out = curl.wait_with_output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

#[test]
fn keys_and_values_are_the_same_in_all_workers_and_stay_over_a_reload() {
    let dir = Dir::new();
    let file = dir.file("kv.db");
    let file = file.to_str().unwrap();
    let mut server = serve(&linked("ffi-examples/kv.c", SQLITE), &[file]).start();
    assert_eq!(ask(&server, "GET", "/color", b"").0, 404);
    for value in ["blue", "green", ""] {
        assert_eq!(ask(&server, "PUT", "/color", value.as_bytes()), (204, String::new()));
        for _ in 0..4 {
            assert_eq!(ask(&server, "GET", "/color", b""), (200, value.into()));
        }
        assert_eq!(ask(&server, "GET", "/other", b"").0, 404);
    }
    assert_eq!(ask(&server, "PUT", "/large", &[b'x'; 300_000]).0, 204);
    server.reload();
    assert_eq!(ask(&server, "GET", "/large", b"").1.len(), 300_000);
    assert_eq!(ask(&server, "DELETE", "/large", b"").0, 204);
    assert_eq!(ask(&server, "DELETE", "/large", b"").0, 404);
    assert_eq!(ask(&server, "POST", "/color", b"red").0, 405);
    server.stop();
    assert_eq!(rows(file), ["1|"]);
}

/// What sqlite3(1) finds in the table.
fn rows(file: &str) -> Vec<String> {
    let out = Command::new("sqlite3").args([file, "SELECT count(*), max(value) FROM kv"]).output().unwrap();
    String::from_utf8(out.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn many_clients_write_keys_at_the_same_time() {
    let dir = Dir::new();
    let file = dir.file("kv.db");
    let server = serve(&linked("ffi-examples/kv.c", SQLITE), &[file.to_str().unwrap()]).start();
    let server = Arc::new(server);
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let server = Arc::clone(&server);
            std::thread::spawn(move || {
                for n in 0..20 {
                    assert_eq!(ask(&server, "PUT", &format!("/{writer}-{n}"), b"x").0, 204);
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    assert_eq!(rows(file.to_str().unwrap()), ["160|x"]);
    Arc::into_inner(server).unwrap().stop();
}

/// The text and the exit code of a server that does not start.
fn refused(module: &Path, args: &[&str]) -> (Option<i32>, String) {
    let mut prefork = Command::new(PREFORK);
    prefork.args(["--workers", "2", "--listen", "127.0.0.1:0"]).arg(module).args(args);
    let out = prefork.output().unwrap();
    (out.status.code(), String::from_utf8(out.stderr).unwrap())
}

#[test]
fn a_database_that_cannot_be_opened_is_told() {
    let module = linked("ffi-examples/kv.c", SQLITE);
    let (code, said) = refused(&module, &["/nowhere/kv.db"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("/nowhere/kv.db: unable to open database file"), "{said}");
    assert!(refused(&module, &[]).1.contains("expected the file of a database"));
}

#[test]
fn arguments_of_a_handler_are_read_like_those_of_a_program() {
    let module = compiled("ffi-examples/options.c");
    for (args, expected) in [
        (&[][..], "hello Ada\n"),
        (&["--greeting", "good day", "-t", "3"], "good day Ada\ngood day Ada\ngood day Ada\n"),
        (&["-t1", "--greeting=hi"], "hi Ada\n"),
    ] {
        let server = serve(&module, args).start();
        assert_eq!(get(&server, "/Ada").2, expected);
        server.stop();
    }
    for (args, why) in [
        (&["--times", "many"][..], "expected a number from 1 to 100"),
        (&["--colour"], "unrecognized option '--colour'"),
        (&["more"], "expected options only"),
    ] {
        let (code, said) = refused(&module, args);
        assert_eq!(code, Some(78), "{said}");
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn a_second_module_is_an_argument_of_the_first_and_that_is_told() {
    let (one, two) = (compiled("ffi-examples/hello.c"), compiled("ffi-examples/kv.c"));
    for more in [&[][..], &["--one-process"]] {
        let words = [
            &[PREFORK, "--listen", "127.0.0.1:0"],
            more,
            &[one.to_str().unwrap(), two.to_str().unwrap(), "x.so"],
        ]
        .concat();
        let server =
            Start::new(Style::Request).workers(usize::from(more.is_empty()) * 2).program(words).start();
        let told = server.stdout().concat();
        assert!(
            told.contains(&format!("{}: for ", two.display())) && told.contains("a server has one handler"),
            "{told}"
        );
        server.stop();
    }
}

/// FNV-1a.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, b| (sum ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}

#[test]
fn upload_writes_files_as_they_come() {
    let dir = Dir::new();
    let to = dir.file("uploads");
    fs::create_dir(&to).unwrap();
    let server = serve(&compiled("ffi-examples/upload.c"), &[to.to_str().unwrap()]).start();
    let body: Vec<u8> = (0..5_000_000u32).map(|i| (i % 241) as u8).collect();
    let head = |path: &str, fields: &str| format!("PUT {path} HTTP/1.1\r\nHost: t\r\n{fields}\r\n");
    let mut client = server.connect();
    client.send(head("/film.mp4", &format!("Content-Length: {}\r\n", body.len())).as_bytes()).unwrap();
    client.send(&body).unwrap();
    let answer = client.http_answer().unwrap();
    assert_eq!((answer.status, answer.body), (200, format!("{} {:016x}\n", body.len(), checksum(&body))));
    client.send((head("/b", "Transfer-Encoding: chunked\r\n") + "2\r\nhi\r\n0\r\n\r\n").as_bytes()).unwrap();
    assert_eq!(client.http_answer().unwrap().body, format!("2 {:016x}\n", checksum(b"hi")));
    client.send(head("/empty", "").as_bytes()).unwrap();
    assert_eq!(client.http_answer().unwrap().body, format!("0 {:016x}\n", checksum(b"")));
    // What is broken off leaves nothing.
    client.send((head("/half", "Content-Length: 10\r\n") + "hello").as_bytes()).unwrap();
    client.reset();
    for (path, status) in [("/../x", 400), ("/.x", 400), ("/", 400), ("/a/b", 400)] {
        let mut client = server.connect();
        client.send(head(path, "").as_bytes()).unwrap();
        assert_eq!(client.http_answer().unwrap().status, status, "{path}");
    }
    let mut large = server.connect();
    large.send(head("/x", "Content-Length: 99999999999999\r\nExpect: 100-continue\r\n").as_bytes()).unwrap();
    assert_eq!(large.http_answer().unwrap().status, 413);
    assert_eq!(get(&server, "/film.mp4").0, 405);
    server.stop();
    let mut names: Vec<_> = fs::read_dir(&to).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort_unstable();
    assert_eq!(names, ["b", "empty", "film.mp4"]);
    assert_eq!(fs::read(to.join("film.mp4")).unwrap(), body);
}

#[test]
fn the_constructors_of_a_module_in_cpp_run_when_it_is_loaded() {
    let source = "#include <prefork.h>\n#include <string>\n\
        static std::string text(\"from C++\\n\");\n\
        static void on_request(prefork_request *, prefork_response *res, void *) {\n\
            prefork_response_body(res, text.data(), text.size());\n\
        }\n\
        PREFORK_MODULE(.on_request = on_request)\n";
    let module = handler::compile(source, &["-x", "c++", "-std=c++11", "-Wl,--no-as-needed", "-lstdc++"]);
    let server = serve(&module, &[]).start();
    assert_eq!(get(&server, "/").2, "from C++\n");
    server.stop();
}

/// Answers with the file of the functions that the module calls.
const WHOSE: &str = "#include <dlfcn.h>\n#include <prefork.h>\n#include <string.h>\n\
    static void on_request(prefork_request *q, prefork_response *res, void *s) {\n\
        Dl_info about;\n\
        dladdr((void *)prefork_response_body, &about);\n\
        prefork_response_body(res, about.dli_fname, strlen(about.dli_fname));\n\
    }\n\
    PREFORK_MODULE(.on_request = on_request)\n";

#[test]
fn modules_use_the_copy_in_the_program_linked_or_not() {
    let libraries = Path::new(env!("CARGO_TARGET_TMPDIR")).join("linked");
    fs::create_dir_all(&libraries).unwrap();
    let library = Path::new(PREFORK).with_file_name("deps").join("libprefork.so");
    fs::copy(&library, libraries.join("libprefork.so.2")).unwrap();
    let search = format!("LD_LIBRARY_PATH={}", libraries.display());
    let link = library.to_str().unwrap();
    for flags in [&["-D_GNU_SOURCE"][..], &["-D_GNU_SOURCE", "-Wl,--no-as-needed", link]] {
        let module = handler::compile(WHOSE, flags);
        let server = serve(&module, &[]).through(&["env", &search]).start();
        assert_eq!(get(&server, "/").2, PREFORK, "{flags:?}");
        server.stop();
    }
}

#[test]
fn callbacks_of_a_worker_come_in_order() {
    let dir = Arc::new(Dir::new());
    let log = dir.file("log");
    let fixture = compiled("tests/fixture.c");
    let server = serve(&fixture, &["log", log.to_str().unwrap()]).within(&dir).start();
    let pids = server.workers();
    server.stop();
    let text = fs::read_to_string(log).unwrap();
    for pid in pids {
        let own: Vec<_> = text.lines().filter_map(|l| l.strip_suffix(&format!(" {pid}"))).collect();
        assert_eq!(own, ["start", "drain", "stop"], "{text}");
    }
}

#[test]
fn a_worker_knows_its_identity_and_its_arguments() {
    let server = serve(&compiled("tests/fixture.c"), &["one", "two words", "--three"]).start();
    assert_eq!(get(&server, "/args").2, "one\ntwo words\n--three\n");
    assert_eq!(get(&server, "/gen").2, "1\n");
    let pid: i32 = get(&server, "/pid").2.trim().parse().unwrap();
    assert!(server.workers().contains(&pid));
    let slot: usize = get(&server, "/slot").2.trim().parse().unwrap();
    assert!(slot < 2);
    server.stop();
}

#[test]
fn a_request_has_all_its_parts() {
    let server = serve(&compiled("tests/fixture.c"), &[]).start();
    let request = "GET /fields?x=1&y HTTP/1.0\r\nA: 1\r\na:  two \r\nB:\r\n\r\n";
    let text = exchange(&server, request);
    let body = text.split_once("\r\n\r\n").unwrap().1;
    let lines: Vec<_> = body.lines().collect();
    assert_eq!(lines[..3], ["version=10", "path=/fields", "query=?x=1&y"], "{text}");
    assert!(lines[3].starts_with("peer=127.0.0.1:"), "{text}");
    assert_eq!(lines[4..], ["listener=0", "headers=3", "A: 1", "a: two", "B: "], "{text}");
    assert!(get(&server, "/fields").2.contains("\nquery=absent\n"));
    assert!(get(&server, "/fields?").2.contains("\nquery=?\n"));
    let long = "x".repeat(100_000);
    let echo = format!("POST /echo HTTP/1.0\r\nContent-Length: {}\r\n\r\n{long}", long.len());
    assert!(exchange(&server, &echo).ends_with(&format!("\r\n\r\n{long}")));
    server.stop();
}

#[test]
fn a_response_is_sent_in_every_way() {
    let dir = Arc::new(Dir::new());
    let file = dir.file("file");
    fs::write(&file, "from a file\n").unwrap();
    let server = serve(&compiled("tests/fixture.c"), &[]).within(&dir).start();
    assert_eq!(get(&server, "/owned").2, "owned\n");
    assert_eq!(get(&server, "/static?size=30").2, "abcdefghijklmnopqrstuvwxyzabcd");
    assert_eq!(get(&server, &format!("/file?path={}", file.display())).2, "from a file\n");
    assert_eq!(get(&server, "/file?path=/nowhere").0, 404);
    assert_eq!(get(&server, "/status?code=418").0, 418);
    assert!(get(&server, "/header?name=X-Test").1.contains("\r\nX-Test: value\r\n"));
    assert!(get(&server, "/close").1.contains("\r\nConnection: close\r\n"));
    assert_eq!(get(&server, "/fail").0, 500);
    let chunked = exchange(&server, "GET /stream?n=2 HTTP/1.1\r\nHost: t\r\n\r\n");
    assert!(chunked.ends_with("\r\n\r\n7\r\npart 0\n\r\n7\r\npart 1\n\r\n0\r\n\r\n"), "{chunked}");
    server.stop();
}

#[test]
fn a_refused_call_returns_a_status() {
    let server = serve(&compiled("tests/fixture.c"), &[]).start();
    let text = get(&server, "/refusals").2;
    let statuses: Vec<_> = text.lines().map(|l| l.rsplit(' ').next().unwrap()).collect();
    assert_eq!(statuses, ["-2", "-2", "-9", "-9", "-10", "-1", "-1", "-2", "-14", "-1"], "{text}");
    server.stop();
}

#[test]
fn an_upgraded_connection_is_a_stream_with_a_pointer_of_its_own() {
    let server = serve(&compiled("tests/fixture.c"), &[]).start();
    let head = "GET /upgrade HTTP/1.1\r\nHost: t\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    let text = exchange(&server, &format!("{head}early and more"));
    let (answer, stream) = text.split_once("\r\n\r\n").unwrap();
    assert!(answer.starts_with("HTTP/1.1 101 "), "{text}");
    assert_eq!(stream, "open\nearly and moreend after 14\n");
    assert_eq!(get(&server, "/upgrade").0, 426);
    server.stop();
}

#[test]
fn a_worker_that_cannot_start_reports_the_reason() {
    let fixture = compiled("tests/fixture.c");
    for (arg, expected) in [("refuse", "worker_start returned 7"), ("crash", "SIGABRT")] {
        let refused = serve(&fixture, &[arg]).refused();
        assert_eq!(refused.code, Some(1), "{arg}: {}", refused.stderr);
        assert!(refused.stderr.contains(expected), "{arg}: {}", refused.stderr);
        // One line, below what a crash says, and that of one worker.
        let lines: Vec<_> = refused.stderr.lines().filter(|line| !line.contains(": #")).collect();
        assert_eq!(lines.len(), if arg == "crash" { 2 } else { 1 }, "{arg}: {}", refused.stderr);
    }
}

#[test]
fn the_example_in_rust_serves() {
    let example = util::host::example("hello");
    let words = [example.to_str().unwrap(), "127.0.0.1:0", "2"];
    let server = Start::new(Style::Request).program(words).start();
    assert_eq!(get(&server, "/").2, "hello world\n");
    server.stop();
}
