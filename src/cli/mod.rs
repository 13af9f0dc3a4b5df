//! The command line: reads the arguments, runs a verb or starts a server, reports the failure.
//!
//! Runs in the master, before and after [`prefork::Server::run`]. The parser's memory is free while the server runs.

mod banner;
mod demo;
mod man;
mod settings;
mod verbs;

use banner::About;
use clap::error::{ContextKind, ContextValue};
use clap::{Command, CommandFactory, FromArgMatches, Parser, Subcommand, ValueHint};
use prefork::{Config, ErrorKind, LogLevel, Misconfigured, Server};
use std::ffi::{CString, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::ExitCode;

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const NO_SUCH: u8 = 3;
const ROLLED_BACK: u8 = 4;
const TIMED_OUT: u8 = 5;
const CUT: u8 = 6;
/// `EX_CONFIG` (sysexits(3)), as a worker uses it.
const MISCONFIGURED: u8 = Misconfigured::EXIT_CODE as u8;

/// The sections after the options, in the help and the manual page.
const NOTES: [(&str, &str); 6] = [
    (
        "Units",
        "SIZE is in bytes, or takes K, M or G: 64K\n\
         TIME is in seconds, or takes ms, s, m or h: 250ms",
    ),
    (
        "Examples",
        "prefork demo                       a built-in handler, to try things out\n\
         prefork ./hello.so                 a worker per CPU on 127.0.0.1:8080\n\
         prefork -w 8 -l :80 -l unix:/run/hello ./hello.so\n\
         prefork ./hello.so --colour blue   the handler gets --colour blue",
    ),
    (
        "Signals",
        "TERM, INT, QUIT    drain and stop: finish what is in progress\n\
         a second of these  stop at once\n\
         HUP                reload: a new generation of workers, one after the other\n\
         USR2               upgrade: to the binary now at its path, in this process\n\
         TTIN, TTOU         add a worker, remove one\n\
         USR1               no effect; reserved for log files",
    ),
    (
        "Environment",
        "PREFORK_RUNTIME_DIR   the only directory for what Files lists\n\
         LISTEN_FDS            sockets from systemd, instead of the default address;\n\
         \x20                     with LISTEN_PID and LISTEN_FDNAMES (sd_listen_fds(3))\n\
         NO_COLOR              no colours\n\
         COLUMNS               the width of the help\n\
         PREFORK_UPGRADE       set by an upgrade, until the new program serves\n\
         Workers have PREFORK_WORKER_ID, PREFORK_SLOT and PREFORK_GENERATION.",
    ),
    (
        "Files",
        "NAME.PID.sock   the control socket of a server. ls, show, reload and the like\n\
         \x20               find servers by it. It is in the first usable directory of\n\
         \x20               $XDG_RUNTIME_DIR/prefork, /run/prefork and /tmp/prefork-UID.\n\
         NAME.PID.N.so   there too: the copy of the module that the workers of generation\n\
         \x20               N have loaded, for debuggers.",
    ),
    (
        "Exit status",
        "0    done\n\
         1    failed\n\
         2    usage: an option, a word or a value is wrong\n\
         3    no such server or worker\n\
         4    rolled back: a reload or an upgrade has failed, and the old code serves\n\
         5    timed out; of a server and of `stop`: workers had to be killed\n\
         \x20    at the drain-timeout\n\
         6    of a server and of `stop`: connections were cut at the drain-timeout\n\
         78   of a server: its first workers say by this code that their\n\
         \x20    configuration is wrong, or later all of them",
    ),
];

/// Serve with worker processes behind one address, and lose no accepted connection
///
/// A master process accepts connections and hands each off to a worker process, which runs the handler. A worker that dies
/// is replaced.
#[derive(Parser)]
#[command(
    name = "prefork",
    version,
    override_usage = "prefork [OPTIONS] HANDLER.so [ARGS...]\n       prefork [OPTIONS] -- PROGRAM [ARGS...]\n       prefork demo [OPTIONS]",
    after_long_help = notes(),
    subcommand_help_heading = "Other commands",
    max_term_width = 110
)]
struct Cli {
    /// A shared object with a prefork_module, and its arguments
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
    Control(verbs::Verb),
    /// Serve with a built-in handler that shows what prefork does
    ///
    /// It takes the same options as a server with a handler.
    Demo,
    /// Print a completion script for a shell
    Completions {
        /// The shell
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Print the manual page (prefork man | man -l -)
    Man,
}

/// The exit code and one line for standard error; the line is empty if it has been printed.
#[derive(Clone)]
struct Failure(u8, String);

impl From<prefork::Error> for Failure {
    fn from(e: prefork::Error) -> Self {
        let code = match e.kind() {
            ErrorKind::Config => USAGE,
            ErrorKind::Misconfigured => MISCONFIGURED,
            _ => FAILED,
        };
        Self(code, e.to_string())
    }
}

impl From<clap::Error> for Failure {
    fn from(e: clap::Error) -> Self {
        let text = match (e.kind(), e.get(ContextKind::InvalidSubcommand)) {
            // Of `help`: any other word may be a handler.
            (clap::error::ErrorKind::InvalidSubcommand, Some(ContextValue::String(word))) => no_command(word),
            _ => one_line(&e.to_string()),
        };
        Self(USAGE, text)
    }
}

/// The whole program.
pub fn main() -> ExitCode {
    let done = match prepare() {
        Ok(Some((about, server))) => serve(about, server),
        done => done.map(drop),
    };
    let Err(failure) = done else { return ExitCode::SUCCESS };
    complain(&failure);
    failure.0.into()
}

/// Prints the line of a failure: one line, whatever a file's name contains.
fn complain(Failure(_, text): &Failure) {
    if !text.is_empty() {
        let beginning = prefork::log::beginning(LogLevel::Error);
        let _ = writeln!(io::stderr(), "{beginning}{}", text.replace(char::is_control, " "));
    }
}

fn command() -> Command {
    Cli::command().args(settings::options()).mut_subcommand("demo", |demo| demo.args(settings::options()))
}

/// Returns the server to run and what its banner says; or executes the verb.
fn prepare() -> Result<Option<(About, Server)>, Failure> {
    let matches = match command().try_get_matches() {
        // `--help` and `--version`, which clap calls errors too.
        Err(e) if !e.use_stderr() => return print(e.render().ansi().to_string().as_bytes()).map(|_| None),
        matches => matches.map_err(Failure::from).inspect_err(|failure| {
            if verbs::asks_for_json(std::env::args_os().skip(1)) {
                verbs::print_error(failure);
            }
        })?,
    };
    let cli = Cli::from_arg_matches(&matches)?;
    let mut config = Config::default();
    match cli.verb {
        Some(Verb::Control(verb)) => {
            // Here it selects a server, even by pid, so it is not read as the setting.
            let name = matches.get_raw("name").and_then(Iterator::last);
            verbs::run(verb, name.map(|name| name.to_string_lossy().into_owned()))?;
        }
        Some(Verb::Completions { shell }) => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut command(), "prefork", &mut text);
            print(&text)?;
        }
        Some(Verb::Man) => {
            print(&man::page(command()).map_err(|e| Failure(FAILED, format!("man: {e}")))?)?;
        }
        Some(Verb::Demo) => {
            config.name = "demo".into();
            let mut is_quiet = settings::apply(&matches, &mut config)?;
            if let Some(demo) = matches.subcommand_matches("demo") {
                is_quiet |= settings::apply(demo, &mut config)?;
            }
            let about = About { handler: "demo".into(), is_quiet, ..About::default() };
            return Ok(Some((about, demo::server().config(config))));
        }
        None => {
            let is_quiet = settings::apply(&matches, &mut config)?;
            let arguments = cli.handler.iter().skip(1).take_while(|word| *word != "--");
            let no_options = arguments.filter(|word| settings::is_spelled_as_option(word));
            let no_options: Vec<_> = no_options.map(|word| word.to_string_lossy().into_owned()).collect();
            if is_behind_dashes(cli.handler.len()) {
                let (path, args) = split(cli.handler)?;
                let about =
                    About { handler: file_name(&path), is_program: true, is_quiet, ..About::default() };
                return Ok(Some((about, Server::program(&path).args(args).config(config))));
            }
            let no_handlers = cli
                .handler
                .iter()
                .skip(1)
                .map(Path::new)
                .filter(|path| path.extension() == Some("so".as_ref()));
            let no_handlers =
                no_handlers.filter(|path| path.is_file()).map(|path| path.display().to_string()).collect();
            let (path, args) = handler(cli.handler)?;
            let handler = file_name(&path);
            let about = About { handler, no_options, no_handlers, is_quiet, ..About::default() };
            return Ok(Some((about, Server::module(&path).args(args).config(config))));
        }
    }
    Ok(None)
}

