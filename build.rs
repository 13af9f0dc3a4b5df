//! Links the binary so that modules find the C API in it, names the shared library, and writes the header anew where asked to.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Modules call back into whatever loaded them: the executable has to offer the functions to them.
    for target in ["bins", "examples"] {
        println!("cargo:rustc-link-arg-{target}=-Wl,--export-dynamic-symbol=prefork_*");
    }
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libprefork.so.2");
    #[cfg(feature = "header")]
    header::write();
}

/// `include/prefork.h` is committed, so that nobody who uses it needs cbindgen; `make header` and a test run this.
#[cfg(feature = "header")]
#[allow(clippy::expect_used, reason = "a build script has nobody to hand an error to")]
mod header {
    use std::fs;
    use std::path::PathBuf;

    /// In the order they have in the header.
    const SECTIONS: [(&str, &str); 15] = [
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
        ("commands", "THE RUNNING SERVER: its loop, commands and queries"),
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
        let lines: Vec<_> = text.lines().map(finish).collect();
        format!("\n\n/* {title}\n * {} */\n\n{}", "-".repeat(104), shorten(&lines))
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
