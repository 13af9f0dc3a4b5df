//! Files as answers: content type, validators, conditions, ranges, and paths that must not leave their folder.
#![allow(clippy::unwrap_used)]

mod util;

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use util::dir::Dir;
use util::handler::compile;
use util::{Server, Start, Style, host};

/// Of `a.html`, 1994.
const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";

fn old() -> SystemTime {
    UNIX_EPOCH + Duration::new(784_111_777, 5)
}

/// A folder with files that were changed long ago.
fn folder() -> Dir {
    let dir = Dir::new();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("sub dir")).unwrap();
    for (name, text) in [("a.html", "0123456789"), ("empty", ""), ("own", "own"), ("sub dir/é.txt", "é")] {
        fs::write(root.join(name), text).unwrap();
        File::options().write(true).open(root.join(name)).unwrap().set_modified(old()).unwrap();
    }
    fs::write(dir.path().join("secret"), "secret").unwrap();
    symlink("../secret", root.join("out")).unwrap();
    symlink("a.html", root.join("in.html")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    let fifo = Command::new("mkfifo").arg(root.join("fifo")).status().unwrap();
    assert!(fifo.success());
    dir
}

fn in_c(root: &Path) -> Start {
    let source = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/files.c")).unwrap();
    let module = compile(&source, &["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]);
    Start::new(Style::Request).workers(1).module(module).env("ROOT", Some(root.as_os_str()))
}

fn in_rust(root: &Path) -> Start {
    Start::new(Style::Request).workers(1).program([host::example("lookups").as_os_str(), root.as_os_str()])
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    /// The value of a field, with its name in lower case.
    fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// An answer, by curl(1).
fn get(server: &Server, path: &str, args: &[&str]) -> Answer {
    let url = format!("http://{}{path}", server.tcp());
    let out = Command::new("curl")
        .args(["-sSi", "-m", "20", "--path-as-is", "-g"])
        .args(args)
        .arg(url)
        .output()
        .unwrap();
    assert!(out.status.success(), "{path} {args:?}: {out:?}");
    let text = String::from_utf8(out.stdout).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let names =
        |line: &str| line.split_once(": ").map_or(line.into(), |(n, v)| format!("{}: {v}", n.to_lowercase()));
    Answer { status, head: head.lines().map(names).collect::<Vec<_>>().join("\n"), body: body.into() }
}

fn with<'a>(fields: &[&'a str]) -> Vec<&'a str> {
    fields.iter().flat_map(|field| ["-H", field]).collect()
}

#[test]
fn a_file_has_its_type_its_validators_and_its_length() {
    let dir = folder();
    for start in [in_c(&dir.path().join("root")), in_rust(&dir.path().join("root"))] {
        let server = start.start();
        let answer = get(&server, "/a.html", &[]);
        assert_eq!((answer.status, &*answer.body), (200, "0123456789"));
        for (name, value) in [
            ("content-type", "text/html; charset=utf-8"),
            ("content-length", "10"),
            ("last-modified", DATE),
            ("accept-ranges", "bytes"),
        ] {
            assert_eq!(answer.field(name), Some(value), "{answer:?}");
        }
        let etag = answer.field("etag").unwrap().to_owned();
        assert!(etag.starts_with("\"a-"), "{etag}");
        let head = get(&server, "/a.html", &["-I"]);
        assert_eq!((head.status, &*head.body, head.field("content-length")), (200, "", Some("10")));
        assert_eq!(head.field("etag"), Some(&*etag));
        let empty = get(&server, "/empty", &[]);
        assert_eq!((empty.status, empty.field("content-length")), (200, Some("0")));
        assert_eq!(empty.field("content-type"), Some("application/octet-stream"));
        // Of the same size and second.
        let path = dir.path().join("root/a.html");
        let nanos = old() + Duration::from_nanos(1);
        File::options().write(true).open(&path).unwrap().set_modified(nanos).unwrap();
        let other = get(&server, "/a.html", &[]).field("etag").unwrap().to_owned();
        assert_ne!(other, etag);
        File::options().write(true).open(&path).unwrap().set_modified(old()).unwrap();
        // Changed just now, and so perhaps again in this moment.
        let far = SystemTime::now() + Duration::from_secs(3600);
        File::options().write(true).open(&path).unwrap().set_modified(far).unwrap();
        let new = get(&server, "/a.html", &[]);
        assert!(new.field("etag").unwrap().starts_with("W/\""), "{new:?}");
        assert!(new.field("last-modified") <= new.field("date"), "{new:?}");
        File::options().write(true).open(&path).unwrap().set_modified(old()).unwrap();
        server.stop();
    }
}

