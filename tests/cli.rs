//! The output and the exit code of the program when it starts no server.
#![allow(clippy::unwrap_used)]

use std::io::Read;
use std::process::{Command, Output, Stdio};

fn prefork(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_prefork"));
    command.args(args).env("COLUMNS", "80").stdin(Stdio::null()).output().unwrap()
}

fn stdout_of(args: &[&str]) -> String {
    let out = prefork(args);
    assert_eq!(out.status.code(), Some(0), "{args:?}: {out:?}");
    assert_eq!(String::from_utf8_lossy(&out.stderr), "", "{args:?}");
    String::from_utf8(out.stdout).unwrap()
}

/// The one line on stderr of a call that is wrong.
fn refusal_of(args: &[&str]) -> String {
    let out = prefork(args);
    let text = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(2), "{args:?}: {text}");
    assert!(out.stdout.is_empty(), "{args:?}: stdout is not for errors");
    assert!(
        text.starts_with("prefork: ") && text.ends_with('\n') && text.lines().count() == 1,
        "{args:?}: {text}"
    );
    text
}

#[test]
fn version_names_program_and_version() {
    assert_eq!(stdout_of(&["--version"]), concat!("prefork ", env!("CARGO_PKG_VERSION"), "\n"));
    assert_eq!(stdout_of(&["-V"]), stdout_of(&["--version"]));
}

#[test]
fn help_fits_the_terminal_and_shows_the_defaults() {
    for columns in [80, 120] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_prefork"));
        let out = command.arg("--help").env("COLUMNS", columns.to_string()).output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        for line in text.lines() {
            assert!(line.chars().count() <= columns, "{columns}: {line}");
        }
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for expected in [
            "Usage: prefork [OPTIONS] HANDLER.so [ARGS...]",
            "prefork demo [OPTIONS]",
            "-w, --workers <N|auto>",
            "[default: auto]",
            "[default: 127.0.0.1:8080]",
            "[default: round-robin]",
            "Exit status:",
        ] {
            assert!(words.contains(expected), "{columns}: {expected}");
        }
        let config = prefork::Config::default();
        assert!(words.contains(&format!("[default: {}]", config.backlog)));
        assert!(words.contains(&format!("[default: {}s]", config.timeouts.idle.as_secs())));
    }
}

#[test]
fn short_help_is_short() {
    let (short, long) = (stdout_of(&["-h"]), stdout_of(&["--help"]));
    assert!(short.lines().count() <= 40, "{short}");
    assert!(short.contains("--workers") && short.contains("--listen"), "{short}");
    assert!(!short.contains("--idle-timeout"), "{short}");
    assert!(long.contains("--idle-timeout"), "{long}");
}

#[test]
fn help_of_a_verb_is_its_long_help() {
    assert_eq!(stdout_of(&["help"]), stdout_of(&["--help"]));
    for verb in ["ls", "show", "reload", "upgrade", "scale", "stop", "events", "demo", "completions", "man"] {
        assert_eq!(stdout_of(&["help", verb]), stdout_of(&[verb, "--help"]), "{verb}");
    }
    let text = refusal_of(&["help", "relod"]);
    assert!(text.contains("relod") && text.contains("did you mean `prefork reload`?"), "{text}");
}

#[test]
fn demo_takes_the_same_settings() {
    let settings = |text: String| -> Vec<String> {
        let options =
            text.lines().filter_map(|l| l.trim_start().split_once("--")).map(|(_, name)| name.to_owned());
        options.filter(|name| name.contains('<')).collect()
    };
    assert_eq!(settings(stdout_of(&["--help"])), settings(stdout_of(&["demo", "--help"])));
}

#[test]
fn without_a_handler_it_says_what_to_do() {
    for args in [&[][..], &["--workers", "2"]] {
        let text = refusal_of(args);
        assert!(
            text.contains("prefork demo") && text.contains("HANDLER.so") && text.contains("-h"),
            "{text}"
        );
    }
}

