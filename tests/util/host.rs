//! Programs that embed the library, in C and in Rust.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The way a program is linked with the library.
#[derive(Clone, Copy, Debug)]
pub enum Link {
    Shared,
    /// libprefork.a in a program that is otherwise linked as usual.
    Static,
}

pub fn built(name: &str) -> PathBuf {
    // The directory of the libraries in a build for tests.
    Path::new(env!("CARGO_BIN_EXE_prefork")).with_file_name("deps").join(name)
}

fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("embed");
    fs::create_dir_all(&folder).unwrap();
    folder.join(name)
}

/// Compiles a program under a name of its own.
pub fn program(source: &str, name: &str, link: Link) -> PathBuf {
    let program = scratch(name);
    let mut cc = Command::new("cc");
    cc.args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-pthread", "-I"]);
    cc.arg(Path::new(ROOT).join("include")).arg(Path::new(ROOT).join(source)).arg("-o").arg(&program);
    match link {
        Link::Shared => cc.arg(built("libprefork.so")),
        Link::Static => {
            let exported = "-Wl,--export-dynamic-symbol=prefork_*";
            cc.arg(built("libprefork.a")).args([exported, "-lpthread", "-ldl", "-lm"])
        }
    };
    let out = cc.output().unwrap();
    assert!(out.status.success(), "{cc:?}: {}", String::from_utf8_lossy(&out.stderr));
    program
}

/// A program in Rust: an example of the crate, which `cargo test --test NAME` does not build.
pub fn example(name: &str) -> PathBuf {
    example_with(name, "")
}

/// As [`example`], with features. Those of the test itself are built already.
pub fn example_with(name: &str, features: &str) -> PathBuf {
    let built = Path::new(env!("CARGO_BIN_EXE_prefork")).parent().unwrap();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--locked", "--example", name]);
    build.args((!features.is_empty()).then(|| format!("--features={features}")));
    build.args(built.ends_with("release").then_some("--release"));
    build.arg("--target-dir").arg(built.parent().unwrap());
    assert!(build.current_dir(ROOT).status().unwrap().success());
    built.join("examples").join(name)
}

/// The variable that lets a program find libprefork.so.2.
pub fn search() -> String {
    let folder = scratch("lib");
    let (library, meant) = (folder.join("libprefork.so.2"), built("libprefork.so"));
    fs::create_dir_all(&folder).unwrap();
    // A build folder may have been copied from elsewhere, with this in it. Other tests may be doing the same.
    if fs::read_link(&library).ok() != Some(meant.clone()) {
        let own = folder.join(format!("own-{}", std::process::id()));
        let _ = std::os::unix::fs::symlink(meant, &own);
        let _ = fs::rename(own, library);
    }
    format!("LD_LIBRARY_PATH={}", folder.display())
}
