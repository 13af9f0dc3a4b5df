//! Deployments that switch a symbolic link to the next release: the path as it was given is followed anew.
#![allow(clippy::unwrap_used)]

mod util;

use serde_json::Value;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use util::dir::Dir;
use util::host::{self, Link};
use util::{Server, Start, Style, wait_until};

/// `releases/N` with a program and a module that says `N`, and `current`, which leads to one of them.
struct Site {
    dir: Arc<Dir>,
}

impl Site {
    fn new() -> Self {
        let site = Self { dir: Arc::new(Dir::new()) };
        site.dir.file("releases");
        site.release(1);
        site.switch(1);
        site
    }

    fn root(&self) -> PathBuf {
        fs::canonicalize(self.dir.path()).unwrap()
    }

    fn folder(&self, n: u32) -> PathBuf {
        self.root().join("releases").join(n.to_string())
    }

    fn release(&self, n: u32) {
        fs::create_dir_all(self.folder(n)).unwrap();
        let copy = |from: &Path, name: &str| {
            assert!(Command::new("cp").arg(from).arg(self.folder(n).join(name)).status().unwrap().success());
        };
        // Without what is for debuggers, which would make it ten times as large.
        let mut strip = Command::new("strip");
        strip.arg(env!("CARGO_BIN_EXE_prefork")).arg("-o").arg(self.folder(n).join("prefork"));
        assert!(strip.status().unwrap().success());
        copy(&Style::Request.version(&n.to_string()), "m.so");
    }

    fn switch(&self, n: u32) {
        let (new, current) = (self.dir.file("current.new"), self.dir.file("current"));
        symlink(self.folder(n), &new).unwrap();
        fs::rename(new, current).unwrap();
    }

    /// Starts a shell command in the directory of the test.
    fn start(&self, command: &str) -> Server {
        let mut server = Start::new(Style::Request).within(&self.dir).program(["sh", "-c", command]).start();
        for line in ["control: ", "upgrade: ", "reload to generation"] {
            server.may_say(line);
        }
        server
    }

    fn verb(&self, args: &[&str]) -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_prefork"));
        let out =
            command.args(args).arg("--json").env("PREFORK_RUNTIME_DIR", self.dir.runtime()).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap()
    }

    /// The file of this release, as the verdict and `show` have it.
    fn is_from(&self, code: &Value, n: u32, name: &str) {
        let path = self.folder(n).join(name);
        let about = fs::metadata(&path).unwrap();
        assert_eq!(code["path"], path.to_str().unwrap(), "{code}");
        assert_eq!(code["inode"], about.ino(), "{code}");
        assert_eq!(code["modified_ms"].as_i64().unwrap() / 1000, about.mtime(), "{code}");
        let sum = Command::new("sha256sum").arg(&path).output().unwrap().stdout;
        assert!(String::from_utf8(sum).unwrap().starts_with(code["sha256"].as_str().unwrap()), "{code}");
    }

    fn serves(&self, server: &Server, n: u32) {
        wait_until("its answers", || server.ask("version") == Ok(n.to_string()));
        let status = self.verb(&["show"]);
        self.is_from(&status["module"], n, "m.so");
    }
}

fn follows_the_link(command: &str, program_too: bool) {
    let site = Site::new();
    let dir = site.dir.path().to_str().unwrap().to_owned();
    let real = env!("CARGO_BIN_EXE_prefork");
    let server = site.start(&command.replace("REAL", real).replace("DIR", &dir));
    site.serves(&server, 1);
    site.release(2);
    site.switch(2);
    assert_eq!(site.verb(&["show"])["module"]["changed"], true);
    assert_eq!(site.verb(&["show"])["program"]["changed"], program_too);
    let verdict = site.verb(&["reload"]);
    site.is_from(&verdict["code"], 2, "m.so");
    site.serves(&server, 2);
    // The release that it was started in is gone.
    site.release(3);
    site.switch(3);
    fs::remove_dir_all(site.folder(1)).unwrap();
    fs::remove_dir_all(site.folder(2)).unwrap();
    let verdict = site.verb(&["reload"]);
    site.is_from(&verdict["code"], 3, "m.so");
    site.serves(&server, 3);
    for n in [4, 5] {
        site.release(n);
        site.switch(n);
        fs::remove_dir_all(site.folder(n - 1)).unwrap();
        let verdict = site.verb(&["upgrade"]);
        site.is_from(&verdict["code"], n, "m.so");
        site.serves(&server, n);
        let status = site.verb(&["show"]);
        assert_eq!(
            (&status["program"]["changed"], &status["module"]["changed"]),
            (&false.into(), &false.into())
        );
        if program_too {
            site.is_from(&status["program"], n, "prefork");
            let exe = fs::read_link(format!("/proc/{}/exe", server.pid)).unwrap();
            assert_eq!(exe, site.folder(n).join("prefork"));
        }
    }
    server.stop();
}

const OPTIONS: &str = "--workers 2 --listen 127.0.0.1:0";

#[test]
fn a_program_and_a_module_given_by_a_link_are_those_of_the_link_now() {
    follows_the_link(&format!("exec current/prefork {OPTIONS} current/m.so DIR"), true);
}