#[test]
fn an_error_names_the_wrong_value_and_the_valid_ones() {
    for (args, expected) in [
        (["--workers", "many"], "expected auto, or a whole number from 0 to 1024"),
        (["-w", "1025"], "expected auto, or a whole number from 0 to 1024"),
        (["--listen", "example.org"], "expected HOST:PORT"),
        (["-l", "127.0.0.1:99999"], "expected a port from 0 to 65535, found \"99999\""),
        (["-l", "udp:[::1]:http"], "expected a port from 0 to 65535, found \"http\""),
        (["-l", "8080"], "expected an address: :8080 is every one of this machine"),
        (["-l", "udp:53"], "expected an address: udp::53 is every one of this machine, udp:127.0.0.1:53 is"),
        (["-l", "::1:8080"], "expected an IPv6 address in brackets: [::1]:8080"),
        (["-l", "::1"], "expected an IPv6 address in brackets: [::1]:PORT"),
        (["-l", "example.org:80"], "expected an IP address or localhost (127.0.0.1) in front of :80"),
        (["-l", "unix:@"], "expected a name"),
        (["--max-body", "8 MB"], "expected bytes"),
        (["--idle-timeout", "soon"], "expected a time"),
        (["--unix-mode", "999"], "expected an octal mode"),
        (["--nodelay", "maybe"], "on, off"),
        (["--dispatch", "random"], "round-robin, least-connections"),
        (["--max-line", "100K"], "--max-head must be at least --max-line"),
        (["--backlog", "0"], "expected a whole number from 1"),
    ] {
        let text = refusal_of(&[&args[..], &["handler.so"]].concat());
        assert!(text.contains(expected), "{args:?}: {text}");
    }
}

#[test]
fn an_address_that_another_one_includes_is_told_as_such() {
    for (wide, narrow) in [
        ("[::]:8080", "0.0.0.0:8080"),
        (":8080", "127.0.0.1:8080"),
        ("[::]:8080", "[::1]:8080"),
        ("0.0.0.0:8080", "127.0.0.1:8080"),
        ("udp::53", "udp:127.0.0.1:53"),
    ] {
        for order in [[wide, narrow], [narrow, wide]] {
            for accept in ["master", "shared", "reuseport"] {
                let text = refusal_of(&["--accept", accept, "-l", order[0], "-l", order[1], "handler.so"]);
                assert!(
                    text.contains(&format!("listen {narrow}: ")) && text.contains("includes it"),
                    "{text}"
                );
            }
        }
    }
}

#[test]
fn a_mode_for_sockets_without_a_file_is_refused() {
    let text = refusal_of(&["--unix-mode", "600", "-l", "unix:@web", "handler.so"]);
    assert!(text.contains("--unix-mode") && text.contains("unix:@web"), "{text}");
}

#[test]
fn an_unknown_option_is_reported_with_a_similar_one() {
    let text = refusal_of(&["--worker", "2", "handler.so"]);
    assert!(text.contains("'--worker'") && text.contains("'--workers'"), "{text}");
    refusal_of(&["demo", "--colour", "blue"]);
    refusal_of(&["demo", "more"]);
    refusal_of(&["completions"]);
    refusal_of(&["completions", "tcsh"]);
    refusal_of(&["--workers"]);
}

#[test]
fn a_misspelled_verb_is_reported_with_a_similar_one() {
    for (word, verb) in [("relod", "reload"), ("sacle", "scale"), ("event", "events"), ("lst", "ls")] {
        let text = refusal_of(&[word, "3"]);
        assert!(text.contains(word) && text.contains(&format!("did you mean `prefork {verb}`?")), "{text}");
    }
}

#[test]
fn a_verb_of_other_tools_is_told_what_does_the_same_here() {
    for (word, instead) in [
        ("restart", "prefork reload"),
        ("status", "prefork ls"),
        ("list", "prefork ls"),
        ("ps", "prefork ls"),
        ("delete", "prefork stop"),
        ("kill", "prefork stop"),
        ("shutdown", "prefork stop"),
        ("describe", "prefork show"),
        ("info", "prefork show"),
        ("start", "prefork [OPTIONS] HANDLER.so"),
        ("serve", "prefork [OPTIONS] HANDLER.so"),
        ("usage", "prefork help"),
        ("version", "prefork --version"),
    ] {
        for args in [&[word][..], &[word, "web"]] {
            let text = refusal_of(args);
            assert!(text.contains(word) && text.contains(&format!("`{instead}`")), "{text}");
        }
    }
    let text = refusal_of(&["frobnicate"]);
    let commands =
        "the commands are ls, show, reload, upgrade, scale, stop, events, demo, completions, man and help";
    assert!(text.contains("frobnicate: no such command or file") && text.contains(commands), "{text}");
}