#[test]
fn conditions_are_evaluated() {
    let dir = folder();
    for start in [in_c(&dir.path().join("root")), in_rust(&dir.path().join("root"))] {
        let server = start.start();
        let etag = get(&server, "/a.html", &[]).field("etag").unwrap().to_owned();
        for (field, value, status) in [
            ("If-None-Match", &*etag, 304),
            ("If-None-Match", &format!("\"x\", W/{etag}"), 304),
            ("If-None-Match", "*", 304),
            ("If-None-Match", "\"x\"", 200),
            ("If-Modified-Since", DATE, 304),
            ("If-Modified-Since", BEFORE, 200),
            ("If-Modified-Since", "nonsense", 200),
            ("If-Match", &etag, 200),
            ("If-Match", "\"x\"", 412),
            ("If-Unmodified-Since", DATE, 200),
            ("If-Unmodified-Since", BEFORE, 412),
        ] {
            let line = format!("{field}: {value}");
            for method in [&[][..], &["-I"]] {
                let answer = get(&server, "/a.html", &[&with(&[&line]), method].concat());
                assert_eq!(answer.status, status, "{line}: {answer:?}");
                assert_eq!(answer.field("etag"), Some(&*etag));
                assert!(status == 200 || answer.body.is_empty() && answer.field("content-type").is_none());
            }
        }
        // curl's own.
        let (saved, body) = (dir.path().join("etag"), dir.path().join("body"));
        let files = [saved.to_str().unwrap(), body.to_str().unwrap()];
        get(&server, "/a.html", &["--etag-save", files[0]]);
        assert_eq!(get(&server, "/a.html", &["--etag-compare", files[0]]).status, 304);
        assert_eq!(get(&server, "/a.html", &["-z", DATE]).status, 304);
        server.stop();
    }
}

#[test]
fn ranges_are_sent() {
    let dir = folder();
    for start in [in_c(&dir.path().join("root")), in_rust(&dir.path().join("root"))] {
        let server = start.start();
        for (range, status, body, part) in [
            ("0-0", 206, "0", Some("bytes 0-0/10")),
            ("2-4", 206, "234", Some("bytes 2-4/10")),
            ("8-", 206, "89", Some("bytes 8-9/10")),
            ("8-99", 206, "89", Some("bytes 8-9/10")),
            ("-3", 206, "789", Some("bytes 7-9/10")),
            ("-99", 206, "0123456789", Some("bytes 0-9/10")),
            ("10-", 416, "", Some("bytes */10")),
            ("-0", 416, "", Some("bytes */10")),
            ("0-0,2-2", 200, "0123456789", None),
            ("4-2", 200, "0123456789", None),
        ] {
            let answer = get(&server, "/a.html", &with(&[&format!("Range: bytes={range}")]));
            assert_eq!((answer.status, &*answer.body), (status, body), "{range}: {answer:?}");
            assert_eq!(answer.field("content-range"), part, "{range}");
            assert_eq!(answer.field("content-length"), Some(&*body.len().to_string()), "{range}");
        }
        let etag = get(&server, "/a.html", &[]).field("etag").unwrap().to_owned();
        for (value, status) in [(&*etag, 206), ("\"x\"", 200), (DATE, 206), (BEFORE, 200)] {
            let answer = get(&server, "/a.html", &with(&["Range: bytes=2-4", &format!("If-Range: {value}")]));
            assert_eq!(answer.status, status, "{value}: {answer:?}");
        }
        // Not before the conditions, and of GET alone.
        let fields = ["Range: bytes=2-4", "If-None-Match: *"];
        assert_eq!(get(&server, "/a.html", &with(&fields)).status, 304);
        let head = get(&server, "/a.html", &[&with(&["Range: bytes=2-4"])[..], &["-I"]].concat());
        assert_eq!((head.status, head.field("content-length")), (200, Some("10")));
        assert_eq!(get(&server, "/empty", &with(&["Range: bytes=-1"])).status, 200);
        assert_eq!(get(&server, "/empty", &with(&["Range: bytes=0-"])).status, 416);
        // curl goes on with what it has.
        let part = dir.path().join("part");
        fs::write(&part, "0123").unwrap();
        let url = format!("http://{}/a.html", server.tcp());
        let goes_on = Command::new("curl")
            .args(["-sf", "-C", "-", "-o", part.to_str().unwrap(), &url])
            .status()
            .unwrap();
        assert!(goes_on.success());
        assert_eq!(fs::read_to_string(&part).unwrap(), "0123456789");
        server.stop();
    }
}

