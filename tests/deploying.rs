//! docs/deploying.md: its configurations and its scripts, as they stand there, with nginx, HAProxy and systemd.
#![allow(clippy::unwrap_used)]

mod util;

use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use util::handler::compile;
use util::{Dir, Server, Start, Style, proc, wait_until};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const PREFORK: &str = env!("CARGO_BIN_EXE_prefork");

/// The code blocks of the document in a language.
fn blocks(language: &str) -> Vec<String> {
    let text = fs::read_to_string(Path::new(ROOT).join("docs/deploying.md")).unwrap();
    let begin = format!("\n```{language}\n");
    text.split(&begin).skip(1).map(|rest| rest.split("\n```\n").next().unwrap().to_owned() + "\n").collect()
}

/// A module that answers with a text.
fn says(text: &str) -> PathBuf {
    let source = fs::read_to_string(Path::new(ROOT).join("ffi-examples/hello.c")).unwrap();
    let call = format!("(res, \"{text}\\n\", {})", text.len() + 1);
    compile(&source.replace("(res, \"hello world\\n\", 12)", &call), &[])
}

/// A port that nobody has.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The body of curl's response.
fn curl(args: &[&str]) -> String {
    let out = Command::new("curl").args(["-sS", "--max-time", "20"]).args(args).output().unwrap();
    String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned()
}

/// A program in the foreground that ends with the test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command, port: u16) -> Self {
        let proxy = Self(command.stdin(Stdio::null()).spawn().unwrap_or_else(|e| panic!("{command:?}: {e}")));
        wait_until("the proxy listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        proxy
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // So that it ends its own processes.
        proc::signal(self.0.id() as i32, libc::SIGTERM);
        let _ = self.0.wait();
    }
}

/// Requests through a proxy from many clients; ends them and returns what wrk(1) says.
fn under_load(port: u16, mut work: impl FnMut()) -> String {
    let mut wrk = Command::new("wrk");
    wrk.args(["-t1", "-c16", "-d600s", "--timeout", "15s", &format!("http://127.0.0.1:{port}/")]);
    let mut wrk = Running(wrk.stdout(Stdio::piped()).spawn().unwrap());
    let mut output = wrk.0.stdout.take().unwrap();
    work();
    proc::signal(wrk.0.id() as i32, libc::SIGINT);
    let mut said = String::new();
    output.read_to_string(&mut said).unwrap();
    assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
    said
}

/// The connections that its workers have taken since its start.
fn taken(server: &Server) -> u64 {
    let mut ls = Command::new(PREFORK);
    let out = ls.args(["ls", "--json"]).env("PREFORK_RUNTIME_DIR", server.dir.runtime()).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    json[0]["taken"].as_u64().unwrap_or_else(|| panic!("{json}"))
}

/// The sockets of the only child of a process.
fn sockets(parent: u32) -> Vec<PathBuf> {
    let child = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    let entries = fs::read_dir(format!("/proc/{}/fd", child.trim())).unwrap().flatten();
    let links = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    let mut sockets: Vec<_> = links.filter(|link| link.to_string_lossy().starts_with("socket:")).collect();
    sockets.sort();
    sockets
}

#[test]
fn nginx_keeps_its_connections_over_reloads() {
    let [config] = blocks("nginx").try_into().unwrap();
    let dir = Dir::new();
    let (socket, port) = (dir.file("http.sock"), free_port());
    let mut server = Start::new(Style::Request).module(says("hello")).set("unix-mode", "666");
    server = server.listen(format!("unix:{}", socket.display()));
    let mut server = server.start();
    let config = config
        .replace("/run/shop/http.sock", socket.to_str().unwrap())
        .replace("listen 80;", &format!("listen 127.0.0.1:{port};"));
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {}/{name};\n", dir.path().display()))
        .concat();
    let file = dir.file("nginx.conf");
    let around = "daemon off; error_log stderr; worker_processes 1; events {}";
    fs::write(
        &file,
        format!(
            "{around} pid {0}/pid; http {{ access_log off; {temporary} {config} }}",
            dir.path().display()
        ),
    )
    .unwrap();
    let proxy = Running::start(Command::new("nginx").arg("-c").arg(&file), port);
    under_load(port, || {
        wait_until("nginx has its connections", || taken(&server) >= 16);
        let before = sockets(proxy.0.id());
        for _ in 0..5 {
            server.reload();
            server.rests();
        }
        assert_eq!(sockets(proxy.0.id()), before);
    });
    drop(proxy);
    server.stop();
}

