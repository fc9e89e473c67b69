//! The one place that prints: tables for people, JSON for programs, errors with their causes.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::args::Format;
use crate::error::CliError;

/// Exit code when the command line is wrong.
const WRONG_USAGE: u8 = 64;

/// Prints results in the chosen format.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    format: Format,
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Prints `value` as JSON, or the text that `human` makes.
    pub(crate) fn show<T: Serialize>(&self, value: &T, human: impl FnOnce() -> String) {
        if self.is_json() {
            line(&serde_json::to_string_pretty(value).unwrap_or_default());
        } else {
            line(&visible(human().trim_end(), true));
        }
    }

    /// Prints one event of a stream: a line of JSON, or a line of text.
    pub(crate) fn event<T: Serialize>(&self, value: &T, human: impl FnOnce() -> String) {
        if self.is_json() {
            line(&serde_json::to_string(value).unwrap_or_default());
        } else {
            line(&visible(human().trim_end(), true));
        }
    }

    /// Prints a note for people on standard error; programs that asked for JSON do not get it.
    pub(crate) fn note(&self, text: &str) {
        if !self.is_json() {
            error_line(&visible(text, true));
        }
    }

    /// Prints an event for programs on standard error, where standard output is somebody else's.
    pub(crate) fn aside<T: Serialize>(&self, value: &T) {
        if self.is_json() {
            error_line(&serde_json::to_string(value).unwrap_or_default());
        }
    }

    /// Prints an error with its causes and gives its exit code.
    pub(crate) fn fail(&self, error: &CliError) -> ExitCode {
        let mut causes = Vec::new();
        let mut next = std::error::Error::source(error);
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        if self.is_json() {
            let value = serde_json::json!({
                "error": { "kind": error.kind(), "message": error.to_string(), "causes": causes, "exit_code": error.exit_code() }
            });
            error_line(&value.to_string());
        } else {
            let mut text = format!("error: {error}");
            for cause in causes {
                text.push_str(": ");
                text.push_str(&cause);
            }
            error_line(&visible(&text, true));
        }
        ExitCode::from(error.exit_code())
    }
}

/// Prints what clap has to say: help and version are no errors.
pub(crate) fn usage(refused: &clap::Error, json: bool) -> ExitCode {
    if json && refused.use_stderr() {
        let text = refused.to_string();
        let message = text.trim().trim_start_matches("error: ");
        let value = serde_json::json!({
            "error": { "kind": "usage", "message": message, "causes": [], "exit_code": WRONG_USAGE }
        });
        error_line(&value.to_string());
        return ExitCode::from(WRONG_USAGE);
    }
    let _unprintable = refused.print();
    if refused.use_stderr() {
        ExitCode::from(WRONG_USAGE)
    } else {
        ExitCode::SUCCESS
    }
}

/// A table with a head, without frames.
pub(crate) fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(head);
    for row in rows {
        table.add_row(row.iter().map(|cell| value(cell)));
    }
    table
        .to_string()
        .lines()
        .map(str::trim)
        .collect::<Vec<_>>()
        .join("\n")
}

/// Label and value, one pair a line, labels padded.
pub(crate) fn pairs(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
    rows.iter()
        .map(|(label, text)| format!("{label:width$} : {}\n", value(text)))
        .collect()
}

/// A value that others chose, on one line.
pub(crate) fn value(text: &str) -> String {
    visible(text, false)
}

/// Shows what a terminal would obey, or what changes the order of what is read, instead of sending it: paths, hints
/// and selectors can hold anything.
fn visible(text: &str, lines: bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' if lines => shown.push(c),
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                shown.extend(c.escape_unicode());
            }
            c if c.is_control() => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown
}

/// The first line that could not be written, if any.
static UNWRITTEN: Mutex<Option<io::Error>> = Mutex::new(None);

/// Why some of the output was not written. That the reader has gone away is no reason.
pub(crate) fn unwritten() -> Option<io::Error> {
    UNWRITTEN.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Writes a line to standard output.
pub(crate) fn line(text: &str) {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            UNWRITTEN
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get_or_insert(error);
        }
        _ => {}
    }
}

fn error_line(text: &str) {
    let _gone = writeln!(io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "a\u{1b}[2J\u{7}\u{9b}31m\u{202e}\nSPIFFE ID : b";

    #[test]
    fn a_value_cannot_steer_the_terminal_nor_pretend_to_be_another_line() {
        let one = r"a\u{1b}[2J\u{7}\u{9b}31m\u{202e}\nSPIFFE ID : b";
        assert_eq!(value(HOSTILE), one);
        assert_eq!(pairs(&[("Hint", HOSTILE.to_owned())]), format!("Hint : {one}\n"));
        let table = table(&["HINT"], vec![vec![HOSTILE.to_owned()]]);
        assert_eq!(table, format!("HINT\n{one}"));
        assert_eq!(visible("a\n\tb\u{1b}", true), "a\n\tb\\u{1b}");
        assert_eq!(value("plain ünï cödé"), "plain ünï cödé");
    }
}
