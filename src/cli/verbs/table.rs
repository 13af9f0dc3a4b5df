//! Tables and numbers as text.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use std::fmt::Write;
use std::time::Duration;

/// A column: its title, true if it holds numbers, and the text for an entry; a dash if there is none.
pub type Column<T> = (&'static str, bool, fn(&T) -> Option<String>);

/// The colour of a row that is out of the ordinary.
pub type Colour = Option<&'static str>;
/// The colour of a passing state.
pub const CHANGING: Colour = Some("\x1b[33m");
/// The colour of a fault.
pub const WRONG: Colour = Some("\x1b[31m");
const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";

/// Returns a line of titles and one line per entry. The output stream removes the colours unless it is a terminal.
pub fn render<T>(columns: &[Column<T>], entries: &[T], colour: fn(&T) -> Colour) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.iter().map(|(title, ..)| *title));
    for entry in entries {
        // A server's name may contain anything; it must not break a line or control the terminal.
        let cell = |text: Option<String>| text.unwrap_or_else(|| "-".into()).replace(char::is_control, "?");
        table.add_row(columns.iter().map(|(.., text)| cell(text(entry))));
    }
    for (column, (_, is_number, _)) in table.column_iter_mut().zip(columns) {
        column.set_padding((0, 2));
        if *is_number {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let colours = std::iter::once(Some(BOLD)).chain(entries.iter().map(colour));
    let mut text = String::new();
    for (line, colour) in table.lines().zip(colours) {
        // Writing to a String cannot fail.
        let _ = match colour {
            Some(colour) => writeln!(text, "{colour}{}{PLAIN}", line.trim_end()),
            None => writeln!(text, "{}", line.trim_end()),
        };
    }
    text
}

/// `4.2M`: bytes, in powers of 1024.
pub fn bytes(n: u64) -> String {
    let (mut value, mut unit) = (n as f64, "");
    for next in ["K", "M", "G", "T"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit.is_empty() || value >= 99.95 { format!("{value:.0}{unit}") } else { format!("{value:.1}{unit}") }
}

/// `3d 4h`: a time, by its two largest units.
pub fn time(time: Duration) -> String {
    let s = time.as_secs();
    match (s / 86_400, s / 3600 % 24, s / 60 % 60, s % 60) {
        (0, 0, 0, s) if s < 10 => format!("{s}.{}s", time.subsec_millis() / 100),
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m {s}s"),
        (0, h, m, _) => format!("{h}h {m}m"),
        (d, h, ..) => format!("{d}d {h}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (n, text) in [
            (0, "0"),
            (1023, "1023"),
            (1024, "1.0K"),
            (102_400, "100K"),
            (3 << 20, "3.0M"),
            (u64::MAX, "16777216T"),
        ] {
            assert_eq!(bytes(n), text);
        }
        for (ms, text) in [
            (0, "0.0s"),
            (1_234, "1.2s"),
            (59_999, "59s"),
            (61_000, "1m 1s"),
            (7_260_000, "2h 1m"),
            (90_000_000, "1d 1h"),
        ] {
            assert_eq!(time(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn an_entry_is_one_line_whatever_it_contains() {
        const COLUMNS: &[Column<(&str, Option<u32>)>] =
            &[("NAME", false, |e| Some(e.0.into())), ("N", true, |e| e.1.map(|n| n.to_string()))];
        let entries = [("a\nb\u{1b}[31m", None), ("x", Some(1000))];
        let text = render(COLUMNS, &entries, |e| if e.1.is_some() { WRONG } else { None });
        assert_eq!(text, "\x1b[1mNAME         N\x1b[0m\na?b?[31m     -\n\x1b[31mx         1000\x1b[0m\n");
    }
}
