//! `prefork reload`, `scale` and `stop`: send the command, wait, print the outcome.

use super::find::{self, Server, Target};
use super::list::no_such_worker;
use super::{Wait, print, print_json};
use crate::cli::{FAILED, Failure, ROLLED_BACK, TIMED_OUT};
use prefork::control::protocol::{Count, Reply, Verdict};
use prefork::control::{Client, Request};
use serde::Serialize;
use std::io;
use std::time::{Duration, Instant};

/// The time that a master has to accept a command.
const PATIENCE: Duration = Duration::from_secs(5);

/// An outcome, as JSON.
#[derive(Serialize)]
struct Outcome<T> {
    name: String,
    pid: i32,
    #[serde(flatten)]
    outcome: T,
}

#[derive(Serialize)]
struct Accepted {
    accepted: bool,
    queued: bool,
}

#[derive(Serialize)]
struct Scaled {
    workers: usize,
}

#[derive(Serialize)]
struct Stopped {
    killed: u32,
}

#[derive(Serialize)]
struct Drained<'a> {
    worker: u32,
    exit: &'a prefork::Exit,
    killed: bool,
}

/// `4`, `+1` or `-1`.
pub fn parse_count(text: &str) -> Result<Count, String> {
    let bad = |_| "expected a number of workers, such as 4, +1 or -1".to_owned();
    match text.as_bytes().first() {
        Some(b'+' | b'-') => text.parse().map(Count::By).map_err(bad),
        _ => match text.parse().map_err(bad)? {
            0 => Err("expected at least 1; `prefork stop` stops the server".into()),
            n => Ok(Count::To(n)),
        },
    }
}

/// Replaces all workers.
pub fn reload(name: Option<String>, id: Option<String>, wait: &Wait, json: bool) -> Result<(), Failure> {
    for_each(find::named(name, id)?, |server| {
        command(server, &Request::Reload {}, wait, json, |talk, reply| match reply {
            Reply::Reload(verdict) => Some(talk.reloaded(verdict)),
            _ => None,
        })
    })
}

/// Runs more or fewer workers.
pub fn scale(name: Option<String>, count: Count, wait: &Wait, json: bool) -> Result<(), Failure> {
    for_each(find::named(name, None)?, |server| {
        command(server, &Request::Scale(count), wait, json, |talk, reply| match reply {
            Reply::Scaled { workers } => {
                let text = format!("{workers} {}", plural(*workers, "worker"));
                Some(talk.print(Scaled { workers: *workers }, &text))
            }
            _ => None,
        })
    })
}

/// Stops servers, or one worker.
pub fn stop(
    name: Option<String>,
    id: Option<String>,
    now: bool,
    wait: &Wait,
    json: bool,
) -> Result<(), Failure> {
    match find::resolve(name.as_deref(), id.as_deref())? {
        Target::Servers(servers) => for_each(servers, |server| {
            command(server, &Request::Stop { now }, wait, json, |talk, reply| match reply {
                Reply::Stopped { killed } => Some(talk.stopped(*killed)),
                _ => None,
            })
        }),
        Target::Worker(mut server, worker) => {
            let status = server.status()?;
            if status.workers.iter().all(|w| w.worker.id != worker) {
                return Err(no_such_worker(&server.title(), worker, &status));
            }
            command(server, &Request::Drain { worker }, wait, json, |talk, reply| match reply {
                Reply::Drained { worker, exit, killed } => {
                    let how = if *killed { "did not finish in time and was killed" } else { "has ended" };
                    let outcome = Drained { worker: *worker, exit, killed: *killed };
                    Some(talk.print(outcome, &format!("worker {worker} {how} ({exit})")))
                }
                _ => None,
            })
        }
    }
}

/// Acts on one server after the other, whatever fails. The last failure is the exit status.
fn for_each(servers: Vec<Server>, act: impl Fn(Server) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut last = None;
    for server in servers {
        if let Err(failure) = act(server)
            && let Some(before) = last.replace(failure)
        {
            crate::cli::complain(&before);
        }
    }
    last.map_or(Ok(()), Err)
}

