//! The settings: one entry each, from which follow the field of [`Config`], its default, its range, the option of the command
//! line, its help and its part of the manual page.
//!
//! An entry is: the documentation of the field; the field, its type and default; the kind of its value, with the range; its name;
//! for the command line the short option, the group, the placeholder, the help, and what `--help` adds.

use super::address::Listen;
use super::value::{
    Addresses, Bytes, Count, Deferral, Folder, MAX_WORKERS, Mode, Name, Number, OneOf, Optional, SWITCH,
    Signal, Time, Value, Variables,
};
use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

/// One setting.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Setting {
    /// Its name, in [`Config::set`] and on the command line.
    pub name: &'static str,
    /// The letter of its short option.
    pub short: Option<char>,
    /// Its group in help; empty if it is no option.
    pub group: &'static str,
    /// True if the short help has it.
    pub is_common: bool,
    /// The placeholder for its value in help; empty for a switch that is set by its name alone.
    pub placeholder: &'static str,
    /// The help.
    pub help: &'static str,
    /// What the long help adds.
    pub more: &'static str,
    /// Returns all values, or none if they are not a few words.
    pub words: fn() -> Vec<&'static str>,
    /// Shows its value in a configuration as [`Config::set`] reads it.
    pub show: fn(&Config) -> String,
    pub(super) set: fn(&mut Config, &OsStr) -> Result<(), String>,
    pub(super) check: fn(&Config) -> Result<(), String>,
}

/// How a worker is chosen for a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dispatch {
    /// The next worker in turn that has room.
    #[default]
    RoundRobin,
    /// The worker with the fewest connections in flight; in turn among equals.
    LeastConnections,
    /// The worker that the hash of the client's IP address selects, the same one each time; if it has no room or is being replaced,
    /// the next in an order that depends on the address. Clients of Unix sockets have no address: round-robin.
    SourceHash,
}

/// The process that accepts connections. Only a master that does can reclaim those that a worker does not take; the other two save
/// the master's work, for short connections on many cores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Accept {
    /// The master, which hands each off to a worker.
    #[default]
    Master,
    /// The workers, from one backlog: the first that is free. [`Config::dispatch`] has no effect.
    Shared,
    /// The workers, each from the backlog of its slot, among which the kernel spreads the clients (`SO_REUSEPORT`, socket(7)). The
    /// master keeps the backlogs open, so that a dead worker's successor takes its over. Addresses that cannot be bound several
    /// times, Unix sockets and inherited ones, have one backlog for all, as with [`Accept::Shared`].
    ReusePort,
}

/// When the kernel holds a TCP connection until its first bytes come (`TCP_DEFER_ACCEPT`, tcp(7)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeferAccept {
    /// If the handler takes HTTP requests, whose clients speak first: for about a second, then a silent one is accepted too.
    /// Inherited sockets are left as they are.
    #[default]
    Auto,
    /// Never.
    Off,
    /// At most so long, in whole seconds that the kernel rounds up: 1, 3, 7, 15 and so on.
    For(Duration),
}

/// The scheduling policy (sched(7)) of the master and the workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scheduling {
    /// `SCHED_BATCH` for the master alone, while it accepts thousands of connections a second and does not wait long for a CPU: not
    /// beside programs that keep the CPUs busy. Otherwise, and if `/proc` does not tell how long it waits, as with [`Self::Normal`].
    #[default]
    Auto,
    /// The one that the server was started with.
    Normal,
    /// `SCHED_BATCH`: a process that wakes up does not interrupt the one that runs. If the server was started with another policy than the
    /// normal one (chrt(1)), it keeps that.
    Batch,
}

/// What runs at the end of a worker that has finished, after [`crate::Handler::stop`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WorkerExit {
    /// What C and Rust have buffered for their output streams is written, then the process ends (`_exit`): no exit handler (atexit(3))
    /// runs, and no destructor.
    #[default]
    Quick,
    /// The handler is dropped, and the process ends by exit(3): exit handlers and destructors run, those of libraries, of the module, and of
    /// the program that was forked. Reports of leaks and coverage come.
    Full,
}

