//! From what the TOML deserializer says to an error that names line, key and next step.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::ConfigError;

/// A known key is offered when it looks at least this much like the unknown one (Jaro-Winkler, 0 to 1).
const ALIKE: f64 = 0.75;

/// The end of the message about an unknown key.
pub(super) fn hint(nearest: Option<&str>, known: &[String]) -> String {
    match nearest {
        Some(key) => format!("; did you mean `{key}`?"),
        None if known.is_empty() => "; no key may stand here".to_owned(),
        None => format!("; known here: {}", known.join(", ")),
    }
}

/// Turns the deserializer's error into ours.
pub(super) fn explain(text: &str, origin: &str, error: &toml::de::Error) -> ConfigError {
    let span = error.span().unwrap_or_default();
    let (origin, line, message) = (origin.to_owned(), line_of(text, span.start), error.message());
    let Ok(document) = DeTable::parse(text) else {
        let reason = message.trim_end().replace('\n', ", ");
        return ConfigError::Syntax { origin, line, reason };
    };
    let root = document.get_ref();
    if let Some(field) = quoted_after(message, "unknown field ") {
        let known = known_fields(message);
        let mut path = path_to(root, &span).unwrap_or_else(|| vec![field.clone()]);
        if path.last() != Some(&field) {
            path.push(field.clone());
        }
        return ConfigError::UnknownKey {
            origin,
            line,
            key: path.join("."),
            nearest: nearest(&field, &known),
            known,
        };
    }
    if let Some(field) = quoted_after(message, "missing field ") {
        let mut path = table_at(root, &span).unwrap_or_default();
        path.push(field);
        let key = path.join(".");
        return ConfigError::MissingKey { origin, key };
    }
    let key = path_to(root, &span).unwrap_or_default().join(".");
    let reason = message.trim_end().to_owned();
    ConfigError::BadValue {
        origin,
        line,
        key,
        reason,
    }
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|b| *b == b'\n').count()
}

/// The text in backticks that follows `before`, where the message begins with it.
fn quoted_after(message: &str, before: &str) -> Option<String> {
    let rest = message.strip_prefix(before)?.strip_prefix('`')?;
    let (name, _) = rest.split_once('`')?;
    Some(name.to_owned())
}

/// The names that serde lists after "expected", as it writes them for `deny_unknown_fields`.
fn known_fields(message: &str) -> Vec<String> {
    let Some((_, list)) = message.rsplit_once("expected ") else {
        return Vec::new();
    };
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn nearest(field: &str, known: &[String]) -> Option<String> {
    known
        .iter()
        .map(|k| (strsim::jaro_winkler(field, k), k))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, k)| k.clone())
}

/// The keys that lead to what stands at `span`.
fn path_to(table: &DeTable<'_>, span: &Range<usize>) -> Option<Vec<String>> {
    find(table, &|key, value| {
        key.contains(&span.start) || value.contains(&span.start)
    })
}

/// The keys that lead to the table that stands exactly at `span`.
fn table_at(table: &DeTable<'_>, span: &Range<usize>) -> Option<Vec<String>> {
    find(table, &|_, value| value == span)
}

type Matches<'a> = &'a dyn Fn(&Range<usize>, &Range<usize>) -> bool;

/// Searches the deepest tables first.
fn find(table: &DeTable<'_>, matches: Matches<'_>) -> Option<Vec<String>> {
    table.iter().find_map(|(key, value)| {
        let name = key.get_ref().to_string();
        if let Some(mut path) = find_within(value.get_ref(), matches) {
            path.insert(0, name);
            return Some(path);
        }
        matches(&key.span(), &value.span()).then(|| vec![name])
    })
}

fn find_within(value: &DeValue<'_>, matches: Matches<'_>) -> Option<Vec<String>> {
    match value {
        DeValue::Table(table) => find(table, matches),
        DeValue::Array(items) => items.iter().find_map(|item| {
            find_within(item.get_ref(), matches).or_else(|| matches(&(0..0), &item.span()).then(Vec::new))
        }),
        _ => None,
    }
}
