//! The symbols that the program and the libraries export: all functions of the header, and nothing else.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const PREFORK: &str = env!("CARGO_BIN_EXE_prefork");

/// Where cargo puts the libraries when it builds them for tests.
fn built(name: &str) -> PathBuf {
    Path::new(PREFORK).with_file_name("deps").join(name)
}

fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("exports");
    fs::create_dir_all(&folder).unwrap();
    folder.join(name)
}

fn run(program: &str, args: &[&str]) -> Output {
    let out = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    out
}

/// The defined symbols of a file, as nm lists them.
fn symbols(options: &[&str], file: &Path) -> BTreeSet<String> {
    let out = run("nm", &[options, &["--defined-only", file.to_str().unwrap()]].concat());
    let text = String::from_utf8(out.stdout).unwrap();
    text.lines().filter_map(|line| line.split_whitespace().nth(2)).map(str::to_owned).collect()
}

/// The functions the header declares for the library to have.
fn declared() -> BTreeSet<String> {
    let header = fs::read_to_string(Path::new(ROOT).join("include/prefork.h")).unwrap();
    let starts =
        header.lines().filter(|l| l.starts_with(|c: char| c.is_ascii_lowercase()) && l.contains('('));
    let names = starts.filter(|l| !l.starts_with("static ") && !l.starts_with("typedef ")).map(|l| {
        let before = l.split_once('(').unwrap().0;
        before.rsplit([' ', '*']).next().unwrap().to_owned()
    });
    let names: BTreeSet<String> = names.collect();
    assert!(names.len() > 50 && names.iter().all(|n| n.starts_with("prefork_")), "{names:?}");
    names
}

#[test]
fn the_program_has_every_function_for_its_modules() {
    let exported = symbols(&["-D"], Path::new(PREFORK));
    let ours: BTreeSet<String> = exported.into_iter().filter(|s| s.starts_with("prefork")).collect();
    assert_eq!(ours, declared());
}

#[test]
fn the_shared_library_has_every_function_and_nothing_else() {
    assert_eq!(symbols(&["-D"], &built("libprefork.so")), declared());
    let out = run("readelf", &["-d", built("libprefork.so").to_str().unwrap()]);
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(text.contains("Library soname: [libprefork.so.2]"), "{text}");
}

#[test]
fn the_static_library_has_every_function() {
    let all = symbols(&["-g"], &built("libprefork.a"));
    let missing: Vec<_> = declared().into_iter().filter(|name| !all.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// A program in C that passes NULL for everything, and its output.
#[test]
fn no_call_crashes_on_null() {
    let (source, program) = (scratch("null.c"), scratch("null"));
    fs::write(&source, null_program()).unwrap();
    let link = built("libprefork.so");
    let include = Path::new(ROOT).join("include");
    let args = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-I", include.to_str().unwrap()];
    let rest = [source.to_str().unwrap(), link.to_str().unwrap(), "-o", program.to_str().unwrap()];
    run("cc", &[&args[..], &rest].concat());
    fs::copy(&link, scratch("libprefork.so.2")).unwrap();
    let mut command = Command::new(&program);
    let out = command.env("LD_LIBRARY_PATH", scratch("")).output().unwrap();
    assert!(out.status.success(), "{out:?}");
    let text = String::from_utf8(out.stdout).unwrap();
    assert_eq!(text.lines().count(), declared().len(), "{text}");
    for line in text.lines() {
        let (name, said) = line.split_once(' ').unwrap();
        let expected = match name {
            "prefork_content_type" | "prefork_content_type_n" | "prefork_strerror" | "prefork_version" => {
                "text"
            }
            "prefork_server_error" => "",
            "prefork_abi_version" => "131073",
            "prefork_multipart_free" | "prefork_server_new" => "done",
            // NULL for a worker's, connection's or request's numbers is none of them.
            _ if said == "0" || said == "nothing" => said,
            "prefork_test_error" => "",
            "prefork_test_free" | "prefork_test_close" => "done",
            _ => "-1",
        };
        assert_eq!(said, expected, "{name}");
    }
}

/// One line for each function of the header: its name, and its result for NULL.
fn null_program() -> String {
    let header = fs::read_to_string(Path::new(ROOT).join("include/prefork.h")).unwrap();
    let header = header.split_once("extern \"C\"").unwrap().1;
    let mut body = String::new();
    for name in declared() {
        let at = header.match_indices(&format!("{name}(")).find(|(i, _)| {
            let line = header[..*i].rfind('\n').unwrap() + 1;
            header[line..].starts_with(|c: char| c.is_ascii_lowercase())
        });
        let at = at.unwrap_or_else(|| panic!("{name}: no declaration")).0;
        let line = header[..at].rfind('\n').unwrap() + 1;
        let returned = header[line..at].trim();
        let parameters = header[at + name.len() + 1..].split_once(");").unwrap().0;
        let call = format!("{name}({})", nulls(parameters));
        body += &match returned {
            // Of a slice that goes in.
            _ if parameters.contains("prefork_slice ") => {
                let call = call.replace(", 0)", ", none)");
                format!("    printf(\"{name} %d\\n\", {call});\n")
            }
            "int" | "int64_t" | "ptrdiff_t" | "uint32_t" | "uint64_t" | "size_t" => {
                format!("    printf(\"{name} %ld\\n\", (long){call});\n")
            }
            "prefork_slice" => {
                format!("    printf(\"{name} %s\\n\", {call}.data ? \"some\" : \"nothing\");\n")
            }
            "void" => format!("    {call};\n    puts(\"{name} done\");\n"),
            "prefork_server *" => format!("    prefork_server_free({call});\n    puts(\"{name} done\");\n"),
            "void *"
            | "prefork_multipart *"
            | "prefork_worker *"
            | "prefork_conn *"
            | "prefork_response *"
            | "prefork_test *"
            | "prefork_test_client *" => {
                format!("    printf(\"{name} %s\\n\", {call} ? \"some\" : \"nothing\");\n")
            }
            "const char *" if name.contains("error") && name != "prefork_strerror" => {
                format!("    printf(\"{name} %s\\n\", {call});\n")
            }
            "const char *" => format!("    printf(\"{name} %s\\n\", {call} ? \"text\" : \"nothing\");\n"),
            other => panic!("{name}: returns {other}"),
        };
    }
    format!(
        "#include <prefork.h>\n#include <stdio.h>\n\nint main(void)\n{{\n    prefork_slice none = {{0, 0}};\n{body}    return 0;\n}}\n"
    )
}

/// A zero for each parameter; a NULL is one too. Sizes are 1, so that a NULL in front of them is a fault.
fn nulls(parameters: &str) -> String {
    if parameters == "void" {
        return String::new();
    }
    let mut depth = 0;
    let mut values = Vec::new();
    let mut start = 0;
    for (i, c) in parameters.char_indices().chain([(parameters.len(), ',')]) {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                let size = parameters[start..i].contains("size_t") && !parameters[start..i].contains("(*");
                values.push(if size { "1" } else { "0" });
                start = i + 1;
            }
            _ => {}
        }
    }
    values.join(", ")
}