/// A conversation with one server.
struct Talk {
    name: String,
    pid: i32,
    title: String,
    json: bool,
}

/// Sends a command, and waits for its outcome, which `finish` prints.
fn command(
    server: Server,
    request: &Request,
    wait: &Wait,
    json: bool,
    finish: impl Fn(&Talk, &Reply) -> Option<Result<(), Failure>>,
) -> Result<(), Failure> {
    let talk = Talk { name: server.name.clone(), pid: server.pid, title: server.title(), json };
    let pid = server.pid;
    let (mut client, title) = server.client()?;
    let lost = |e: io::Error| find::unreachable(&title, pid, &e);
    client.send(request).map_err(lost)?;
    let queued = match client.next(Some(PATIENCE)).map_err(lost)? {
        Reply::Accepted { queued } => queued,
        other => return Err(find::unexpected(&title, &other)),
    };
    if wait.no_wait {
        let text =
            if queued { "accepted; it begins after the start or reload in progress" } else { "accepted" };
        return talk.print(Accepted { accepted: true, queued }, text);
    }
    let end = wait.timeout.map(|t| Instant::now() + t);
    let reply = talk.wait_for(&mut client, end)?;
    let done = finish(&talk, &reply).unwrap_or_else(|| Err(find::unexpected(&title, &reply)));
    if matches!(reply, Reply::Stopped { .. }) {
        client.wait_gone();
    }
    done
}

impl Talk {
    fn wait_for(&self, client: &mut Client, end: Option<Instant>) -> Result<Reply, Failure> {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        client.next(left).map_err(|e| match e.kind() {
            io::ErrorKind::TimedOut => {
                Failure(TIMED_OUT, format!("{}: not done within the timeout; it continues", self.title))
            }
            io::ErrorKind::UnexpectedEof => Failure(
                FAILED,
                format!("{} {} before it reported the outcome", self.title, find::left(self.pid)),
            ),
            _ => find::unreachable(&self.title, self.pid, &e),
        })
    }

    fn print(&self, outcome: impl Serialize, text: &str) -> Result<(), Failure> {
        match self.json {
            true => print_json(&Outcome { name: self.name.clone(), pid: self.pid, outcome }),
            false => print(&format!("{}: {text}\n", self.title)),
        }
    }

    fn reloaded(&self, verdict: &Verdict) -> Result<(), Failure> {
        let Some(failure) = &verdict.failure else {
            return self.print(verdict, &format!("generation {} serves", verdict.generation));
        };
        if self.json {
            self.print(verdict, "")?;
        }
        let (title, generation) = (&self.title, verdict.generation);
        let text = format!("{title}: the reload to generation {generation} was rolled back {failure}");
        crate::cli::complain(&Failure(ROLLED_BACK, text));
        if !self.json {
            super::quote(&failure.stderr).iter().for_each(|line| crate::cli::say_more(line));
        }
        Err(Failure(ROLLED_BACK, String::new()))
    }

    fn stopped(&self, killed: u32) -> Result<(), Failure> {
        let text = match killed {
            0 => "stopped".to_owned(),
            n => format!("stopped; {n} {} did not finish in time", plural(n as usize, "worker")),
        };
        self.print(Stopped { killed }, &text)
    }
}

fn plural(n: usize, word: &str) -> String {
    if n == 1 { word.into() } else { format!("{word}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_makes_a_count_relative() {
        for (text, count) in [("4", Count::To(4)), ("+2", Count::By(2)), ("-1", Count::By(-1))] {
            assert_eq!(parse_count(text), Ok(count));
        }
        for bad in ["", "0", "+", "-", "four", "1.5", "--1", "99999999999"] {
            assert!(parse_count(bad).is_err(), "{bad}");
        }
    }
}