const WORKER_EXIT: &[(&str, WorkerExit)] = &[("quick", WorkerExit::Quick), ("full", WorkerExit::Full)];
/// How important a line of prefork's own is. The numbers are those of syslog(3), and of `enum prefork_log_level` in C. A level is less
/// than another if it is more important.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum LogLevel {
    /// Something has failed that somebody has to look into: a worker has crashed, a reload was rolled back, a callback has failed.
    Error = 3,
    /// Something is not as it should be, and prefork copes: a worker hangs, a deadline has cut connections, descriptors have run out.
    Warn = 4,
    /// What an operator has asked for has begun, or is done: a reload, an upgrade, a command.
    #[default]
    Info = 6,
    /// What happens all the time: forks, admissions, ends of workers, pauses in accepting.
    Debug = 7,
}

impl LogLevel {
    /// The name, as the setting `log-level` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

/// What stands before prefork's own lines on standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogTime {
    /// The level as the journal reads it (`<4>`, sd-daemon(3)) if standard error goes to the journal, which has a time of its own;
    /// otherwise nothing.
    #[default]
    Auto,
    /// Nothing.
    Off,
    /// The time in UTC (RFC 3339, with milliseconds) and the level; in the journal also as with [`Self::Auto`].
    On,
}

/// How a program that runs as a worker takes connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// [`Self::Node`] if the program is Node or Deno, otherwise [`Self::ListenFds`].
    #[default]
    Auto,
    /// As a worker of Node's `cluster` module: the master is its primary. It listens where the program asks for it.
    Node,
    /// From the listening sockets, which it inherits (sd_listen_fds(3)): `LISTEN_FDS`, `LISTEN_PID`, `LISTEN_FDNAMES`.
    ListenFds,
}

/// When a program counts as ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ready {
    /// A Node program when it listens; another when it says so (`READY=1`, sd_notify(3)), or has run for [`Config::ready_after`].
    #[default]
    Auto,
    /// A Node program when it sends the message `ready` (`process.send('ready')`).
    Message,
}

const PROTOCOL: &[(&str, Protocol)] =
    &[("auto", Protocol::Auto), ("node", Protocol::Node), ("listen-fds", Protocol::ListenFds)];
const READY: &[(&str, Ready)] = &[("auto", Ready::Auto), ("message", Ready::Message)];
const DISPATCH: &[(&str, Dispatch)] = &[
    ("round-robin", Dispatch::RoundRobin),
    ("least-connections", Dispatch::LeastConnections),
    ("source-hash", Dispatch::SourceHash),
];
const ACCEPT: &[(&str, Accept)] =
    &[("master", Accept::Master), ("shared", Accept::Shared), ("reuseport", Accept::ReusePort)];
const LOG_LEVEL: &[(&str, LogLevel)] = &[
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
];
const LOG_TIME: &[(&str, LogTime)] = &[("auto", LogTime::Auto), ("off", LogTime::Off), ("on", LogTime::On)];
const SCHEDULING: &[(&str, Scheduling)] =
    &[("auto", Scheduling::Auto), ("normal", Scheduling::Normal), ("batch", Scheduling::Batch)];

