//! `make install`: the place of each file, and that a C program finds the library by pkg-config.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// An installation under a folder of its own, made from what cargo has built for the tests.
struct Installed(PathBuf);

impl Installed {
    /// The folder with what a release build would have left.
    fn folder(name: &str) -> Self {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("install").join(name);
        let _ = fs::remove_dir_all(&place);
        let built = place.join("built");
        fs::create_dir_all(&built).unwrap();
        let program = Path::new(env!("CARGO_BIN_EXE_prefork"));
        fs::copy(program, built.join("prefork")).unwrap();
        // A build for tests leaves the libraries here and not next to the program.
        for library in ["libprefork.so", "libprefork.a"] {
            fs::copy(program.with_file_name("deps").join(library), built.join(library)).unwrap();
        }
        Self(place)
    }

    fn new(name: &str) -> Self {
        let installed = Self::folder(name);
        succeeds(&mut installed.make(&["install", "PREFIX=/opt/p", &installed.destination()]));
        installed
    }

    fn destination(&self) -> String {
        format!("DESTDIR={}", self.0.display())
    }

    fn make(&self, args: &[&str]) -> Command {
        let mut make = Command::new("make");
        // The build itself is left out: `true` takes its place.
        make.args(args).arg("CARGO=true").arg(format!("BUILT={}", self.0.join("built").display()));
        for name in ["MAKEFLAGS", "MAKELEVEL", "SUDO_USER", "PKG_CONFIG_PATH"] {
            make.env_remove(name);
        }
        make.current_dir(ROOT);
        make
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join("opt/p").join(name)
    }

    fn pkg_config(&self, args: &[&str]) -> Vec<String> {
        let mut command = Command::new("pkg-config");
        command.args(args).arg("prefork");
        command.env("PKG_CONFIG_PATH", self.path("lib/pkgconfig")).env("PKG_CONFIG_SYSROOT_DIR", &self.0);
        let out = succeeds(&mut command);
        String::from_utf8(out.stdout).unwrap().split_whitespace().map(str::to_owned).collect()
    }

    /// Compiles ffi-examples/embed.c with the flags of pkg-config.
    fn embed(&self, name: &str, options: &[&str], pkg_config: &[&str]) -> PathBuf {
        let program = self.0.join(name);
        let mut cc = Command::new("cc");
        cc.args(options).arg(Path::new(ROOT).join("ffi-examples/embed.c"));
        cc.args(self.pkg_config(pkg_config)).arg("-o").arg(&program);
        succeeds(&mut cc);
        program
    }
}

fn succeeds(command: &mut Command) -> Output {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    out
}

#[test]
fn every_file_is_installed_in_its_place() {
    let installed = Installed::new("files");
    let link = |name: &str| fs::read_link(installed.path(name)).unwrap();
    assert_eq!(link("lib/libprefork.so"), Path::new("libprefork.so.2"));
    assert_eq!(link("lib/libprefork.so.2"), Path::new(concat!("libprefork.so.", env!("CARGO_PKG_VERSION"))));
    for file in ["bin/prefork", "lib/libprefork.so", "lib/libprefork.a", "include/prefork.h"] {
        assert!(fs::metadata(installed.path(file)).unwrap().len() > 1000, "{file}");
    }
    assert_eq!(installed.pkg_config(&["--modversion"]), [env!("CARGO_PKG_VERSION")]);
    let pc = fs::read_to_string(installed.path("lib/pkgconfig/prefork.pc")).unwrap();
    assert!(pc.starts_with("prefix=/opt/p\n") && !pc.contains('@') && !pc.contains("target"), "{pc}");
}

#[test]
fn what_is_for_debuggers_is_in_files_of_its_own() {
    let installed = Installed::new("debug");
    let library = concat!("lib/libprefork.so.", env!("CARGO_PKG_VERSION"));
    for file in ["bin/prefork", library] {
        let sections = |path: &Path| {
            let out = succeeds(Command::new("readelf").args(["-SW"]).arg(path));
            String::from_utf8(out.stdout).unwrap()
        };
        let path = installed.path(file);
        let stripped = sections(&path);
        assert!(!stripped.contains(".debug_info") && !stripped.contains(".symtab"), "{file}: {stripped}");
        assert!(stripped.contains(".gnu_debuglink"), "{file}: {stripped}");
        let name = format!("{}.debug", path.file_name().unwrap().to_str().unwrap());
        let apart = path.with_file_name(".debug").join(name);
        assert!(sections(&apart).contains(".debug_line"), "{}", apart.display());
        // gdb finds it without being told.
        let mut gdb = Command::new("gdb");
        gdb.args(["-nx", "-batch", "-iex", "set debuginfod enabled off", "-ex", "info line prefork_version"]);
        let out = succeeds(gdb.arg(&path));
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(text.contains("status.rs") || text.contains(".rs\""), "{file}: {text}");
    }
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let below = |entry: fs::DirEntry| {
        if entry.file_type().unwrap().is_dir() { files(&entry.path()) } else { vec![entry.path()] }
    };
    entries.flat_map(below).collect()
}

