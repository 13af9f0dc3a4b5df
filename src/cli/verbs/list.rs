//! `prefork ls` and `prefork show`.

use super::find::{self, Server, Target};
use super::table::{self, CHANGING, Colour, Column, WRONG, bytes, time};
use super::{code, print, print_json};
use crate::cli::{Failure, NO_SUCH};
use prefork::{ServerState, Status, WorkerInfo, WorkerState, WorkerStatus};
use serde_json::{Value, json};
use std::io::Write;
use std::time::Duration;

const SERVERS: &[Column<Listed>] = &[
    ("NAME", false, |s| Some(s.name.clone())),
    ("PID", true, |s| Some(s.pid.to_string())),
    ("VERSION", false, |s| Some(s.status.as_ref()?.version.clone())),
    ("STATE", false, |s| Some(s.status.as_ref().map_or("no answer", |s| s.state.name()).into())),
    ("WORKERS", true, |s| s.status.as_ref().map(|s| format!("{}/{}", s.ready, s.total))),
    ("GEN", true, |s| Some(s.status.as_ref()?.generation.to_string())),
    ("UPTIME", true, |s| Some(time(s.status.as_ref()?.uptime))),
    ("REQUESTS", true, |s| Some(s.status.as_ref()?.totals.requests.to_string())),
    ("MEMORY", true, |s| s.status.as_ref()?.memory.map(bytes)),
    ("OLD", false, |s| leaving(s.status.as_ref()?)),
    ("ADDRESSES", false, |s| Some(s.status.as_ref()?.addresses.join(" "))),
];

const WORKERS: &[Column<WorkerStatus>] = &[
    ("ID", true, |w| Some(w.worker.id.to_string())),
    ("SLOT", true, |w| Some(w.worker.slot.to_string())),
    ("GEN", true, |w| Some(w.worker.generation.to_string())),
    ("PID", true, |w| Some(w.worker.pid.to_string())),
    ("STATE", false, |w| Some(w.state.to_string())),
    ("ENDS IN", true, |w| w.within.map(time)),
    ("AGE", true, |w| Some(time(w.age))),
    ("IN FLIGHT", true, |w| Some(w.in_flight.to_string())),
    ("IDLE", true, |w| Some(w.idle.to_string())),
    ("STREAMS", true, |w| Some(w.streams.to_string())),
    ("KEPT", true, |w| Some(w.kept_responses.to_string())),
    ("QUEUED", true, |w| Some(w.queued.to_string())),
    ("REQUESTS", true, |w| Some(w.requests.to_string())),
    ("ERRORS", true, |w| Some(w.errors.to_string())),
    ("IN", true, |w| Some(bytes(w.bytes_in))),
    ("OUT", true, |w| Some(bytes(w.bytes_out))),
    ("RSS", true, |w| w.rss.map(bytes)),
];

/// A server, with its status if it answers.
struct Listed {
    name: String,
    pid: i32,
    status: Option<Status>,
}

/// Lists servers.
pub fn ls(servers: Vec<Server>, json: bool) -> Result<(), Failure> {
    let list = |mut server: Server| {
        let status = server.status().ok();
        Listed { name: server.name, pid: server.pid, status }
    };
    let listed: Vec<Listed> = servers.into_iter().map(list).collect();
    if json {
        print_json(&listed.iter().map(summary).collect::<Vec<_>>())
    } else if listed.is_empty() {
        // No failure: a list may be empty, and standard error closed.
        let _ = writeln!(std::io::stderr(), "prefork: {}", find::nothing_runs());
        Ok(())
    } else {
        print(&table::render(SERVERS, &listed, server_colour))
    }
}

/// Returns a server as `ls --json` has it: its status without the workers, or its name and pid if it does not answer.
fn summary(listed: &Listed) -> Value {
    let mut summary = match &listed.status {
        Some(status) => json!(status),
        None => json!({ "name": listed.name, "pid": listed.pid }),
    };
    if let Some(fields) = summary.as_object_mut() {
        fields.remove("workers");
        fields.insert("answers".into(), listed.status.is_some().into());
    }
    summary
}

/// The workers that finish what they have, how many connections that is, and the longest time they have: `2, 5 in flight, 29s`.
fn leaving(s: &Status) -> Option<String> {
    let leaving = || s.workers.iter().filter(|w| w.state == WorkerState::Draining);
    let workers = leaving().count();
    let connections: u64 = leaving().map(|w| u64::from(w.in_flight)).sum();
    let within = leaving().map(|w| w.within).max_by_key(|within| within.unwrap_or(Duration::MAX))?;
    let within = within.map_or_else(|| "no limit".into(), time);
    Some(format!("{workers}, {connections} in flight, {within}"))
}

