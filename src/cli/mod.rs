//! The command line: reads the arguments, starts a server, tells how it ended.
//!
//! Runs in the master, before and after [`prefork::Server::run`]. Nothing of the parser lives while the server does.

mod banner;
mod demo;
mod man;
mod settings;
mod verbs;

use clap::{CommandFactory, Parser, Subcommand, ValueHint};
use prefork::{Config, ErrorKind, Server};
use settings::Settings;
use std::ffi::{CString, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::ExitCode;

const DONE: u8 = 0;
const FAILED: u8 = 1;
const USAGE: u8 = 2;
const NO_SUCH: u8 = 3;
const ROLLED_BACK: u8 = 4;
const TIMED_OUT: u8 = 5;

/// What help and the manual page say behind the options.
const NOTES: [(&str, &str); 5] = [
    (
        "Units",
        "SIZE is in bytes, or takes K, M or G: 64K\n\
         TIME is in seconds, or takes ms, s, m or h: 250ms",
    ),
    (
        "Examples",
        "prefork demo                       a built-in handler, to look around\n\
         prefork ./hello.so                 a worker per CPU on 127.0.0.1:8080\n\
         prefork -w 8 -l :80 -l unix:/run/hello ./hello.so\n\
         prefork ./hello.so --colour blue   the handler gets --colour blue",
    ),
    (
        "Signals",
        "TERM, INT, QUIT    drain and stop: finish what is in progress\n\
         a second of these  stop at once\n\
         HUP                reload: a new generation of workers, one after the other\n\
         USR2               upgrade: the binary that is at its path by now takes over, in the same process\n\
         TTIN, TTOU         one worker more, one less\n\
         USR1               nothing yet; kept for log files",
    ),
    (
        "Control sockets",
        "ls, show, reload and the like find servers by their sockets in $XDG_RUNTIME_DIR/prefork, /run/prefork or\n\
         /tmp/prefork-UID, whichever can be used first; PREFORK_RUNTIME_DIR names another directory, and then the only one",
    ),
    ("Exit status", "0 done, 1 failed, 2 usage, 3 no such server or worker, 4 rolled back, 5 timed out"),
];

/// Serve with worker processes behind one address, and lose no accepted connection
///
/// A master process accepts connections and hands each one to a worker process, which runs the handler on it. A worker
/// that dies is replaced.
#[derive(Parser)]
#[command(
    name = "prefork",
    version,
    override_usage = "prefork [OPTIONS] HANDLER.so [ARGS...]\n       prefork demo [OPTIONS]",
    after_long_help = notes(),
    subcommand_help_heading = "Other commands",
    disable_help_subcommand = true,
    args_override_self = true,
    max_term_width = 110
)]
struct Cli {
    #[command(flatten)]
    settings: Settings,

    /// A shared object with a prefork_module, and the arguments it gets
    #[arg(
        value_names = ["HANDLER.so", "ARGS"],
        num_args = 1..,
        required = false,
        trailing_var_arg = true,
        value_hint = ValueHint::FilePath
    )]
    handler: Vec<OsString>,

    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    #[command(flatten)]
    Steer(verbs::Verb),
    /// Serve with a built-in handler that shows what there is
    #[command(override_usage = "prefork demo [OPTIONS]", args_override_self = true)]
    Demo {
        #[command(flatten)]
        settings: Settings,
    },
    /// Print a completion script for a shell
    #[command(override_usage = "prefork completions SHELL")]
    Completions {
        /// The shell
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Print the manual page (prefork man | man -l -)
    #[command(override_usage = "prefork man")]
    Man,
}

/// What the arguments ask for, without anything of the parser.
enum Task {
    Serve { name: String, server: Box<Server> },
    Steer { verb: verbs::Verb, name: Option<String> },
    Print(Vec<u8>),
}

/// Why there is nothing to do or it went wrong: the exit code and one line, which is empty where all has been said.
struct Failure(u8, String);

impl From<prefork::Error> for Failure {
    fn from(e: prefork::Error) -> Self {
        Self(if e.kind() == ErrorKind::Config { USAGE } else { FAILED }, e.to_string())
    }
}

/// The whole program.
pub fn main() -> ExitCode {
    let done = match Cli::try_parse() {
        Ok(cli) => task(cli).and_then(perform),
        Err(e) if e.use_stderr() => Err(Failure(USAGE, one_line(&e.to_string()))),
        // `--help` and `--version`, which clap calls errors too.
        Err(e) => tolerate_closed_pipe(e.print()),
    };
    let Err(Failure(code, text)) = done else { return DONE.into() };
    complain(&Failure(code, text));
    code.into()
}

/// One line, whatever a file's name may hold. With stderr closed the exit code is all that can be told.
fn complain(Failure(_, text): &Failure) {
    if !text.is_empty() {
        let _ = writeln!(io::stderr(), "prefork: {}", text.replace(char::is_control, " "));
    }
}