#[test]
fn uninstall_removes_what_install_has_put_there_and_no_more() {
    let installed = Installed::new("uninstall");
    let opt = installed.path("");
    assert!(files(&opt).len() > 10, "{:?}", files(&opt));
    let other = installed.path("bin/other");
    fs::write(&other, "").unwrap();
    succeeds(&mut installed.make(&["uninstall", "PREFIX=/opt/p", &installed.destination()]));
    assert_eq!(files(&opt), [other]);
    assert!(!installed.path("lib/.debug").exists());
}

#[test]
fn under_sudo_nothing_is_built() {
    let installed = Installed::folder("sudo");
    let sudo = |installed: &Installed| {
        let mut make = installed.make(&["install", "PREFIX=/opt/p", &installed.destination()]);
        // A build would fail.
        make.env("SUDO_USER", "somebody").arg("CARGO=false").output().unwrap()
    };
    let refused = |why: &str| {
        let out = sudo(&installed);
        let said = String::from_utf8(out.stderr).unwrap();
        assert!(!out.status.success() && said.contains(why) && said.contains("make build"), "{said}");
        assert!(!installed.path("bin").exists());
    };
    let program = installed.0.join("built/prefork");
    let file = fs::File::options().write(true).open(&program).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    refused("is older than its source");
    fs::remove_file(&program).unwrap();
    refused("nothing is built yet");
    fs::copy(env!("CARGO_BIN_EXE_prefork"), &program).unwrap();
    assert!(sudo(&installed).status.success());
    assert!(installed.path("bin/prefork").exists());
}

/// The output says what is left to do in a prefix where neither shells nor pkg-config nor the loader look; doing it is enough.
#[test]
fn the_lines_that_it_prints_make_a_private_prefix_usable() {
    let installed = Installed::folder("private");
    let prefix = installed.0.join("home/.local");
    let out = succeeds(&mut installed.make(&["install", &format!("PREFIX={}", prefix.display())]));
    let text = String::from_utf8(out.stdout).unwrap();
    let lines: String =
        text.lines().filter(|line| line.starts_with("    export ")).map(|l| l.to_owned() + "\n").collect();
    assert_eq!(lines.lines().count(), 2, "{text}");
    let script = format!(
        "set -e\n{lines}prefork --version\n\
         cc {ROOT}/ffi-examples/embed.c -o {0}/embed $(pkg-config --cflags --libs prefork)\n\
         ! {0}/embed nowhere",
        installed.0.display()
    );
    let shell = |script: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).env_remove("LD_LIBRARY_PATH").env_remove("PKG_CONFIG_PATH");
        succeeds(&mut shell)
    };
    let out = shell(&script);
    assert!(String::from_utf8(out.stdout).unwrap().starts_with("prefork "));
    assert!(String::from_utf8(out.stderr).unwrap().contains("embed: listen = \"nowhere\""));
    // Where they are followed already, it prints none.
    let again = format!(
        "{lines}make -C {ROOT} install CARGO=true BUILT={0}/built PREFIX={1}",
        installed.0.display(),
        prefix.display()
    );
    let text = String::from_utf8(shell(&again).stdout).unwrap();
    assert!(!text.contains("export "), "{text}");
}

/// The library itself refuses, which shows without a server that it was found.
#[test]
fn a_program_links_with_the_shared_and_with_the_static_library() {
    let installed = Installed::new("link");
    let shared = installed.embed("shared", &[], &["--cflags", "--libs"]);
    let all_static = installed.embed("static", &["-static"], &["--cflags", "--libs", "--static"]);
    for (program, needs) in [(shared, true), (all_static, false)] {
        let out = Command::new("readelf").arg("-d").arg(&program).output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        assert_eq!(text.contains("libprefork.so.2"), needs, "{text}");
        let mut command = Command::new(&program);
        let out = command.arg("nowhere").env("LD_LIBRARY_PATH", installed.path("lib")).output().unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(1), "{said}");
        assert!(said.starts_with("embed: listen = \"nowhere\": expected "), "{said}");
    }
}
