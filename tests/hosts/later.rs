//! A server in Rust that finishes its responses later: by timers, by closures that write them, or not at all.
#![allow(clippy::unwrap_used)]

use prefork::{Later, Request, Response, Resume, Server, Timer, Worker};
use std::cell::{Cell, RefCell};
use std::error::Error;
use std::rc::Rc;
use std::time::Duration;

thread_local! {
    /// Responses that nobody finishes.
    static KEPT: RefCell<Vec<Later>> = const { RefCell::new(Vec::new()) };
    static RESUME: RefCell<Option<Resume>> = const { RefCell::new(None) };
    static EVENTS: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Says when it is dropped.
struct Note(&'static str);

impl Drop for Note {
    fn drop(&mut self) {
        note(self.0);
    }
}

fn note(what: &str) {
    EVENTS.with_borrow_mut(|events| *events += &format!("{what}\n"));
}

fn main() {
    let server = Server::http(answer).listen("127.0.0.1:0").set("response-timeout", "60s");
    let on_start = |started: &prefork::Started| println!("listening on {}", started.addresses.join(", "));
    if let Err(e) = server.workers(1).on_start(on_start).run() {
        eprintln!("{e}");
        std::process::exit(1);
    }
}

fn answer(req: &Request<'_>, res: &mut Response) -> Result<(), Box<dyn Error>> {
    let worker = Worker::current().unwrap();
    let (what, number) = req.path()[1..].split_once('/').unwrap_or((&req.path()[1..], "0"));
    let number: u64 = number.parse()?;
    match what {
        "after" => {
            let mut later = res.later();
            worker.after(Duration::from_millis(number), move |_| {
                later.body(format!("after {number}")).unwrap();
                later.end().unwrap();
            });
        }
        "ticks" => ticks(res.later(), number),
        "stream" => {
            let (mut at, note) = (0, Note("streamed"));
            res.stream(move |res| {
                let _note = &note;
                let n = (number - at).min(30_000);
                let part: Vec<u8> = (at..at + n).map(|i| (i % 251) as u8).collect();
                res.write(&part)?;
                at += n;
                Ok(at < number)
            })?;
        }
        "break" => {
            let (mut is_first, note) = (true, Note("broken"));
            res.stream(move |res| {
                let _note = &note;
                res.write(b"part")?;
                if std::mem::take(&mut is_first) { Ok(true) } else { Err("no more of it".into()) }
            })?;
        }
        "wait" => {
            let mut is_first = true;
            let resume = res.stream(move |res| {
                if !std::mem::take(&mut is_first) {
                    res.write(b"resumed")?;
                    return Ok(false);
                }
                Ok(true)
            })?;
            RESUME.set(Some(resume));
        }
        "resume" => RESUME.with_borrow(|resume| resume.as_ref().unwrap().resume()),
        "drop" => drop(res.later()),
        "fail" => res.later().fail(),
        "panic" => {
            KEPT.with_borrow_mut(|kept| kept.push(res.later()));
            panic!("on purpose");
        }
        "error" => {
            KEPT.with_borrow_mut(|kept| kept.push(res.later()));
            return Err("on purpose".into());
        }
        "gone" => {
            let mut later = res.later();
            later.on_gone(|worker| note(&format!("gone in slot {}", worker.slot())))?;
            KEPT.with_borrow_mut(|kept| kept.push(later));
        }
        "held" => res.body(KEPT.with_borrow(Vec::len).to_string())?,
        "kept" => {
            let gone = KEPT.with_borrow(|kept| kept.iter().filter(|later| later.is_gone()).count());
            let all = KEPT.take().into_iter().map(Later::end).filter(Result::is_err).count();
            res.body(format!("{gone} {all}"))?;
        }
        _ => res.body(EVENTS.take())?,
    }
    Ok(())
}

/// Writes a part every 20 ms.
fn ticks(later: Later, mut left: u64) {
    let timer = Rc::new(Cell::new(None::<Timer>));
    let (own, mut later) = (Rc::clone(&timer), Some(later));
    timer.set(Worker::current().unwrap().every(Duration::from_millis(20), move |worker| {
        left -= 1;
        let is_gone = later.as_mut().is_none_or(|later| later.write(b"tick\n").is_err());
        if left == 0 || is_gone {
            if let Some(later) = later.take() {
                let _ = later.end();
            }
            own.take().map(|timer| worker.stop_timer(timer));
        }
    }));
}
