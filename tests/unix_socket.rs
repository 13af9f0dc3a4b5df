//! Unix sockets: who may put one in place of another, at any moment of either's life; and those without a file.
#![allow(clippy::unwrap_used)]

mod util;

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use util::client::Address;
use util::{Client, Dir, Mode, Start, Style, handler, proc, wait_until};

/// A server that is not audited: some of these are not to come up.
struct Process(Child);

impl Process {
    fn start(dir: &Dir, address: impl Into<OsString>, environment: &[(&str, &Path)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_prefork"));
        command.args(["--workers", "1", "--control", "off", "--listen"]).arg(address.into());
        command.arg(Style::Data.handler()).arg(dir.path()).envs(environment.iter().copied());
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    /// The first line of its banner, or an empty text if it ends without one.
    fn banner(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(self.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        line
    }

    #[track_caller]
    fn ends_refused(mut self, why: &str) {
        assert_eq!(self.banner(), "");
        let code = self.0.wait().unwrap().code();
        let mut text = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(code == Some(1) && text.contains(why) && text.lines().count() == 1, "{code:?}: {text}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn unix(path: &Path) -> OsString {
    let mut address = OsString::from("unix:");
    address.push(path);
    address
}

fn ask(path: &Path) -> String {
    Client::connect(&Address::Unix(path.into()), Style::Data).unwrap().ask_last("pid").unwrap()
}

#[test]
fn of_servers_that_start_at_once_one_serves_and_the_others_are_refused() {
    let dir = Dir::new();
    let path = dir.file("socket");
    for _ in 0..6 {
        // Nothing is there the first time; then the socket of a server that was killed.
        let mut all: Vec<_> = (0..5).map(|_| Process::start(&dir, unix(&path), &[])).collect();
        let banners: Vec<_> = std::thread::scope(|s| {
            let threads: Vec<_> = all.iter_mut().map(|one| s.spawn(|| one.banner())).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let serving = banners.iter().position(|banner| banner.contains("listening on")).unwrap();
        let winner = all.swap_remove(serving);
        all.into_iter().for_each(|other| other.ends_refused("in use"));
        let workers = proc::children(winner.0.id() as i32);
        assert_eq!(ask(&path), workers[0].to_string());
        drop(winner);
        assert!(path.exists(), "nobody was left to remove it");
        assert_eq!(dir.leftovers(), [""; 0]);
    }
}

/// Makes listen(2) wait for a file.
fn slow_to_listen() -> PathBuf {
    handler::compile(
        "#define _GNU_SOURCE\n#include <fcntl.h>\n#include <stdio.h>\n#include <stdlib.h>\n\
         #include <sys/socket.h>\n#include <sys/syscall.h>\n#include <unistd.h>\n\
         int listen(int fd, int n)\n{\n\
         const char *gate = getenv(\"LISTEN_GATE\"); char here[4096];\n\
         snprintf(here, sizeof here, \"%s.here\", gate); close(creat(here, 0600));\n\
         while (access(gate, F_OK)) usleep(1000);\n\
         return syscall(SYS_listen, fd, n);\n}\n",
        &[],
    )
}

#[test]
fn a_socket_that_does_not_listen_yet_is_in_nobody_s_way_and_takes_nobody_s_place() {
    for stale in [false, true] {
        let dir = Dir::new();
        let (path, gate, here) = (dir.file("socket"), dir.file("gate"), dir.file("gate.here"));
        if stale {
            drop(UnixListener::bind(&path).unwrap());
        }
        let shim = slow_to_listen();
        let slow = Process::start(&dir, unix(&path), &[("LD_PRELOAD", &shim), ("LISTEN_GATE", &gate)]);
        wait_until("it is about to listen", || here.exists());
        let mut quick = Process::start(&dir, unix(&path), &[]);
        assert!(quick.banner().contains("listening on"));
        let pid = ask(&path);
        fs::write(&gate, "").unwrap();
        slow.ends_refused("in use");
        assert_eq!(ask(&path), pid);
        drop(quick);
        assert_eq!(dir.leftovers(), [""; 0]);
    }
}

#[test]
fn a_server_that_stops_does_not_remove_the_socket_of_its_successor() {
    let dir = Dir::new();
    let path = dir.file("socket");
    let mut former = Process::start(&dir, unix(&path), &[]);
    assert!(former.banner().contains("listening on"));
    for _ in 0..20 {
        proc::signal(former.0.id() as i32, libc::SIGTERM);
        // From the first moment at which it is let in.
        let mut successor = loop {
            let mut next = Process::start(&dir, unix(&path), &[]);
            if next.banner().contains("listening on") {
                break next;
            }
            next.ends_refused("in use");
        };
        assert!(former.0.wait().unwrap().success());
        assert_eq!(ask(&path), proc::children(successor.0.id() as i32)[0].to_string());
        std::mem::swap(&mut former, &mut successor);
    }
}

#[test]
fn a_lock_that_somebody_else_holds_on_the_directory_delays_nobody_for_long() {
    let dir = Dir::new();
    let path = dir.file("socket");
    let mut flock = Command::new("flock");
    // It locks the directory, and keeps it as long as that process lives.
    let flock = flock.arg("-o").arg(dir.path()).args(["sh", "-c", "echo; exec sleep 60"]);
    let mut holder = flock.stdout(Stdio::piped()).spawn().map(Process).unwrap();
    assert_eq!(holder.banner(), "\n");
    let mut server = Process::start(&dir, unix(&path), &[]);
    assert!(server.banner().contains("listening on"));
    ask(&path);
}

#[test]
fn a_path_of_the_greatest_length_will_do_whatever_its_last_part() {
    for last in ["s", "a-socket-with-a-name-longer-than-most"] {
        let dir = Arc::new(Dir::new());
        let room = 107 - dir.path().as_os_str().len() - 2 - last.len();
        let folder = dir.file(&"d".repeat(room));
        fs::create_dir(&folder).unwrap();
        let path = folder.join(last);
        assert_eq!(path.as_os_str().len(), 107);
        let server = Start::new(Style::Data).within(&dir).listen(format!("unix:{}", path.display())).start();
        assert_eq!(server.addresses, [Address::Unix(path)]);
        assert!(server.ask("pid").is_ok());
        server.stop();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    }
}

#[test]
fn an_upgrade_goes_on_with_the_path_and_removes_the_file_at_the_end() {
    let dir = Arc::new(Dir::new());
    let path = dir.path().join("socket");
    let mut server = Start::new(Style::Data).within(&dir).listen(format!("unix:{}", path.display())).start();
    server.may_say("upgrade");
    server.may_say(util::RELOAD);
    let before = server.workers();
    server.signal(libc::SIGUSR2);
    wait_until("the new program's workers serve", || {
        let now = server.workers();
        now.len() == 2 && now.iter().all(|pid| !before.contains(pid))
    });
    let mut show = Command::new(env!("CARGO_BIN_EXE_prefork"));
    let out = show.args(["show", "--json"]).env("PREFORK_RUNTIME_DIR", dir.runtime()).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(text.contains(&format!("[\"unix:{}\"]", path.display())), "{text}");
    assert!(server.ask("pid").is_ok());
    server.rests();
    server.signal(libc::SIGTERM);
    server.ends(); // finds no file left
}

#[test]
fn a_path_that_is_not_utf8_is_a_path_like_any_other() {
    let dir = Dir::new();
    let mut name = dir.path().as_os_str().as_bytes().to_vec();
    name.extend(b"/gr\xfc\xdfe");
    let path = PathBuf::from(OsString::from_vec(name));
    let mut server = Process::start(&dir, unix(&path), &[]);
    assert!(server.banner().contains("/gr\\xfc\\xdfe"));
    ask(&path);
    Process::start(&dir, unix(&path), &[]).ends_refused("in use by process");
    proc::signal(server.0.id() as i32, libc::SIGTERM);
    assert!(server.0.wait().unwrap().success());
    assert!(!path.exists());
}

#[test]
fn an_abstract_address_is_served_without_a_file() {
    for style in Style::ALL {
        for mode in Mode::ALL {
            let dir = Arc::new(Dir::new());
            let name = format!("@prefork-test-{}-{style:?}-{}", std::process::id(), mode.name());
            let start = || Start::new(style).within(&dir).accept(mode).listen(format!("unix:{name}"));
            let server = start().start();
            assert_eq!(server.addresses, [Address::Unix(name.clone().into())]);
            assert_eq!(server.ask("listener"), Ok("0".into()), "{style:?} {mode:?}");
            let refused = start().refused();
            assert_eq!((refused.code, refused.stderr.lines().count()), (Some(1), 1), "{refused:?}");
            assert!(refused.stderr.contains(&format!("process {} (prefork)", server.pid)), "{refused:?}");
            server.stop(); // finds no file left
        }
    }
}

#[test]
fn a_file_whose_name_begins_as_an_abstract_address_does_is_reached_by_its_directory() {
    let dir = Arc::new(Dir::new());
    let path = dir.path().join("@name");
    // Servers of tests run in the directory of the test.
    let server = Start::new(Style::Data).within(&dir).listen("unix:./@name").start();
    assert!(UnixStream::connect(&path).is_ok());
    server.stop();
}
