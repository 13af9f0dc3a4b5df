//! A server in Rust that takes bodies as they come.
#![allow(clippy::unwrap_used)]

use prefork::{Handler, Kind, Request, Response, Server, Take, Worker};
use std::cell::Cell;
use std::time::Duration;

thread_local! {
    static DROPPED: Cell<u32> = const { Cell::new(0) };
}

#[derive(Default)]
struct Upload {
    size: usize,
}

impl Drop for Upload {
    fn drop(&mut self) {
        DROPPED.set(DROPPED.get() + 1);
    }
}

struct Uploads;

impl Handler for Uploads {
    fn kind(&self) -> Kind {
        Kind::Request
    }

    fn takes_heads(&self) -> bool {
        true
    }

    fn on_head(&mut self, req: &Request<'_>, res: &mut Response) -> Take {
        if req.path() == "/dropped" {
            return Take::Whole;
        }
        req.set_user(Upload::default()).unwrap();
        match req.path() {
            "/panic-head" => panic!("as asked"),
            "/length" if req.length().is_none() => {
                res.status(411).unwrap();
                Take::Refuse
            }
            // It goes on with a refusal that is finished later.
            "/later" => {
                let mut later = res.later();
                Worker::current().unwrap().after(Duration::from_millis(20), move |_| {
                    later.status(401).unwrap();
                    later.end().unwrap();
                });
                Take::Refuse
            }
            _ => Take::Pieces,
        }
    }

    fn on_body(&mut self, req: &Request<'_>, piece: &[u8], last: bool) {
        assert!(req.path() != "/panic-body", "as asked");
        req.user::<Upload>().unwrap().size += piece.len();
        if !last {
            req.pause().unwrap();
            let id = req.id();
            Worker::current().unwrap().after(Duration::from_millis(1), move |worker| {
                assert!(worker.resume(id));
            });
        }
    }

    fn on_request(&mut self, req: &Request<'_>, res: &mut Response) {
        let text = match req.user::<Upload>() {
            Some(upload) => upload.size.to_string(),
            None => DROPPED.get().to_string(),
        };
        assert!(req.path() != "/panic", "as asked");
        res.body(text).unwrap();
    }
}

fn main() {
    let server = Server::factory(|_| Uploads).workers(1).listen("127.0.0.1:0");
    let server = server.on_start(|started| println!("listening on {}", started.addresses.join(", ")));
    if let Err(e) = server.run() {
        eprintln!("{e}");
        std::process::exit(1);
    }
}
