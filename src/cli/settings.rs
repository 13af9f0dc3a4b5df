//! The options that are settings, made from the table of [`Config::settings`].

use clap::{Arg, ArgAction, ArgMatches, value_parser};
use prefork::Config;
use prefork::config::{LogLevel, Setting};
use std::ffi::{OsStr, OsString};

/// Returns an option for each setting, in the order of help, and `--quiet`.
pub fn options() -> impl Iterator<Item = Arg> {
    Config::settings().filter(|setting| is_option(setting)).map(option).chain([quiet()])
}

fn quiet() -> Arg {
    Arg::new(QUIET)
        .long(QUIET)
        .short('q')
        .action(ArgAction::SetTrue)
        .help("No banner, and only warnings and errors: --log-level warn")
        .long_help("Print no banner, and log warnings and errors only, as with --log-level warn, which may be given too")
        .help_heading("Serving")
        .hide_short_help(true)
}

const QUIET: &str = "quiet";

fn is_option(setting: &Setting) -> bool {
    !setting.group.is_empty()
}

fn option(setting: &'static Setting) -> Arg {
    let default = match (setting.show)(&Config::default()) {
        default if default.is_empty() => default,
        default => format!(" [default: {default}]"),
    };
    let separator = if setting.more.is_empty() { "" } else { ". " };
    let arg = Arg::new(setting.name)
        .long(setting.name)
        .short(setting.short)
        .value_name(setting.placeholder)
        // Each value is passed to `Config::set`, where it replaces the one before or adds to it.
        .action(ArgAction::Append)
        .help(format!("{}{default}", setting.help))
        .long_help(format!("{}{separator}{}{default}", setting.help, setting.more))
        .help_heading(setting.group)
        .hide_short_help(!setting.is_common);
    match (setting.words)() {
        // The next word is not its value.
        words if setting.placeholder.is_empty() => {
            let arg =
                arg.value_name("on|off").num_args(0..=1).require_equals(true).default_missing_value("on");
            arg.value_parser(words).hide_possible_values(true)
        }
        // The path of an address may be any bytes.
        words if words.is_empty() => arg.value_parser(value_parser!(OsString)),
        words => arg.value_parser(words).hide_possible_values(true),
    }
}

/// Sets what the arguments give, and checks if it can be combined. Returns true if nothing is to be printed at the start.
pub fn apply(matches: &ArgMatches, config: &mut Config) -> prefork::Result<bool> {
    let is_quiet = matches.get_flag(QUIET);
    if is_quiet {
        config.log_level = LogLevel::Warn;
    }
    for setting in Config::settings().filter(|setting| is_option(setting)) {
        for value in matches.get_raw(setting.name).into_iter().flatten() {
            config.set(setting.name, value)?;
        }
    }
    config.check()?;
    Ok(is_quiet)
}

/// True if a word is spelled as an option of the program: `-w`, `-w3`, `--workers`, `--workers=3`.
pub fn is_spelled_as_option(word: &OsStr) -> bool {
    let word = word.to_string_lossy();
    let mut settings = Config::settings().filter(|setting| is_option(setting));
    match (word.strip_prefix("--"), word.strip_prefix('-').and_then(|word| word.chars().next())) {
        (Some(long), _) => {
            long == QUIET || settings.any(|setting| Some(setting.name) == long.split('=').next())
        }
        (None, Some(short)) => short == 'q' || settings.any(|setting| setting.short == Some(short)),
        (None, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_an_option_with_help() {
        for setting in Config::settings().filter(|s| s.name != "signals") {
            let option = options().find(|o| o.get_id() == setting.name).unwrap();
            let help = option.get_help().unwrap().to_string();
            assert!(help.len() > 5 && option.get_help_heading().is_some(), "{}", setting.name);
        }
    }
}
