//! Programs in C that embed the library.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// How a program gets at the library.
#[derive(Clone, Copy, Debug)]
pub enum Link {
    Shared,
    /// libprefork.a in a program that is otherwise linked as usual.
    Static,
}

pub fn built(name: &str) -> PathBuf {
    // Where cargo puts the libraries when it builds them for tests.
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

/// The variable that lets a program find libprefork.so.0.
pub fn search() -> String {
    let folder = scratch("lib");
    let library = folder.join("libprefork.so.0");
    if !library.exists() {
        fs::create_dir_all(&folder).unwrap();
        let _ = std::os::unix::fs::symlink(built("libprefork.so"), &library);
    }
    format!("LD_LIBRARY_PATH={}", folder.display())
}
