//! `prefork events`: prints one line per event until the server stops or the reader closes its end. An upgrade does not end it.

use super::find::Server;
use crate::cli::{FAILED, Failure, print};
use prefork::control::Request;
use prefork::control::protocol::{Event, Reply, Stamped, WorkerInfo};
use prefork::log::counted;
use serde::Serialize;

/// An event, as JSON.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(rename = "app")]
    server: &'a str,
    pid: i32,
    #[serde(flatten)]
    stamped: &'a Stamped,
}

/// Follows servers, each until it ends.
pub fn follow(servers: Vec<Server>, json: bool) -> Result<(), Failure> {
    let several = servers.len() > 1;
    let follow = |server| std::thread::spawn(move || follow_one(server, several, json));
    let threads: Vec<_> = servers.into_iter().map(follow).collect();
    // All are joined first: a failure of one must not end the others.
    let ends: Vec<_> = threads.into_iter().map(std::thread::JoinHandle::join).collect();
    ends.into_iter()
        .try_for_each(|end| end.unwrap_or_else(|_| Err(Failure(FAILED, "events: a thread panicked".into()))))
}

fn follow_one(mut server: Server, several: bool, json: bool) -> Result<(), Failure> {
    server.send(&Request::Events {})?;
    let prefix = if several { format!("{}  ", server.title) } else { String::new() };
    loop {
        let stamped = match server.next(None) {
            Ok(Reply::Event(stamped)) => stamped,
            Ok(other) => return Err(server.unexpected(&other)),
            Err(_) if server.has_ended() => {
                let text =
                    format!("{} has ended without a stop: it was killed, or could not start", server.title);
                return Err(Failure(FAILED, text));
            }
            Err(failure) => return Err(failure),
        };
        let text = match json {
            true => super::line(&Line { server: &server.name, pid: server.pid, stamped: &stamped })?,
            false => text(&prefix, &stamped),
        };
        if !print(text.as_bytes())? || matches!(stamped.event, Event::Stopped { .. }) {
            return Ok(());
        }
    }
}

/// Returns an event's line, and below it the last lines of a worker's standard error.
fn text(prefix: &str, stamped: &Stamped) -> String {
    let mut text = format!("{prefix}{}\n", line(stamped).replace(char::is_control, "?"));
    let stderr = match &stamped.event {
        Event::Exit { stderr, .. } => stderr,
        Event::Reload { failure: Some(failure), .. } => &failure.stderr,
        _ => return text,
    };
    for line in super::quote(stderr) {
        text.push_str(&format!("{prefix}{line}\n"));
    }
    text
}

fn line(stamped: &Stamped) -> String {
    let ms = stamped.time_ms % 86_400_000;
    let (h, m, s) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    // The state of a reload is part of its description.
    let word = stamped.event.name().split(' ').next().unwrap_or_default();
    format!("{h:02}:{m:02}:{s:02}.{:03}Z  {word:<10}  {}", ms % 1000, describe(stamped))
}

fn describe(stamped: &Stamped) -> String {
    let worker = stamped.event.worker().map(name).unwrap_or_default();
    match &stamped.event {
        Event::Setup { name, generation, workers, addresses, .. } => {
            let workers = counted(*workers as u64, "worker");
            format!("{name}: {workers} of generation {generation} on {}", addresses.join(" "))
        }
        Event::Listening { address, .. } => {
            let port = address.port.map_or_else(String::new, |p| format!(" port {p}"));
            format!("{worker} on {}{port}", address.host)
        }
        Event::Exit { exit, reason, connections, crash, .. } => {
            format!("{worker}: {reason}, {exit}{}{}", after(crash.as_deref()), after(connections.as_deref()))
        }
        Event::Gone { generation, connections, .. } => {
            format!("every worker of generation {generation} has ended{}", after(Some(connections)))
        }
        Event::Message { kind, size, .. } => {
            let before = match stamped.left_out {
                0 => String::new(),
                n => format!("; {n} before it not shown"),
            };
            format!("{worker}: type {kind}, {}{before}", counted(*size as u64, "byte"))
        }
        Event::Error { text, .. } => text.clone(),
        Event::Reload { generation, failure, connections, .. } => {
            let state = stamped.event.name().trim_start_matches("reload ");
            let why = failure.as_ref().map_or_else(String::new, |failure| format!(" {failure}"));
            format!("to generation {generation} {state}{why}{}", after(connections.as_deref()))
        }
        Event::Stopped { killed: 0, cut: 0, .. } => "every worker has ended".into(),
        Event::Stopped { killed: 0, cut, .. } => {
            format!("every worker has ended, and {} at their deadline", counted(*cut, "connection"))
        }
        Event::Stopped { killed, .. } => {
            format!("{killed} of the workers did not end in time and were killed")
        }
        Event::Other => "an event that this version of prefork does not know".into(),
        _ => worker,
    }
}

/// What is told of connections, behind the rest of a line; empty if there is nothing.
fn after(connections: Option<&impl ToString>) -> String {
    match connections.map(ToString::to_string) {
        Some(text) if !text.is_empty() => format!("; {text}"),
        _ => String::new(),
    }
}

fn name(w: &WorkerInfo) -> String {
    format!("worker {} (slot {}, generation {}, pid {})", w.id, w.slot, w.generation, w.pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line_with_its_time() {
        let worker = r#"{"id":3,"slot":0,"generation":2,"pid":99}"#;
        let stamped = format!(r#"{{"time_ms":90123004,"event":"ready","worker":{worker}}}"#);
        let stamped: Stamped = serde_json::from_str(&stamped).unwrap();
        assert_eq!(line(&stamped), "01:02:03.004Z  ready       worker 3 (slot 0, generation 2, pid 99)");
    }
}
