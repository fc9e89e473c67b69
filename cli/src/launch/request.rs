//! What is asked of the agent, from the command line and this process's own surroundings.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use vouchsafe_identity::Labels;
use vouchsafe_proto::vouchsafe::launch::v1::LaunchRequest;

use super::LaunchArgs;
use crate::error::CliError;

/// A label as it stands on the command line.
pub(super) fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| "write it as `key=value`".to_owned())?;
    let one = BTreeMap::from([(key.to_owned(), value.to_owned())]);
    Labels::new(one).map_err(|error| error.to_string())?;
    Ok((key.to_owned(), value.to_owned()))
}

/// The request for a run that starts here, with this environment.
pub(super) fn of(
    args: &LaunchArgs,
    environment: impl Iterator<Item = (OsString, OsString)>,
    folder: &Path,
    terminal: bool,
) -> Result<LaunchRequest, CliError> {
    let mut labels = BTreeMap::new();
    for (key, value) in &args.labels {
        if labels.insert(key.clone(), value.clone()).is_some() {
            return Err(CliError::Invalid(format!("the label `{key}` is given twice")));
        }
    }
    Labels::new(labels.clone()).map_err(|error| CliError::Invalid(error.to_string()))?;
    let mut variables = Vec::new();
    for (name, value) in environment {
        let mut variable = name.into_vec();
        variable.push(b'=');
        variable.extend(value.into_vec());
        variables.push(variable);
    }
    let arguments: Vec<Vec<u8>> = args.command.iter().map(|text| text.clone().into_vec()).collect();
    if let Some(text) = arguments.iter().find(|text| text.contains(&0)) {
        let text = String::from_utf8_lossy(text).into_owned();
        return Err(CliError::Invalid(format!(
            "the argument `{text}` holds a NUL byte"
        )));
    }
    Ok(LaunchRequest {
        class: args.class.to_string(),
        task: args.task.as_ref().map(ToString::to_string).unwrap_or_default(),
        labels: labels.into_iter().collect(),
        arguments,
        environment: variables,
        working_directory: folder.as_os_str().as_bytes().to_vec(),
        detached: args.detach,
        terminal,
    })
}

/// Looks where the command is, as a shell would: who mistypes it is told so, and not that it is no program of the
/// class. Which file a run starts, the agent decides.
pub(crate) fn find(command: &[OsString], path: Option<&OsStr>, folder: &Path) -> Result<PathBuf, CliError> {
    let name = command.first().map(OsString::as_os_str).unwrap_or_default();
    let missing = |found: bool| CliError::Command {
        name: name.to_string_lossy().into_owned(),
        found,
    };
    if name.is_empty() {
        return Err(missing(false));
    }
    let candidates = match name.as_bytes().contains(&b'/') {
        true => vec![folder.join(name)],
        false => {
            let folders = path.map(std::env::split_paths).into_iter().flatten();
            folders.map(|place| folder.join(place).join(name)).collect()
        }
    };
    let mut found = false;
    for candidate in candidates {
        match candidate.metadata() {
            Ok(file) if file.is_file() && file.permissions().mode() & 0o111 != 0 => return Ok(candidate),
            Ok(_) => found = true,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            // It is not ours to see; the agent may.
            Err(_) => return Ok(candidate),
        }
    }
    Err(missing(found))
}

#[cfg(test)]
mod tests;
