//! Entries from a file: the JSON that SPIRE's `-data` takes.

use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use vouchsafe_identity::{Selector, SpiffeId};
use vouchsafe_proto::spire::api::types::{Entry, entry::AdditionalAttributes};

use super::view::{wire_id, wire_selector};
use crate::error::CliError;

/// Largest file, in bytes.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    entries: Vec<FileEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileEntry {
    #[serde(default)]
    entry_id: String,
    spiffe_id: SpiffeId,
    parent_id: SpiffeId,
    selectors: Vec<FileSelector>,
    #[serde(default)]
    x509_svid_ttl: i32,
    #[serde(default)]
    jwt_svid_ttl: i32,
    #[serde(default)]
    federates_with: Vec<String>,
    #[serde(default)]
    admin: bool,
    #[serde(default)]
    downstream: bool,
    #[serde(default)]
    entry_expiry: i64,
    #[serde(default)]
    dns_names: Vec<String>,
    #[serde(default)]
    store_svid: bool,
    #[serde(default)]
    hint: String,
    #[serde(default)]
    disable_x509_svid_prefetch: bool,
    #[serde(default)]
    jwt_svid_include_jti: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileSelector {
    r#type: String,
    value: String,
}

/// Reads a file, or standard input for `-`.
pub(crate) fn read(path: &Path) -> Result<String, CliError> {
    let failed = |source| CliError::File {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(path).map_err(failed)?)
    };
    let mut text = String::new();
    source
        .take(MAX_FILE_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(CliError::Invalid(format!(
            "`{}` is larger than {MAX_FILE_BYTES} bytes",
            path.display()
        )));
    }
    Ok(text)
}

/// The entries that a file's text names.
pub(crate) fn parse(text: &str) -> Result<Vec<Entry>, CliError> {
    let file: File = serde_json::from_str(text)
        .map_err(|error| CliError::Invalid(format!("the file is not a list of entries: {error}")))?;
    if file.entries.is_empty() {
        return Err(CliError::Invalid("the file has no entries".to_owned()));
    }
    file.entries.into_iter().map(to_wire).collect()
}

fn to_wire(entry: FileEntry) -> Result<Entry, CliError> {
    let selectors = entry
        .selectors
        .iter()
        .map(|s| Selector::new(&s.r#type, &s.value).map(|s| wire_selector(&s)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| CliError::Invalid(format!("entry for `{}`: {error}", entry.spiffe_id)))?;
    Ok(Entry {
        id: entry.entry_id,
        spiffe_id: Some(wire_id(&entry.spiffe_id)),
        parent_id: Some(wire_id(&entry.parent_id)),
        selectors,
        x509_svid_ttl: entry.x509_svid_ttl,
        jwt_svid_ttl: entry.jwt_svid_ttl,
        federates_with: entry.federates_with,
        admin: entry.admin,
        downstream: entry.downstream,
        expires_at: entry.entry_expiry,
        dns_names: entry.dns_names,
        store_svid: entry.store_svid,
        hint: entry.hint,
        additional_attributes: Some(AdditionalAttributes {
            disable_x509_svid_prefetch: entry.disable_x509_svid_prefetch,
            jwt_svid_include_jti: entry.jwt_svid_include_jti,
        }),
        ..Entry::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spires_shape_is_read() {
        let text = r#"{"entries":[{"spiffe_id":"spiffe://example.org/a","parent_id":"spiffe://example.org/n",
            "selectors":[{"type":"unix","value":"uid:1"}],"x509_svid_ttl":60,"hint":"h"}]}"#;
        let entries = parse(text).unwrap();
        assert_eq!(entries[0].selectors[0].value, "uid:1");
        assert_eq!(entries[0].x509_svid_ttl, 60);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            ("[]", "not a list"),
            (r#"{"entries":[]}"#, "no entries"),
            (
                r#"{"entries":[{"spiffe_id":"http://a","parent_id":"spiffe://e/n","selectors":[]}]}"#,
                "http://a",
            ),
            (
                r#"{"entries":[{"spiffe_id":"spiffe://e/a","parent_id":"spiffe://e/n","selectors":[{"type":"a:b","value":"c"}]}]}"#,
                "a:b",
            ),
            (r#"{"entries":[{"spiffe_idd":"x"}]}"#, "spiffe_idd"),
        ];
        for (text, named) in cases {
            let refused = parse(text).unwrap_err().to_string();
            assert!(refused.contains(named), "{refused}");
        }
    }
}
