//! Which masters run, and which of them is meant.

use crate::cli::{FAILED, Failure, NO_SUCH, TIMED_OUT, USAGE};
use prefork::control::protocol::{Reply, Status};
use prefork::control::{Client, Request, ends_within, place};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a master may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a process may take to end that has closed its connections.
pub const LAST_STEPS: Duration = Duration::from_secs(1);

/// A master that was found.
pub struct App {
    pub name: String,
    pub pid: i32,
    /// A connection to it, or why there is none though it is there.
    client: Result<Client, io::Error>,
}

impl App {
    /// `hello.so (pid 4711)`.
    pub fn title(&self) -> String {
        format!("{} (pid {})", self.name, self.pid)
    }

    /// The connection.
    pub fn client(self) -> Result<(Client, String), Failure> {
        let title = self.title();
        match self.client {
            Ok(client) => Ok((client, title)),
            Err(e) => Err(unreachable(&title, self.pid, &e)),
        }
    }

    pub fn answers(&self) -> bool {
        self.client.is_ok()
    }

    /// What runs there.
    pub fn status(&mut self) -> Result<Status, Failure> {
        let title = self.title();
        let client = match &mut self.client {
            Ok(client) => client,
            Err(e) => return Err(unreachable(&title, self.pid, e)),
        };
        client.send(&Request::Status {}).map_err(|e| unreachable(&title, self.pid, &e))?;
        match client.next(Some(PATIENCE)) {
            Ok(Reply::Status(mut status)) => {
                status.measure();
                Ok(*status)
            }
            Ok(other) => Err(unexpected(&title, &other)),
            Err(e) => Err(unreachable(&title, self.pid, &e)),
        }
    }
}

/// What a master did that has closed the connection.
pub fn left(pid: i32) -> &'static str {
    if ends_within(pid, LAST_STEPS) { "ended" } else { "gave way to another program (SIGUSR2)" }
}

/// What to say of a master that does not speak as it should.
pub fn unreachable(title: &str, pid: i32, e: &io::Error) -> Failure {
    match e.kind() {
        io::ErrorKind::TimedOut => Failure(TIMED_OUT, format!("{title} does not answer")),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            Failure(FAILED, format!("{title} {} before it answered", left(pid)))
        }
        _ => Failure(FAILED, format!("{title}: {e}")),
    }
}

/// What to say of an answer that is none to what was asked.
pub fn unexpected(title: &str, reply: &Reply) -> Failure {
    use prefork::control::protocol::RefusalKind;
    match reply {
        Reply::Error(refusal) => {
            let code = if refusal.kind == RefusalKind::NoSuchWorker { NO_SUCH } else { FAILED };
            Failure(code, format!("{title}: {}", refusal.text))
        }
        other => Failure(FAILED, format!("{title}: unexpected answer {other:?}")),
    }
}

/// Every master that runs, by name and pid. What nobody answers on any more is removed.
pub fn all() -> Vec<App> {
    let sockets = place::find().sockets;
    // All at once: one that does not answer takes its time.
    let met = std::thread::scope(|s| {
        let threads: Vec<_> = sockets.iter().map(|path| s.spawn(|| meet(path))).collect();
        threads.into_iter().map(|t| t.join().ok().flatten()).collect::<Vec<_>>()
    });
    let mut apps: Vec<App> = met.into_iter().flatten().collect();
    apps.sort_by(|a, b| (&a.name, a.pid).cmp(&(&b.name, b.pid)));
    apps
}

fn meet(path: &Path) -> Option<App> {
    match connect(path) {
        Ok(client) => {
            let hello = client.hello();
            Some(App { name: hello.name.replace(char::is_control, "?"), pid: hello.pid, client: Ok(client) })
        }
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            place::remove_stale(path);
            None
        }
        // It has gone meanwhile.
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => None,
        Err(e) => {
            let (name, pid) = named(path)?;
            Some(App { name, pid, client: Err(e) })
        }
    }
}