fn serve(mut about: About, mut server: Server) -> Result<(), Failure> {
    about.distribution = banner::distribution(server.config_mut());
    let one_process = server.config_mut().one_process;
    let started = move |started: &prefork::Started| {
        // Frees the memory of the parser's code. Before the banner, since its readers take the start to be complete.
        if !one_process {
            let _ = prefork::give_back_code();
        }
        banner::print(started, &about);
    };
    let stopped = server.adopt_orphans().on_start(started).run()?;
    self::stopped(stopped.killed, stopped.cut)
}

/// The exit status of a stop, of the server and of the verb. The log has said which.
fn stopped(killed: u32, cut: u64) -> Result<(), Failure> {
    match (killed, cut) {
        (0, 0) => Ok(()),
        (0, _) => Err(Failure(CUT, String::new())),
        _ => Err(Failure(TIMED_OUT, String::new())),
    }
}

/// True if the last `count` words of the command line, of which there is one at least, stand behind `--`: a program and its arguments.
fn is_behind_dashes(count: usize) -> bool {
    count > 0 && std::env::args_os().rev().nth(count).is_some_and(|word| word == "--")
}

fn file_name(path: &OsString) -> String {
    Path::new(path).file_name().unwrap_or(path).to_string_lossy().into_owned()
}

