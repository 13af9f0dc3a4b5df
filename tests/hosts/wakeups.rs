//! A server in Rust whose timers do as clients tell it to: `wakeups request|connection DIRECTORY`. The commands are those of
//! `tests/wakeups.c`, and "panic WHAT", "many N".
#![allow(clippy::unwrap_used)]

use prefork::{Conn, Handler, Interest, Kind, Request, Response, Server, Timer, Worker};
use std::cell::RefCell;
use std::env;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::thread::sleep;
use std::time::Duration;

fn main() {
    let args: Vec<String> = env::args().collect();
    let kind = if args[1] == "request" { Kind::Request } else { Kind::Blocking };
    let dir = PathBuf::from(&args[2]);
    let server = Server::factory(move |_| Actor {
        kind,
        dir: dir.clone(),
        trace: Rc::default(),
        timers: Vec::new(),
        pair: UnixStream::pair().unwrap(),
        told: None,
    });
    let server = server.listen("127.0.0.1:0").workers(1);
    if let Err(e) = server.on_start(|started| println!("listening on {}", started.addresses[0])).run() {
        eprintln!("{e}");
        std::process::exit(1);
    }
}

fn note(dir: &Path, line: &str) {
    let mut log = File::options().create(true).append(true).open(dir.join("log")).unwrap();
    log.write_all(format!("{line}\n").as_bytes()).unwrap();
}

struct Actor {
    kind: Kind,
    dir: PathBuf,
    trace: Rc<RefCell<String>>,
    timers: Vec<Timer>,
    pair: (UnixStream, UnixStream),
    told: Option<std::sync::mpsc::Receiver<String>>,
}

/// Uses the timers when it is dropped, and panics.
struct Dropped(PathBuf);

impl Drop for Dropped {
    fn drop(&mut self) {
        let timer = Worker::current().unwrap().after(Duration::ZERO, |_| ());
        note(&self.0, &format!("dropped: {timer:?}"));
        panic!("on purpose");
    }
}

impl Actor {
    fn add(&self, text: &str) -> impl Fn(&Worker) + 'static + use<> {
        let (trace, text) = (Rc::clone(&self.trace), text.to_owned());
        move |_| trace.borrow_mut().push_str(&text)
    }

    fn started(&mut self, timer: Option<Timer>) -> String {
        self.timers.extend(timer);
        format!("{timer:?}")
    }

    fn act(&mut self, command: &str) -> String {
        let words: Vec<&str> = command.split([' ', '/']).collect();
        let ms = words.get(1).and_then(|w| w.parse().ok()).map_or(Duration::ZERO, Duration::from_millis);
        let worker = Worker::current().unwrap();
        match words[..] {
            ["after", _, "drop"] => {
                let dropped = Dropped(self.dir.clone());
                let timer = worker.after(ms, move |_| drop(dropped));
                self.started(timer)
            }
            ["after", _, text] => {
                let timer = worker.after(ms, self.add(text));
                self.started(timer)
            }
            ["every", _, text] => {
                let timer = worker.every(ms, self.add(text));
                self.started(timer)
            }
            ["stop", n] => {
                let n: usize = n.parse().unwrap();
                worker.stop_timer(self.timers[n - 1]).to_string()
            }
            ["many", n] => {
                for _ in 0..n.parse().unwrap() {
                    let add = self.add("m");
                    worker.after(Duration::ZERO, move |worker| {
                        sleep(Duration::from_millis(1));
                        add(worker);
                    });
                }
                String::new()
            }
            ["panic", "timer"] => {
                let timer = worker.every(Duration::from_millis(1), |_| panic!("on purpose"));
                self.started(timer)
            }
            ["watch"] => {
                let (mut from, trace) = (self.pair.0.try_clone().unwrap(), Rc::clone(&self.trace));
                let read = move |_: &Worker, _, ready| {
                    let mut bytes = [0; 100];
                    let n = from.read(&mut bytes).unwrap();
                    let text = str::from_utf8(&bytes[..n]).unwrap();
                    trace.borrow_mut().push_str(&format!("{ready:?} {text} "));
                };
                format!("{:?}", worker.watch(&self.pair.0, Interest::READ, read))
            }
            ["send", text] => {
                (&self.pair.1).write_all(text.as_bytes()).unwrap();
                String::new()
            }
            ["unwatch"] => format!("{} {}", worker.unwatch(&self.pair.0), worker.unwatch(&self.pair.0)),
            ["refused"] => {
                let file = File::open("/proc/self/exe").unwrap();
                let mut nothing = Interest::READ;
                nothing.read = false;
                let results = [
                    worker.watch(&9999, Interest::READ, |_, _, _| ()),
                    worker.watch(&self.pair.0, nothing, |_, _, _| ()),
                    worker.watch(&file, Interest::BOTH, |_, _, _| ()),
                ];
                results.map(|result| result.unwrap_err().to_string()).join("; ")
            }
            ["wake", text] => {
                let (waker, text) = (worker.waker(), text.to_owned());
                let (told, tells) = std::sync::mpsc::channel();
                let thread = move || {
                    let (first, second) = (text.clone(), text);
                    let one = waker.clone().wake(move |_| told.send(first).unwrap());
                    (one, waker.wake(move |_| assert_eq!(second, "good")))
                };
                let results = std::thread::spawn(thread).join().unwrap();
                self.told = Some(tells);
                format!("{results:?}")
            }
            ["told"] => format!("{:?}", self.told.as_ref().unwrap().try_recv()),
            ["panic", "watch"] => {
                let watched = worker.watch(&self.pair.1, Interest::WRITE, |_, _, _| panic!("on purpose"));
                format!("{watched:?}")
            }
            ["trace"] => self.trace.borrow().clone(),
            _ => format!("no such command: {command}"),
        }
    }
}

impl Handler for Actor {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn stop(&mut self, worker: &Worker) {
        let timer = worker.after(Duration::ZERO, |_| ());
        let watch = worker.watch(&self.pair.0, Interest::READ, |_, _, _| ()).unwrap_err();
        let wake = worker.waker().wake(|_| ()).unwrap_err();
        note(&self.dir, &format!("stop: {timer:?}, {watch}, {wake}"));
    }

    fn on_request(&mut self, req: &Request<'_>, res: &mut Response) {
        let _ = res.body(self.act(&req.path()[1..]));
    }

    fn on_connection(&mut self, conn: &Conn) {
        let mut bytes = [0; 256];
        while let Ok(n @ 1..) = conn.read(&mut bytes) {
            let answer = self.act(str::from_utf8(&bytes[..n]).unwrap().trim_end());
            if conn.write(format!("{answer}\n").as_bytes()).is_err() {
                return;
            }
        }
    }
}
