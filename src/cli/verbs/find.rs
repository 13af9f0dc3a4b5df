//! Finds the servers that run, and those that an argument names.

use crate::cli::{FAILED, Failure, NO_SUCH, TIMED_OUT, USAGE};
use prefork::control::protocol::{RefusalKind, Reply, Status};
use prefork::control::{Client, Request, ends_within, place};
use std::io::{
    self,
    ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotFound, TimedOut, UnexpectedEof},
};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The longest time for a master to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest time for a process to end after it has closed its connections.
const LAST_STEPS: Duration = Duration::from_secs(1);

/// A server that was found.
pub struct Server {
    pub name: String,
    pub pid: i32,
    /// `hello.so (pid 4711)`.
    pub title: String,
    /// A connection to its master, or why there is none although its socket exists.
    client: Result<Client, Failure>,
}

impl Server {
    fn new(name: &str, pid: i32, client: io::Result<Client>) -> Self {
        let name = name.replace(char::is_control, "?");
        let title = format!("{name} (pid {pid})");
        let client = client.map_err(|e| unreachable(&title, pid, &e));
        Self { name, pid, title, client }
    }

    fn call<T>(&mut self, act: impl FnOnce(&mut Client) -> io::Result<T>) -> Result<T, Failure> {
        let client = self.client.as_mut().map_err(|failure| failure.clone())?;
        act(client).map_err(|e| unreachable(&self.title, self.pid, &e))
    }

    pub fn send(&mut self, request: &Request) -> Result<(), Failure> {
        self.call(|client| client.send(request))
    }

    /// Returns the next reply; waits at most `patience` for it, or forever.
    pub fn next(&mut self, patience: Option<Duration>) -> Result<Reply, Failure> {
        self.call(|client| client.next(patience))
    }

    /// Asks for the status.
    pub fn status(&mut self) -> Result<Status, Failure> {
        self.send(&Request::Status {})?;
        match self.next(Some(PATIENCE))? {
            Reply::Status(mut status) => {
                status.measure();
                Ok(*status)
            }
            other => Err(self.unexpected(&other)),
        }
    }

    /// Returns the failure of a request with this reply.
    pub fn unexpected(&self, reply: &Reply) -> Failure {
        let (code, text) = match reply {
            Reply::Error(refusal) if refusal.kind == RefusalKind::NoSuchWorker => {
                (NO_SUCH, refusal.text.clone())
            }
            Reply::Error(refusal) => (FAILED, refusal.text.clone()),
            other => (FAILED, format!("unexpected answer {other:?}")),
        };
        Failure(code, format!("{}: {text}", self.title))
    }

    /// True if its process ends, rather than run another program (SIGUSR2), after it has closed the connection.
    pub fn has_ended(&self) -> bool {
        ends_within(self.pid, LAST_STEPS)
    }

    /// After [`Reply::Stopped`]: waits until its process has ended.
    pub fn wait_gone(self) {
        let _ = self.client.map(Client::wait_gone);
    }
}

/// Returns the failure of a master that does not answer, or not in this protocol.
fn unreachable(title: &str, pid: i32, e: &io::Error) -> Failure {
    match e.kind() {
        TimedOut => Failure(TIMED_OUT, format!("{title} does not answer")),
        UnexpectedEof | ConnectionReset | BrokenPipe => {
            let is_over = ends_within(pid, LAST_STEPS);
            let left = if is_over { "ended" } else { "was replaced by another program (SIGUSR2)" };
            Failure(FAILED, format!("{title} {left} before it answered"))
        }
        _ => Failure(FAILED, format!("{title}: {e}")),
    }
}

/// Returns all servers that run, by name and pid. Sockets of masters that have ended are removed.
pub fn all() -> Vec<Server> {
    let sockets = place::find().sockets;
    // In parallel, since one that does not answer takes until the timeout.
    let mut servers: Vec<Server> = std::thread::scope(|s| {
        let threads: Vec<_> = sockets.iter().map(|path| s.spawn(|| meet(path))).collect();
        threads.into_iter().filter_map(|t| t.join().ok().flatten()).collect()
    });
    servers.sort_by(|a, b| (&a.name, a.pid).cmp(&(&b.name, b.pid)));
    servers
}

fn meet(path: &Path) -> Option<Server> {
    match connect(path) {
        Ok(client) => {
            let hello = client.hello().clone();
            Some(Server::new(&hello.name, hello.pid, Ok(client)))
        }
        Err(e) if e.kind() == ConnectionRefused => {
            place::remove_stale(path);
            None
        }
        // It has ended in the meantime.
        Err(e) if matches!(e.kind(), NotFound | UnexpectedEof) => None,
        Err(e) => name_of(path).map(|(name, pid)| Server::new(name, pid, Err(e))),
    }
}

/// Connects; if an upgrade is replacing the master's program, once that is done.
fn connect(path: &Path) -> io::Result<Client> {
    let until = Instant::now() + PATIENCE;
    let runs = || name_of(path).is_some_and(|(_, pid)| !ends_within(pid, Duration::ZERO));
    loop {
        match Client::connect(path, PATIENCE) {
            Err(e)
                if matches!(e.kind(), ConnectionRefused | UnexpectedEof | ConnectionReset)
                    && Instant::now() < until
                    && runs() =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            done => return done,
        }
    }
}

