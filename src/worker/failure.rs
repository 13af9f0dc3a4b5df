//! What is told of user code that has failed: the line in the log about a callback, and the reason why a worker cannot serve.

use super::this_worker::Worker;
use crate::error::Misconfigured;
use crate::log::log;
use crate::scoreboard::Word;
use std::error::Error;
use std::fmt::Display;
use std::io;

/// The reason of a callback that panicked; the panic hook has printed more.
pub const PANICKED: &str = "panicked";

/// Logs that a callback has failed: in which worker, for whom, and why.
pub fn report(callback: &str, subject: &dyn Display, reason: &str) {
    log!(Error, "{callback}: {subject}: {reason}");
}

/// Logs that a callback has panicked that was for no client, if it returned `None`.
pub fn report_panic<T>(callback: &str, returned: Option<T>) {
    if returned.is_none() {
        log!(Error, "{callback}: {PANICKED}");
    }
}

/// Counts a callback that has failed and has no response that would be counted as failed.
pub fn count() {
    if let Some(worker) = Worker::current() {
        worker.info.page.add(Word::Errors, 1);
    }
}

/// The reason why a worker cannot serve.
#[derive(Debug, PartialEq, Eq)]
pub struct StartFailure {
    /// The reason with its causes.
    pub reason: String,
    /// Each attempt would fail ([`Misconfigured`]).
    pub is_misconfigured: bool,
}

impl From<String> for StartFailure {
    fn from(reason: String) -> Self {
        Self { reason, is_misconfigured: false }
    }
}

impl From<Box<dyn Error>> for StartFailure {
    fn from(error: Box<dyn Error>) -> Self {
        // `io::Error::other` of a box has the box in a box.
        let is_one =
            |cause: &(dyn Error + 'static)| cause.is::<Misconfigured>() || cause.is::<Box<Misconfigured>>();
        let is_misconfigured = chain(&*error).any(is_one);
        Self { reason: with_causes(&*error), is_misconfigured }
    }
}

/// An error and its causes.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| match error.downcast_ref::<io::Error>() {
        // Its `source` leaves out what it was made of, as it shows the same text.
        Some(error) => error.get_ref().map(|inner| inner as _),
        None => error.source(),
    })
}

/// The text of an error, followed by those of its causes that it does not end in already.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for cause in chain(error) {
        let reason = cause.to_string();
        if text.is_empty() {
            text = reason;
        } else if !text.ends_with(&reason) {
            text = text + ": " + &reason;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt;

    /// An error with a cause.
    #[derive(Debug)]
    struct Outer(Box<dyn Error + Send + Sync>);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("read the settings")
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&*self.0)
        }
    }

    #[test]
    fn a_wrong_configuration_is_found_among_the_causes() {
        let wrong = || Box::new(Misconfigured::new("no port"));
        let failure = |error: Box<dyn Error>| StartFailure::from(error);
        let at = |reason: &str| StartFailure { reason: reason.into(), is_misconfigured: true };
        assert_eq!(failure(wrong()), at("no port"));
        assert_eq!(failure(Box::new(Outer(wrong()))), at("read the settings: no port"));
        assert_eq!(failure(io::Error::other(wrong()).into()), at("no port"));
        assert_eq!(failure(io::Error::other(Outer(wrong())).into()), at("read the settings: no port"));
        let inner = Misconfigured::new(Outer("no such file".into()));
        assert_eq!(failure(inner.into()), at("read the settings: no such file"));
        let other = failure(Box::new(Outer(io::Error::other("no port").into())));
        assert_eq!(other, StartFailure { is_misconfigured: false, ..at("read the settings: no port") });
    }
}
