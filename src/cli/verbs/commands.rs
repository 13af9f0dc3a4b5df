//! `prefork reload`, `upgrade`, `scale` and `stop`: send the command, wait, print the outcome.

use super::find::Server;
use super::{Wait, code, print, print_json};
use crate::cli::{Failure, ROLLED_BACK, TIMED_OUT, USAGE, complain};
use prefork::control::Request;
use prefork::control::protocol::{Count, ReloadStage, Reply, Verdict};
use prefork::log::counted;
use serde_json::{Value, json};
use std::io::Write;
use std::time::Duration;

/// The longest time for a master to accept a command.
const PATIENCE: Duration = Duration::from_secs(5);

/// `4`, `+1` or `-1`.
fn parse_count(text: &str) -> Result<Count, String> {
    let bad = |_| "expected a number of workers, such as 4, +1 or -1".to_owned();
    match text.as_bytes().first() {
        Some(b'+' | b'-') => text.parse().map(Count::By).map_err(bad),
        _ => match text.parse().map_err(bad)? {
            0 => Err("expected at least 1; `prefork stop` stops the server".into()),
            n => Ok(Count::To(n)),
        },
    }
}

/// Splits the words of `scale` into the number of workers and the server. The number is the one with a sign, if both could be.
pub fn count_and_server(words: &[String]) -> Result<(Count, Option<String>), Failure> {
    let is_number = |word: &str| {
        let digits = word.trim_start_matches(['+', '-']);
        !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit())
    };
    let has_sign = |word: &str| word.starts_with(['+', '-']);
    let (count, server) = match words {
        [a, b] => match (is_number(a), is_number(b), has_sign(a), has_sign(b)) {
            (true, false, ..) | (true, true, true, false) => (a, Some(b)),
            (false, true, ..) | (true, true, false, true) => (b, Some(a)),
            (true, true, ..) => {
                let text = format!("{a} {b}: which is the number of workers? give the server with -n");
                return Err(Failure(USAGE, text));
            }
            (false, false, ..) => (a, None),
        },
        [a, ..] => (a, None),
        [] => return Err(Failure(USAGE, "expected a number of workers".into())),
    };
    let count_of = |text| parse_count(text).map_err(|expected| Failure(USAGE, format!("{text}: {expected}")));
    Ok((count_of(count)?, server.cloned()))
}

/// Gives a command to one server after the other, even if one fails. The last failure is the exit status.
pub fn execute(servers: Vec<Server>, request: &Request, wait: &Wait) -> Result<(), Failure> {
    let failures = servers.into_iter().filter_map(|server| {
        let (name, pid) = (server.name.clone(), server.pid);
        let failure = command(server, request, wait).err()?;
        if wait.output.json && !failure.1.is_empty() {
            let printed = print_json(&json!({ "name": name, "pid": pid, "error": super::error(&failure) }));
            complain(&failure);
            return Some(Failure(printed.map_or_else(|failure| failure.0, |()| failure.0), String::new()));
        }
        Some(failure)
    });
    let last = failures.reduce(|before, failure| {
        complain(&before);
        failure
    });
    last.map_or(Ok(()), Err)
}

/// Gives a command to a server and prints the outcome.
fn command(mut server: Server, request: &Request, wait: &Wait) -> Result<(), Failure> {
    server.send(request)?;
    let queued = match server.next(Some(PATIENCE))? {
        Reply::Accepted { queued } => queued,
        other => return Err(server.unexpected(&other)),
    };
    if wait.no_wait {
        let when = if queued { "; it begins after the start or reload in progress" } else { "" };
        return report(
            &server,
            wait,
            json!({ "accepted": true, "queued": queued }),
            &format!("accepted{when}"),
        );
    }
    let reply = server.next(wait.timeout).map_err(|failure| match failure {
        Failure(TIMED_OUT, _) => {
            Failure(TIMED_OUT, format!("{}: not done within the timeout; it continues", server.title))
        }
        other => other,
    })?;
    match reply {
        Reply::Reload(verdict) => reloaded(&mut server, wait, *request == Request::Upgrade {}, verdict),
        Reply::Scaled { workers } => {
            report(&server, wait, json!({ "workers": workers }), &counted(workers as u64, "worker"))
        }
        Reply::Drained { worker, exit, killed } => {
            let how = if killed { "did not finish in time and was killed" } else { "has ended" };
            let text = format!("worker {worker} {how} ({exit})");
            report(&server, wait, json!({ "worker": worker, "exit": exit, "killed": killed }), &text)
        }
        Reply::Stopped { killed } => {
            let late = match killed {
                0 => String::new(),
                n => format!("; {} did not finish in time", counted(n.into(), "worker")),
            };
            let done = report(&server, wait, json!({ "killed": killed }), &format!("stopped{late}"));
            server.wait_gone();
            done
        }
        other => Err(server.unexpected(&other)),
    }
}

/// Prints an outcome: as JSON, `outcome` with the server's name and pid.
fn report(server: &Server, wait: &Wait, mut outcome: Value, text: &str) -> Result<(), Failure> {
    if !wait.output.json {
        return print(&format!("{}: {text}\n", server.title));
    }
    outcome["name"] = json!(server.name);
    outcome["pid"] = json!(server.pid);
    print_json(&outcome)
}

fn reloaded(server: &mut Server, wait: &Wait, upgraded: bool, mut verdict: Verdict) -> Result<(), Failure> {
    // What the code was read from is a module, unless the server has none.
    let is_program = verdict.code.is_some() && server.status().is_ok_and(|status| status.module.is_none());
    match &mut verdict.code {
        Some(code) if is_program => code::measure_program(code, server.pid),
        Some(code) => code::measure_module(code),
        None => {}
    }
    let (title, generation) = (&server.title, verdict.generation);
    let Some(failure) = &verdict.failure else {
        let program = if upgraded { "the new program has taken over; " } else { "" };
        let code = match &verdict.code {
            Some(code) if is_program && code.changed => {
                format!(", but {} has changed since it was started; `prefork upgrade` takes it", code.path)
            }
            Some(code) if upgraded || !is_program => format!(", from {}", code::describe(code)),
            _ => String::new(),
        };
        return report(
            server,
            wait,
            json!(verdict),
            &format!("{program}generation {generation} serves{code}"),
        );
    };
    let text = match (upgraded, failure.stage) {
        (true, ReloadStage::Trial) => format!("{title}: nothing has changed: the upgrade failed {failure}"),
        (true, _) => format!(
            "{title}: the new program has taken over, but its reload to generation {generation} was rolled back {failure}"
        ),
        (false, _) => format!("{title}: the reload to generation {generation} was rolled back {failure}"),
    };
    let rolled_back = Failure(ROLLED_BACK, text);
    if wait.output.json {
        let mut outcome = json!(verdict);
        outcome["error"] = super::error(&rolled_back);
        report(server, wait, outcome, "")?;
    }
    complain(&rolled_back);
    if !wait.output.json {
        for line in super::quote(&failure.stderr) {
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }
    Err(Failure(ROLLED_BACK, String::new()))
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
