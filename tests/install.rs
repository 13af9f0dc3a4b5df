//! `make install`: the place of each file, and that a C program finds the library by pkg-config.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// An installation under a folder of its own, made from what cargo has built for the tests.
struct Installed(PathBuf);

impl Installed {
    fn new(name: &str) -> Self {
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
        let mut make = Command::new("make");
        // The build itself is left out: `true` takes its place.
        make.args(["install", "CARGO=true", "PREFIX=/opt/p"]);
        make.arg(format!("BUILT={}", built.display())).arg(format!("DESTDIR={}", place.display()));
        succeeds(make.current_dir(ROOT).env_remove("MAKEFLAGS").env_remove("MAKELEVEL"));
        Self(place)
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
