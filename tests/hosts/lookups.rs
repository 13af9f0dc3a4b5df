//! A server in Rust that answers as `tests/lookups.c` and `tests/files.c`: with what it looks up in requests, and with files below the
//! folder that is its argument.
#![allow(clippy::unwrap_used)]

use prefork::{Handler, Kind, Malformed, Multipart, Pairs, Part, PartEvent, Request, Response, Server, Take};
use std::fmt::Write;

struct Lookups {
    root: String,
}

/// A form in pieces.
struct Form {
    reader: Multipart,
    text: String,
    malformed: Option<Malformed>,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn pairs(pairs: &Pairs) -> String {
    let all: String = pairs.iter().map(|(name, value)| format!("{}={};", text(name), text(value))).collect();
    let mut values = pairs.all("a");
    let mut next = || values.next();
    let (first, second, third) = (next(), next(), next());
    assert_eq!(first, pairs.get("a"));
    let some = if third.is_some() { "some" } else { "none" };
    format!("{all} {} {} {some}", text(first.unwrap_or_default()), text(second.unwrap_or_default()))
}

fn begin(part: &Part<'_>) -> String {
    let filename = text(part.filename.as_deref().unwrap_or_default());
    format!("{} ({filename}, {}): ", text(&part.name), text(part.content_type.unwrap_or_default()))
}

/// The statuses of C.
fn status(malformed: Option<Malformed>, others: i32) -> i32 {
    malformed.map_or(others, |_| -2)
}

impl Handler for Lookups {
    fn kind(&self) -> Kind {
        Kind::Request
    }

    fn takes_heads(&self) -> bool {
        true
    }

    fn on_head(&mut self, req: &Request<'_>, res: &mut Response) -> Take {
        if req.path() != "/pieces" {
            return Take::Whole;
        }
        match req.multipart() {
            Ok(reader) => {
                req.set_user(Form { reader, text: String::new(), malformed: None }).unwrap();
                Take::Pieces
            }
            Err(Malformed::Type) => {
                res.status(415).unwrap();
                Take::Refuse
            }
            Err(e) => panic!("{e}"),
        }
    }

    fn on_body(&mut self, req: &Request<'_>, piece: &[u8], last: bool) {
        let mut form = req.user::<Form>().unwrap();
        let form = &mut *form;
        form.reader.feed(piece);
        loop {
            match form.reader.next() {
                Ok(Some(PartEvent::Begin(part))) => form.text += &begin(&part),
                Ok(Some(PartEvent::Data(bytes))) => form.text += &text(bytes),
                Ok(Some(PartEvent::End)) => form.text.push(';'),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(e) => {
                    form.malformed = Some(e);
                    return;
                }
            }
        }
        if last && let Err(e) = form.reader.finish() {
            write!(form.text, " {e}").unwrap();
        }
    }

    fn on_request(&mut self, req: &Request<'_>, res: &mut Response) {
        let answer = match req.path() {
            "/query" => pairs(req.query_pairs()),
            "/form" => pairs(req.form()),
            "/cookies" => pairs(req.cookies()),
            "/parts" => match req.parts() {
                Ok(parts) => {
                    let all: String =
                        parts.iter().map(|p| format!("{}{};", begin(p), text(p.data))).collect();
                    format!("{all} -13")
                }
                Err(e) => format!(" {}", status(Some(e), 0)),
            },
            "/pieces" => {
                let form = req.user::<Form>().unwrap();
                format!("{} {}", form.text, status(form.malformed, 0))
            }
            path => {
                match path.strip_prefix("/below") {
                    Some(below) => res.send_below(req, &self.root, below).unwrap(),
                    None => res.send_file(req, format!("{}{path}", self.root)).unwrap(),
                };
                return;
            }
        };
        res.body(answer).unwrap();
    }
}

fn main() {
    let root = std::env::args().nth(1).unwrap_or_default();
    Server::factory(move |_| Lookups { root: root.clone() })
        .listen("127.0.0.1:0")
        .workers(1)
        .on_start(|started| println!("listening on {}", started.addresses[0]))
        .run()
        .unwrap();
}
