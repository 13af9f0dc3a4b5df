//! What a worker was doing when it died.

#[cfg(feature = "control")]
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// What a worker was doing when it died, as far as it could tell: the call of its handler that ran, for whom, since when, and if a signal of a
/// fault ended it (SIGSEGV, SIGABRT ...), the functions on its stack. The worker itself has written that, so it may be wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "control", derive(Serialize, Deserialize))]
#[non_exhaustive]
pub struct Crash {
    /// The callback that ran: `on_request`, `timer`, `worker_start`. Empty if none did.
    #[cfg_attr(feature = "control", serde(default))]
    pub callback: String,
    /// How long it had run (milliseconds).
    #[cfg_attr(
        feature = "control",
        serde(
            default,
            skip_serializing_if = "Option::is_none",
            rename = "lasted_ms",
            with = "super::json::maybe_millis"
        )
    )]
    pub lasted: Option<Duration>,
    /// The method and the target of its request, cut after 32 and 200 bytes. Not told by a worker that SIGKILL ended.
    #[cfg_attr(feature = "control", serde(default, skip_serializing_if = "Option::is_none"))]
    pub request: Option<String>,
    /// The address of its client, as `127.0.0.1:50000`, `[::1]:50000` or `unix`. Not told by a worker that SIGKILL ended.
    #[cfg_attr(feature = "control", serde(default, skip_serializing_if = "Option::is_none"))]
    pub peer: Option<String>,
    /// The address that could not be used, of SIGSEGV, SIGBUS, SIGILL and SIGFPE.
    #[cfg_attr(feature = "control", serde(default, skip_serializing_if = "Option::is_none"))]
    pub address: Option<u64>,
    /// The functions on the stack, innermost first, up to the callback: `name+0x12 (file+0x1234)`, or what of that is known. Names are as
    /// linkers have them: c++filt(1) makes those of C++ and Rust readable.
    #[cfg_attr(feature = "control", serde(default, skip_serializing_if = "Vec::is_empty"))]
    pub backtrace: Vec<String>,
}

/// `in on_request, for 12 ms: GET /crash, client 127.0.0.1:50000; fault at address 0x0`
impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.callback.as_str() {
            "" => f.write_str("in no call of its handler")?,
            callback => write!(f, "in {callback}")?,
        }
        if let Some(lasted) = self.lasted {
            write!(f, ", for {} ms", lasted.as_millis())?;
        }
        let client = self.peer.as_ref().map(|peer| format!("client {peer}"));
        let subject: Vec<_> = self.request.iter().chain(&client).map(String::as_str).collect();
        if !subject.is_empty() {
            write!(f, ": {}", subject.join(", "))?;
        }
        self.address.map_or(Ok(()), |address| write!(f, "; fault at address {address:#x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_in_a_line() {
        let crash = Crash {
            callback: "on_request".into(),
            lasted: Some(Duration::from_millis(12)),
            request: Some("GET /a?b".into()),
            peer: Some("[::1]:5".into()),
            address: Some(0),
            ..Crash::default()
        };
        assert_eq!(
            crash.to_string(),
            "in on_request, for 12 ms: GET /a?b, client [::1]:5; fault at address 0x0"
        );
        assert_eq!(Crash::default().to_string(), "in no call of its handler");
        let timer = Crash { callback: "timer".into(), ..Crash::default() };
        assert_eq!(timer.to_string(), "in timer");
    }
}