fn server_colour(server: &Listed) -> Colour {
    match &server.status {
        Some(status) => match status.state {
            ServerState::Serving => None,
            ServerState::Degraded if status.ready == 0 => WRONG,
            _ => CHANGING,
        },
        None => WRONG,
    }
}

fn worker_colour(worker: &WorkerStatus) -> Colour {
    match worker.state {
        WorkerState::Ready => None,
        WorkerState::Starting | WorkerState::Draining => CHANGING,
        _ => WRONG,
    }
}

/// Shows servers with their workers, or one worker.
pub fn show(target: Target, json: bool) -> Result<(), Failure> {
    match target {
        Target::Worker(mut server, id) => {
            let status = server.status()?;
            let worker = worker_of(&server, &status, id)?;
            match json {
                true => print_json(worker),
                false => {
                    let table = table::render(WORKERS, std::slice::from_ref(worker), worker_colour);
                    let crash = crash_before(worker).map_or_else(String::new, |crash| format!("\n{crash}"));
                    print(&(table + &crash))
                }
            }
        }
        Target::Servers(mut servers) => {
            let mut all: Vec<Status> = servers.iter_mut().map(Server::status).collect::<Result<_, _>>()?;
            for status in &mut all {
                status.module.iter_mut().for_each(code::measure_module);
                status.program.iter_mut().for_each(|program| code::measure_program(program, status.pid));
            }
            match (json, all.as_slice()) {
                (true, [one]) => print_json(one),
                (true, all) => print_json(&all),
                (false, all) => print(&all.iter().map(describe).collect::<Vec<_>>().join("\n")),
            }
        }
    }
}

fn describe(s: &Status) -> String {
    let lines = [
        ("name", s.name.clone()),
        ("pid", s.pid.to_string()),
        ("version", s.version.clone()),
        ("program", code::describe_with(s.program.as_ref(), "upgrade")),
        ("handler", s.handler.clone()),
        ("module", code::describe_with(s.module.as_ref(), "reload")),
        ("state", s.state.to_string()),
        ("listening on", s.addresses.join(" ")),
        ("workers", format!("{} of {} ready", s.ready, s.total)),
        ("generation", s.generation.to_string()),
        ("uptime", time(s.uptime)),
        ("connections", s.totals.taken.to_string()),
        ("requests", format!("{}, {} refused or failed", s.totals.requests, s.totals.errors)),
        ("bytes", format!("{} in, {} out", bytes(s.totals.bytes_in), bytes(s.totals.bytes_out))),
        ("memory", s.memory.map_or_else(|| "-".into(), bytes)),
    ];
    let line =
        |(title, value): (&str, String)| format!("{title:<13} {}\n", value.replace(char::is_control, "?"));
    let crashes = s.workers.iter().filter_map(crash_before).map(|crash| format!("\n{crash}"));
    let table = table::render(WORKERS, &s.workers, worker_colour);
    lines.map(line).concat() + "\n" + &table + &crashes.collect::<String>()
}

/// What the worker that had the slot before was doing when it died.
fn crash_before(worker: &WorkerStatus) -> Option<String> {
    let last = worker.last_exit.as_ref()?;
    let crash = last.crash.as_ref()?;
    let WorkerInfo { id, slot, .. } = last.worker;
    let mut lines =
        vec![format!("worker {id}, which slot {slot} had before, ended by {}: it was {crash}", last.exit)];
    lines.extend(crash.backtrace.iter().enumerate().map(|(i, frame)| format!("  #{i} {frame}")));
    Some(lines.iter().map(|line| line.replace(char::is_control, "?") + "\n").collect())
}

/// Returns a worker of a server; the failure for an unknown one lists the others.
pub fn worker_of<'a>(server: &Server, status: &'a Status, id: u32) -> Result<&'a WorkerStatus, Failure> {
    status.workers.iter().find(|w| w.worker.id == id).ok_or_else(|| {
        let ids: Vec<_> = status.workers.iter().map(|w| w.worker.id.to_string()).collect();
        Failure(NO_SUCH, format!("{}: no worker {id}; there are: {}", server.title, ids.join(", ")))
    })
}
