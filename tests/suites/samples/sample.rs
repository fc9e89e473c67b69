//! A sample configuration, line by line: `# words`, `#key = default`, `key = value`, `[table]`.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use vouchsafe_runtime::config::{ConfigError, parse};

/// A key that no configuration has.
const NO_KEY: &str = "key_that_is_not_there";

/// One key of a sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// The key with its table, as in `log.level`.
    pub(crate) key: String,
    /// What stands before it.
    pub(crate) words: String,
    /// Whether it is set, and not commented out.
    pub(crate) set: bool,
    /// The line as TOML.
    toml: String,
}

impl Line {
    pub(crate) fn says(&self, words: &str) -> bool {
        self.words.contains(words)
    }
}

/// A sample file.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) lines: Vec<Line>,
}

impl Sample {
    /// Reads a file; a line of another shape is a mistake in it.
    pub(crate) fn read(text: &str) -> Self {
        let (mut table, mut words, mut lines) = (String::new(), String::new(), Vec::new());
        for (number, line) in text.lines().enumerate() {
            if let Some(more) = line.strip_prefix("# ").or_else(|| (line == "#").then_some("")) {
                words.push_str(more);
                words.push(' ');
            } else if line.is_empty() {
                words.clear();
            } else if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                table = name.to_owned();
                words.clear();
            } else {
                let toml = line.strip_prefix('#').unwrap_or(line).to_owned();
                let key = toml.split_once(" = ").map(|(key, _)| key);
                let key = key.filter(|key| {
                    key.bytes()
                        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
                });
                let key =
                    key.unwrap_or_else(|| panic!("line {}: neither words nor a key: {line}", number + 1));
                let key = if table.is_empty() {
                    key.to_owned()
                } else {
                    format!("{table}.{key}")
                };
                let set = !line.starts_with('#');
                let words = std::mem::take(&mut words);
                lines.push(Line {
                    key,
                    words,
                    set,
                    toml,
                });
            }
        }
        Self { lines }
    }

    /// The keys, each of which stands once.
    pub(crate) fn keys(&self) -> BTreeSet<String> {
        let keys: BTreeSet<String> = self.lines.iter().map(|line| line.key.clone()).collect();
        assert_eq!(keys.len(), self.lines.len(), "a key stands twice");
        keys
    }

    /// A file with the chosen keys alone.
    pub(crate) fn text(&self, chosen: impl Fn(&Line) -> bool) -> String {
        let (mut table, mut text) = ("", String::new());
        for line in &self.lines {
            let own = line.key.rsplit_once('.').map_or("", |(table, _)| table);
            if own != table {
                table = own;
                text.push_str(&format!("[{table}]\n"));
            }
            if chosen(line) {
                text.push_str(&line.toml);
                text.push('\n');
            }
        }
        text
    }

    /// The text that a key has as its value.
    pub(crate) fn value(&self, key: &str) -> String {
        let line = self.lines.iter().find(|line| line.key == key);
        let line = line.unwrap_or_else(|| panic!("no key `{key}`"));
        let value = line
            .toml
            .split_once(" = ")
            .map(|(_, value)| value.trim_matches('"'));
        value.unwrap_or_default().to_owned()
    }
}

/// Every key of a configuration, with its table: what the loader says that it knows when it meets an unknown key.
pub(crate) fn known_keys<T: DeserializeOwned>() -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    let mut tables = vec![String::new()];
    while let Some(table) = tables.pop() {
        for key in keys_in::<T>(&table).unwrap_or_default() {
            let key = if table.is_empty() {
                key
            } else {
                format!("{table}.{key}")
            };
            match keys_in::<T>(&key) {
                Some(_) => tables.push(key),
                None => assert!(keys.insert(key)),
            }
        }
    }
    keys
}

/// The keys of a table; `None` where the name is not a table's.
fn keys_in<T: DeserializeOwned>(table: &str) -> Option<Vec<String>> {
    let (head, wrong) = match table {
        "" => (String::new(), NO_KEY.to_owned()),
        table => (format!("[{table}]\n"), format!("{table}.{NO_KEY}")),
    };
    match parse::<T>(&format!("{head}{NO_KEY} = 1\n"), "a probe") {
        Err(ConfigError::UnknownKey { key, known, .. }) if key == wrong => Some(known),
        _ => None,
    }
}
