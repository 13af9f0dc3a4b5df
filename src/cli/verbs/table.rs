//! Tables and numbers as text.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use std::fmt::Write;

/// A column: its title, and true if it holds numbers.
pub type Column = (&'static str, bool);

/// A row, and its colour if it is out of the ordinary.
pub struct Row {
    pub cells: Vec<String>,
    pub colour: Option<&'static str>,
}

/// The colour of a passing state.
pub const CHANGING: Option<&str> = Some("\x1b[33m");
/// The colour of a fault.
pub const WRONG: Option<&str> = Some("\x1b[31m");
const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";

/// Returns a line of titles and one line per row. The output stream removes the colours if it is no terminal.
pub fn render(columns: &[Column], rows: Vec<Row>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.iter().map(|(title, _)| *title));
    let mut colours = vec![Some(BOLD)];
    for row in rows {
        // A server's name may hold anything; it must not break a line or control the terminal.
        table.add_row(row.cells.into_iter().map(|c| c.replace(char::is_control, "?")));
        colours.push(row.colour);
    }
    for (i, (_, is_number)) in columns.iter().enumerate() {
        if let Some(column) = table.column_mut(i) {
            column.set_padding((0, 2));
            if *is_number {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
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

/// As [`bytes`], or a dash if it is unknown.
pub fn bytes_or_dash(n: Option<u64>) -> String {
    n.map_or_else(|| "-".into(), bytes)
}

/// `3d 4h`: a time, by its two largest units.
pub fn time(ms: u64) -> String {
    let s = ms / 1000;
    match (s / 86_400, s / 3600 % 24, s / 60 % 60, s % 60) {
        (0, 0, 0, s) if s < 10 => format!("{s}.{}s", ms % 1000 / 100),
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
            assert_eq!(time(ms), text);
        }
    }

    #[test]
    fn a_row_is_a_line_whatever_is_in_it() {
        let rows = vec![
            Row { cells: vec!["a\nb\u{1b}[31m".into(), "1".into()], colour: None },
            Row { cells: vec!["x".into(), "1000".into()], colour: WRONG },
        ];
        let text = render(&[("NAME", false), ("N", true)], rows);
        assert_eq!(text, "\x1b[1mNAME         N\x1b[0m\na?b?[31m     1\n\x1b[31mx         1000\x1b[0m\n");
    }
}
