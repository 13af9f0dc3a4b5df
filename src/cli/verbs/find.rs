//! Finds the servers that run, and the one that an argument names.

use crate::cli::{FAILED, Failure, NO_SUCH, TIMED_OUT, USAGE};
use prefork::control::protocol::{Reply, Status};
use prefork::control::{Client, Request, ends_within, place};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The time that a master has to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The time that a process has to end after it has closed its connections.
pub const LAST_STEPS: Duration = Duration::from_secs(1);

/// A server that was found.
pub struct Server {
    pub name: String,
    pub pid: i32,
    /// A connection to its master, or why there is none although its socket exists.
    client: Result<Client, io::Error>,
}

impl Server {
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

    /// Asks for the status.
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

/// Says what a master did after it closed the connection.
pub fn left(pid: i32) -> &'static str {
    if ends_within(pid, LAST_STEPS) { "ended" } else { "gave way to another program (SIGUSR2)" }
}

/// The failure of a master that does not answer, or not in this protocol.
pub fn unreachable(title: &str, pid: i32, e: &io::Error) -> Failure {
    match e.kind() {
        io::ErrorKind::TimedOut => Failure(TIMED_OUT, format!("{title} does not answer")),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            Failure(FAILED, format!("{title} {} before it answered", left(pid)))
        }
        _ => Failure(FAILED, format!("{title}: {e}")),
    }
}

/// The failure of a request that got this reply.
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

/// Returns all servers that run, by name and pid. Sockets of masters that have ended are removed.
pub fn all() -> Vec<Server> {
    let sockets = place::find().sockets;
    // In parallel, since one that does not answer takes until the timeout.
    let met = std::thread::scope(|s| {
        let threads: Vec<_> = sockets.iter().map(|path| s.spawn(|| meet(path))).collect();
        threads.into_iter().map(|t| t.join().ok().flatten()).collect::<Vec<_>>()
    });
    let mut servers: Vec<Server> = met.into_iter().flatten().collect();
    servers.sort_by(|a, b| (&a.name, a.pid).cmp(&(&b.name, b.pid)));
    servers
}

fn meet(path: &Path) -> Option<Server> {
    match connect(path) {
        Ok(client) => {
            let hello = client.hello();
            Some(Server {
                name: hello.name.replace(char::is_control, "?"),
                pid: hello.pid,
                client: Ok(client),
            })
        }
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            place::remove_stale(path);
            None
        }
        // It has ended in the meantime.
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => None,
        Err(e) => {
            let (name, pid) = name_of(path)?;
            Some(Server { name, pid, client: Err(e) })
        }
    }
}

/// Connects; if an upgrade is replacing the master's program, once that is done.
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
            || name_of(path).is_none_or(|(_, pid)| ends_within(pid, Duration::ZERO))
        {
            return result;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The server's name and pid, from the name of its socket.
fn name_of(path: &Path) -> Option<(String, i32)> {
    let name = path.file_name()?.to_str()?.strip_suffix(".sock")?;
    let (name, pid) = name.rsplit_once('.')?;
    Some((name.replace(char::is_control, "?"), pid.parse().ok()?))
}

/// Directories that may hold sockets of other users; shown if nothing was found.
pub fn closed() -> Vec<PathBuf> {
    place::find().closed
}

/// As [`select`], of a name that may be given with `-n` or as an argument.
pub fn named(name: Option<String>, id: Option<String>) -> Result<Vec<Server>, Failure> {
    if let Some(id) = &id {
        check_same(name.as_deref(), id)?;
    }
    select(name.or(id).as_deref())
}

/// Returns the servers that a name, a pid or `all` stands for; without any, the only one that runs.
pub fn select(name: Option<&str>) -> Result<Vec<Server>, Failure> {
    choose(all(), name)
}

fn choose(servers: Vec<Server>, name: Option<&str>) -> Result<Vec<Server>, Failure> {
    if servers.is_empty() {
        return Err(Failure(NO_SUCH, nothing_runs()));
    }
    let Some(name) = name else {
        return match servers.len() {
            1 => Ok(servers),
            n => Err(Failure(USAGE, format!("{n} servers run; choose one with -n: {}", listing(&servers)))),
        };
    };
    if name == "all" {
        return Ok(servers);
    }
    let listed = listing(&servers);
    let meant = |server: &Server| server.name == name || name.parse() == Ok(server.pid);
    let chosen: Vec<Server> = servers.into_iter().filter(meant).collect();
    match chosen.len() {
        0 => Err(Failure(NO_SUCH, format!("{name}: no such server; there are: {listed}"))),
        1 => Ok(chosen),
        n => Err(Failure(
            USAGE,
            format!("{n} servers are named {name}; choose one by pid: {}", listing(&chosen)),
        )),
    }
}

/// The message if no server is found.
pub fn nothing_runs() -> String {
    let looked: Vec<_> = place::directories().iter().map(|d| d.display().to_string()).collect();
    let closed: Vec<_> = closed().iter().map(|d| d.display().to_string()).collect();
    let closed = match closed.as_slice() {
        [] => String::new(),
        some => format!("; {} is not accessible to this user", some.join(", ")),
    };
    format!("no server runs (looked in {}{closed})", looked.join(", "))
}

fn listing(servers: &[Server]) -> String {
    servers.iter().map(Server::title).collect::<Vec<_>>().join(", ")
}

/// The target of an ID: servers, or one worker of one server.
pub enum Target {
    Servers(Vec<Server>),
    Worker(Server, u32),
}

/// Finds the target: `ID` is a server's name or pid, a worker's id, or both as `SERVER/WORKER`; `-n` names the worker's
/// server.
pub fn resolve(name: Option<&str>, id: Option<&str>) -> Result<Target, Failure> {
    let Some(id) = id else { return select(name).map(Target::Servers) };
    if let Some((server, worker)) = id.rsplit_once('/') {
        let worker = worker.parse().map_err(|_| {
            Failure(USAGE, format!("{id}: expected SERVER/WORKER with the id of a worker, such as web/3"))
        })?;
        check_same(name, server)?;
        return Ok(Target::Worker(one(select(Some(server))?)?, worker));
    }
    let Ok(number) = id.parse::<u32>() else {
        check_same(name, id)?;
        return select(Some(id)).map(Target::Servers);
    };
    match name {
        Some(name) => Ok(Target::Worker(one(select(Some(name))?)?, number)),
        None => resolve_number(all(), number),
    }
}

/// A number alone may be a server's pid or a worker's id.
fn resolve_number(mut servers: Vec<Server>, number: u32) -> Result<Target, Failure> {
    let master = servers.iter().any(|a| a.pid.unsigned_abs() == number);
    let worker = match servers.as_mut_slice() {
        [only] if master => only.status()?.workers.iter().any(|w| w.worker.id == number),
        [_] => true,
        _ => false,
    };
    if master && worker {
        let name = &servers[0].name;
        return Err(Failure(
            USAGE,
            format!("{number} is the pid of a server and the id of a worker; give {name} or {name}/{number}"),
        ));
    }
    if worker {
        return Ok(Target::Worker(one(servers)?, number));
    }
    if !master && servers.len() > 1 {
        let text = format!(
            "{number}: no server has this pid; for a worker, name its server with -n: {}",
            listing(&servers)
        );
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

fn check_same(name: Option<&str>, id: &str) -> Result<(), Failure> {
    match name {
        Some(name) if name != id => {
            Err(Failure(USAGE, format!("-n {name} and {id} name different servers; give one")))
        }
        _ => Ok(()),
    }
}
