//! What becomes of the connections of workers that leave.

use crate::log::counted;
#[cfg(feature = "control")]
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// What a reload has done with the connections of the workers that it replaced, when these have handed back what they could.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "control", derive(Serialize, Deserialize))]
#[non_exhaustive]
pub struct Connections {
    /// Idle connections that went to other workers.
    pub moved: u64,
    /// Streams, upgraded connections and kept responses that went to other workers with their state.
    pub handed_over: u64,
    /// Those that stay with workers of other generations than the one that serves.
    pub staying: Staying,
}

/// Connections that stay with workers that leave, until they end or the time of their workers is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "control", derive(Serialize, Deserialize))]
#[non_exhaustive]
pub struct Staying {
    /// The workers that have them.
    pub workers: u32,
    /// Requests in progress; in blocking style, connections.
    pub requests: u64,
    /// Responses that their handlers keep ([`crate::Response::later`]).
    pub kept_responses: u64,
    /// Streams and upgraded connections.
    pub streams: u64,
    /// The time until the last of these workers has to end; `None` if there is no limit ([`crate::Config::drain_timeout`] of 0), or no
    /// such worker.
    #[cfg_attr(
        feature = "control",
        serde(default, rename = "within_ms", with = "super::json::maybe_millis")
    )]
    pub within: Option<Duration>,
}

/// What has become of the connections that a worker had when it was told to finish, or all workers of a generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "control", derive(Serialize, Deserialize))]
#[non_exhaustive]
pub struct Departed {
    /// Idle connections that went to other workers.
    pub moved: u64,
    /// Streams, upgraded connections and kept responses that went to other workers with their state.
    pub handed_over: u64,
    /// Those that ended by themselves.
    pub ended: u64,
    /// Those that were closed because the time to finish was over ([`crate::Config::drain_timeout`]), or too many generations drained.
    pub cut: u64,
    /// Those that were lost with a worker that died before that.
    pub lost: u64,
}

impl Staying {
    /// The number of connections.
    pub fn total(&self) -> u64 {
        self.requests + self.kept_responses + self.streams
    }

    /// Adds those of one worker, which has to end in this time.
    pub(crate) fn add(&mut self, requests: u64, kept_responses: u64, streams: u64, within: Option<Duration>) {
        if requests + kept_responses + streams == 0 {
            return;
        }
        // A worker without a limit may be the last one.
        self.within = match (self.workers, self.within, within) {
            (0, _, within) => within,
            (_, Some(a), Some(b)) => Some(a.max(b)),
            _ => None,
        };
        self.workers += 1;
        self.requests += requests;
        self.kept_responses += kept_responses;
        self.streams += streams;
    }
}

impl Departed {
    /// Adds another's.
    pub(crate) fn add(&mut self, other: Self) {
        // A worker may have written nonsense to its page.
        let sum = |a: &mut u64, b| *a = a.saturating_add(b);
        sum(&mut self.moved, other.moved);
        sum(&mut self.handed_over, other.handed_over);
        sum(&mut self.ended, other.ended);
        sum(&mut self.cut, other.cut);
        sum(&mut self.lost, other.lost);
    }
}

/// `64 connections moved; 3 stay with 2 old workers, for up to 30 s: 1 request, 2 streams`; empty if there were none.
impl fmt::Display for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [(self.moved, "moved"), (self.handed_over, "handed over")];
        let gone = list(&parts);
        let separator = if gone.is_empty() || self.staying.total() == 0 { "" } else { "; " };
        write!(f, "{gone}{separator}{}", self.staying)
    }
}

/// `3 connections stay with 2 old workers, for up to 30 s: 1 request, 2 streams`; empty if there are none.
impl fmt::Display for Staying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.total();
        if total == 0 {
            return Ok(());
        }
        let stay = if total == 1 { "stays" } else { "stay" };
        let (connections, workers) =
            (counted(total, "connection"), counted(self.workers.into(), "old worker"));
        write!(f, "{connections} {stay} with {workers}, {}: {}", Within(self.within), self.kinds())
    }
}

impl Staying {
    /// `1 request, 2 kept responses, 3 streams`; empty if there are none.
    pub fn kinds(&self) -> String {
        let kinds =
            [(self.requests, "request"), (self.kept_responses, "kept response"), (self.streams, "stream")];
        let some = kinds.into_iter().filter(|(n, _)| *n > 0);
        some.map(|(n, what)| counted(n, what)).collect::<Vec<_>>().join(", ")
    }
}

/// `64 connections moved, 3 ended, 2 were cut off at the deadline`; empty if there were none.
impl fmt::Display for Departed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = if self.cut == 1 { "was" } else { "were" };
        let lost = if self.lost == 1 { "was lost" } else { "were lost" };
        f.write_str(&list(&[
            (self.moved, "moved"),
            (self.handed_over, "handed over"),
            (self.ended, "ended"),
            (self.cut, &format!("{cut} cut off at the deadline")),
            (self.lost, lost),
        ]))
    }
}

/// `for up to 30 s`, or `without a limit`.
struct Within(Option<Duration>);

impl fmt::Display for Within {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("without a limit"),
            Some(time) if time < Duration::from_secs(1) => write!(f, "for up to {} ms", time.as_millis()),
            Some(time) => write!(f, "for up to {} s", time.as_millis().div_ceil(1000)),
        }
    }
}

/// `64 connections moved, 3 ended`: those that are not 0.
fn list(parts: &[(u64, &str)]) -> String {
    let some = parts.iter().filter(|(n, _)| *n > 0).enumerate();
    let text = |(at, (n, what)): (usize, &(u64, &str))| match at {
        0 => format!("{} {what}", counted(*n, "connection")),
        _ => format!("{n} {what}"),
    };
    some.map(text).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_what_there_is() {
        let none = Connections::default();
        assert_eq!(none.to_string(), "");
        let moved = Connections { moved: 64, ..none };
        assert_eq!(moved.to_string(), "64 connections moved");
        let mut staying = Staying::default();
        staying.add(0, 0, 0, None);
        staying.add(1, 0, 0, Some(Duration::from_millis(29_990)));
        let one = Connections { staying, ..none };
        assert_eq!(one.to_string(), "1 connection stays with 1 old worker, for up to 30 s: 1 request");
        staying.add(0, 1, 3, Some(Duration::from_millis(900)));
        let all = Connections { moved: 1, handed_over: 2, staying };
        assert_eq!(
            all.to_string(),
            "1 connection moved, 2 handed over; 5 connections stay with 2 old workers, for up to 30 s: 1 request, 1 kept response, \
             3 streams"
        );
        staying.add(0, 1, 0, None);
        assert!(staying.to_string().contains("3 old workers, without a limit"), "{staying}");
        staying.add(0, 1, 0, Some(Duration::ZERO));
        assert_eq!(staying.within, None, "one of them has no limit");
        let mut departed = Departed { ended: 3, cut: 1, ..Departed::default() };
        assert_eq!(departed.to_string(), "3 connections ended, 1 was cut off at the deadline");
        departed.add(Departed { moved: 1, cut: 1, lost: 1, ..Departed::default() });
        assert_eq!(
            departed.to_string(),
            "1 connection moved, 3 ended, 2 were cut off at the deadline, 1 was lost"
        );
    }
}
