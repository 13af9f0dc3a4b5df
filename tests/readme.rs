//! The first chapters of README.md, "Sixty seconds", followed to the letter by a new user: an empty home, the checkout as the working
//! directory, each file as it is printed and each command as it is typed.
#![allow(clippy::unwrap_used)]

mod util;

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use util::Dir;
use util::wrk::can_have_own_network;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The code blocks of a chapter with their languages.
fn blocks(title: &str) -> Vec<(String, String)> {
    let readme = fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    let (_, chapter) = readme.split_once(&format!("\n## {title}\n")).unwrap();
    let chapter = chapter.split("\n## ").next().unwrap();
    let block = |rest: &str| {
        let (language, code) = rest.split_once('\n').unwrap();
        (language.to_owned(), code.split("\n```\n").next().unwrap().to_owned() + "\n")
    };
    chapter.split("\n```").skip(1).step_by(2).map(block).collect()
}

/// A working directory that looks like the checkout, in which files can be made; and an empty home.
struct User {
    dir: Dir,
    script: String,
}

impl User {
    fn new() -> Self {
        let dir = Dir::new();
        for entry in fs::read_dir(ROOT).unwrap() {
            let name = entry.unwrap().file_name();
            if name != "target" && name != ".git" {
                symlink(Path::new(ROOT).join(&name), dir.path().join(name)).unwrap();
            }
        }
        fs::create_dir(dir.path().join("home")).unwrap();
        let built = dir.path().join("built");
        fs::create_dir(&built).unwrap();
        let program = Path::new(env!("CARGO_BIN_EXE_prefork"));
        fs::copy(program, built.join("prefork")).unwrap();
        for library in ["libprefork.so", "libprefork.a"] {
            fs::copy(program.with_file_name("deps").join(library), built.join(library)).unwrap();
        }
        // What `make install` installs has been built for the tests: `true` takes the place of a release build of minutes.
        let mut script = format!("set -e\nexport MAKEFLAGS='CARGO=true BUILT={}'\n", built.display());
        // `/bin/sh` on a new machine has nothing of these.
        script.push_str("unset PKG_CONFIG_PATH LD_LIBRARY_PATH PREFORK_RUNTIME_DIR XDG_RUNTIME_DIR SUDO_USER\nip link set lo up\n");
        Self { dir, script }
    }

    /// A crate as `cargo new` makes it, with this program, and with prefork from the checkout.
    fn crate_of(&mut self, program: &str, dependency: &str) {
        let (_, options) = dependency.split_once("tag = \"v0.1.0\", ").unwrap();
        let manifest =
            "[package]\nname = \"shop\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\n";
        self.write(
            "shop/Cargo.toml",
            &format!("{manifest}prefork = {{ path = {ROOT:?}, {options}\n[workspace]\n"),
        );
        self.write("shop/src/main.rs", program);
        // The versions are those that are here.
        fs::copy(Path::new(ROOT).join("Cargo.lock"), self.dir.path().join("shop/Cargo.lock")).unwrap();
        let home = std::env::var("HOME").unwrap();
        for (name, folder) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
            let place = std::env::var(name).unwrap_or_else(|_| format!("{home}/{folder}"));
            writeln!(self.script, "export {name}='{place}'").unwrap();
        }
        // Not that of the tests: the library in it has other features.
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("readme");
        writeln!(self.script, "export CARGO_TARGET_DIR='{}' CARGO_NET_OFFLINE=true", target.display())
            .unwrap();
        self.script.push_str("unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS MAKEFLAGS\ncd shop\n");
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Types commands; one that serves gets a terminal of its own.
    fn types(&mut self, commands: &str) {
        for line in commands.lines() {
            let serves = line.starts_with("./")
                || line.starts_with("prefork --workers")
                || line.starts_with("cargo run");
            let line = line.replace("wrk -t2 -c64", "wrk -t2 -c64 -d1");
            match serves {
                true => writeln!(self.script, "{line} & server=$!\nuntil curl -s -o /dev/null http://127.0.0.1:8080/; do sleep 0.1; done"),
                false => writeln!(self.script, "{line}"),
            }
            .unwrap();
        }
    }

    /// Returns what the commands have printed, after a request to the server and its stop.
    fn ends(&mut self) -> String {
        self.script.push_str("curl -sS http://127.0.0.1:8080/\nkill $server\nwait $server\n");
        // A network of its own, since README has the port 8080.
        let mut shell = Command::new("timeout");
        // An ordinary user has one together with a user namespace.
        let unshare = if can_have_own_network() { "-n" } else { "-rn" };
        shell.args(["300", "unshare", unshare, "sh", "-c", &self.script]).current_dir(self.dir.path());
        let out = shell.env("HOME", self.dir.path().join("home")).output().unwrap();
        let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
        assert!(out.status.success(), "{}\n{said}", self.script);
        said
    }
}

#[test]
fn a_module_in_c_is_installed_for_built_loaded_and_asked() {
    let [(c, code), (_, first), (_, second)] = blocks("Sixty seconds: a module").try_into().unwrap();
    assert_eq!(c, "c");
    let mut user = User::new();
    user.write("hello.c", &code);
    user.types(&first);
    user.types(&second);
    let said = user.ends();
    assert!(said.contains("8 workers (hello.so)") && said.contains("Requests/sec"), "{said}");
    assert_eq!(said.lines().filter(|line| *line == "hello world").count(), 2, "{said}");
    // The lines of the README are those that `make install` prints.
    for line in first.lines().filter(|line| line.starts_with("export ")) {
        let name = line.split('=').next().unwrap();
        assert!(
            said.lines().any(|printed| printed.trim_start().starts_with(&format!("{name}="))),
            "{name}: {said}"
        );
    }
}

#[test]
fn a_c_program_is_linked_and_started() {
    let install = blocks("Sixty seconds: a module").remove(1).1;
    let [(_, code), (_, commands)] = blocks("Sixty seconds: in a C program").try_into().unwrap();
    let mut user = User::new();
    user.write("host.c", &code);
    let installs = |line: &&str| line.starts_with("make ") || line.starts_with("export ");
    user.types(&install.lines().filter(installs).collect::<Vec<_>>().join("\n"));
    user.types(&commands);
    let said = user.ends();
    assert_eq!(said.lines().filter(|line| *line == "hello world").count(), 1, "{said}");
}

#[test]
fn a_program_in_rust_is_a_crate_of_its_own() {
    let [(_, program), (_, manifest), (_, commands)] = blocks("Sixty seconds: in Rust").try_into().unwrap();
    let dependency = manifest.lines().find(|line| line.starts_with("prefork = ")).unwrap();
    let mut user = User::new();
    user.crate_of(&program, dependency.split('#').next().unwrap().trim());
    user.types(&commands);
    let said = user.ends();
    assert_eq!(said.lines().filter(|line| *line == "hello world").count(), 1, "{said}");
}
