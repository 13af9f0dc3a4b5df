//! The commands for running servers. None starts a server; each prints its result as text or as JSON.

mod commands;
mod events;
mod find;
mod list;
mod table;

use super::{FAILED, Failure};
use clap::{Args, Subcommand};
use prefork::config::parse_duration;
use prefork::control::{Request, protocol::Count};
use serde::Serialize;
use std::time::Duration;

/// A command for running servers.
#[derive(Subcommand)]
pub enum Verb {
    /// List the servers that run
    Ls {
        #[command(flatten)]
        output: Output,
    },
    /// Show a server and its workers, or one worker
    Show {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        output: Output,
    },
    /// Replace all workers by new ones, one after the other, and print the outcome
    ///
    /// One new worker starts first. When it is ready the others follow, and each old one finishes its connections. If a new
    /// worker cannot start, the old ones stay, the reason is printed, and the exit status is 4. A reload in progress is
    /// finished first.
    Reload {
        #[command(flatten)]
        server: Server,
        #[command(flatten)]
        wait: Wait,
    },
    /// Replace the program by the file now at its path, then all workers, and print the outcome
    ///
    /// The new program is tried first, while the old one serves. If it can serve it takes over in the same process, with every
    /// connection, and replaces the workers as a reload does. If it cannot, nothing has changed, the reason is printed, and the
    /// exit status is 4. The signal USR2 does the same.
    Upgrade {
        #[command(flatten)]
        server: Server,
        #[command(flatten)]
        wait: Wait,
    },
    /// Run more or fewer workers
    ///
    /// The workers in the highest slots leave first, and finish their connections.
    Scale {
        /// The number of workers, or with a sign the number to add or remove
        #[arg(value_name = "N|+N|-N", allow_negative_numbers = true, value_parser = commands::parse_count)]
        count: Count,
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        wait: Wait,
    },
    /// Stop a server, or replace one worker after it has finished
    ///
    /// Requests in progress are finished; workers that take longer than the server's drain-timeout are killed.
    Stop {
        #[command(flatten)]
        target: Target,
        /// Stop a server at once, without waiting for requests in progress
        #[arg(long)]
        now: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Print events as they happen
    Events {
        #[command(flatten)]
        server: Server,
        #[command(flatten)]
        output: Output,
    },
}

/// The server of a command.
#[derive(Args)]
pub struct Server {
    /// A server by name or pid
    #[arg(value_name = "SERVER")]
    id: Option<String>,
    #[command(flatten)]
    name: Name,
}

/// The server or worker of a command.
#[derive(Args)]
pub struct Target {
    /// A server by name or pid, a worker by id, or a worker of a server
    #[arg(value_name = "SERVER|WORKER|SERVER/WORKER")]
    id: Option<String>,
    #[command(flatten)]
    name: Name,
}

/// The server of a command, as an option.
#[derive(Args)]
pub struct Name {
    /// The server, by name or pid; "all" for every one. Not needed if only one runs
    #[arg(short, long)]
    name: Option<String>,
}

/// The form of the output.
#[derive(Args)]
pub struct Output {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The time to wait for the outcome, and its form.
#[derive(Args)]
pub struct Wait {
    /// The longest time to wait for the outcome; after it the exit status is 5, and the command continues [default: no
    /// limit]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// Do not wait for the outcome
    #[arg(long, conflicts_with = "timeout")]
    no_wait: bool,
    #[command(flatten)]
    output: Output,
}

/// Runs a command. `before` is the name from a `-n` before the verb.
pub fn run(verb: Verb, before: Option<String>) -> Result<(), Failure> {
    let select =
        |name: Name, id: Option<String>| find::named(name.name.or(before.clone()).as_deref(), id.as_deref());
    let resolve =
        |target: Target| find::resolve(target.name.name.or(before.clone()).as_deref(), target.id.as_deref());
    match verb {
        Verb::Ls { output } => list::ls(output.json),
        Verb::Show { target, output } => list::show(resolve(target)?, output.json),
        Verb::Reload { server, wait } => {
            commands::execute(select(server.name, server.id)?, &Request::Reload {}, &wait)
        }
        Verb::Upgrade { server, wait } => {
            commands::execute(select(server.name, server.id)?, &Request::Upgrade {}, &wait)
        }
        Verb::Scale { count, name, wait } => {
            commands::execute(select(name, None)?, &Request::Scale(count), &wait)
        }
        Verb::Stop { target, now, wait } => match resolve(target)? {
            find::Target::Servers(servers) => commands::execute(servers, &Request::Stop { now }, &wait),
            find::Target::Worker(mut server, worker) => {
                let status = server.status()?;
                list::worker_of(&server, &status, worker)?;
                commands::execute(vec![server], &Request::Drain { worker }, &wait)
            }
        },
        Verb::Events { server, output } => events::follow(select(server.name, server.id)?, output.json),
    }
}

/// Writes to standard output.
fn print(text: &str) -> Result<(), Failure> {
    super::print(text.as_bytes()).map(drop)
}

fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    print(&json(value)?)
}

/// Returns one line of JSON.
fn json(value: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string(value);
    text.map(|t| t + "\n").map_err(|e| Failure(FAILED, format!("JSON: {e}")))
}

/// Returns the last lines of a worker's standard error, indented.
fn quote(stderr: &[String]) -> impl Iterator<Item = String> {
    let is_harmful = |c: char| c.is_control() && c != '\t';
    stderr.iter().map(move |line| format!("    {}", line.replace(is_harmful, "?")))
}
