//! Links the binary so that modules find the C API in it, names the shared library, and writes the header anew where asked to.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Modules call back into whatever loaded them: the executable has to offer the functions to them.
    for target in ["bins", "examples"] {
        println!("cargo:rustc-link-arg-{target}=-Wl,--export-dynamic-symbol=prefork_*");
    }
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libprefork.so.2");
    println!("cargo:rustc-env=PREFORK_SOURCES={:016x}", hash_sources("src"));
    #[cfg(feature = "header")]
    header::write();
}

/// Hashes all that decides how masters and workers work together: the library without what only the command has, and without tests. A
/// module in Rust has its own copy of the library, which must speak as the one of the program that loads it.
fn hash_sources(folder: &str) -> u64 {
    println!("cargo:rerun-if-changed={folder}");
    let (mut folders, mut files) = (vec![std::path::PathBuf::from(folder)], Vec::new());
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for path in entries.flatten().map(|entry| entry.path()) {
            match path.file_name().and_then(std::ffi::OsStr::to_str).unwrap_or_default() {
                "cli" | "main.rs" | "simulate" | "tests" | "tests.rs" | "fuzzing.rs" => {}
                _ if path.is_dir() => folders.push(path),
                name if name.ends_with(".rs") => files.push(path),
                _ => {}
            }
        }
    }
    files.sort();
    // FNV-1a.
    files.iter().fold(0xcbf2_9ce4_8422_2325, |hash, path| {
        let text = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let bytes = path.as_os_str().as_encoded_bytes().iter().chain(&text);
        bytes.fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
    })
}

/// `include/prefork.h` is committed, so that nobody who uses it needs cbindgen; `make header` and a test run this.
#[cfg(feature = "header")]
#[allow(clippy::expect_used, reason = "a build script has nobody to hand an error to")]
mod header {
    use std::fs;
    use std::path::PathBuf;

    /// In the order they have in the header.
    const SECTIONS: [(&str, &str); 17] = [
        ("status", "STATUSES"),
        ("request", "REQUESTS"),
        ("response", "RESPONSES"),
        ("lookups", "PARAMETERS OF THE QUERY, FORMS, COOKIES"),
        ("multipart", "FORMS WITH FILES"),
        ("files", "FILES AS ANSWERS"),
        ("conn", "CONNECTIONS: blocking style and streams"),
        ("worker", "THE WORKER"),
        ("wakeups", "TIMERS, DESCRIPTORS OF YOUR OWN, THREADS"),
        ("conns", "ALL STREAMS OF A WORKER, AND TOPICS"),
        ("datagram", "DATAGRAMS"),
        ("module", "HANDLERS"),
        ("event", "EVENTS: for programs that embed prefork"),
        ("server", "THE SERVER: for programs that embed prefork"),
        ("log", "THE LOG: for programs that embed prefork"),
        ("commands", "THE RUNNING SERVER: its loop, commands and queries"),
        ("testing", "UNIT TESTS of handlers: no process, no port, no waiting"),
    ];

    pub fn write() {
        println!("cargo:rerun-if-env-changed=PREFORK_HEADER");
        println!("cargo:rerun-if-changed=cbindgen.toml");
        println!("cargo:rerun-if-changed=src/ffi");
        let Some(path) = std::env::var_os("PREFORK_HEADER").map(PathBuf::from) else { return };
        let read = |name| fs::read_to_string(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        let body: String = SECTIONS.iter().map(|(name, title)| section(name, title)).collect();
        let text = [read("src/ffi/head.h"), body, read("src/ffi/tail.h")].concat();
        fs::write(&path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }

    fn section(name: &str, title: &str) -> String {
        let config = cbindgen::Config::from_file("cbindgen.toml").expect("cbindgen.toml");
        let builder = cbindgen::Builder::new().with_config(config).with_src(format!("src/ffi/{name}.rs"));
        let mut text = Vec::new();
        builder.generate().expect("src/ffi").write(&mut text);
        let text = String::from_utf8(text).expect("UTF-8");
        // Rust's word for what the caller promises about pointers.
        let text = text.trim().replace(" * # Safety\n * ", " * Pointers: ");
        let lines: Vec<_> = without_fences(&text).map(|line| finish(&line)).collect();
        format!("\n\n/* {title}\n * {} */\n\n{}", "-".repeat(104), shorten(&lines))
    }

    /// Examples are fenced for rustdoc, which would take them for Rust otherwise, and indented for readers of C.
    fn without_fences(text: &str) -> impl Iterator<Item = String> {
        let mut is_code = false;
        text.lines().filter_map(move |line| {
            if line.trim_start().starts_with("* ```") {
                is_code = !is_code;
                return None;
            }
            Some(if is_code { line.replacen(" * ", " *     ", 1) } else { line.to_owned() })
        })
    }

    /// Tags only where C needs them. A module's symbol has the name of the struct, and C keeps typedefs and variables in one
    /// name space, so that this struct has no typedef.
    fn finish(line: &str) -> String {
        if line.starts_with("typedef struct prefork_module") {
            return line.trim_start_matches("typedef ").to_owned();
        }
        if line.starts_with("typedef ") && !line.contains("(*") || line.starts_with(" *") {
            return line.to_owned();
        }
        let line = line
            .replace("struct prefork_", "prefork_")
            .replace("const prefork_module", "const struct prefork_module")
            .replace("const sockaddr", "const struct sockaddr")
            .replace("} prefork_module;", "};");
        wrap(line)
    }

    /// A member that is a function is one line for cbindgen, however long.
    fn wrap(line: String) -> String {
        let width = 110;
        let Some(end) = line.get(..width).and_then(|start| start.rfind(", ")) else { return line };
        let Some(arguments) = line.find(")(").map(|at| at + 2).filter(|_| line.len() > width) else {
            return line;
        };
        format!("{},\n{}{}", &line[..end], " ".repeat(arguments), &line[end + 2..])
    }

    /// Puts comments of one line on one line.
    fn shorten(lines: &[String]) -> String {
        let mut text = String::new();
        let mut rest = lines;
        while let [line, tail @ ..] = rest {
            rest = match tail {
                [only, end, tail @ ..] if line.ends_with("/**") && end.trim() == "*/" => {
                    text += &format!("{line}{} */\n", only.trim().trim_start_matches('*'));
                    tail
                }
                _ => {
                    text += &format!("{line}\n");
                    tail
                }
            };
        }
        text
    }
}