#[test]
fn a_module_in_a_working_directory_entered_by_a_link_is_that_of_the_link_now() {
    follows_the_link(&format!("cd current && exec REAL {OPTIONS} ./m.so DIR"), false);
}

#[test]
fn a_program_in_a_working_directory_entered_by_a_link_is_that_of_the_link_now() {
    follows_the_link(&format!("cd current && exec ./prefork {OPTIONS} m.so DIR"), true);
}

#[test]
fn a_program_found_by_path_is_the_one_of_that_path_now() {
    follows_the_link(&format!("PATH=DIR/current:$PATH; exec prefork {OPTIONS} DIR/current/m.so DIR"), true);
}

#[test]
fn an_absolute_path_through_a_link_is_followed_anew() {
    follows_the_link(&format!("exec DIR/current/prefork {OPTIONS} DIR/current/m.so DIR"), true);
}

/// Hosts in C and Rust whose handler is in their program. `$DIR` is the directory of the test.
fn a_host_follows_the_link(command: &str, leaves: bool) {
    for host in [host::program("tests/pidfile.c", "pidfile-link", Link::Shared), host::example("pidfile")] {
        let site = Site::new();
        let dir = site.dir.path().to_str().unwrap().to_owned();
        let copy = |n: u32| {
            site.release(n);
            let to = site.folder(n).join("host");
            assert!(Command::new("cp").arg(&host).arg(to).status().unwrap().success());
        };
        copy(1);
        site.dir.file("pid");
        if leaves {
            site.dir.make("leaves");
        }
        let server =
            site.start(&format!("DIR={dir}; export {}; {command} run $DIR 127.0.0.1:0", host::search()));
        for n in 2..4 {
            assert_eq!(site.verb(&["show"])["program"]["changed"], false);
            copy(n);
            site.switch(n);
            assert_eq!(site.verb(&["show"])["program"]["changed"], true);
            // What it was started from is gone.
            fs::remove_dir_all(site.folder(n - 1)).unwrap();
            assert_eq!(site.verb(&["upgrade"])["outcome"], "committed");
            let exe = fs::read_link(format!("/proc/{}/exe", server.pid)).unwrap();
            assert_eq!(exe, site.folder(n).join("host"));
            site.is_from(&site.verb(&["show"])["program"], n, "host");
        }
        server.stop();
    }
}

#[test]
fn a_host_started_by_a_link_is_replaced_by_the_one_of_the_link_now() {
    a_host_follows_the_link("exec current/host", false);
}

#[test]
fn so_is_one_that_leaves_its_working_directory() {
    for command in
        ["exec current/host", "cd current && exec ./host", "cd current && PATH=.:$PATH && exec host"]
    {
        a_host_follows_the_link(command, true);
    }
}

#[test]
fn a_module_that_a_host_reads_by_a_link_is_that_of_the_link_now() {
    let host = host::program("tests/host.c", "host-link", Link::Shared);
    let site = Site::new();
    let dir = site.dir.path().display();
    let server = site.start(&format!("{} exec {} module current/m.so {dir}", host::search(), host.display()));
    site.serves(&server, 1);
    site.release(2);
    site.switch(2);
    fs::remove_dir_all(site.folder(1)).unwrap();
    let verdict = site.verb(&["reload"]);
    site.is_from(&verdict["code"], 2, "m.so");
    site.serves(&server, 2);
    server.stop();
}

// Its inode stays the same, and the content of what is served is nowhere to be read.
#[test]
fn a_module_that_is_overwritten_in_place_is_not_shown_with_the_hash_of_what_is_not_served() {
    let site = Site::new();
    let server = site.start(&format!(
        "exec {} {OPTIONS} current/m.so {}",
        env!("CARGO_BIN_EXE_prefork"),
        site.dir.path().display()
    ));
    let served = site.verb(&["show"])["module"].clone();
    site.release(2);
    let (from, to) = (site.folder(2).join("m.so"), site.folder(1).join("m.so"));
    assert!(Command::new("cp").args([&from, &to]).status().unwrap().success());
    let shown = site.verb(&["show"])["module"].clone();
    assert_eq!((&shown["inode"], &shown["modified_ms"]), (&served["inode"], &served["modified_ms"]));
    assert_eq!((&shown["changed"], &shown["sha256"]), (&true.into(), &Value::Null), "{served} {shown}");
    let verdict = site.verb(&["reload"]);
    site.is_from(&verdict["code"], 1, "m.so");
    wait_until("its answers", || server.ask("version") == Ok("2".into()));
    server.stop();
}

#[test]
fn a_variable_pwd_that_leads_elsewhere_is_not_believed() {
    let site = Site::new();
    site.release(2);
    let dir = site.dir.path().to_str().unwrap();
    let command = format!(
        "cd -P current && PWD={dir}/releases/2 exec {} {OPTIONS} ./m.so {dir}",
        env!("CARGO_BIN_EXE_prefork")
    );
    let server = site.start(&command);
    site.serves(&server, 1);
    site.switch(2);
    let verdict = site.verb(&["reload"]);
    site.is_from(&verdict["code"], 1, "m.so");
    site.serves(&server, 1);
    server.stop();
}
