//! The one place that prints: tables for people, JSON for programs, errors with their causes.

use std::io::Write;
use std::process::ExitCode;

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::args::Format;
use crate::error::CliError;

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
            line(human().trim_end());
        }
    }

    /// Prints one event of a stream: a line of JSON, or a line of text.
    pub(crate) fn event<T: Serialize>(&self, value: &T, human: impl FnOnce() -> String) {
        if self.is_json() {
            line(&serde_json::to_string(value).unwrap_or_default());
        } else {
            line(human().trim_end());
        }
    }

    /// Prints a note for people on standard error; programs that asked for JSON do not get it.
    pub(crate) fn note(&self, text: &str) {
        if !self.is_json() {
            error_line(text);
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
            error_line(&text);
        }
        ExitCode::from(error.exit_code())
    }
}

/// Prints what clap has to say: help and version are no errors.
pub(crate) fn usage(refused: &clap::Error) -> ExitCode {
    let _unprintable = refused.print();
    if refused.use_stderr() {
        ExitCode::from(64)
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
        table.add_row(row);
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
        .map(|(label, value)| format!("{label:width$} : {value}\n"))
        .collect()
}

/// Writes a line to standard output; a reader that has gone away is no error.
pub(crate) fn line(text: &str) {
    let _gone = writeln!(std::io::stdout().lock(), "{text}");
}

fn error_line(text: &str) {
    let _gone = writeln!(std::io::stderr().lock(), "{text}");
}