#[test]
fn haproxy_sends_requests_to_the_server_that_stays() {
    let [config] = blocks("haproxy").try_into().unwrap();
    let dir = Dir::new();
    let (one, two) = (
        Start::new(Style::Request).module(says("one")).start(),
        Start::new(Style::Request).module(says("two")).start(),
    );
    let port = free_port();
    let config = config
        .replace("127.0.0.1:8080", &one.tcp().to_string())
        .replace("127.0.0.1:8081", &two.tcp().to_string())
        .replace("bind :80", &format!("bind 127.0.0.1:{port}"));
    let file = dir.file("haproxy.cfg");
    fs::write(&file, config).unwrap();
    let check = Command::new("haproxy").args(["-c", "-f"]).arg(&file).output().unwrap();
    assert!(check.status.success(), "{check:?}");
    assert!(!String::from_utf8_lossy(&check.stderr).contains("WARNING"), "{check:?}");
    let proxy = Running::start(Command::new("haproxy").arg("-f").arg(&file), port);
    let url = format!("http://127.0.0.1:{port}/");
    let both = [curl(&[&url]), curl(&[&url])];
    assert!(both.contains(&"one\n".into()) && both.contains(&"two\n".into()), "{both:?}");
    let mut two = two;
    two.reload();
    assert_eq!(curl(&["-w", "%{http_code}", "-o", "/dev/null", &url]), "200");
    one.stop();
    wait_until("only the other one gets requests", || (0..4).all(|_| curl(&[&url]) == "two\n"));
    drop(proxy);
    two.stop();
}

#[test]
fn the_units_are_valid_and_start_a_server_with_the_socket() {
    let units = blocks("ini");
    let dir = Dir::new();
    let etc = dir.file("etc");
    fs::create_dir(&etc).unwrap();
    let runtime = dir.runtime();
    let module = says("shop");
    let mut service = String::new();
    for unit in &units {
        let (first, text) = unit.split_once('\n').unwrap();
        let name = first.rsplit('/').next().unwrap();
        // verify(1) looks for the programs.
        let text = text.replace("/usr/local/bin/prefork", PREFORK);
        fs::write(etc.join(name), &text).unwrap();
        if name.ends_with(".service") {
            service = text;
        }
    }
    let verify = ["verify", "--man=no", "--recursive-errors=no"];
    let out = Command::new("systemd-analyze")
        .args(verify)
        .arg(etc.join("shop.service"))
        .arg(etc.join("shop.socket"))
        .output()
        .unwrap();
    assert!(out.status.success() && out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
    // What systemd would do with them.
    let value = |name: &str| {
        service
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}=")))
            .unwrap_or_else(|| panic!("{name}"))
    };
    let start = value("ExecStart").replace("/srv/shop/current/shop.so", module.to_str().unwrap());
    let port = free_port();
    let mut activate = Command::new("systemd-socket-activate");
    activate
        .args(["-l", &format!("127.0.0.1:{port}"), "-E"])
        .arg(format!("PREFORK_RUNTIME_DIR={}", runtime.display()));
    activate.args(start.split(' ')).stdout(Stdio::null()).stderr(Stdio::null());
    let mut server = activate.stdin(Stdio::null()).spawn().unwrap();
    wait_until("it serves", || curl(&[&format!("http://127.0.0.1:{port}/")]) == "shop\n");
    let reload = value("ExecReload").split(' ').map(str::to_owned).collect::<Vec<_>>();
    let out =
        Command::new(&reload[0]).args(&reload[1..]).env("PREFORK_RUNTIME_DIR", &runtime).output().unwrap();
    assert!(out.status.success(), "{out:?}");
    assert_eq!(curl(&[&format!("http://127.0.0.1:{port}/")]), "shop\n");
    proc::signal(server.id() as i32, libc::SIGTERM);
    assert_eq!(server.wait().unwrap().code(), Some(0));
}

