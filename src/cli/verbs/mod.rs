//! The commands for running servers. None starts a server; each prints its result as text or as JSON.

mod events;
mod find;
mod list;
mod steer;
mod table;

use super::Failure;
use clap::{Args, Subcommand};
use prefork::config::parse_duration;
use serde::Serialize;
use std::io::{self, Write};
use std::time::Duration;

/// A command for running servers.
#[derive(Subcommand)]
pub enum Verb {
    /// List the servers that run
    #[command(override_usage = "prefork ls [--json]")]
    Ls {
        #[command(flatten)]
        output: Output,
    },
    /// Show a server and its workers, or one worker
    #[command(override_usage = "prefork show [SERVER | WORKER | SERVER/WORKER] [OPTIONS]")]
    Show {
        /// A server by name or pid, a worker by id
        #[arg(value_name = "ID")]
        id: Option<String>,
        #[command(flatten)]
        server: Server,
        #[command(flatten)]
        output: Output,
    },
    /// Replace all workers by new ones, one after the other, and print the outcome
    ///
    /// One new worker starts first. When it is ready the others follow, and each old one finishes its connections. If a new
    /// worker cannot start, the old ones stay, the reason is printed, and the exit status is 4. A reload in progress is
    /// finished first.
    #[command(override_usage = "prefork reload [SERVER] [OPTIONS]")]
    Reload {
        /// A server by name or pid
        #[arg(value_name = "SERVER")]
        id: Option<String>,
        #[command(flatten)]
        server: Server,
        #[command(flatten)]
        wait: Wait,
        #[command(flatten)]
        output: Output,
    },
    /// Run more or fewer workers
    ///
    /// The workers in the highest slots leave first, and finish their connections.
    #[command(override_usage = "prefork scale N|+N|-N [OPTIONS]")]
    Scale {
        /// The number of workers, or with a sign the number to add or remove
        #[arg(value_name = "N|+N|-N", allow_negative_numbers = true, value_parser = steer::parse_count)]
        count: prefork::control::protocol::Count,
        #[command(flatten)]
        server: Server,
        #[command(flatten)]
        wait: Wait,
        #[command(flatten)]
        output: Output,
    },
    /// Stop a server, or replace one worker after it has finished
    ///
    /// Requests in progress are finished; workers that take longer than the server's drain-timeout are killed.
    #[command(override_usage = "prefork stop [SERVER | WORKER | SERVER/WORKER] [OPTIONS]")]
    Stop {
        /// A server by name or pid, a worker by id
        #[arg(value_name = "ID")]
        id: Option<String>,
        /// Stop a server at once, without waiting for requests in progress
        #[arg(long)]
        now: bool,
        #[command(flatten)]
        server: Server,
        #[command(flatten)]
        wait: Wait,
        #[command(flatten)]
        output: Output,
    },
    /// Print events as they happen
    #[command(override_usage = "prefork events [SERVER] [OPTIONS]")]
    Events {
        /// A server by name or pid
        #[arg(value_name = "SERVER")]
        id: Option<String>,
        #[command(flatten)]
        server: Server,
        #[command(flatten)]
        output: Output,
    },
}

/// The server of a command.
#[derive(Args)]
pub struct Server {
    /// The server, by name or pid; "all" for every one. Not needed if only one runs
    #[arg(short = 'n', long, value_name = "NAME")]
    name: Option<String>,
}

/// The form of the output.
#[derive(Args)]
pub struct Output {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The time to wait for the outcome.
#[derive(Args)]
pub struct Wait {
    /// The longest time to wait for the outcome; after it the exit status is 5, and the command continues [default: no
    /// limit]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// Do not wait for the outcome
    #[arg(long, conflicts_with = "timeout")]
    no_wait: bool,
}

/// Runs a command. `name` is from a `-n` in front of the verb.
pub fn run(verb: Verb, name: Option<String>) -> Result<(), Failure> {
    let server = |server: Server| server.name.or(name);
    match verb {
        Verb::Ls { output } => list::ls(output.json),
        Verb::Show { id, server: a, output } => list::show(server(a), id, output.json),
        Verb::Reload { id, server: a, wait, output } => steer::reload(server(a), id, &wait, output.json),
        Verb::Scale { count, server: a, wait, output } => steer::scale(server(a), count, &wait, output.json),
        Verb::Stop { id, now, server: a, wait, output } => {
            steer::stop(server(a), id, now, &wait, output.json)
        }
        Verb::Events { id, server: a, output } => events::follow(server(a), id, output.json),
    }
}

/// Writes to standard output. A reader that has closed its end is no failure.
fn print(text: &str) -> Result<(), Failure> {
    print_some(text).map(drop)
}

/// As [`print`]; returns true while there is a reader.
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

/// The last lines of a worker, indented.
fn quote(stderr: &[String]) -> Vec<String> {
    let harmless = |c: char| if c.is_control() && c != '\t' { '?' } else { c };
    stderr.iter().map(|line| format!("    {}", line.chars().map(harmless).collect::<String>())).collect()
}