/// Connects; where another program is just taking the master's place, once it has.
fn connect(path: &Path) -> io::Result<Client> {
    let until = Instant::now() + PATIENCE;
    loop {
        let result = Client::connect(path, PATIENCE);
        let between = matches!(&result, Err(e) if matches!(
            e.kind(),
            io::ErrorKind::ConnectionRefused | io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
        ));
        if !between
            || Instant::now() >= until
            || named(path).is_none_or(|(_, pid)| ends_within(pid, Duration::ZERO))
        {
            return result;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What the name of a socket says of who made it.
fn named(path: &Path) -> Option<(String, i32)> {
    let name = path.file_name()?.to_str()?.strip_suffix(".sock")?;
    let (name, pid) = name.rsplit_once('.')?;
    Some((name.replace(char::is_control, "?"), pid.parse().ok()?))
}

/// Directories that may hold masters of other users, to be told where nothing was found.
pub fn closed() -> Vec<PathBuf> {
    place::find().closed
}

/// The masters meant by a name, a pid, `all`, or nothing at all where one runs.
pub fn select(name: Option<&str>) -> Result<Vec<App>, Failure> {
    choose(all(), name)
}

fn choose(apps: Vec<App>, name: Option<&str>) -> Result<Vec<App>, Failure> {
    if apps.is_empty() {
        return Err(Failure(NO_SUCH, nothing_runs()));
    }
    let Some(name) = name else {
        return match apps.len() {
            1 => Ok(apps),
            n => Err(Failure(USAGE, format!("{n} servers run; say which by -n: {}", listing(&apps)))),
        };
    };
    if name == "all" {
        return Ok(apps);
    }
    let listed = listing(&apps);
    let meant = |app: &App| app.name == name || name.parse() == Ok(app.pid);
    let chosen: Vec<App> = apps.into_iter().filter(meant).collect();
    match chosen.len() {
        0 => Err(Failure(NO_SUCH, format!("{name}: no such server; there are: {listed}"))),
        1 => Ok(chosen),
        n => Err(Failure(
            USAGE,
            format!("{n} servers are called {name}; say which by pid: {}", listing(&chosen)),
        )),
    }
}

/// What to say where no master is found.
pub fn nothing_runs() -> String {
    let looked: Vec<_> = place::directories().iter().map(|d| d.display().to_string()).collect();
    let closed: Vec<_> = closed().iter().map(|d| d.display().to_string()).collect();
    let closed = match closed.as_slice() {
        [] => String::new(),
        some => format!("; {} is not for this user", some.join(", ")),
    };
    format!("no server runs (looked in {}{closed})", looked.join(", "))
}

fn listing(apps: &[App]) -> String {
    apps.iter().map(App::title).collect::<Vec<_>>().join(", ")
}

/// What an ID means: masters, or one worker of one master.
pub enum Meant {
    Apps(Vec<App>),
    Worker(App, u32),
}

/// Finds out what is meant: `ID` is a server's name or pid, a worker's number, or both as `APP/WORKER`; `-n` says whose worker.
pub fn resolve(name: Option<&str>, id: Option<&str>) -> Result<Meant, Failure> {
    let Some(id) = id else { return select(name).map(Meant::Apps) };
    if let Some((app, worker)) = id.rsplit_once('/') {
        let worker = worker.parse().map_err(|_| {
            Failure(USAGE, format!("{id}: expected APP/WORKER, the worker by its number, such as web/3"))
        })?;
        agree(name, app)?;
        return Ok(Meant::Worker(one(select(Some(app))?)?, worker));
    }
    let Ok(number) = id.parse::<u32>() else {
        agree(name, id)?;
        return select(Some(id)).map(Meant::Apps);
    };
    match name {
        Some(name) => Ok(Meant::Worker(one(select(Some(name))?)?, number)),
        None => of_number(all(), number),
    }
}

/// A number alone may be a master's pid or a worker's number.
fn of_number(mut apps: Vec<App>, number: u32) -> Result<Meant, Failure> {
    let master = apps.iter().any(|a| a.pid.unsigned_abs() == number);
    let worker = match apps.as_mut_slice() {
        [only] if master => only.status()?.workers.iter().any(|w| w.worker.id == number),
        [_] => true,
        _ => false,
    };
    if master && worker {
        let name = &apps[0].name;
        return Err(Failure(
            USAGE,
            format!("{number} is a server's pid and a worker's number: say {name}, or {name}/{number}"),
        ));
    }
    if worker {
        return Ok(Meant::Worker(one(apps)?, number));
    }
    if !master && apps.len() > 1 {
        let text =
            format!("{number}: no server has that pid; for a worker say whose by -n: {}", listing(&apps));
        return Err(Failure(NO_SUCH, text));
    }
    choose(apps, Some(&number.to_string())).map(Meant::Apps)
}

fn one(mut apps: Vec<App>) -> Result<App, Failure> {
    match (apps.pop(), apps.len()) {
        (Some(app), 0) => Ok(app),
        _ => Err(Failure(USAGE, "a worker is one server's: say which by -n".into())),
    }
}

fn agree(name: Option<&str>, id: &str) -> Result<(), Failure> {
    match name {
        Some(name) if name != id => Err(Failure(USAGE, format!("-n {name} and {id}: which of them?"))),
        _ => Ok(()),
    }
}
