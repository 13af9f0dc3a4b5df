//! A server in Rust whose workers and master exchange messages on the commands of clients, which `tests/messages.c` lists.
#![allow(clippy::unwrap_used, unsafe_code)]

use prefork::{
    Conn, Handler, Kind, MASTER, Message, MessageKind, Messages, Request, Response, Role, Sender, Server, To,
    Undelivered, Worker,
};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, thread};

fn main() {
    let args: Vec<String> = env::args().collect();
    let kind = if args[1] == "request" { Kind::Request } else { Kind::Blocking };
    let dir = PathBuf::from(&args[2]);
    let (here, there) = (dir.clone(), dir);
    let server = Server::factory(move |_| Messenger { kind, dir: here.clone(), messages: None });
    let messages = server.messages();
    assert_eq!(messages.send(To::Worker(1), MessageKind(0), b""), Err(Undelivered::Impossible));
    let mut server = server.listen("127.0.0.1:0").set("workers", &args[3]);
    for pair in args[4..].chunks(2) {
        server = server.set(&pair[0], &pair[1]);
    }
    server = server.on_start(|started| println!("listening on {}", started.addresses[0]));
    server = server.on_message(move |messages, message| {
        let peer = Messenger { kind, dir: there.clone(), messages: Some(messages.clone()) };
        peer.receive(message);
    });
    if let Err(e) = server.run() {
        eprintln!("{e}");
        std::process::exit(1);
    }
    assert_eq!(messages.send(To::Worker(1), MessageKind(0), b""), Err(Undelivered::Impossible));
}

/// The number C has for it.
fn number(result: Result<(), Undelivered>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(Undelivered::Impossible) => -4,
        Err(Undelivered::Full) => -12,
        Err(Undelivered::Gone) => -13,
        Err(Undelivered::TimedOut) => -16,
        Err(Undelivered::TooLarge) => -17,
        Err(Undelivered::Unanswered) => -18,
        Err(other) => panic!("{other:?}"),
    }
}

/// The receiver that C has this number for.
fn receiver(number: u32) -> To {
    match number {
        0 => To::Master,
        u32::MAX => To::All,
        id => To::Worker(id),
    }
}

/// Bytes whose values depend on their position.
fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 7 + i / 251 + size) as u8).collect()
}

fn judge(bytes: &[u8]) -> &'static str {
    if bytes == pattern(bytes.len()) { "good" } else { "BAD" }
}

fn note(dir: &Path, line: &str) {
    let who = match prefork::role() {
        Role::Worker { id, .. } => format!("worker {id}"),
        _ => "master".into(),
    };
    let mut log = File::options().create(true).append(true).open(dir.join("log")).unwrap();
    log.write_all(format!("{who} {line}\n").as_bytes()).unwrap();
}

/// Either side of a channel: in the master with the handle for messages, in a worker without.
struct Messenger {
    kind: Kind,
    dir: PathBuf,
    messages: Option<Messages>,
}

impl Messenger {
    fn note(&self, line: &str) {
        note(&self.dir, line);
    }

    fn send(&self, to: u32, kind: u32, bytes: &[u8]) -> Result<(), Undelivered> {
        match &self.messages {
            Some(messages) => messages.send(receiver(to), MessageKind(kind), bytes),
            None => Worker::current().unwrap().send(receiver(to), MessageKind(kind), bytes),
        }
    }

    fn reply(&self, bytes: &[u8]) -> i32 {
        number(match &self.messages {
            Some(messages) => messages.reply(bytes),
            None => Worker::current().unwrap().reply(bytes),
        })
    }

    fn ask(&self, to: u32, kind: u32, bytes: &[u8], deadline: Duration) -> i32 {
        let (dir, to, kind) = (self.dir.clone(), receiver(to), MessageKind(kind));
        let answered = move |result: Result<&[u8], Undelivered>| {
            let bytes = result.unwrap_or_default();
            let status = number(result.map(drop));
            let size = bytes.len();
            note(&dir, &format!("answer to {kind}: {status}, {size} bytes, {}", judge(bytes)));
        };
        number(match &self.messages {
            Some(messages) => messages.request(to, kind, bytes, deadline, answered),
            None => Worker::current().unwrap().request(to, kind, bytes, deadline, answered),
        })
    }

