//! Libraries that others wrote, in a worker's loop: libpq against PostgreSQL, libcurl's multi interface, hiredis against redis. While
//! they wait for their servers, other clients are served.
#![allow(clippy::unwrap_used)]

mod util;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use util::handler::compile;
use util::{Client, Dir, Server, Start, Style, comes_true, wait_until};

const CLIENTS: usize = 20;
const EACH: usize = 15;

/// A server that is not ours, with its files in a directory of its own. It ends with this value.
struct Other {
    dir: PathBuf,
    // Dropped after the process has ended.
    _dir: Dir,
    child: Child,
}

impl Other {
    /// Starts a program that makes a socket of this name in its directory, as a user who is not root.
    fn start(program: &Path, args: &[&str], socket: &str, prepare: impl FnOnce(&Path)) -> Self {
        let home = Dir::new();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).unwrap();
        // What they write here is removed with it.
        let dir = home.path().join("other");
        run(by_ordinary_user("mkdir").arg(&dir));
        prepare(&dir);
        let mut command = by_ordinary_user(program);
        command.args(args).current_dir(&dir).stdin(Stdio::null());
        let log = fs::File::create(home.path().join("other.log")).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap();
        let mut other = Self { dir, child, _dir: home };
        let path = other.dir.join(socket);
        let answers = comes_true(util::PATIENCE, || {
            assert!(other.child.try_wait().unwrap().is_none(), "{}", other.log());
            UnixStream::connect(&path).is_ok()
        });
        assert!(answers, "{}", other.log());
        other
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.with_file_name("other.log")).unwrap_or_default()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        util::proc::signal(self.child.id() as i32, libc::SIGINT);
        if !comes_true(util::PATIENCE, || self.child.try_wait().is_ok_and(|exit| exit.is_some())) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// PostgreSQL refuses root.
fn by_ordinary_user(program: impl AsRef<OsStr>) -> Command {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"])
        .arg(program.as_ref());
    command
}

fn run(command: &mut Command) -> String {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn postgres() -> Other {
    let programs = PathBuf::from(run(Command::new("pg_config").arg("--bindir")).trim_end());
    let prepare = |dir: &Path| {
        let mut init = by_ordinary_user(programs.join("initdb"));
        run(init
            .args(["-D", "db", "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8"])
            .current_dir(dir));
    };
    let settings =
        ["listen_addresses=", "unix_socket_directories=..", "fsync=off", "dynamic_shared_memory_type=mmap"];
    let args: Vec<&str> = ["-D", "db"].into_iter().chain(settings.iter().flat_map(|s| ["-c", s])).collect();
    Other::start(&programs.join("postgres"), &args, ".s.PGSQL.5432", prepare)
}

fn redis() -> Other {
    let args = [
        "--port",
        "0",
        "--unixsocket",
        "redis",
        "--unixsocketperm",
        "777",
        "--save",
        "",
        "--enable-debug-command",
        "yes",
    ];
    Other::start(Path::new("redis-server"), &args, "redis", |_| ())
}

/// One worker with `tests/clients.c`.
fn start(client: &str, flags: &[&str], place: &OsStr) -> Server {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients.c");
    let flags = [&[client], flags].concat();
    let module = compile(&fs::read_to_string(source).unwrap(), &flags);
    Start::new(Style::Data).workers(1).module(module).env("PLACE", Some(place)).start()
}

/// Many clients wait for the other server, while one is answered at once.
#[track_caller]
fn others_are_served_meanwhile(server: &Server) {
    let address = server.address().clone();
    let ask = move |n: usize| {
        let mut client = Client::connect(&address, Style::Data).unwrap();
        client.patience(util::PATIENCE);
        for k in 0..EACH {
            let number = n * EACH + k;
            assert_eq!(client.ask(&format!("ask {number}")).unwrap(), (2 * number).to_string());
        }
    };
    let ask = std::sync::Arc::new(ask);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let ask = std::sync::Arc::clone(&ask);
            std::thread::spawn(move || ask(n))
        })
        .collect();
    let mut other = server.connect();
    let mut count = || other.ask("count").unwrap().parse::<usize>().unwrap();
    wait_until("the first answers", || count() > 0);
    let counts: Vec<usize> = (0..100).map(|_| count()).collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert_eq!(count(), CLIENTS * EACH);
    assert!(counts[99] < CLIENTS * EACH, "the others were answered first: {counts:?}");
    let unmoved = counts.windows(2).filter(|pair| pair[0] == pair[1]).count();
    assert!(unmoved > 50, "it waited for the others: {counts:?}");
    drop(other);
}

#[test]
fn libpq_in_the_workers_loop() {
    let postgres = postgres();
    let include = format!("-I{}", run(Command::new("pg_config").arg("--includedir")).trim_end());
    let mut server =
        start("-DWITH_POSTGRES", &[&include, "-Wl,--no-as-needed,-lpq"], postgres.dir.as_os_str());
    others_are_served_meanwhile(&server);
    server.reload();
    others_are_served_meanwhile(&server);
    server.stop();
}

#[test]
fn libcurl_in_the_workers_loop() {
    let slow = compile(
        r#"
        #include <prefork.h>
        #include <stdlib.h>
        #include <string.h>
        #include <unistd.h>

        /* Answers /echo/N with N, after a while. */
        static void on_request(prefork_request *req, prefork_response *res, void *state)
        {
            prefork_slice path = prefork_request_path(req);

            (void)state;
            usleep(5000);
            prefork_response_body(res, path.data + 6, path.len - 6);
        }
        PREFORK_MODULE(.on_request = on_request)
        "#,
        &[],
    );
    let upstream = Start::new(Style::Request).workers(2).module(slow).start();
    let place = OsString::from(upstream.tcp().to_string());
    let mut server = start("-DWITH_CURL", &["-Wl,--no-as-needed,-lcurl"], &place);
    others_are_served_meanwhile(&server);
    server.reload();
    others_are_served_meanwhile(&server);
    server.stop();
    upstream.stop();
}

#[test]
fn hiredis_in_the_workers_loop() {
    let redis = redis();
    let mut server = start("-DWITH_REDIS", &["-Wl,--no-as-needed,-lhiredis"], redis.dir.as_os_str());
    others_are_served_meanwhile(&server);
    server.reload();
    others_are_served_meanwhile(&server);
    server.stop();
}
