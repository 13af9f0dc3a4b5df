//! The trial of another program: it is started as the master was, to see if it could take the master's place.
//!
//! An exit code proves nothing: every program has one. So the new program says on a pipe, whose number it finds in its environment,
//! that it can serve, with its process id; only a prefork in [`crate::Server::start`] does, when it has checked its settings and read
//! its handler. A wrapper that closes descriptors, or starts the program as a child, does not pass, since an exec of it would lose the
//! workers.

use super::state::FORMAT;
use crate::error::{Error, ErrorKind, Result};
use crate::log::log;
use crate::sys::process::{self, Exit, Fork, Process};
use crate::sys::time::Time;
use crate::sys::{signal, stderr};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

const VALUE: &str = "trial";
const FORMAT_VARIABLE: &str = "PREFORK_UPGRADE_FORMAT";
const WORD_VARIABLE: &str = "PREFORK_UPGRADE_WORD";
/// The longest that a trial may take.
const PATIENCE: Duration = Duration::from_secs(30);
const CAN_SERVE: &str = "can serve: ";
const REFUSES: &str = "refuses: ";
/// The most bytes of a program's word that are read; a pipe takes as many at once (pipe(7), PIPE_BUF).
const LONGEST: usize = 4000;

/// A program being tried; a child of this master.
pub struct Trial {
    process: Process,
    /// The end of its patience; never once it was killed.
    pub until: Time,
    /// What it says is read from here.
    word: OwnedFd,
}

impl Trial {
    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Starts a program, which `execute` executes.
    ///
    /// # Errors
    /// If there is no process or descriptor for it.
    pub fn start(execute: impl FnOnce() -> io::Error, now: Time) -> io::Result<Self> {
        let (word, end) = stderr::pipe()?;
        match process::fork()? {
            Fork::Child => {
                process::set_environment(super::VARIABLE, VALUE);
                process::set_environment(FORMAT_VARIABLE, FORMAT);
                process::set_environment(WORD_VARIABLE, &end.as_raw_fd().to_string());
                process::keep_over_exec(end.as_fd(), true);
                let e = execute();
                say(end, &format!("{REFUSES}execute it: {e}"));
                process::exit(1)
            }
            Fork::Parent(process) => Ok(Self { process, until: now + PATIENCE, word }),
        }
    }

    /// The descriptor that is readable once it has ended.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }

    /// Kills it; the poll reports its end.
    pub fn kill(&mut self) {
        let _ = self.process.kill(signal::SIGKILL);
        self.until = Time::NEVER;
    }

    /// Waits until it has ended, and reaps it.
    pub fn wait(&self) {
        let _ = self.process.wait();
    }

    /// Reaps it if it has ended; returns why it has failed, if it has.
    pub fn end(&self) -> Option<std::result::Result<(), String>> {
        let exit = match self.process.reap() {
            Ok(None) => return None,
            Ok(Some(exit)) => exit,
            Err(e) => return Some(Err(format!("wait for it: {e}"))),
        };
        let mut word = vec![0; LONGEST];
        let len = stderr::read(self.word.as_fd(), &mut word).unwrap_or(0);
        Some(self.judge(exit, &String::from_utf8_lossy(&word[..len])))
    }

    fn judge(&self, exit: Exit, word: &str) -> std::result::Result<(), String> {
        let word = word.trim_end();
        if let Some(why) = word.strip_prefix(REFUSES) {
            return Err(why.to_owned());
        }
        if self.until == Time::NEVER {
            return Err("it took too long".into());
        }
        if exit != Exit::Code(0) {
            return Err(format!("it ended by {exit}"));
        }
        match word.strip_prefix(CAN_SERVE) {
            Some(pid) if pid.parse() == Ok(self.process.pid()) => Ok(()),
            Some(_) => {
                Err("a child of it can serve, and not the process itself: a wrapper must end in an exec"
                    .into())
            }
            None => Err(format!(
                "it ended by {exit} without a word that it can serve: it is no prefork, or it ended before it came to run one"
            )),
        }
    }
}

/// True if this program was only started to see if it could take a master's place.
pub fn is_trial() -> bool {
    std::env::var_os(super::VARIABLE).is_some_and(|v| v == VALUE)
}

/// Ends this process, which is on trial, with its word to the master: that it can serve, or why not. Nothing that follows in the
/// program runs: it would be a clean-up of what the live server uses.
pub fn end_trial(checked: Result<()>) -> ! {
    let end = std::env::var(WORD_VARIABLE).ok().and_then(|v| v.parse().ok());
    let end = end.and_then(|number| process::adopt_descriptor(number).ok());
    let result = checked.and_then(|()| check_format());
    let word = match &result {
        Ok(()) => format!("{CAN_SERVE}{}", process::own_pid()),
        Err(e) => format!("{REFUSES}{e}"),
    };
    match end {
        Some(end) => say(end, &word),
        // A wrapper has closed it.
        None => log!(Warn, "upgrade: the descriptor to answer on is not open; the program {word}"),
    }
    process::exit(i32::from(result.is_err()))
}

/// Checks that the master hands over what this version can read.
fn check_format() -> Result<()> {
    match std::env::var(FORMAT_VARIABLE) {
        Ok(format) if format == FORMAT => Ok(()),
        other => Err(Error::new(
            ErrorKind::State,
            format!(
                "expected a master that hands over {FORMAT}, found {}: stop it and start this one",
                other.unwrap_or_default()
            ),
        )),
    }
}

fn say(end: OwnedFd, word: &str) {
    let mut line = word.replace('\n', " ");
    while line.len() >= LONGEST {
        line.pop();
    }
    line.push('\n');
    let _ = File::from(end).write_all(line.as_bytes());
}
