//! The options that are settings of [`Config`]: the name of an option is the name [`Config::set`] knows it by, and what
//! help shows as a default is what [`Config::default`] holds.

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use prefork::Config;
use std::time::Duration;

/// Settings as given, in the order of help; read by [`Settings::apply`].
#[derive(Default)]
pub struct Settings(Vec<(String, String)>);

impl Settings {
    /// Moves them into `config` and checks how they go together.
    pub fn apply(self, config: &mut Config) -> prefork::Result<()> {
        self.0.iter().try_for_each(|(name, value)| config.set(name, value))?;
        config.check()
    }

    /// The value of a setting, where it was given.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// What one option is and how help tells of it. `more` is for `--help` and the manual page.
struct Text {
    name: &'static str,
    value: &'static str,
    default: String,
    help: &'static str,
    more: &'static str,
}

fn options() -> Vec<Arg> {
    serving().into_iter().chain(lifecycle()).chain(limits()).chain(timeouts()).collect()
}

fn serving() -> [Arg; 11] {
    let d = Config::default();
    let listen = option(Text {
        name: "listen",
        value: "ADDR",
        default: "127.0.0.1:8080".into(),
        help: "Where to listen: 127.0.0.1:8080, [::]:8080, :8080, udp:HOST:PORT, unix:/path, fd:3",
        more: "Repeatable. :8080 is every address of this machine; port 0 takes a free one; udp: is for handlers that \
               take datagrams; unix:/path makes a socket there; fd:3 is a listening socket inherited under that number",
    });
    let workers = option(Text {
        name: "workers",
        value: "N|auto",
        default: if d.workers == 0 { "auto".into() } else { d.workers.to_string() },
        help: "Worker processes; auto or 0: one per CPU",
        more: "Counted are the CPUs this process may use",
    });
    let dispatch = option(Text {
        name: "dispatch",
        value: "POLICY",
        default: d.dispatch.to_string(),
        help: "How to choose a worker: round-robin, least-connections, source-hash",
        more: "round-robin takes the next in turn that has room, least-connections the one with the fewest in flight, \
               source-hash always the same one for a client's IP address (while that one has room)",
    });
    let accept = option(Text {
        name: "accept",
        value: "WHO",
        default: d.accept.to_string(),
        help: "Who accepts connections: master, shared, reuseport",
        more: "master accepts and hands each to a worker by --dispatch; shared lets the workers accept from one backlog, \
               reuseport each from one of its own, among which the kernel spreads the clients",
    });
    let max_conns = option(Text {
        name: "max-conns",
        value: "N",
        default: d.max_conns.to_string(),
        help: "Connections one worker may have in flight",
        more: "When every worker has that many, clients wait in the kernel's backlog. A handler in blocking style \
               always has one",
    });
    let backlog = option(Text {
        name: "backlog",
        value: "N",
        default: d.backlog.to_string(),
        help: "Connections the kernel holds, per address, until they are accepted",
        more: "The kernel caps it at net.core.somaxconn",
    });
    let nodelay = option(Text {
        name: "nodelay",
        value: "on|off",
        default: if d.nodelay { "on".into() } else { "off".into() },
        help: "TCP_NODELAY on accepted connections",
        more: "",
    });
    let defer_accept = option(Text {
        name: "defer-accept",
        value: "TIME",
        default: time(d.defer_accept),
        help: "Let the kernel hold a TCP connection until its first bytes come, for so long at most",
        more: "In whole seconds; 0 hands it out at once",
    });
    let unix_mode = option(Text {
        name: "unix-mode",
        value: "MODE",
        default: format!("{:o}", d.unix_mode),
        help: "Permissions of Unix sockets made here, in octal",
        more: "",
    });
    let who = PossibleValuesParser::new(["master", "shared", "reuseport"]);
    let policies = PossibleValuesParser::new(["round-robin", "least-connections", "source-hash"]);
    let name = option(Text {
        name: "name",
        value: "NAME",
        default: d.name.clone(),
        help: "What to call it; without, it is called after the handler's file",
        more: "So `prefork ls` lists it and -n names it. Letters, digits and any of . _ - + @",
    });
    let control = option(Text {
        name: "control",
        value: "on|off",
        default: if d.control { "on".into() } else { "off".into() },
        help: "A socket through which `prefork ls`, `reload` and the like find it and speak to it",
        more: "Only for its own user and root",
    });
    [
        workers.short('w'),
        listen.short('l').action(ArgAction::Append),
        name.short('n'),
        dispatch.value_parser(policies).hide_possible_values(true),
        accept.value_parser(who).hide_possible_values(true).hide_short_help(true),
        max_conns,
        backlog.hide_short_help(true),
        nodelay.value_parser(["on", "off"]).hide_possible_values(true).hide_short_help(true),
        defer_accept.hide_short_help(true),
        unix_mode.hide_short_help(true),
        control.value_parser(["on", "off"]).hide_possible_values(true).hide_short_help(true),
    ]
    .map(|o| o.help_heading("Serving"))
}

fn lifecycle() -> [Arg; 6] {
    let d = Config::default();
    let text = |name, value, default, help, more| option(Text { name, value, default, help, more });
    [
        text(
            "timeout",
            "TIME",
            time(d.timeout),
            "How long one call of a handler may take",
            "Over it the worker gets no more connections, those that wait for it go to others, and its handler is told; a \
             second later it gets SIGABRT, another second later SIGKILL; 0: for ever",
        ),
        text(
            "surge",
            "N",
            d.surge.to_string(),
            "New workers that may start at one time in a reload",
            "The first one always starts alone",
        ),
        text(
            "rebalance",
            "on|off",
            if d.rebalance { "on".into() } else { "off".into() },
            "Whether idle connections move to workers that a scale-up adds",
            "Until each worker has its share. What is in progress, and streams, stay. Not with --dispatch source-hash",
        )
        .value_parser(["on", "off"])
        .hide_possible_values(true),
        text(
            "max-requests",
            "N",
            d.max_requests.to_string(),
            "Requests after which a worker is replaced",
            "Spread over a tenth more, one worker at a time, the new one first; 0: never",
        ),
        text(
            "max-memory",
            "SIZE",
            size(d.max_memory),
            "Memory in RAM above which a worker is replaced",
            "Looked at once a second; 0: never",
        ),
        text("max-age", "TIME", time(d.max_age), "Life after which a worker is replaced", "0: never"),
    ]
    .map(|o| o.hide_short_help(true).help_heading("Workers"))
}

fn limits() -> [Arg; 6] {
    let Config { limits: d, max_message, .. } = Config::default();
    let text = |name, value, default, help, more| option(Text { name, value, default, help, more });
    [
        text("max-line", "SIZE", size(d.line as u64), "Bytes of a request line", "Over it: 414"),
        text(
            "max-head",
            "SIZE",
            size(d.head as u64),
            "Bytes of a request line and its header fields together",
            "Over it: 431",
        ),
        text("max-headers", "N", d.headers.to_string(), "Header fields of a request", "Over it: 431"),
        text("max-body", "SIZE", size(d.body), "Bytes of a request body", "Over it: 413"),
        text(
            "max-pending",
            "SIZE",
            size(d.pending as u64),
            "Bytes of a response that may wait in memory for a slow client",
            "Over it: the handler's write is refused",
        ),
        text(
            "max-message",
            "SIZE",
            size(max_message as u64),
            "Bytes of one message between master and workers",
            "Over it: it is refused. Four of that size may wait for each",
        ),
    ]
    .map(|o| o.hide_short_help(true).help_heading("Limits"))
}

fn timeouts() -> [Arg; 6] {
    let Config { timeouts, boot_timeout, drain_timeout, .. } = Config::default();
    let text =
        |name, default, help, more| option(Text { name, value: "TIME", default: time(default), help, more });
    [
        text(
            "header-timeout",
            timeouts.header,
            "Until the head of a request is complete",
            "Over it: 408; 0: none",
        ),
        text("body-timeout", timeouts.body, "Between two reads of a request body", "Over it: 408; 0: none"),
        text("idle-timeout", timeouts.idle, "Between two requests of a connection", "0: none"),
        text("write-timeout", timeouts.write, "Until a slow client takes more of a response", "0: none"),
        text(
            "boot-timeout",
            boot_timeout,
            "Until a new worker is ready",
            "Over it: the worker is killed; 0: none",
        ),
        text(
            "drain-timeout",
            drain_timeout,
            "Until a draining worker has finished",
            "Over it: the worker is killed",
        ),
    ]
    .map(|o| o.hide_short_help(true).help_heading("Timeouts"))
}

fn option(text: Text) -> Arg {
    let Text { name, value, default, help, more } = text;
    let long = if more.is_empty() { help.to_owned() } else { format!("{help}. {more}") };
    let default = if default.is_empty() { default } else { format!(" [default: {default}]") };
    Arg::new(name)
        .long(name)
        .value_name(value)
        .action(ArgAction::Set)
        .help(format!("{help}{default}"))
        .long_help(format!("{long}{default}"))
}

/// A time as [`Config::set`] reads it.
pub fn time(t: Duration) -> String {
    match t.as_millis() {
        0 => "0".into(),
        ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
        ms => format!("{ms}ms"),
    }
}

fn size(n: u64) -> String {
    [("G", 30), ("M", 20), ("K", 10)]
        .iter()
        .find(|(_, shift)| n >= 1 << shift && n.trailing_zeros() >= *shift)
        .map_or_else(|| n.to_string(), |(unit, shift)| format!("{}{unit}", n >> shift))
}

impl Args for Settings {
    fn augment_args(cmd: Command) -> Command {
        cmd.args(options())
    }

