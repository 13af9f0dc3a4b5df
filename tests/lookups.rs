//! Look-ups by name in a request, decoded: parameters of the query, forms, cookies, parts of forms; slices and formatted texts in C.
#![allow(clippy::unwrap_used)]

mod util;

use std::process::Command;
use util::handler::compile;
use util::{Server, Start, Style, host};

fn in_c() -> Server {
    let source = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lookups.c")).unwrap();
    let module = compile(&source, &["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]);
    Start::new(Style::Request).workers(1).module(module).start()
}

fn in_rust() -> Server {
    Start::new(Style::Request).workers(1).program([host::example("lookups")]).start()
}

/// The body of an answer, by curl(1).
fn curl(server: &Server, path: &str, args: &[&str]) -> String {
    let url = format!("http://{}{path}", server.tcp());
    let out = Command::new("curl").args(["-sS", "--path-as-is", "-g"]).args(args).arg(url).output().unwrap();
    assert!(out.status.success(), "{out:?}");
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn parameters_of_queries_forms_and_cookies_are_decoded_in_both_languages() {
    let pairs = "a=1&b=x+y%26%C3%A9&a=2&c=100%&d";
    let decoded = "a=1;b=x y&é;a=2;c=100%;d=; 1 2 none";
    for server in [in_c(), in_rust()] {
        assert_eq!(curl(&server, &format!("/query?{pairs}"), &[]), decoded);
        assert_eq!(curl(&server, "/query", &[]), "   none");
        assert_eq!(curl(&server, "/form", &["-d", pairs]), decoded);
        let typed = ["-H", "Content-Type: Application/X-WWW-Form-Urlencoded; charset=utf-8", "-d", pairs];
        assert_eq!(curl(&server, "/form", &typed), decoded);
        assert_eq!(curl(&server, "/form", &["-H", "Content-Type: text/plain", "-d", pairs]), "   none");
        let spaces = ["--data-urlencode", "a=1 + 2=3\n"];
        assert_eq!(curl(&server, "/form", &spaces), "a=1 + 2=3\n; 1 + 2=3\n  none");
        let cookies = ["-H", "Cookie: a=1; b=\"x%20y\"; flag", "-H", "Cookie: a=2+3;a=4;__%48ost-x=y"];
        assert_eq!(curl(&server, "/cookies", &cookies), "a=1;b=x y;a=2+3;a=4;__%48ost-x=y; 1 2+3 some");
        server.stop();
    }
}

#[test]
fn parts_of_forms_are_read_whole_and_in_pieces() {
    let dir = util::dir::Dir::new();
    let file = dir.path().join("a \"b\".txt");
    std::fs::write(&file, "line\r\n--x\r\nend\n").unwrap();
    let upload = format!("f=@\"{}\";type=text/x-test", file.to_str().unwrap().replace('"', "\\\""));
    let args = ["-F", "a=1 + 2", "-F", &upload, "-F", "empty="];
    let expected = "a (, ): 1 + 2;f (a %22b%22.txt, text/x-test): line\r\n--x\r\nend\n;empty (, ): ;";
    // What is larger than the buffers comes in many pieces.
    let large: String = (0..1 << 20).map(|i| char::from(b'a' + (i % 23) as u8)).collect();
    std::fs::write(dir.path().join("large"), &large).unwrap();
    let one = format!("f=@{}", dir.path().join("large").display());
    for (server, missing) in [(in_c(), -13), (in_rust(), -13)] {
        assert_eq!(curl(&server, "/parts", &args), format!("{expected} {missing}"));
        assert_eq!(curl(&server, "/pieces", &args), format!("{expected} 0"));
        let whole = curl(&server, "/parts", &["-F", &one]);
        assert_eq!(whole, format!("f (large, application/octet-stream): {large}; {missing}"));
        let multipart = |body: &str| {
            let of = ["-H", "Content-Type: multipart/form-data; boundary=XX", "--data-binary", body];
            [curl(&server, "/parts", &of), curl(&server, "/pieces", &of)]
        };
        let good = "--XX\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--XX--";
        assert_eq!(multipart(good), [format!("a (, ): 1; {missing}"), "a (, ): 1; 0".into()]);
        let [whole, pieces] = multipart(&good[..good.len() - 2]);
        assert_eq!(whole, " -2");
        assert!(pieces.starts_with("a (, ): 1"), "{pieces}");
        assert_eq!(multipart(&good.replace("form-data", "other")), [" -2", " -2"]);
        assert_eq!(curl(&server, "/parts", &["-d", "a=1"]), " -2");
        assert_eq!(curl(&server, "/pieces", &["-w", "%{http_code}", "-d", "a=1"]), "415");
        server.stop();
    }
}

#[test]
fn a_large_form_in_pieces_is_whole() {
    let dir = util::dir::Dir::new();
    let large: String = (0..3 << 20).map(|i| char::from(b'a' + (i % 23) as u8)).collect();
    std::fs::write(dir.path().join("large"), &large).unwrap();
    let server = in_rust();
    let one = format!("f=@{}", dir.path().join("large").display());
    let answer = curl(&server, "/pieces", &["-F", &one, "-F", "z=1"]);
    assert_eq!(answer, format!("f (large, application/octet-stream): {large};z (, ): 1; 0"));
    server.stop();
}

#[test]
fn slices_go_in_and_out_and_texts_are_formatted() {
    let server = in_c();
    let fields = ["-H", "X-Text: Text", "-H", "X-List: 1, 2", "-H", "x-list: 3", "-H", "X-List;", "-i"];
    let answer = curl(&server, "/slices", &fields).to_string();
    assert!(answer.contains("\r\nX-Copy: Text\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n10000 1000 Text 1 [1, 2] [3] [] -11"), "{answer}");
    let answer = curl(&server, "/printf", &["-w", "%{http_code}"]);
    let expected: String = [3, 1023, 1024, 100_000]
        .iter()
        .enumerate()
        .map(|(i, w)| " ".repeat(w - 1) + &i.to_string())
        .collect();
    assert_eq!(answer, expected + "201");
    assert_eq!(curl(&server, "/null", &[]), "-1 -1 -2 -2 -1 -1 -9 -1 -1 application/octet-stream");
    assert_eq!(curl(&server, "/type/x.HTML", &[]), "text/html; charset=utf-8");
    server.stop();
}

/// The compiler looks at the arguments of formatted texts.
#[test]
fn a_wrong_format_is_found_by_the_compiler() {
    let text = "#include <prefork.h>\nint f(prefork_response *r, prefork_conn *c)\n\
        { return prefork_response_printf(r, \"%d\", \"x\") + (int)prefork_conn_printf(c, \"%s\", 1); }\n";
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("format.c");
    std::fs::write(&path, text).unwrap();
    let include = concat!("-I", env!("CARGO_MANIFEST_DIR"), "/include");
    let out = Command::new("cc").args(["-Wall", "-fsyntax-only", include]).arg(path).output().unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(said.matches("[-Wformat=]").count(), 2, "{said}");
}
