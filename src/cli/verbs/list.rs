//! `prefork ls` and `prefork show`.

use super::find::{self, App, Meant};
use super::table::{self, CHANGING, Column, Row, WRONG, bytes, bytes_or_dash, time};
use super::{print, print_json};
use crate::cli::{Failure, NO_SUCH};
use prefork::control::protocol::{MasterState, Status, Worker, WorkerState};
use serde::Serialize;
use std::io::Write;

const APPS: [Column; 10] = [
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

/// A server as `ls --json` has it: its status without its workers; of one that does not answer, what its socket is called.
#[derive(Serialize)]
struct Summary {
    name: String,
    pid: i32,
    answers: bool,
    #[serde(flatten)]
    status: Option<Figures>,
}

#[derive(Serialize)]
struct Figures {
    version: String,
    handler: String,
    state: MasterState,
    addresses: Vec<String>,
    ready: usize,
    total: usize,
    generation: u32,
    uptime_ms: u64,
    requests: u64,
    errors: u64,
    memory: Option<u64>,
}

/// All servers.
pub fn ls(json: bool) -> Result<(), Failure> {
    let apps = find::all();
    let nothing = apps.is_empty();
    let summaries: Vec<_> = apps.into_iter().map(summary).collect();
    if json {
        return print_json(&summaries);
    }
    if nothing {
        // Not an error: a list may be empty. With stderr closed nobody wants to know.
        let _ = writeln!(std::io::stderr(), "prefork: {}", find::nothing_runs());
        return Ok(());
    }
    print(&table::render(&APPS, summaries.into_iter().map(app_row).collect()))
}

fn summary(mut app: App) -> Summary {
    let status = if app.answers() { app.status().ok() } else { None };
    Summary {
        name: app.name,
        pid: app.pid,
        answers: status.is_some(),
        status: status.map(|s| Figures {
            version: s.version,
            handler: s.handler,
            state: s.state,
            addresses: s.addresses,
            ready: s.ready,
            total: s.total,
            generation: s.generation,
            uptime_ms: s.uptime_ms,
            requests: s.requests,
            errors: s.errors,
            memory: s.memory,
        }),
    }
}

fn app_row(s: Summary) -> Row {
    let Some(f) = s.status else {
        let dash = || "-".to_owned();
        let mut cells = vec![s.name, s.pid.to_string(), dash(), "no answer".into()];
        cells.resize_with(APPS.len(), dash);
        return Row { cells, colour: WRONG };
    };
    let colour = match f.state {
        MasterState::Serving => None,
        MasterState::Degraded if f.ready == 0 => WRONG,
        _ => CHANGING,
    };
    let cells = vec![
        s.name,
        s.pid.to_string(),
        f.version,
        word(&f.state),
        format!("{}/{}", f.ready, f.total),
        f.generation.to_string(),
        time(f.uptime_ms),
        f.requests.to_string(),
        bytes_or_dash(f.memory),
        f.addresses.join(" "),
    ];
    Row { cells, colour }
}

/// The word that JSON has for it.
fn word(value: &impl Serialize) -> String {
    let text = serde_json::to_value(value).ok();
    text.and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

/// Servers with their workers, or one worker.
pub fn show(name: Option<String>, id: Option<String>, json: bool) -> Result<(), Failure> {
    match find::resolve(name.as_deref(), id.as_deref())? {
        Meant::Apps(apps) => show_apps(apps, json),
        Meant::Worker(app, id) => show_worker(app, id, json),
    }
}

fn show_apps(apps: Vec<App>, json: bool) -> Result<(), Failure> {
    let several = apps.len() > 1;
    let mut all = Vec::new();
    for mut app in apps {
        all.push(app.status()?);
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
        ("state", word(&s.state)),
        ("listening on", plain(&s.addresses.join(" "))),
        ("workers", format!("{} of {} ready", s.ready, s.total)),
        ("generation", s.generation.to_string()),
        ("uptime", time(s.uptime_ms)),
        ("connections", s.taken.to_string()),
        ("requests", format!("{}, {} refused or failed", s.requests, s.errors)),
        ("bytes", format!("{} in, {} out", bytes(s.bytes_in), bytes(s.bytes_out))),
        ("memory", bytes_or_dash(s.memory)),
    ];
    let head: String = lines.map(|(what, value)| format!("{what:<13} {value}\n")).concat();
    head + "\n" + &table::render(&WORKERS, s.workers.iter().map(worker_row).collect())
}

fn worker_row(w: &Worker) -> Row {
    let colour = match w.state {
        WorkerState::Ready => None,
        WorkerState::Starting | WorkerState::Draining => CHANGING,
        WorkerState::Stuck | WorkerState::Killed => WRONG,
    };
    let cells = vec![
        w.worker.id.to_string(),
        w.worker.slot.to_string(),
        w.worker.generation.to_string(),
        w.worker.pid.to_string(),
        word(&w.state),
        time(w.age_ms),
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

fn show_worker(mut app: App, id: u32, json: bool) -> Result<(), Failure> {
    let status = app.status()?;
    let Some(worker) = status.workers.iter().find(|w| w.worker.id == id) else {
        return Err(no_such_worker(&app.title(), id, &status));
    };
    if json { print_json(worker) } else { print(&table::render(&WORKERS, vec![worker_row(worker)])) }
}

/// Says which workers there are.
pub fn no_such_worker(title: &str, id: u32, status: &Status) -> Failure {
    let ids: Vec<_> = status.workers.iter().map(|w| w.worker.id.to_string()).collect();
    Failure(NO_SUCH, format!("{title}: no worker {id}; there are: {}", ids.join(", ")))
}