/// A line that belongs to a complaint.
fn say_more(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn task(cli: Cli) -> Result<Task, Failure> {
    let mut config = Config::default();
    match cli.verb {
        // Before such a verb `-n` says which server, by its pid too, which would not do as a name.
        Some(Verb::Steer(verb)) => {
            Ok(Task::Steer { verb, name: cli.settings.get("name").map(str::to_owned) })
        }
        Some(Verb::Demo { settings }) => {
            config.name = "demo".into();
            cli.settings.apply(&mut config)?;
            settings.apply(&mut config)?;
            Ok(Task::Serve { name: "demo".into(), server: Box::new(demo::server().config(config)) })
        }
        Some(Verb::Completions { shell }) => Ok(Task::Print(completions(shell))),
        Some(Verb::Man) => {
            man::page(Cli::command()).map(Task::Print).map_err(|e| Failure(FAILED, format!("man: {e}")))
        }
        None => {
            cli.settings.apply(&mut config)?;
            handler(cli.handler).map(|(path, args)| Task::Serve {
                name: Path::new(&path).file_name().unwrap_or(&path).to_string_lossy().into_owned(),
                server: Box::new(Server::module(&path).args(args).config(config)),
            })
        }
    }
}

/// Splits the handler from its arguments.
fn handler(mut words: Vec<OsString>) -> Result<(OsString, Vec<CString>), Failure> {
    let refuse = |text: &str| Err(Failure(USAGE, text.into()));
    if words.is_empty() {
        return refuse(
            "no handler: try `prefork demo`, or prefork [OPTIONS] HANDLER.so; `prefork -h` tells more",
        );
    }
    // A program is no handler, not even one whose name ends in .so.
    if std::env::args_os().rev().nth(words.len()).is_some_and(|word| word == "--") {
        return refuse("-- PROGRAM: only a handler can be served: prefork [OPTIONS] HANDLER.so [ARGS...]");
    }
    let path = words.remove(0);
    let args: Result<Vec<_>, _> = words.into_iter().map(|w| CString::new(w.into_vec())).collect();
    args.map(|args| (path, args)).or_else(|_| refuse("a NUL byte in an argument"))
}

fn perform(task: Task) -> Result<(), Failure> {
    match task {
        Task::Steer { verb, name } => verbs::run(verb, name),
        Task::Print(text) => tolerate_closed_pipe(io::stdout().write_all(&text)),
        Task::Serve { name, mut server } => {
            let spread = banner::spread(server.config_mut());
            // How many workers had to be killed in the end stands in the log already.
            let started = move |started: &prefork::Started| {
                // The parser's code is not needed any more. Where it stays, that costs nothing but memory. Before the banner, with
                // which the start is over for who watches.
                let _ = prefork::give_back_code();
                banner::print(started, &name, &spread);
            };
            server.on_start(started).run()?;
            Ok(())
        }
    }
}

fn notes() -> String {
    let section = |(title, text): (&str, &str)| format!("{title}:\n  {}", text.replace('\n', "\n  "));
    NOTES.map(section).join("\n\n")
}

fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "prefork", &mut text);
    text
}

/// A reader that had enough (`prefork --help | head -1`) is no failure.
fn tolerate_closed_pipe(done: io::Result<()>) -> Result<(), Failure> {
    match done.and_then(|()| io::stdout().flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Failure(FAILED, format!("stdout: {e}"))),
        _ => Ok(()),
    }
}

/// Folds clap's report to what is wrong and what was perhaps meant.
fn one_line(report: &str) -> String {
    let (said, rest) = report.trim_start_matches("error: ").split_once("\n\n").unwrap_or((report, ""));
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    // The other kind of tip proposes `--`, which does not lead to a handler.
    let tip =
        rest.lines().filter_map(|l| l.trim_start().strip_prefix("tip: ")).find(|t| t.contains("similar"));
    let tip = tip.map_or_else(String::new, |tip| format!(" ({tip})"));
    format!("{said}{tip}; see `prefork --help`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_stands_behind_the_handler_is_for_the_handler() {
        for words in [
            &["prefork", "-w", "2", "x.so", "-w", "--help", "--", "demo"][..],
            &["prefork", "x.so", "demo", "man", "-l"],
        ] {
            let cli = Cli::try_parse_from(words).unwrap();
            let at = words.iter().position(|w| *w == "x.so").unwrap();
            assert_eq!(cli.handler, &words[at..]);
            assert!(cli.verb.is_none());
        }
    }

    #[test]
    fn a_report_is_folded_to_one_line() {
        assert_eq!(one_line("error: missing:\n  <A>\n\nUsage: x"), "missing: <A>; see `prefork --help`");
        assert_eq!(
            one_line("error: no\n\n  tip: a similar one: 'y'\n  tip: to pass\n\nUsage: x"),
            "no (a similar one: 'y'); see `prefork --help`"
        );
    }
}