    fn augment_args_for_update(cmd: Command) -> Command {
        Self::augment_args(cmd)
    }
}

impl FromArgMatches for Settings {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut settings = Self::default();
        settings.update_from_arg_matches(matches)?;
        Ok(settings)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for option in options() {
            let name = option.get_id().as_str();
            for value in matches.get_many::<String>(name).into_iter().flatten() {
                self.0.push((name.into(), value.clone()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_is_a_setting_and_the_default_it_shows_is_accepted() {
        for option in options() {
            let help = option.get_help().unwrap().to_string();
            let default = help.rsplit_once("[default: ").map_or("", |(_, d)| d.trim_end_matches(']'));
            Config::default().set(option.get_id().as_str(), default).unwrap();
        }
    }

    #[test]
    fn every_value_offered_is_accepted() {
        for option in options() {
            for value in option.get_possible_values() {
                Config::default().set(option.get_id().as_str(), value.get_name()).unwrap();
            }
        }
    }

    #[test]
    fn sizes_and_times_are_shown_as_they_are_read() {
        for n in [1, 1000, 1024, 1536, 8 << 20, 1 << 30] {
            assert_eq!(prefork::config::parse_size(&size(n)), Ok(n));
        }
        for ms in [0, 1, 250, 1000, 75_000] {
            let t = Duration::from_millis(ms);
            assert_eq!(prefork::config::parse_duration(&time(t)), Ok(t));
        }
    }
}
