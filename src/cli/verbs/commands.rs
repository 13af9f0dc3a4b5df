//! `prefork reload`, `upgrade`, `scale` and `stop`: send the command, wait, print the outcome.

use super::find::Server;
use super::{Wait, code, print, print_json};
use crate::cli::{Failure, ROLLED_BACK, TIMED_OUT, USAGE, complain, stopped};
use prefork::control::Request;
use prefork::control::protocol::{Count, Departed, ReloadStage, Reply, Verdict};
use prefork::log::counted;
use serde_json::{Value, json};
use std::io::Write;
use std::time::{Duration, Instant};

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
    let waits_for_old = *request == Request::Reload { wait: true };
    // One that waits for old workers has asked before: nothing else is answered meanwhile.
    let is_program =
        if waits_for_old && !wait.no_wait { Some(server.status()?.module.is_none()) } else { None };
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
    let until = wait.timeout.map(|timeout| Instant::now() + timeout);
    let reply = server.next(wait.timeout).map_err(|failure| match failure {
        Failure(TIMED_OUT, _) => {
            Failure(TIMED_OUT, format!("{}: not done within the timeout; it continues", server.title))
        }
        other => other,
    })?;
    match reply {
        Reply::Reload(verdict) => {
            let is_program = match is_program {
                Some(is_program) => is_program,
                None => verdict.code.is_some() && server.status().is_ok_and(|status| status.module.is_none()),
            };
            let upgraded = *request == Request::Upgrade {};
            reloaded(&mut server, wait, verdict, &About { upgraded, is_program, waits_for_old, until })
        }
        Reply::Scaled { workers } => {
            report(&server, wait, json!({ "workers": workers }), &counted(workers as u64, "worker"))
        }
        Reply::Drained { worker, exit, killed } => {
            let how = if killed { "did not finish in time and was killed" } else { "has ended" };
            let text = format!("worker {worker} {how} ({exit})");
            report(&server, wait, json!({ "worker": worker, "exit": exit, "killed": killed }), &text)
        }
        Reply::Stopped { killed, cut } => {
            let mut text = "stopped".to_owned();
            if cut > 0 {
                text += &format!("; {} cut at the drain-timeout", counted(cut, "connection"));
            }
            if killed > 0 {
                text += &format!("; {} did not end in time", counted(killed.into(), "worker"));
            }
            let done = report(&server, wait, json!({ "killed": killed, "cut": cut }), &text);
            server.wait_gone();
            done.and(stopped(killed, cut))
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

/// What a verdict is printed with.
struct About {
    upgraded: bool,
    /// True if the server has no module: what the code was read from is the program.
    is_program: bool,
    /// True if the end of old workers is waited for, and until when.
    waits_for_old: bool,
    until: Option<Instant>,
}

/// Waits for the end of old workers, and returns what has become of their connections.
fn wait_for_old(server: &mut Server, until: Option<Instant>) -> Result<Departed, Failure> {
    let left = until.map(|until| until.saturating_duration_since(Instant::now()));
    match server.next(left) {
        Ok(Reply::Gone { connections }) => Ok(connections),
        Ok(other) => Err(server.unexpected(&other)),
        Err(Failure(TIMED_OUT, _)) => {
            let text =
                format!("{}: old workers have not ended within the timeout; they continue", server.title);
            Err(Failure(TIMED_OUT, text))
        }
        Err(other) => Err(other),
    }
}

/// Prints the verdict of a reload, and if that is wanted the end of the old workers.
fn reloaded(server: &mut Server, wait: &Wait, mut verdict: Verdict, about: &About) -> Result<(), Failure> {
    match &mut verdict.code {
        Some(code) if about.is_program => code::measure_program(code, server.pid),
        Some(code) => code::measure_module(code),
        None => {}
    }
    let connections = match verdict.connections.as_ref().map(ToString::to_string) {
        Some(text) if !text.is_empty() => format!("; {text}"),
        _ => String::new(),
    };
    let rolled_back = rolled_back(&server.title, &verdict, about.upgraded, &connections);
    if wait.output.json {
        let mut outcome = json!(verdict);
        let departed = about.waits_for_old.then(|| wait_for_old(server, about.until)).transpose();
        if let Ok(Some(departed)) = &departed {
            outcome["departed"] = json!(departed);
        }
        let failure = rolled_back.or(departed.err());
        if let Some(failure) = &failure {
            outcome["error"] = super::error(failure);
        }
        report(server, wait, outcome, "")?;
        return failure.map_or(Ok(()), |failure| {
            complain(&failure);
            Err(Failure(failure.0, String::new()))
        });
    }
    match &rolled_back {
        None => {
            let text = serves(&verdict, about) + &connections;
            print(&format!("{}: {text}\n", server.title))?;
        }
        Some(failure) => {
            complain(failure);
            let stderr = verdict.failure.as_ref().map_or(&[][..], |failure| &failure.stderr);
            for line in super::quote(stderr) {
                let _ = writeln!(std::io::stderr(), "{line}");
            }
        }
    }
    if about.waits_for_old {
        match wait_for_old(server, about.until) {
            Ok(departed) => {
                let separator = if departed == Departed::default() { "" } else { ": " };
                print(&format!("{}: the old workers have ended{separator}{departed}\n", server.title))?;
            }
            Err(failure) if rolled_back.is_none() => return Err(failure),
            Err(failure) => complain(&failure),
        }
    }
    rolled_back.map_or(Ok(()), |failure| Err(Failure(failure.0, String::new())))
}

/// `generation 2 serves, from /srv/shop.so (...)`
fn serves(verdict: &Verdict, about: &About) -> String {
    let program = if about.upgraded { "the new program has taken over; " } else { "" };
    let code = match &verdict.code {
        Some(code) if about.is_program && code.changed => {
            format!(", but {} has changed since it was started; `prefork upgrade` takes it", code.path)
        }
        Some(code) if about.upgraded || !about.is_program => format!(", from {}", code::describe(code)),
        _ => String::new(),
    };
    format!("{program}generation {} serves{code}", verdict.generation)
}

/// The failure of a reload or upgrade; `None` if it was committed.
fn rolled_back(title: &str, verdict: &Verdict, upgraded: bool, connections: &str) -> Option<Failure> {
    let (failure, generation) = (verdict.failure.as_ref()?, verdict.generation);
    let text = match (upgraded, failure.stage) {
        (true, ReloadStage::Trial) => format!("nothing has changed: the upgrade failed {failure}"),
        (true, _) => format!(
            "the new program has taken over, but its reload to generation {generation} was rolled back {failure}"
        ),
        (false, _) => format!("the reload to generation {generation} was rolled back {failure}"),
    };
    Some(Failure(ROLLED_BACK, format!("{title}: {text}{connections}")))
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