/// Defines a struct of settings and its part of the table. `$place` is the struct in the [`Config`] named `$config`.
macro_rules! settings {
    (
        $(#[$attr:meta])*
        struct $struct:ident, $table:ident, |$config:ident| $place:expr;
        $(
            $(#[doc = $doc:literal])*
            $field:ident: $type:ty = $default:expr, $value:expr, $name:literal $(-$short:literal)?,
                $group:literal $($common:ident)?, $placeholder:literal, $help:literal, $more:literal;
        )*
        $( @parts { $( $(#[doc = $part_doc:literal])* $part:ident: $part_type:ty, )* } )?
    ) => {
        $(#[$attr])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct $struct {
            $( $(#[doc = $doc])* pub $field: $type, )*
            $( $( $(#[doc = $part_doc])* pub $part: $part_type, )* )?
        }

        impl Default for $struct {
            fn default() -> Self {
                Self { $( $field: $default, )* $( $( $part: Default::default(), )* )? }
            }
        }

        const $table: &[Setting] = &[$(
            Setting {
                name: $name,
                short: <[char]>::first(&[$($short)?]).copied(),
                group: $group,
                is_common: !<[&str]>::is_empty(&[$(stringify!($common))?]),
                placeholder: $placeholder,
                help: $help,
                more: $more,
                words: || Value::<$type>::words(&$value),
                set: |$config, text| $value.set(&mut $place.$field, text),
                show: |$config| $value.show(&$place.$field),
                check: |$config| $value.check(&$place.$field),
            },
        )*];
    };
}

settings! {
    /// The settings of a server and its workers.
    struct Config, SERVER, |config| config;

    /// The number of worker processes, 1 to 1024; 0 is one for each CPU that this process may use.
    workers: usize = 0, Count, "workers" -'w', "Serving" common, "N|auto",
        "Worker processes; auto or 0: one per CPU",
        "Counted are the CPUs that this process may use";
    /// The addresses to listen on; none means `127.0.0.1:8080`.
    listen: Vec<Listen> = Vec::new(), Addresses, "listen" -'l', "Serving" common, "ADDR",
        "Address: 127.0.0.1:8080, [::]:8080, :8080, udp:HOST:PORT, unix:/path, fd:3",
        "Repeatable. The host is an IP address or localhost (127.0.0.1); :8080 is every address of this machine; port 0 takes a free \
         one; udp: is for handlers that take datagrams; unix:/path creates a socket there; unix:@name is an abstract one, which has \
         no file and no permissions; fd:3 is an inherited socket that listens, or receives datagrams. NAME= in front of an address \
         names it for handlers that serve it in another way than the rest";
    /// The name that `prefork ls` shows and `prefork -n` takes; empty means that of the handler's file without `.so`, or if the
    /// program is its own handler, that of the program's file.
    name: String = String::new(), Name, "name" -'n', "Serving" common, "NAME",
        "Name of the server; otherwise that of the handler's file, without .so",
        "`prefork ls` shows it and -n takes it. Letters, digits and any of . _ - + @";
    /// How a worker is chosen for a connection.
    dispatch: Dispatch = Dispatch::RoundRobin, OneOf(DISPATCH),
        "dispatch", "Serving" common, "POLICY",
        "How to choose a worker: round-robin, least-connections, source-hash",
        "round-robin: the next one that has room; least-connections: the one with the fewest in flight; source-hash: always the same \
         one for a client's IP address, while it has room";
    /// The process that accepts connections.
    accept: Accept = Accept::Master, OneOf(ACCEPT), "accept", "Serving", "WHO",
        "Who accepts connections: master, shared, reuseport",
        "master: the master, which hands each off to a worker by --dispatch; shared: the workers, from one backlog; reuseport: each \
         worker from a backlog of its own, among which the kernel spreads the clients";
    /// The connections one worker may have in flight, 1 to 1,000,000. If every worker has that many, the HTTP connection that has been
    /// idle longest is closed for a new one; if none is idle, clients wait. A worker whose handler is in blocking style always has one.
    max_conns: u32 = 10_240, Number(1..=1_000_000), "max-conns", "Serving" common, "N",
        "Connections one worker may have in flight",
        "If every worker has that many, the HTTP connection that has been idle longest is closed for a new one; if none is idle, clients \
         wait in the backlog. A handler in blocking style always has one";
    /// The connections that the kernel holds per listener until they are accepted (listen(2)), at most `net.core.somaxconn`.
    backlog: u32 = 4096, Number(1..=1 << 20), "backlog", "Serving", "N",
        "Connections the kernel holds, per address, until they are accepted",
        "At most net.core.somaxconn";
    /// True if accepted TCP connections have `TCP_NODELAY` (tcp(7)).
    nodelay: bool = true, SWITCH, "nodelay", "Serving", "on|off",
        "TCP_NODELAY on accepted connections", "";
    /// When the kernel holds a TCP connection until its first bytes come (`TCP_DEFER_ACCEPT`, tcp(7)), and how long.
    defer_accept: DeferAccept = DeferAccept::Auto, Deferral, "defer-accept", "Serving", "auto|off|TIME",
        "Let the kernel hold a TCP connection until its first bytes come: auto, off, or at most this long",
        "auto: for a second if the handler takes HTTP requests, not otherwise, and inherited sockets as they are; the kernel rounds a \
         time up to 1, 3, 7, 15 s and so on. A new connection costs about a quarter less CPU; one that stays silent is accepted after that \
         time, and --header-timeout counts from then";
    /// The permission bits of Unix sockets that the server creates.
    unix_mode: u32 = 0o660, Mode, "unix-mode", "Serving", "MODE",
        "Permissions of Unix sockets that the server creates, in octal", "";
    /// True if [`crate::Server::run`] serves in the calling process, without forking: for debuggers, valgrind, sanitizers, profilers.
    /// The process is worker 1 and has no master ([`crate::Server::run`] says more).
    one_process: bool = false, SWITCH, "one-process", "Serving", "",
        "Serve in this process, without workers: for gdb, valgrind, sanitizers, perf, coverage",
        "It accepts connections itself, one handler serves all, and it ends by exit(3), so that exit handlers run and reports of leaks and \
         coverage come. The module is loaded by its own path. No reload, no upgrade, no control socket, no restart after a crash, no limit by \
         --timeout; TERM, INT and QUIT drain, a second one stops at once";
    /// True if there is a control socket (`prefork::control`); none without the feature `control`.
    control: bool = true, SWITCH, "control", "Serving", "on|off",
        "A socket through which `prefork ls`, `reload` and the like control the server",
        "Only for its own user and root";
    /// The least important level of prefork's own lines that is logged, in master and workers.
    log_level: LogLevel = LogLevel::Info, OneOf(LOG_LEVEL), "log-level", "Serving", "LEVEL",
        "Least important lines of prefork's own to log: error, warn, info, debug",
        "error: crashes, failed callbacks, reloads that are rolled back; warn: hangs, cut connections, shortages; info: reloads, upgrades, \
         commands; debug: forks, admissions, ends of workers, pauses in accepting";
    /// What stands before prefork's own lines on standard error.
    log_time: LogTime = LogTime::Auto, OneOf(LOG_TIME), "log-time", "Serving", "WHEN",
        "Time and level before prefork's own lines: auto, off, on",
        "on: 2026-11-30T20:02:28.123Z warn prefork: ...; auto: no time, and the level if standard error goes to the journal, which has a \
         time of its own; off: neither";
    /// True if the master handles the signals that control it, through signalfd(2) with those signals blocked in its thread. `None`:
    /// [`crate::Server::run`] does, [`crate::Server::start`] leaves them and SIGPIPE to the host.
    signals: Option<bool> = None, Optional(SWITCH), "signals", "", "on|off", "", "";
    /// The longest time that one call of a handler may take. Over it the worker counts as hanging: it gets no more connections, those
    /// queued for it go to others, and its handler is told ([`crate::Worker::is_overdue`]); a second later it gets SIGABRT, another
    /// second later SIGKILL. Zero is forever.
    timeout: Duration = Duration::ZERO, Time, "timeout", "Workers", "TIME",
        "Longest time that one call of a handler may take",
        "Over it: the worker gets no more connections, those queued for it go to others, and its handler is told; a second later it \
         gets SIGABRT, another second later SIGKILL; 0: no limit";
    /// The number of workers that may start at the same time in a reload, 1 to 1024.
    surge: usize = 1, Number(1..=MAX_WORKERS as u64), "surge", "Workers", "N",
        "New workers that may start at the same time in a reload",
        "The first one always starts alone";
    /// The number of former generations that may drain beside the one that serves, 1 to 1024. When a reload makes it more, the workers of
    /// the oldest end what they still have.
    max_draining: usize = 4, Number(1..=1024), "max-draining", "Workers", "N",
        "Generations before the present one whose workers may still finish what they have",
        "A reload does not wait for them. When it makes them more, the workers of the oldest end what they still have, as at the \
         --drain-timeout";
    /// The scheduling policy of the master's thread and of the workers, which processes that they start have too.
    scheduling: Scheduling = Scheduling::Auto, OneOf(SCHEDULING), "scheduling", "Workers", "POLICY",
        "Scheduling policy of master and workers: auto, normal, batch",
        "batch (SCHED_BATCH): a wake-up does not interrupt the process that runs, so more is done per wake-up; it helps if short requests \
         keep all CPUs busy, and makes clients wait longer if other programs want the CPU too. auto: batch for the master alone, while it \
         accepts thousands of connections a second and no other program makes it wait long for a CPU. normal: as the server was started";
    /// True if idle connections, and streams that their handler hands over, move to workers that a scale-up adds, until each has its
    /// share. Not with [`Dispatch::SourceHash`].
    rebalance: bool = false, SWITCH, "rebalance", "Workers", "on|off",
        "Move idle connections to workers that a scale-up adds",
        "Until each worker has its share. Streams move if their handler hands them over; requests in progress stay. Not with --dispatch \
         source-hash";
    /// What runs at the end of a worker that has finished. One that crashes, is killed, or cannot start runs nothing.
    worker_exit: WorkerExit = WorkerExit::Quick, OneOf(WORKER_EXIT), "worker-exit", "Workers", "quick|full",
        "What runs when a worker has finished: quick, full",
        "quick: worker_stop, then what was buffered for output is written. full: exit handlers (atexit) and destructors run too, also \
         those that a program has set up before it started the server; a worker whose exit handlers take too long is killed a second \
         after the --drain-timeout";
    /// The number of requests (in blocking style: connections) after which a worker is replaced, at random up to a tenth more; 0 is
    /// never.
    max_requests: u64 = 0, Number(0..=u64::MAX), "max-requests", "Workers", "N",
        "Requests after which a worker is replaced",
        "At random up to a tenth more; one worker at a time, the new one first; 0: never";
    /// The memory in RAM (bytes) above which a worker is replaced, checked once a second; 0 is never. What it shares with other
    /// processes, such as the pages it has left unchanged since the fork, is not counted.
    max_memory: u64 = 0, Bytes(0..=u64::MAX), "max-memory", "Workers", "SIZE",
        "Memory in RAM of its own above which a worker is replaced",
        "Checked once a second; without what it shares with other processes; 0: never";
    /// The age at which a worker is replaced; zero is never.
    max_age: Duration = Duration::ZERO, Time, "max-age", "Workers", "TIME",
        "Age at which a worker is replaced", "0: never";
    /// The bytes of one message between processes, 1 KiB to 1 GiB. Up to four of that size, and 64 KiB, wait for each process.
    max_message: usize = 16 << 20, Bytes(1 << 10..=1 << 30), "max-message", "Limits", "SIZE",
        "Bytes of one message between master and workers",
        "Over it: the message is refused. Up to four of that size wait for each process";
    /// The bytes of the state with which a handler hands a stream over to another worker, up to 16 MiB
    /// ([`crate::Handler::on_handover`]). A stream with more stays.
    max_state: usize = 64 << 10, Bytes(0..=16 << 20), "max-state", "Limits", "SIZE",
        "Bytes of state with which a handler hands a stream over to another worker",
        "Over it: the stream stays with its worker until --drain-timeout";
    /// The longest time from a worker's start until it is ready; zero is forever.
    boot_timeout: Duration = Duration::from_secs(30), Time, "boot-timeout", "Timeouts", "TIME",
        "Until a new worker is ready",
        "Over it: the worker is killed; 0: no limit";
    /// The longest time that a worker drains, whatever for; then it ends what it still has: streams get [`crate::Handler::on_close`], and
    /// what was written is sent as far as clients take it within half a second. A worker that has not ended a second later is killed.
    /// Zero is forever.
    drain_timeout: Duration = Duration::from_secs(30), Time, "drain-timeout", "Timeouts", "TIME",
        "Until a draining worker has finished",
        "Over it: it closes what it still has, and is killed a second later if it hangs; 0: no limit";

    /// How a program that runs as a worker takes connections.
    protocol: Protocol = Protocol::Auto, OneOf(PROTOCOL), "protocol", "Programs", "HOW",
        "How a program takes connections: auto, node, listen-fds",
        "node: as a worker of Node's cluster, with the master as its primary, and listens where the program asks for it; listen-fds: \
         from the sockets of --listen, which it inherits from descriptor 3 on (LISTEN_FDS, as from systemd); auto: node if the program is \
         node or deno";
    /// The working directory of a program; empty is that of the server. Its symbolic links are followed anew for each generation.
    cwd: PathBuf = PathBuf::new(), Folder, "cwd", "Programs", "DIR",
        "Working directory of a program",
        "Its symbolic links are followed anew for each generation, so that a reload takes the release that `current` leads to";
    /// Variables for the environment of a program. In a value `{slot}` stands for the worker's slot, `{id}` for its number, and
    /// `{8000+slot}` for a sum; `{{` for a brace.
    env: Vec<(String, String)> = Vec::new(), Variables, "env", "Programs", "NAME=VALUE",
        "Variable of a program's environment; {slot}, {id} and {8000+slot} differ between workers",
        "Repeatable. {{ is a brace. A program also gets PREFORK_WORKER_ID, PREFORK_SLOT, PREFORK_GENERATION, and NODE_APP_INSTANCE, which \
         is the slot";
    /// When a program counts as ready.
    ready: Ready = Ready::Auto, OneOf(READY), "ready", "Programs", "WHEN",
        "When a program is ready: auto, message",
        "auto: a Node program when it listens, another by READY=1 (sd_notify) or --ready-after; message: when it calls \
         process.send('ready')";
    /// The time after which a program that says nothing (sd_notify(3)) and still runs counts as ready; zero: only if it says so.
    ready_after: Duration = Duration::from_secs(1), Time, "ready-after", "Programs", "TIME",
        "Time after which a program that does not say that it is ready counts as such",
        "Not for Node programs; 0: only when it says READY=1 (sd_notify)";
    /// The signal that has a program finish; 0 is the protocol's: SIGTERM, and for a Node program, which is told on its channel, SIGTERM
    /// only when its time to finish is over.
    stop_signal: i32 = 0, Signal, "stop-signal", "Programs", "SIGNAL",
        "Signal that has a program finish",
        "auto: TERM; a Node program is told to disconnect, and gets TERM only when --drain-timeout is over. Given, a Node program gets it \
         too, right after that";
    /// True if a Node program is told to finish by the message `shutdown` too, as PM2 does it.
    shutdown_message: bool = false, SWITCH, "shutdown-message", "Programs", "on|off",
        "Send a Node program the message 'shutdown' when it is to finish, as PM2 does",
        "";

    @parts {
        /// The limits of a request.
        limits: Limits,
        /// The times that clients have.
        timeouts: Timeouts,
    }
}

settings! {
    /// The limits of a request. One that exceeds a limit is refused with the status in brackets, and the connection closed.
    struct Limits, LIMITS, |config| config.limits;

    /// The bytes of the request line (414).
    line: usize = 8 << 10, Bytes(64..=1 << 20), "max-line", "Limits", "SIZE",
        "Bytes of a request line", "Over it: 414";
    /// The bytes of the request line and the header fields together (431).
    head: usize = 32 << 10, Bytes(64..=1 << 20), "max-head", "Limits", "SIZE",
        "Bytes of a request line and its header fields together", "Over it: 431";
    /// The number of header fields (431), at most 1000.
    headers: usize = 100, Number(1..=1000), "max-headers", "Limits", "N",
        "Header fields of a request", "Over it: 431";
    /// The bytes of a request body (413).
    body: u64 = 8 << 20, Bytes(0..=1 << 40), "max-body", "Limits", "SIZE",
        "Bytes of a request body", "Over it: 413";
    /// The bytes of a response that may wait in memory for a slow client; over it a handler's `write` is refused.
    pending: usize = 16 << 20, Bytes(0..=u64::MAX), "max-pending", "Limits", "SIZE",
        "Bytes of a response that may wait in memory for a slow client",
        "Over it: the handler's write is refused. A stream is not read while more than half of it waits";
}

settings! {
    /// The times that clients have. Zero is forever.
    struct Timeouts, TIMEOUTS, |config| config.timeouts;

    /// From the first byte of a request, or from the start of a connection, to the end of its head (408).
    header: Duration = Duration::from_secs(10), Time, "header-timeout", "Timeouts", "TIME",
        "Until the head of a request is complete", "Over it: 408; 0: no limit";
    /// Between two reads of a request body (408); in blocking style, a read.
    body: Duration = Duration::from_secs(30), Time, "body-timeout", "Timeouts", "TIME",
        "Between two reads of a request body", "Over it: 408; 0: no limit";
    /// Between two requests of a connection, without the time in which the client takes the last response; shorter if a new client needs
    /// the place ([`Config::max_conns`]). Of a stream: without a byte that the client has sent or taken, while nothing waits for it to be
    /// taken.
    idle: Duration = Duration::from_secs(75), Time, "idle-timeout", "Timeouts", "TIME",
        "Between two requests of a connection; of a stream, without bytes either way",
        "While a client has to take what was written, --write-timeout counts instead. Shorter between two requests if a new client needs \
         the place (--max-conns); 0: no limit";
    /// Without a byte that the client takes, while a response or what a stream has written waits for it. Over it the connection is reset,
    /// since the end of the connection may be the end of the message.
    write: Duration = Duration::from_secs(30), Time, "write-timeout", "Timeouts", "TIME",
        "Until a slow client takes more of a response", "Over it: the connection is reset; 0: no limit";
    /// Without a byte from the handler of a response that it keeps ([`crate::Response::later`]), while nothing waits for the client to take
    /// it (504, or if a part was written already, the connection is cut).
    response: Duration = Duration::from_secs(60), Time, "response-timeout", "Timeouts", "TIME",
        "Until a handler continues a response that it keeps",
        "Over it: 504, or if a part was written already, the connection is cut; 0: no limit";
}

impl Config {
    /// All settings, in the order of help.
    pub fn settings() -> impl Iterator<Item = &'static Setting> {
        SERVER.iter().chain(LIMITS).chain(TIMEOUTS)
    }
}