#[test]
fn what_is_no_file_that_may_be_read_is_told() {
    let dir = folder();
    for start in [in_c(&dir.path().join("root")), in_rust(&dir.path().join("root"))] {
        let server = start.start();
        for path in
            ["/nothing", "/a.html/x", "/sub%20dir", "/fifo", "/loop", &format!("/{}", "x".repeat(300))]
        {
            for path in [path.to_owned(), format!("/below{path}")] {
                let answer = get(&server, &path, &[]);
                assert_eq!((answer.status, &*answer.body), (404, ""), "{path}: {answer:?}");
                assert_eq!(answer.field("content-type"), None);
            }
        }
        for method in ["POST", "DELETE", "OPTIONS"] {
            let answer = get(&server, "/a.html", &["-X", method]);
            assert_eq!((answer.status, answer.field("allow")), (405, Some("GET, HEAD")), "{method}");
        }
        server.stop();
    }
}

#[test]
fn a_file_that_may_not_be_read_is_told() {
    let dir = folder();
    let locked = dir.path().join("root/locked");
    fs::write(&locked, "x").unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).unwrap();
    let server = in_c(&dir.path().join("root")).by_ordinary_user().start();
    assert_eq!(get(&server, "/a.html", &[]).status, 200);
    assert_eq!(get(&server, "/locked", &[]).status, 403);
    server.stop();
}

#[test]
fn nothing_outside_of_the_folder_is_sent() {
    let dir = folder();
    for start in [in_c(&dir.path().join("root")), in_rust(&dir.path().join("root"))] {
        let server = start.start();
        for (path, body) in
            [("/a.html", "0123456789"), ("/in.html", "0123456789"), ("/sub%20dir/%C3%A9.txt", "é")]
        {
            let answer = get(&server, &format!("/below{path}"), &[]);
            assert_eq!((answer.status, &*answer.body), (200, body), "{path}");
        }
        let typed = get(&server, "/below/sub%20dir/%c3%a9.txt", &[]);
        assert_eq!(typed.field("content-type"), Some("text/plain; charset=utf-8"));
        for path in [
            "/../secret",
            "/%2e%2e/secret",
            "/sub%20dir/../../secret",
            "/..%2fsecret",
            "/out",
            "//a.html",
            "/./a.html",
            "/sub%20dir//%C3%A9.txt",
            "/sub%20dir%2f%C3%A9.txt",
            "/a.html%00",
            "/a.html/",
            "/",
            "",
            "/sub%20dir/../a.html",
        ] {
            assert_eq!(get(&server, &format!("/below{path}"), &[]).status, 404, "{path}");
        }
        // A trusted path follows links.
        assert_eq!(get(&server, "/out", &[]).body, "secret");
        server.stop();
    }
}

#[test]
fn a_handler_may_set_the_type_and_the_body_of_a_refusal() {
    let dir = folder();
    let server = in_c(&dir.path().join("root")).start();
    let answer = get(&server, "/own", &[]);
    assert_eq!((answer.status, answer.field("content-type")), (200, Some("text/x-own")));
    let answer = get(&server, "/page", &[]);
    assert_eq!((answer.status, &*answer.body), (404, "status 404"));
    assert_eq!(get(&server, "/late", &[]).body, "x-11");
    server.stop();
}
