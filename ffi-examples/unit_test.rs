//! Short links, and the unit tests of their handler: `cargo test --example unit_test` runs them without a process, a port or waiting.
//!
//! `PUT /NAME` with a URL as its body makes a link for an hour, `GET /NAME` leads there. Each worker has links of its own; a server
//! would tell the others (`Worker::send`).

use prefork::{Handler, Kind, Refused, Request, Response, Worker};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

#[derive(Default)]
struct Links(Rc<RefCell<HashMap<String, String>>>);

impl Links {
    fn answer(&self, req: &Request<'_>, res: &mut Response) -> Result<(), Refused> {
        let name = req.path().trim_start_matches('/');
        match (req.method(), self.0.borrow_mut()) {
            ("PUT", mut links) => {
                let Ok(url) = str::from_utf8(req.body()) else { return res.status(400) };
                links.insert(name.to_owned(), url.to_owned());
                let (links, name) = (Rc::clone(&self.0), name.to_owned());
                // Put again before the hour is over, a link ends early: good enough here.
                if let Some(worker) = Worker::current() {
                    worker.after(HOUR, move |_| drop(links.borrow_mut().remove(&name)));
                }
                res.status(201)
            }
            ("GET", links) => match links.get(name) {
                Some(url) => {
                    res.header("Location", url)?;
                    res.status(302)
                }
                None => res.status(404),
            },
            _ => res.status(405),
        }
    }
}

impl Handler for Links {
    fn kind(&self) -> Kind {
        Kind::Request
    }

    fn on_request(&mut self, req: &Request<'_>, res: &mut Response) {
        if self.answer(req, res).is_err() {
            let _ = res.status(500);
        }
    }
}

fn main() -> prefork::Result<()> {
    prefork::Server::factory(|_| Links::default()).listen("127.0.0.1:8080").run().map(drop)
}

#[cfg(test)]
mod tests {
    use super::{HOUR, Links};
    use prefork::testing::TestWorker;

    #[test]
    fn a_link_leads_to_its_url() -> prefork::Result<()> {
        let worker = TestWorker::new(Links::default())?;
        assert_eq!(worker.put("/doc").body("https://doc.rust-lang.org/").send().status(), 201);
        let res = worker.get("/doc").send();
        assert_eq!((res.status(), res.header("Location")), (302, Some("https://doc.rust-lang.org/")));
        assert_eq!(worker.get("/other").send().status(), 404);
        assert_eq!(worker.delete("/doc").send().status(), 405);
        Ok(())
    }

    #[test]
    fn it_ends_after_an_hour() -> prefork::Result<()> {
        let worker = TestWorker::new(Links::default())?;
        worker.put("/doc").body("https://doc.rust-lang.org/").send();
        worker.advance(HOUR / 2);
        assert_eq!(worker.get("/doc").send().status(), 302);
        worker.advance(HOUR / 2);
        assert_eq!(worker.get("/doc").send().status(), 404);
        Ok(())
    }

    #[test]
    fn a_url_that_is_no_header_is_no_crash() -> prefork::Result<()> {
        let worker = TestWorker::new(Links::default())?;
        worker.put("/bad").body("two\r\nlines").send();
        assert_eq!(worker.get("/bad").send().status(), 500);
        assert_eq!(worker.put("/bytes").body([0xff]).send().status(), 400);
        Ok(())
    }
}
