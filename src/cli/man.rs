//! The manual page, from the same definition as the parser and its help.

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use std::io;

/// Renders the page of `command`.
pub fn page(command: Command) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut commands = Roff::new();
    commands.control("SH", ["OTHER COMMANDS"]);
    for verb in command.get_subcommands() {
        let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
        commands.control("TP", []);
        commands.text([bold(format!("prefork {}", verb.get_name()))]);
        commands.text([roman(about)]);
    }
    let man = Man::new(command);
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    commands.to_writer(&mut text)?;
    for (title, lines) in super::NOTES {
        let mut section = Roff::new();
        section.control("SH", [title.to_uppercase().as_str()]).control("nf", []);
        section.text([roman(lines)]);
        section.control("fi", []);
        section.to_writer(&mut text)?;
    }
    Ok(text)
}