#[test]
fn a_directory_called_like_a_verb_is_not_taken_for_a_handler() {
    let dir = std::env::temp_dir().join(format!("prefork-cli-{}", std::process::id()));
    std::fs::create_dir_all(dir.join("status")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_prefork"));
    let out = command.arg("status").current_dir(&dir).output().unwrap();
    std::fs::remove_dir_all(dir).unwrap();
    assert_eq!(out.status.code(), Some(2), "{out:?}");
    assert!(String::from_utf8_lossy(&out.stderr).contains("`prefork ls`"), "{out:?}");
}

#[test]
fn wrong_usage_of_a_verb_is_json_if_that_is_asked_for() {
    for args in [&["scale", "many", "--json"][..], &["show", "--json", "--colour"], &["scale", "--json"]] {
        let out = prefork(args);
        assert_eq!(out.status.code(), Some(2), "{out:?}");
        let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(json["error"]["code"], 2, "{json}");
        let text = json["error"]["text"].as_str().unwrap();
        assert!(String::from_utf8_lossy(&out.stderr).contains(text), "{out:?}");
    }
    // What a handler gets is its own.
    assert!(prefork(&["--colour", "./handler.so", "--json"]).stdout.is_empty());
}

#[test]
fn completions_are_for_the_given_shell() {
    for (shell, sign) in [
        ("bash", "complete -F _prefork"),
        ("zsh", "#compdef prefork"),
        ("fish", "complete -c prefork"),
        ("elvish", "edit:completion"),
        ("powershell", "Register-ArgumentCompleter"),
    ] {
        let text = stdout_of(&["completions", shell]);
        assert!(text.contains(sign) && text.contains("drain-timeout"), "{shell}: {text}");
    }
}

#[test]
fn the_bash_completion_completes() {
    let script = format!(
        "{}\nCOMP_WORDS=(prefork --dispatch r); COMP_CWORD=2; _prefork prefork r --dispatch; echo \"${{COMPREPLY[@]}}\"",
        stdout_of(&["completions", "bash"])
    );
    let out = Command::new("bash").args(["--norc", "-c", &script]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), "round-robin\n", "{out:?}");
}

/// An option without a value that may be left out, which the manual page marks up.
fn bare(option: &str) -> &str {
    option.split("[=").next().unwrap().trim_end_matches(',')
}

#[test]
fn the_manual_page_has_every_option_and_verb_explained() {
    let page = stdout_of(&["man"]);
    for section in [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "SERVING",
        "LIMITS",
        "TIMEOUTS",
        "EXAMPLES",
        "SIGNALS",
        "ENVIRONMENT",
        "FILES",
        "EXIT STATUS",
        "SEE ALSO",
    ] {
        let titles = [format!(".SH {section}\n"), format!(".SH \"{section}\"\n")];
        assert!(titles.iter().any(|title| page.contains(title)), "{section}");
    }
    // In the page a hyphen is written `\-`, an apostrophe `\*(Aq`.
    let page = page.replace("\\-", "-").replace("\\*(Aq", "'");
    let help = stdout_of(&["--help"]);
    let options: Vec<_> = help.split_whitespace().filter(|w| w.starts_with("--")).collect();
    assert!(options.len() >= 20, "{options:?}");
    for option in options {
        assert!(page.contains(bare(option)), "{option}");
    }
    for setting in prefork::Config::settings().filter(|s| !s.group.is_empty()) {
        assert!(page.contains(setting.help) && page.contains(setting.more), "{}", setting.name);
    }
    for verb in ["ls", "show", "reload", "upgrade", "scale", "stop", "events", "demo", "completions", "man"] {
        let help = stdout_of(&[verb, "--help"]);
        let (about, rest) = help.split_once("\n\n").unwrap();
        assert!(page.contains(&format!(".SS \"prefork {verb}")) && page.contains(about), "{verb}");
        let mut options = rest.split_whitespace().filter(|w| w.starts_with("--"));
        assert!(options.all(|option| page.contains(bare(option))), "{verb}");
    }
}

#[test]
fn a_reader_that_closes_early_is_no_failure() {
    for args in [&["--help"][..], &["completions", "bash"], &["man"]] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_prefork"))
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let mut text = String::new();
        child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(child.wait().unwrap().success() && text.is_empty(), "{args:?}: {text}");
    }
}

#[test]
fn a_full_disk_is_a_failure() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_prefork"));
    let out = command.args(["completions", "bash"]).stdout(full).output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).starts_with("prefork: stdout: No space left"), "{out:?}");
}
