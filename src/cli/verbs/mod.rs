//! The verbs that speak to running masters. None of them starts anything; each says what it found, as a table or as JSON.

mod events;
mod find;
mod list;
mod steer;
mod table;

use super::Failure;
use clap::{Args, Subcommand};
use prefork::config::parse_duration;
use prefork::control::protocol::{Exit, Stage};
use serde::Serialize;
use std::io::{self, Write};
use std::time::Duration;

/// What to do with masters that run.
#[derive(Subcommand)]
pub enum Verb {
    /// List the servers that run
    #[command(override_usage = "prefork ls [--json]")]
    Ls {
        #[command(flatten)]
        output: Output,
    },
    /// Show a server and its workers, or one worker
    #[command(override_usage = "prefork show [APP | WORKER | APP/WORKER] [OPTIONS]")]
    Show {
        /// A server by name or pid, a worker by number
        #[arg(value_name = "ID")]
        id: Option<String>,
        #[command(flatten)]
        app: App,
        #[command(flatten)]
        output: Output,
    },
    /// Replace all workers by new ones, one after the other, and say how it ended
    ///
    /// A new worker starts first; when it is ready the others follow, and each old one finishes what it has. If a new one cannot
    /// start, the old ones stay, the reason is printed, and the exit status is 4. A reload that is under way is waited for.
    #[command(override_usage = "prefork reload [APP] [OPTIONS]")]
    Reload {
        /// A server by name or pid
        #[arg(value_name = "APP")]
        id: Option<String>,
        #[command(flatten)]
        app: App,
        #[command(flatten)]
        wait: Wait,
        #[command(flatten)]
        output: Output,
    },
    /// Run more or fewer workers
    ///
    /// Those in the highest slots go first, and finish what they have.
    #[command(override_usage = "prefork scale N|+N|-N [OPTIONS]")]
    Scale {
        /// So many workers; with a sign, so many more or fewer
        #[arg(value_name = "N|+N|-N", allow_negative_numbers = true, value_parser = steer::parse_count)]
        count: prefork::control::protocol::Count,
        #[command(flatten)]
        app: App,
        #[command(flatten)]
        wait: Wait,
        #[command(flatten)]
        output: Output,
    },
    /// Stop a server, or have one worker finish and be replaced
    ///
    /// What is in progress is finished; what is not within the server's drain-timeout is killed.
    #[command(override_usage = "prefork stop [APP | WORKER | APP/WORKER] [OPTIONS]")]
    Stop {
        /// A server by name or pid, a worker by number
        #[arg(value_name = "ID")]
        id: Option<String>,
        /// Stop a server at once, without waiting for what is in progress
        #[arg(long)]
        now: bool,
        #[command(flatten)]
        app: App,
        #[command(flatten)]
        wait: Wait,
        #[command(flatten)]
        output: Output,
    },
    /// Print what happens, as it happens
    #[command(override_usage = "prefork events [APP] [OPTIONS]")]
    Events {
        /// A server by name or pid
        #[arg(value_name = "APP")]
        id: Option<String>,
        #[command(flatten)]
        app: App,
        #[command(flatten)]
        output: Output,
    },
}

/// Which server.
#[derive(Args)]
pub struct App {
    /// Which server, by name or pid; "all" is every one. Not needed where only one runs
    #[arg(short = 'n', long, value_name = "NAME")]
    name: Option<String>,
}

/// How to say it.
#[derive(Args)]
pub struct Output {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How long to wait for the end.
#[derive(Args)]
pub struct Wait {
    /// How long to wait until it is done; then the exit status is 5, and it goes on [default: as long as it takes]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// Do not wait until it is done
    #[arg(long, conflicts_with = "timeout")]
    no_wait: bool,
}

/// Does it. `name` is a `-n` that stood before the verb.
pub fn run(verb: Verb, name: Option<String>) -> Result<(), Failure> {
    let app = |app: App| app.name.or(name);
    match verb {
        Verb::Ls { output } => list::ls(output.json),
        Verb::Show { id, app: a, output } => list::show(app(a), id, output.json),
        Verb::Reload { id, app: a, wait, output } => steer::reload(app(a), id, &wait, output.json),
        Verb::Scale { count, app: a, wait, output } => steer::scale(app(a), count, &wait, output.json),
        Verb::Stop { id, now, app: a, wait, output } => steer::stop(app(a), id, now, &wait, output.json),
        Verb::Events { id, app: a, output } => events::follow(app(a), id, output.json),
    }
}

/// Writes to standard output. A reader that had enough is no failure.
fn print(text: &str) -> Result<(), Failure> {
    print_some(text).map(drop)
}

/// As [`print`]; whether more is wanted.
fn print_some(text: &str) -> Result<bool, Failure> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Failure(super::FAILED, format!("stdout: {e}"))),
    }
}

fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    print(&json(value)?)
}

/// One line of JSON.
fn json(value: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string(value);
    text.map(|t| t + "\n").map_err(|e| Failure(super::FAILED, format!("JSON: {e}")))
}

/// How far a reload had come when it failed, and why, as it follows `rolled back`.
fn why(stage: Option<Stage>, reason: &str, exit: Option<&Exit>) -> String {
    let stage = match stage {
        Some(Stage::Preparing) => " while the handler was read",
        Some(Stage::Canary) => " at the first new worker",
        Some(Stage::Rolling) => " while workers were being replaced",
        None => "",
    };
    match exit.map(ToString::to_string) {
        // The reason may be what the worker said, and then does not tell how it ended.
        Some(exit) if !reason.contains(&exit) => format!("{stage}: {reason} ({exit})"),
        _ => format!("{stage}: {reason}"),
    }
}

/// What a worker said, as it stands under what is said of it.
fn quote(stderr: &[String]) -> Vec<String> {
    let harmless = |c: char| if c.is_control() && c != '\t' { '?' } else { c };
    stderr.iter().map(|line| format!("    {}", line.chars().map(harmless).collect::<String>())).collect()
}
