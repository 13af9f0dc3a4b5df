//! `prefork reload`, `scale` and `stop`: ask, wait, say how it ended.

use super::find::{self, App, Meant};
use super::list::no_such_worker;
use super::{Wait, print, print_json};
use crate::cli::{FAILED, Failure, ROLLED_BACK, TIMED_OUT};
use prefork::control::protocol::{Count, Outcome, Reply, Verdict};
use prefork::control::{Client, Request};
use serde::Serialize;
use std::io;
use std::time::{Duration, Instant};

/// How long a master may take to say that it does what it is told.
const PATIENCE: Duration = Duration::from_secs(5);

/// What came of it, as JSON.
#[derive(Serialize)]
struct Of<T> {
    name: String,
    pid: i32,
    #[serde(flatten)]
    what: T,
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
    exit: &'a prefork::control::protocol::Exit,
    killed: bool,
}

/// `4`, `+1` or `-1`.
pub fn parse_count(text: &str) -> Result<Count, String> {
    let bad = |_| "expected a number of workers, such as 4, +1 or -1".to_owned();
    match text.as_bytes().first() {
        Some(b'+' | b'-') => text.parse().map(Count::By).map_err(bad),
        _ => match text.parse().map_err(bad)? {
            0 => Err("expected at least 1; `prefork stop` ends all of them".into()),
            n => Ok(Count::To(n)),
        },
    }
}

/// Replaces all workers.
pub fn reload(name: Option<String>, id: Option<String>, wait: &Wait, json: bool) -> Result<(), Failure> {
    for_each(apps(name, id)?, |app| {
        command(app, &Request::Reload {}, wait, json, |talk, reply| match reply {
            Reply::Reload(verdict) => Some(talk.reloaded(verdict)),
            _ => None,
        })
    })
}

/// Runs more or fewer workers.
pub fn scale(name: Option<String>, count: Count, wait: &Wait, json: bool) -> Result<(), Failure> {
    for_each(apps(name, None)?, |app| {
        command(app, &Request::Scale(count), wait, json, |talk, reply| match reply {
            Reply::Scaled { workers } => {
                let text = format!("{workers} {}", plural(*workers, "worker"));
                Some(talk.say(Scaled { workers: *workers }, &text))
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
        Meant::Apps(apps) => for_each(apps, |app| {
            command(app, &Request::Stop { now }, wait, json, |talk, reply| match reply {
                Reply::Stopped { killed } => Some(talk.stopped(*killed)),
                _ => None,
            })
        }),
        Meant::Worker(mut app, worker) => {
            let status = app.status()?;
            if status.workers.iter().all(|w| w.worker.id != worker) {
                return Err(no_such_worker(&app.title(), worker, &status));
            }
            command(app, &Request::Drain { worker }, wait, json, |talk, reply| match reply {
                Reply::Drained { worker, exit, killed } => {
                    let how = if *killed { "had not finished in time and was killed" } else { "has ended" };
                    let what = Drained { worker: *worker, exit, killed: *killed };
                    Some(talk.say(what, &format!("worker {worker} {how} ({exit})")))
                }
                _ => None,
            })
        }
    }
}

fn apps(name: Option<String>, id: Option<String>) -> Result<Vec<App>, Failure> {
    match (name, id) {
        (Some(name), Some(id)) if name != id => {
            Err(Failure(crate::cli::USAGE, format!("-n {name} and {id}: which of them?")))
        }
        (name, id) => find::select(name.or(id).as_deref()),
    }
}

/// One after the other; what goes wrong with one does not keep the others from it. The last failure is the exit status.
fn for_each(apps: Vec<App>, act: impl Fn(App) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut last = None;
    for app in apps {
        if let Err(failure) = act(app)
            && let Some(before) = last.replace(failure)
        {
            crate::cli::complain(&before);
        }
    }
    last.map_or(Ok(()), Err)
}

/// A conversation with one master.
struct Talk {
    name: String,
    pid: i32,
    title: String,
    json: bool,
}

/// Says what is wanted, and waits for a reply that `ends` knows what to do with.
fn command(
    app: App,
    request: &Request,
    wait: &Wait,
    json: bool,
    ends: impl Fn(&Talk, &Reply) -> Option<Result<(), Failure>>,
) -> Result<(), Failure> {
    let talk = Talk { name: app.name.clone(), pid: app.pid, title: app.title(), json };
    let pid = app.pid;
    let (mut client, title) = app.client()?;
    let lost = |e: io::Error| find::unreachable(&title, pid, &e);
    client.send(request).map_err(lost)?;
    let queued = match client.next(Some(PATIENCE)).map_err(lost)? {
        Reply::Accepted { queued } => queued,
        other => return Err(find::unexpected(&title, &other)),
    };
    if wait.no_wait {
        let text = if queued { "accepted; it waits for what is under way" } else { "accepted" };
        return talk.say(Accepted { accepted: true, queued }, text);
    }
    let end = wait.timeout.map(|t| Instant::now() + t);
    let reply = talk.wait_for(&mut client, end)?;
    let done = ends(&talk, &reply).unwrap_or_else(|| Err(find::unexpected(&title, &reply)));
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
                Failure(TIMED_OUT, format!("{}: not done within the timeout; it goes on", self.title))
            }
            io::ErrorKind::UnexpectedEof => Failure(
                FAILED,
                format!("{} {}, and did not say what came of it", self.title, find::left(self.pid)),
            ),
            _ => find::unreachable(&self.title, self.pid, &e),
        })
    }

    fn say(&self, what: impl Serialize, text: &str) -> Result<(), Failure> {
        match self.json {
            true => print_json(&Of { name: self.name.clone(), pid: self.pid, what }),
            false => print(&format!("{}: {text}\n", self.title)),
        }
    }

    fn reloaded(&self, verdict: &Verdict) -> Result<(), Failure> {
        if self.json || verdict.outcome == Outcome::Committed {
            self.say(verdict, &format!("generation {} serves", verdict.generation))?;
        }
        match verdict.outcome {
            Outcome::Committed => Ok(()),
            Outcome::RolledBack => {
                crate::cli::complain(&Failure(ROLLED_BACK, self.why(verdict)));
                if !self.json {
                    super::quote(&verdict.stderr).iter().for_each(|line| crate::cli::say_more(line));
                }
                Err(Failure(ROLLED_BACK, String::new()))
            }
        }
    }

    fn why(&self, verdict: &Verdict) -> String {
        let reason = verdict.reason.as_deref().unwrap_or("no reason given");
        let why = super::why(verdict.stage, reason, verdict.exit.as_ref());
        let (title, generation) = (&self.title, verdict.generation);
        format!("{title}: the reload to generation {generation} was rolled back{why}")
    }

    fn stopped(&self, killed: u32) -> Result<(), Failure> {
        let text = match killed {
            0 => "stopped".to_owned(),
            n => format!("stopped; {n} {} had not finished in time", plural(n as usize, "worker")),
        };
        self.say(Stopped { killed }, &text)
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