/// Returns a server's name and pid, from the name of its socket.
fn name_of(path: &Path) -> Option<(&str, i32)> {
    let (name, pid) = path.file_name()?.to_str()?.strip_suffix(".sock")?.rsplit_once('.')?;
    Some((name, pid.parse().ok()?))
}

/// Returns the servers that a name, a pid or `all` stands for, given with `-n` or as an argument; without any, the only one that runs.
pub fn named(name: Option<&str>, id: Option<&str>) -> Result<Vec<Server>, Failure> {
    let name = the_one(name, id)?;
    choose(all(), name)
}

/// Returns all servers that a name or a pid stands for; without any, all that run, which may be none.
pub fn listed(name: Option<&str>, id: Option<&str>) -> Result<Vec<Server>, Failure> {
    match the_one(name, id)? {
        None | Some("all") => Ok(all()),
        Some(name) => matching(all(), name),
    }
}

fn the_one<'a>(name: Option<&'a str>, id: Option<&'a str>) -> Result<Option<&'a str>, Failure> {
    if let (Some(name), Some(id)) = (name, id)
        && name != id
    {
        return Err(Failure(USAGE, format!("-n {name} and {id} name different servers; give one")));
    }
    Ok(name.or(id))
}

fn choose(servers: Vec<Server>, name: Option<&str>) -> Result<Vec<Server>, Failure> {
    let chosen = matching(servers, name.unwrap_or("all"))?;
    match (chosen.len(), name) {
        (1, _) | (_, Some("all")) => Ok(chosen),
        (n, None) => {
            Err(Failure(USAGE, format!("{n} servers run; choose one with -n: {}", listing(&chosen))))
        }
        (n, Some(name)) => {
            let text = format!("{n} servers are named {name}; choose one by pid: {}", listing(&chosen));
            Err(Failure(USAGE, text))
        }
    }
}

/// Returns the servers, at least one, that a name, a pid or `all` stands for. A name may be that of the handler's file.
fn matching(servers: Vec<Server>, name: &str) -> Result<Vec<Server>, Failure> {
    if servers.is_empty() {
        return Err(Failure(NO_SUCH, nothing_runs()));
    }
    let listed = listing(&servers);
    let is_meant = |s: &Server| name == "all" || s.name == name || name.parse() == Ok(s.pid);
    let (mut chosen, others): (Vec<_>, Vec<_>) = servers.into_iter().partition(is_meant);
    if chosen.is_empty() {
        chosen.extend(others.into_iter().filter(|s| name.strip_suffix(".so") == Some(&s.name)));
    }
    if chosen.is_empty() {
        return Err(Failure(NO_SUCH, format!("{name}: no such server; there are: {listed}")));
    }
    Ok(chosen)
}

/// Returns the message if no server is found.
pub fn nothing_runs() -> String {
    let list =
        |paths: &[PathBuf]| paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ");
    let closed = match list(&place::find().closed) {
        none if none.is_empty() => none,
        some => format!("; {some} is not accessible to this user"),
    };
    format!("no server runs (looked in {}{closed})", list(&place::directories()))
}

fn listing(servers: &[Server]) -> String {
    servers.iter().map(|s| s.title.as_str()).collect::<Vec<_>>().join(", ")
}

/// Servers, or one worker of one server.
pub enum Target {
    Servers(Vec<Server>),
    Worker(Server, u32),
}

/// Finds the target: `id` is a server's name or pid, a worker's id, or both as `SERVER/WORKER`; `-n` names the worker's server.
pub fn resolve(name: Option<&str>, id: Option<&str>) -> Result<Target, Failure> {
    if let Some((server, worker)) = id.and_then(|id| id.rsplit_once('/')) {
        let expected =
            || format!("{server}/{worker}: expected SERVER/WORKER with the id of a worker, such as web/3");
        let worker = worker.parse().map_err(|_| Failure(USAGE, expected()))?;
        return one(named(name, Some(server))?).map(|server| Target::Worker(server, worker));
    }
    match (name, id.and_then(|id| id.parse().ok())) {
        (Some(name), Some(worker)) => {
            one(named(Some(name), None)?).map(|server| Target::Worker(server, worker))
        }
        (None, Some(number)) => resolve_number(all(), number),
        (name, None) => named(name, id).map(Target::Servers),
    }
}

/// Finds the target of a number alone: the pid of a server, or the id of a worker if there is only one server.
fn resolve_number(mut servers: Vec<Server>, number: u32) -> Result<Target, Failure> {
    let is_pid = servers.iter().any(|s| s.pid.unsigned_abs() == number);
    if let [only] = servers.as_mut_slice() {
        if !is_pid {
            return one(servers).map(|server| Target::Worker(server, number));
        }
        if only.status()?.workers.iter().any(|w| w.worker.id == number) {
            let name = &only.name;
            let text = format!(
                "{number} is the pid of a server and the id of a worker; give {name} or {name}/{number}"
            );
            return Err(Failure(USAGE, text));
        }
    } else if !is_pid && !servers.is_empty() {
        let listed = listing(&servers);
        let text =
            format!("{number}: no server has this pid; for a worker, name its server with -n: {listed}");
        return Err(Failure(NO_SUCH, text));
    }
    choose(servers, Some(&number.to_string())).map(Target::Servers)
}

fn one(mut servers: Vec<Server>) -> Result<Server, Failure> {
    match (servers.pop(), servers.len()) {
        (Some(server), 0) => Ok(server),
        _ => Err(Failure(USAGE, "a worker belongs to one server; name it with -n".into())),
    }
}
