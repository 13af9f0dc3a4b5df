//! `prefork ls` and `prefork show`.

use super::find::{self, Server, Target};
use super::table::{self, CHANGING, Column, Row, WRONG, bytes, bytes_or_dash, time};
use super::{print, print_json};
use crate::cli::{Failure, NO_SUCH};
use prefork::{ServerState, Status, WorkerState, WorkerStatus};
use serde::Serialize;
use std::io::Write;

const SERVERS: [Column; 10] = [
    ("NAME", false),
    ("PID", true),
    ("VERSION", false),
    ("STATE", false),
    ("WORKERS", true),
    ("GEN", true),
    ("UPTIME", true),
    ("REQUESTS", true),
    ("MEMORY", true),
    ("ADDRESSES", false),
];

const WORKERS: [Column; 13] = [
    ("ID", true),
    ("SLOT", true),
    ("GEN", true),
    ("PID", true),
    ("STATE", false),
    ("AGE", true),
    ("IN FLIGHT", true),
    ("QUEUED", true),
    ("REQUESTS", true),
    ("ERRORS", true),
    ("IN", true),
    ("OUT", true),
    ("RSS", true),
];

/// A server in `ls --json`: its status without the workers, or only its name and pid if it does not answer.
#[derive(Serialize)]
struct Summary {
    name: String,
    pid: i32,
    answers: bool,
    #[serde(flatten)]
    status: Option<Overview>,
}

#[derive(Serialize)]
struct Overview {
    version: String,
    handler: String,
    state: ServerState,
    addresses: Vec<String>,
    ready: usize,
    total: usize,
    generation: u32,
    uptime_ms: u64,
    requests: u64,
    errors: u64,
    memory: Option<u64>,
}

/// Lists all servers.
pub fn ls(json: bool) -> Result<(), Failure> {
    let servers = find::all();
    let nothing = servers.is_empty();
    let summaries: Vec<_> = servers.into_iter().map(summary).collect();
    if json {
        return print_json(&summaries);
    }
    if nothing {
        // Not a failure: a list may be empty, and standard error closed.
        let _ = writeln!(std::io::stderr(), "prefork: {}", find::nothing_runs());
        return Ok(());
    }
    print(&table::render(&SERVERS, summaries.into_iter().map(server_row).collect()))
}

fn summary(mut server: Server) -> Summary {
    let status = if server.answers() { server.status().ok() } else { None };
    Summary {
        name: server.name,
        pid: server.pid,
        answers: status.is_some(),
        status: status.map(|s| Overview {
            version: s.version,
            handler: s.handler,
            state: s.state,
            addresses: s.addresses,
            ready: s.ready,
            total: s.total,
            generation: s.generation,
            uptime_ms: s.uptime.as_millis() as u64,
            requests: s.totals.requests,
            errors: s.totals.errors,
            memory: s.memory,
        }),
    }
}

fn server_row(s: Summary) -> Row {
    let Some(f) = s.status else {
        let dash = || "-".to_owned();
        let mut cells = vec![s.name, s.pid.to_string(), dash(), "no answer".into()];
        cells.resize_with(SERVERS.len(), dash);
        return Row { cells, colour: WRONG };
    };
    let colour = match f.state {
        ServerState::Serving => None,
        ServerState::Degraded if f.ready == 0 => WRONG,
        _ => CHANGING,
    };
    let cells = vec![
        s.name,
        s.pid.to_string(),
        f.version,
        f.state.to_string(),
        format!("{}/{}", f.ready, f.total),
        f.generation.to_string(),
        time(f.uptime_ms),
        f.requests.to_string(),
        bytes_or_dash(f.memory),
        f.addresses.join(" "),
    ];
    Row { cells, colour }
}

/// Shows servers with their workers, or one worker.
pub fn show(name: Option<String>, id: Option<String>, json: bool) -> Result<(), Failure> {
    match find::resolve(name.as_deref(), id.as_deref())? {
        Target::Servers(servers) => show_servers(servers, json),
        Target::Worker(server, id) => show_worker(server, id, json),
    }
}

fn show_servers(servers: Vec<Server>, json: bool) -> Result<(), Failure> {
    let several = servers.len() > 1;
    let mut all = Vec::new();
    for mut server in servers {
        all.push(server.status()?);
    }
    match (json, all.as_slice()) {
        (true, [one]) if !several => print_json(one),
        (true, all) => print_json(&all),
        (false, all) => print(&all.iter().map(describe).collect::<Vec<_>>().join("\n")),
    }
}

fn describe(s: &Status) -> String {
    let plain = |text: &str| text.replace(char::is_control, "?");
    let lines = [
        ("name", plain(&s.name)),
        ("pid", s.pid.to_string()),
        ("version", plain(&s.version)),
        ("handler", plain(&s.handler)),
        ("state", s.state.to_string()),
        ("listening on", plain(&s.addresses.join(" "))),
        ("workers", format!("{} of {} ready", s.ready, s.total)),
        ("generation", s.generation.to_string()),
        ("uptime", time(s.uptime.as_millis() as u64)),
        ("connections", s.totals.taken.to_string()),
        ("requests", format!("{}, {} refused or failed", s.totals.requests, s.totals.errors)),
        ("bytes", format!("{} in, {} out", bytes(s.totals.bytes_in), bytes(s.totals.bytes_out))),
        ("memory", bytes_or_dash(s.memory)),
    ];
    let head: String = lines.map(|(what, value)| format!("{what:<13} {value}\n")).concat();
    head + "\n" + &table::render(&WORKERS, s.workers.iter().map(worker_row).collect())
}

fn worker_row(w: &WorkerStatus) -> Row {
    let colour = match w.state {
        WorkerState::Ready => None,
        WorkerState::Starting | WorkerState::Draining => CHANGING,
        _ => WRONG,
    };
    let cells = vec![
        w.worker.id.to_string(),
        w.worker.slot.to_string(),
        w.worker.generation.to_string(),
        w.worker.pid.to_string(),
        w.state.to_string(),
        time(w.age.as_millis() as u64),
        w.in_flight.to_string(),
        w.queued.to_string(),
        w.requests.to_string(),
        w.errors.to_string(),
        bytes(w.bytes_in),
        bytes(w.bytes_out),
        bytes_or_dash(w.rss),
    ];
    Row { cells, colour }
}

fn show_worker(mut server: Server, id: u32, json: bool) -> Result<(), Failure> {
    let status = server.status()?;
    let Some(worker) = status.workers.iter().find(|w| w.worker.id == id) else {
        return Err(no_such_worker(&server.title(), id, &status));
    };
    if json { print_json(worker) } else { print(&table::render(&WORKERS, vec![worker_row(worker)])) }
}

/// The failure for an unknown worker; it lists the known ones.
pub fn no_such_worker(title: &str, id: u32, status: &Status) -> Failure {
    let ids: Vec<_> = status.workers.iter().map(|w| w.worker.id.to_string()).collect();
    Failure(NO_SUCH, format!("{title}: no worker {id}; there are: {}", ids.join(", ")))
}