    fn act(&self, command: &str) -> String {
        let words: Vec<&str> = command.split([' ', '/']).collect();
        let n = |i: usize| words.get(i).and_then(|w| w.parse::<u64>().ok());
        let [to, kind] = [1, 2].map(|i| n(i).unwrap_or(0) as u32);
        let size = n(3).unwrap_or(0) as usize;
        match words[0] {
            "send" => {
                let (bytes, mut taken, mut last) = (pattern(size), 0, Ok(()));
                while taken < n(4).unwrap_or(1) && last.is_ok() {
                    last = self.send(to, kind, &bytes);
                    taken += u64::from(last.is_ok());
                }
                format!("{taken} taken, {}", number(last))
            }
            "ask" => {
                let deadline = Duration::from_millis(n(4).unwrap_or(0));
                self.ask(to, kind, &pattern(size), deadline).to_string()
            }
            "reply" => self.reply(b"").to_string(),
            "master" => {
                let rest = words[1..].join(" ");
                number(self.send(0, 100, rest.as_bytes())).to_string()
            }
            "foreign" => number(Server::http(|_, _| ()).messages().send(To::Worker(1), MessageKind(0), b""))
                .to_string(),
            "forked" => in_a_child(|| self.send(1, 50, b"")).to_string(),
            "garbage" => {
                garbage(words[1]);
                "garbage".into()
            }
            "id" => Worker::current().map_or(0, Worker::id).to_string(),
            "pid" => std::process::id().to_string(),
            "gate" => {
                self.wait_at_gate(words[1]);
                "gate".into()
            }
            other => format!("no such command: {other}"),
        }
    }

    fn wait_at_gate(&self, name: &str) {
        self.note(&format!("at {name}"));
        while !self.dir.join(name).exists() {
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn receive(&self, message: &Message<'_>) {
        let (bytes, kind) = (message.bytes(), message.kind().0);
        if kind == 100 {
            let command = std::str::from_utf8(bytes).unwrap();
            let answer = self.act(command);
            return self.note(&format!("{command}: {answer}"));
        }
        let from = match message.from() {
            Sender::Master => 0,
            Sender::Worker(id) => id,
        };
        self.note(&format!("got {kind} from {from}: {} bytes, {}", bytes.len(), judge(bytes)));
        match kind {
            3 => std::process::abort(),
            4 => thread::sleep(Duration::from_millis(300)),
            6 => std::process::exit(0),
            7 => self.wait_at_gate("held"),
            _ => {}
        }
        if matches!(kind, 1 | 4 | 5) {
            self.reply(bytes);
        }
        if kind == 5 {
            let again = self.reply(bytes);
            self.note(&format!("second reply: {again}"));
        }
    }
}

/// The result of a call in a forked process.
fn in_a_child(call: impl FnOnce() -> Result<(), Undelivered>) -> i32 {
    // SAFETY: this process has one thread; the child ends without unwinding.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let code = -number(call());
        // SAFETY: ends the child.
        unsafe { libc::_exit(code) }
    }
    let mut status = 0;
    // SAFETY: waits for a child of this process; `status` is writable.
    unsafe { libc::waitpid(pid, &raw mut status, 0) };
    -libc::WEXITSTATUS(status)
}

/// Writes to what is the message channel, among others.
fn garbage(what: &str) {
    let bytes: &[u8] = match what {
        "text" => b"this is no message\n",
        "huge" => &[255, 255, 255, 127, b'M', 0, 0, 0],
        _ => b"\x15\0\0\0M\0\0\0\x63\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    };
    for entry in fs::read_dir("/proc/self/fd").unwrap().flatten() {
        let is_socket = fs::metadata(entry.path()).is_ok_and(|m| m.file_type().is_socket());
        let fd: i32 = entry.file_name().to_str().unwrap().parse().unwrap();
        if fd > 2 && is_socket && what == "close" {
            // SAFETY: none: this is the fault to be provoked.
            unsafe { libc::close(fd) };
        } else if fd > 2 && is_socket {
            // SAFETY: as many bytes as are said.
            unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
        }
    }
}

impl Handler for Messenger {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn on_drain(&mut self, worker: &Worker) {
        let _ = worker.send(MASTER, MessageKind(50), b"");
    }

    fn on_message(&mut self, _: &Worker, message: &Message<'_>) {
        self.receive(message);
    }

    fn on_request(&mut self, req: &Request<'_>, res: &mut Response) {
        let _ = res.body(self.act(&req.path()[1..]));
    }

    fn on_connection(&mut self, conn: &Conn) {
        let mut held = Vec::new();
        let mut bytes = [0; 256];
        while let Ok(n @ 1..) = conn.read(&mut bytes) {
            held.extend_from_slice(&bytes[..n]);
            while let Some(end) = held.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = held.drain(..=end).collect();
                let answer = self.act(std::str::from_utf8(&line).unwrap().trim_end());
                if conn.write(format!("{answer}\n").as_bytes()).is_err() {
                    return;
                }
            }
        }
    }
}
