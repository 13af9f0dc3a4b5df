//! The options that are settings, made from the table of [`Config::settings`].

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use prefork::Config;
use prefork::config::Setting;

/// Settings as given, in the order of help; read by [`Settings::apply`].
#[derive(Default)]
pub struct Settings(Vec<(String, String)>);

impl Settings {
    /// Moves them into `config` and checks if they can be combined.
    pub fn apply(self, config: &mut Config) -> prefork::Result<()> {
        self.0.iter().try_for_each(|(name, value)| config.set(name, value))?;
        config.check()
    }

    /// The value of a setting, if it was given.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

fn options() -> impl Iterator<Item = Arg> {
    Config::settings().filter(|setting| !setting.group.is_empty()).map(option)
}

fn option(setting: &'static Setting) -> Arg {
    let default = match setting.show(&Config::default()) {
        default if default.is_empty() => default,
        default => format!(" [default: {default}]"),
    };
    let long = [setting.help, setting.more].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>();
    let arg = Arg::new(setting.name)
        .long(setting.name)
        .short(setting.short)
        .value_name(setting.placeholder)
        .action(if setting.repeats() { ArgAction::Append } else { ArgAction::Set })
        .help(format!("{}{default}", setting.help))
        .long_help(format!("{}{default}", long.join(". ")))
        .help_heading(setting.group)
        .hide_short_help(!setting.is_common);
    match setting.values() {
        [] => arg,
        values => arg.value_parser(values.to_vec()).hide_possible_values(true),
    }
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
    fn every_setting_is_an_option_with_help() {
        for setting in Config::settings().filter(|s| s.name != "signals") {
            assert_eq!(setting.repeats(), setting.name == "listen");
            let option = options().find(|o| o.get_id() == setting.name).unwrap();
            let help = option.get_help().unwrap().to_string();
            assert!(help.len() > 5 && option.get_help_heading().is_some(), "{}", setting.name);
        }
    }
}