#[test]
fn the_script_of_a_release_switches_forward_and_back() {
    let scripts = blocks("sh");
    let script = scripts.iter().find(|script| script.contains("install -D")).unwrap();
    let dir = Dir::new();
    let root = dir.path().join("shop");
    for name in ["shop", "shop.so"] {
        dir.file(name);
    }
    let run = |script: &str| {
        let script =
            script.replace("/srv/shop", root.to_str().unwrap()).replace("prefork ", &format!("{PREFORK} "));
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &script])
            .current_dir(dir.path())
            .env("PREFORK_RUNTIME_DIR", dir.path().join("run"));
        shell.output().unwrap()
    };
    dir.runtime();
    let first = says("one");
    let out = run(&format!(
        "install -D {} /srv/shop/releases/1/shop.so && ln -s releases/1 /srv/shop/current",
        first.display()
    ));
    assert!(out.status.success(), "{out:?}");
    let module = root.join("current/shop.so");
    let words =
        [PREFORK, "--name", "shop", "--workers", "2", "--listen", "127.0.0.1:0", module.to_str().unwrap()];
    let mut start = Start::new(Style::Request).program(words);
    start = start.env("PREFORK_RUNTIME_DIR", Some(dir.path().join("run").as_os_str()));
    let mut server = start.start();
    let url = format!("http://{}/", server.tcp());
    let url = [url.as_str()];
    fs::copy(says("two"), dir.path().join("shop.so")).unwrap();
    server.may_say("reload to generation");
    let out = run(script);
    assert!(out.status.success(), "{out:?}");
    assert_eq!(curl(&url), "two\n");
    // Broken: the link goes back to the release before.
    fs::write(dir.path().join("shop.so"), "not a module").unwrap();
    server.may_say("not a shared object");
    server.may_say("control: reload");
    let back = script.replace("releases/2", "releases/3").replace("releases/1", "releases/2");
    let out = run(&back);
    assert!(String::from_utf8_lossy(&out.stderr).contains("not a shared object"), "{out:?}");
    assert_eq!(curl(&url), "two\n");
    assert_eq!(fs::read_link(root.join("current")).unwrap(), Path::new("releases/2"));
    server.stop();
}

#[test]
fn every_option_and_file_that_it_names_exists() {
    let text = fs::read_to_string(Path::new(ROOT).join("docs/deploying.md")).unwrap();
    let help = Command::new(PREFORK).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let is_part = |c: char| c.is_ascii_lowercase() || c == '-';
    for (at, _) in text.match_indices("`--") {
        let option: String = text[at + 1..].chars().take_while(|c| is_part(*c)).collect();
        assert!(help.contains(&format!("{option} ")) || option == "--time", "{option}");
    }
    for (at, _) in text.match_indices("](") {
        let target = text[at + 2..].split(')').next().unwrap();
        match target.strip_prefix('#') {
            Some(anchor) => {
                let titles = text.lines().filter_map(|line| line.strip_prefix("## "));
                let anchors = titles.map(|t| t.to_lowercase().replace(' ', "-").replace(',', ""));
                assert!(anchors.into_iter().any(|one| one == anchor), "{anchor}");
            }
            None => assert!(Path::new(ROOT).join("docs").join(target).exists(), "{target}"),
        }
    }
}