/// Splits a program or handler from its arguments.
fn split(mut words: Vec<OsString>) -> Result<(OsString, Vec<CString>), Failure> {
    let path = words.remove(0);
    let args: Result<Vec<_>, _> = words.into_iter().map(|w| CString::new(w.into_vec())).collect();
    args.map(|args| (path, args)).map_err(|_| Failure(USAGE, "a NUL byte in an argument".into()))
}

/// Splits the handler from its arguments.
fn handler(words: Vec<OsString>) -> Result<(OsString, Vec<CString>), Failure> {
    let refuse = |text: String| Err(Failure(USAGE, text));
    if words.is_empty() {
        return refuse(
            "no handler: try `prefork demo`, prefork [OPTIONS] HANDLER.so, or prefork [OPTIONS] -- PROGRAM; see `prefork -h`".into(),
        );
    }
    let (path, args) = split(words)?;
    if !path.to_string_lossy().contains(['/', '.']) && !Path::new(&path).is_file() {
        return refuse(no_command(&path.to_string_lossy()));
    }
    Ok((path, args))
}

/// Words that are commands of other tools, with what does the same here.
const ELSEWHERE: [(&[&str], &str); 9] = [
    (&["restart", "respawn", "reopen", "graceful"], "prefork reload"),
    (&["status", "list", "l", "ps", "jlist"], "prefork ls"),
    (&["kill", "delete", "del", "quit", "shutdown", "halt", "end"], "prefork stop"),
    (&["describe", "desc", "info", "inspect", "get", "top", "monit", "stats"], "prefork show"),
    (&["logs", "log", "watch", "follow", "tail"], "prefork events"),
    (&["start", "run", "serve", "up"], "prefork [OPTIONS] HANDLER.so"),
    (&["usage"], "prefork help"),
    (&["version"], "prefork --version"),
    (&["completion"], "prefork completions"),
];

/// The refusal of a word that is neither a command nor a file.
fn no_command(word: &str) -> String {
    let hint = match instead_of(word) {
        Some(command) => format!("did you mean `{command}`?"),
        None => format!("the commands are {}; a handler: prefork [OPTIONS] HANDLER.so", commands()),
    };
    format!("{word}: no such command or file; {hint}")
}

/// Returns the names of the commands: `ls, show, ... and help`.
fn commands() -> String {
    let mut command = Cli::command();
    command.build();
    let names: Vec<_> = command.get_subcommands().map(Command::get_name).collect();
    let (last, rest) = names.split_last().unwrap_or((&"", &[]));
    format!("{} and {last}", rest.join(", "))
}

/// Returns the command that is meant by a word that is none: another tool's, or a misspelled one, by clap's own measure.
fn instead_of(word: &str) -> Option<String> {
    if let Some((_, command)) = ELSEWHERE.iter().find(|(words, _)| words.contains(&word)) {
        return Some((*command).into());
    }
    let verbs = Cli::command();
    let verbs = verbs.get_subcommands().map(|verb| (strsim::jaro(word, verb.get_name()), verb.get_name()));
    let best = verbs.max_by(|(a, _), (b, _)| a.total_cmp(b));
    best.filter(|(similarity, _)| *similarity > 0.7).map(|(_, verb)| format!("prefork {verb}"))
}

fn notes() -> String {
    let section = |(title, text): (&str, &str)| format!("{title}:\n  {}", text.replace('\n', "\n  "));
    NOTES.map(section).join("\n\n")
}

/// Writes to standard output, without colours unless it is a terminal. Returns false if the reader has closed its end, which is no
/// failure (`prefork --help | head -1`).
fn print(text: &[u8]) -> Result<bool, Failure> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Failure(FAILED, format!("stdout: {e}"))),
    }
}

/// Shortens clap's report to the error and the suggestion.
fn one_line(report: &str) -> String {
    let (said, rest) = report.trim_start_matches("error: ").split_once("\n\n").unwrap_or((report, ""));
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    // The other kind of tip proposes `--`, after which no handler can follow.
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
        command().debug_assert();
    }

    #[test]
    fn words_after_the_handler_are_its_arguments() {
        for words in [
            &["prefork", "-w", "2", "x.so", "-w", "--help", "--", "demo"][..],
            &["prefork", "x.so", "demo", "man", "-l"],
        ] {
            let cli = Cli::from_arg_matches(&command().get_matches_from(words)).unwrap();
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
