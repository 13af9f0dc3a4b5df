//! The manual page, from the same definition as the parser and its help.

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};
use std::io;

/// Renders the page of `command` and its verbs.
pub fn page(mut command: Command) -> io::Result<Vec<u8>> {
    // So that each verb knows its full name.
    command.build();
    let verbs: Vec<Command> =
        command.get_subcommands().filter(|verb| verb.get_name() != "help").cloned().collect();
    let man = Man::new(command);
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    Roff::new().control("SH", ["OTHER COMMANDS"]).to_writer(&mut text)?;
    for verb in verbs {
        text.extend(section(verb)?);
    }
    for (title, lines) in super::NOTES {
        let mut section = Roff::new();
        section.control("SH", [title.to_uppercase().as_str()]).control("nf", []);
        section.text([roman(lines)]);
        section.control("fi", []);
        section.to_writer(&mut text)?;
    }
    let mut others = Roff::new();
    others.control("SH", ["SEE ALSO"]).text([roman("curl(1), wrk(1), systemd.socket(5), signal(7)")]);
    others.to_writer(&mut text)?;
    Ok(text)
}

/// Renders the subsection of a verb.
fn section(mut verb: Command) -> io::Result<Vec<u8>> {
    let usage = verb.render_usage().to_string();
    // The settings, which `demo` takes too, have headings; they are in the page already.
    let man = Man::new(verb.mut_args(|arg| {
        let is_known = arg.get_help_heading().is_some() || arg.get_id() == "help";
        arg.hide(is_known)
    }));
    let mut text = Vec::new();
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    let title = format!(".SS \"{}\"", usage.trim_start_matches("Usage: "));
    let text = String::from_utf8_lossy(&text).replacen(".SH DESCRIPTION", &title, 1);
    Ok(text.replace(".SH OPTIONS\n", "").into_bytes())
}
