//! The commands for running servers. None starts a server; each prints its result as text or as JSON.

mod code;
mod commands;
mod events;
mod find;
mod list;
mod table;

use super::{FAILED, Failure};
use clap::{Args, Subcommand};
use prefork::config::parse_duration;
use prefork::control::Request;
use serde::Serialize;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::time::Duration;

/// A command for running servers.
#[derive(Subcommand)]
pub enum Verb {
    /// List the servers that run, or those with a name
    Ls {
        #[command(flatten)]
        server: Server,
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
    /// finished first. The outcome says how many connections went to other workers, and how many stay with old ones,
    /// which have the server's drain-timeout to finish them.
    Reload {
        #[command(flatten)]
        server: Server,
        /// Wait until the old workers have ended too, and print what has become of their connections. The exit status is
        /// that of the reload; --timeout is for both
        #[arg(long = "wait", conflicts_with = "no_wait")]
        old: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Replace the program by the file now at its path, then all workers
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
        /// The number of workers, or with a sign the number to add or remove; before or behind it a server by name or pid
        #[arg(value_names = ["N|+N|-N", "SERVER"], num_args = 1..=2, required = true, allow_negative_numbers = true)]
        words: Vec<String>,
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        wait: Wait,
    },
    /// Stop a server, or replace one worker after it has finished
    ///
    /// Requests in progress are finished; workers that take longer than the server's drain-timeout close what they still
    /// have, and the exit status is 6, or 5 if some had to be killed.
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

impl Verb {
    fn prints_json(&self) -> bool {
        match self {
            Self::Ls { output, .. } | Self::Show { output, .. } | Self::Events { output, .. } => output.json,
            Self::Reload { wait, .. }
            | Self::Upgrade { wait, .. }
            | Self::Scale { wait, .. }
            | Self::Stop { wait, .. } => wait.output.json,
        }
    }
}

/// True if a command line that cannot be read asks a verb for JSON.
pub fn asks_for_json(mut words: impl Iterator<Item = OsString>) -> bool {
    let verbs = Verb::augment_subcommands(clap::Command::new(""));
    words.any(|word| word.to_str().is_some_and(|word| verbs.find_subcommand(word).is_some()))
        && words.any(|word| word == "--json")
}

/// Prints a failure as JSON, unless it has been printed.
pub fn print_error(failure: &Failure) {
    if !failure.1.is_empty() {
        // If standard output is closed, standard error has it.
        let _ = print_json(&json!({ "error": error(failure) }));
    }
}

fn error(Failure(code, text): &Failure) -> Value {
    json!({ "code": code, "text": text })
}

/// Runs a command. `before` is the name from a `-n` before the verb. A failure is printed as JSON if the output is to be that.
pub fn run(verb: Verb, before: Option<String>) -> Result<(), Failure> {
    let prints_json = verb.prints_json();
    execute(verb, before).inspect_err(|failure| {
        if prints_json {
            print_error(failure);
        }
    })
}

fn execute(verb: Verb, before: Option<String>) -> Result<(), Failure> {
    let select =
        |name: Name, id: Option<String>| find::named(name.name.or(before.clone()).as_deref(), id.as_deref());
    let resolve =
        |target: Target| find::resolve(target.name.name.or(before.clone()).as_deref(), target.id.as_deref());
    match verb {
        Verb::Ls { server, output } => {
            let name = server.name.name.or(before.clone());
            list::ls(find::listed(name.as_deref(), server.id.as_deref())?, output.json)
        }
        Verb::Show { target, output } => list::show(resolve(target)?, output.json),
        Verb::Reload { server, old, wait } => {
            commands::execute(select(server.name, server.id)?, &Request::Reload { wait: old }, &wait)
        }
        Verb::Upgrade { server, wait } => {
            commands::execute(select(server.name, server.id)?, &Request::Upgrade {}, &wait)
        }
        Verb::Scale { words, name, wait } => {
            let (count, server) = commands::count_and_server(&words)?;
            commands::execute(select(name, server)?, &Request::Scale(count), &wait)
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
    print(&line(value)?)
}

/// Returns one line of JSON.
fn line(value: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string(value);
    text.map(|t| t + "\n").map_err(|e| Failure(FAILED, format!("JSON: {e}")))
}

/// Returns the last lines of a worker's standard error, indented.
fn quote(stderr: &[String]) -> impl Iterator<Item = String> {
    let is_harmful = |c: char| c.is_control() && c != '\t';
    stderr.iter().map(move |line| format!("    {}", line.replace(is_harmful, "?")))
}
