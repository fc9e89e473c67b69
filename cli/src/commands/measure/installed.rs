//! Whether the files of a package are those that its RECORD names: at launch the RECORD alone is compared.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use vouchsafe_launch::measure::MeasureError;
use vouchsafe_workload_attestors::{Installed, MAX_RECORD_BYTES};

use super::files::{self, Files};
use crate::error::CliError;

/// A file that is not what its RECORD says.
#[derive(Debug, Serialize)]
pub(super) struct Altered {
    pub(super) record: String,
    pub(super) path: String,
    pub(super) reason: String,
}

/// Holds each file of a RECORD that has a hash against it; the first of them that the user could change is noted.
pub(super) fn check(record: &Path, files: &mut Files) -> Result<Vec<Altered>, CliError> {
    let measured = files.open(record)?;
    let bytes = files::head(&measured, MAX_RECORD_BYTES.saturating_add(1))?;
    let wrong = |error| CliError::Invalid(format!("`{}`: {error}", record.display()));
    let installed = Installed::parse(&bytes).map_err(wrong)?;
    let folder = record.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    let (mut altered, mut mutable) = (Vec::new(), false);
    for file in installed {
        let Some(expected) = file.sha256 else { continue };
        let path = folder.join(&file.path);
        let reason = match files::real(&path).and_then(|real| files.open(&real)) {
            Ok(found) => {
                if !mutable {
                    mutable = files.look(&found)?;
                }
                match sha256(&found.sha256().to_string()) == expected {
                    true => continue,
                    false => "it was changed since it was installed".to_owned(),
                }
            }
            Err(CliError::Measure(MeasureError::Unreadable { source, .. })) => {
                format!("it cannot be read: {source}")
            }
            Err(other) => other.to_string(),
        };
        altered.push(Altered {
            record: files::text(record)?,
            path: path.display().to_string(),
            reason,
        });
    }
    Ok(altered)
}

/// As a RECORD spells it.
fn sha256(hex: &str) -> String {
    URL_SAFE_NO_PAD.encode(hex::decode(hex).unwrap_or_default())
}
