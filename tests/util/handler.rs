//! Handlers in C, compiled on first use and kept under a hash of their contents.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The style of a handler, which decides what a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Request,
    Connection,
    Data,
    /// No connections at all.
    Datagram,
}

impl Style {
    /// Those with connections.
    pub const ALL: [Self; 3] = [Self::Request, Self::Connection, Self::Data];

    /// `tests/handler.c` in this style.
    pub fn handler(self) -> PathBuf {
        self.handler_with(&[])
    }

    /// As [`Style::handler`], of another version.
    pub fn version(self, version: &str) -> PathBuf {
        self.handler_with(&[&format!("-DVERSION=\"{version}\"")])
    }

    /// As [`Style::handler`], built with other flags too.
    pub fn handler_with(self, flags: &[&str]) -> PathBuf {
        self.build("handler.c", flags)
    }

    /// `tests/answers.c` in this style.
    pub fn answers(self) -> PathBuf {
        self.build("answers.c", &[])
    }

    /// `tests/wakeups.c` in this style.
    pub fn wakeups(self) -> PathBuf {
        self.build("wakeups.c", &["-pthread"])
    }

    fn build(self, source: &str, flags: &[&str]) -> PathBuf {
        let define = match self {
            Self::Request => "-DON_REQUEST",
            Self::Connection => "-DON_CONNECTION",
            Self::Data => "-DON_DATA",
            Self::Datagram => "-DON_DATAGRAM",
        };
        compile(
            &fs::read_to_string(Path::new(ROOT).join("tests").join(source)).unwrap(),
            &[&[define], flags].concat(),
        )
    }
}

/// The processes that accept connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Master,
    Shared,
    ReusePort,
}

impl Mode {
    pub const ALL: [Self; 3] = [Self::Master, Self::Shared, Self::ReusePort];

    pub fn name(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::Shared => "shared",
            Self::ReusePort => "reuseport",
        }
    }
}

/// The shared object of a C source, given as its text.
pub fn compile(source: &str, flags: &[&str]) -> PathBuf {
    build(source, &[&["-shared", "-fPIC"], flags].concat(), &[], "so")
}

/// The program of a C source that embeds the shared library.
pub fn host(source: &str) -> PathBuf {
    host_with(source, &[])
}

/// As [`host`], built with these flags too.
pub fn host_with(source: &str, flags: &[&str]) -> PathBuf {
    let libraries = Path::new(env!("CARGO_BIN_EXE_prefork")).with_file_name("deps");
    let (search, run) = (format!("-L{}", libraries.display()), format!("-Wl,-rpath,{}", libraries.display()));
    // Cargo does not make the link with the name under which the loader looks for it.
    let _ = std::os::unix::fs::symlink("libprefork.so", libraries.join("libprefork.so.2"));
    build(source, flags, &[&search, &run, "-lprefork"], "host")
}

fn build(source: &str, flags: &[&str], libraries: &[&str], extension: &str) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let include = Path::new(ROOT).join("include");
    let mut hash = DefaultHasher::new();
    (source, flags, fs::read_to_string(include.join("prefork.h")).unwrap()).hash(&mut hash);
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("handlers");
    fs::create_dir_all(&dir).unwrap();
    let name = format!("{:016x}", hash.finish());
    let object = dir.join(format!("{name}.{extension}"));
    if object.exists() {
        return object;
    }
    // Another test may do the same: the file is complete when it gets its name.
    let own = format!("{name}.{}.{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let (text, built) = (dir.join(format!("{own}.c")), dir.join(format!("{own}.{extension}")));
    fs::write(&text, source).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-g", "-Wall", "-I"]).arg(include).args(flags).arg(&text);
    let out = cc.args(libraries).arg("-o").arg(&built).output().expect("run cc");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    fs::rename(built, &object).unwrap();
    let _ = fs::remove_file(text);
    object
}

/// For handlers in C whose streams send back what they get: `echo`; and that have nothing to write down of them: `no_state`.
pub const ECHO_IN_C: &str = r"
#include <prefork.h>

static void echo(prefork_conn *conn, void *state)
{
    prefork_slice in = prefork_conn_data(conn);

    (void)state;
    prefork_conn_write(conn, in.data, in.len);
    prefork_conn_consume(conn, in.len);
    if (prefork_conn_at_end(conn))
        prefork_conn_close(conn);
}

static ptrdiff_t no_state(prefork_conn *conn, void *buffer, size_t room, void *state)
{
    (void)conn, (void)buffer, (void)room, (void)state;
    return 0;
}
";
