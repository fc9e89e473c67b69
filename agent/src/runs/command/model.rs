//! Which model a run is told to use, where its class has it said by an argument.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use vouchsafe_proto::vouchsafe::run::v1 as proto;

use super::CommandError;

/// Why a command does not say its model as the class wants it said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// Nothing says it, where it has to stand.
    #[error(
        "the class has each run name its model: let the first argument of your own be `{0} NAME` or `{0}=NAME`"
    )]
    Missing(String),
    /// Said once more, or by what a program may take for it.
    #[error("`{given}` could say the model once more: the class has it said once, by `{argument}`")]
    Again {
        /// The class's argument.
        argument: String,
        /// What was given.
        given: String,
    },
    /// Not a name.
    #[error("a model's name is UTF-8 without control characters, not empty and no argument: `{0}` is none")]
    Name(String),
    /// Not one of the class's.
    #[error("the class does not allow the model `{given}`, only: {allowed}")]
    NotAllowed {
        /// What was given.
        given: String,
        /// What the class allows.
        allowed: String,
    },
}

/// The model that the arguments after program and code say: among the class's own (`fixed`), else by the first that the
/// launcher added (`extra`), where no other argument can have it for its value.
pub(super) fn of(
    rule: &proto::Model,
    fixed: &[OsString],
    extra: &[OsString],
) -> Result<String, CommandError> {
    let argument = rule.argument.as_str();
    let in_fixed = fixed.iter().position(|arg| said(argument, arg).is_some());
    let (named, rest) = match in_fixed {
        Some(at) => (fixed.get(at..).unwrap_or_default(), extra),
        None => (extra, &[] as &[OsString]),
    };
    let missing = || ModelError::Missing(argument.to_owned());
    let (first, after) = named.split_first().ok_or_else(missing)?;
    let (name, after) = match said(argument, first).ok_or_else(missing)? {
        Said::Here(name) => (name, after),
        Said::Next => {
            let (name, after) = after.split_first().ok_or_else(missing)?;
            (name.as_os_str(), after)
        }
    };
    if let Some(again) = after.iter().chain(rest).find(|arg| may_say(argument, arg)) {
        let (argument, given) = (argument.to_owned(), again.to_string_lossy().into_owned());
        return Err(ModelError::Again { argument, given }.into());
    }
    let plain =
        |name: &&str| !name.is_empty() && !name.starts_with('-') && !name.chars().any(char::is_control);
    let text = name.to_str().filter(plain);
    let text = text.ok_or_else(|| ModelError::Name(name.to_string_lossy().escape_debug().to_string()))?;
    let allows = |allowed: &String| match allowed.strip_suffix('*') {
        Some(stem) => text.starts_with(stem),
        None => text == allowed,
    };
    if !rule.allowed.is_empty() && !rule.allowed.iter().any(allows) {
        let (given, allowed) = (text.to_owned(), rule.allowed.join(", "));
        return Err(ModelError::NotAllowed { given, allowed }.into());
    }
    Ok(text.to_owned())
}

enum Said<'a> {
    /// `--model=NAME`.
    Here(&'a OsStr),
    /// `--model`, and the name is the next argument.
    Next,
}

fn said<'a>(argument: &str, given: &'a OsStr) -> Option<Said<'a>> {
    let rest = given.as_bytes().strip_prefix(argument.as_bytes())?;
    match rest.split_first() {
        None => Some(Said::Next),
        Some((b'=', name)) => Some(Said::Here(OsStr::from_bytes(name))),
        Some(_) => None,
    }
}

/// Whether a program could take an argument for the one that says the model: many take a long one by its beginning, and a
/// short one with its value right behind it or among other short ones.
fn may_say(argument: &str, given: &OsStr) -> bool {
    let given = given.as_bytes();
    let name = given.split(|byte| *byte == b'=').next().unwrap_or_default();
    match argument.strip_prefix("--") {
        Some(_) => name.len() > 2 && argument.as_bytes().starts_with(name) || name == argument.as_bytes(),
        None if argument.len() == 2 => {
            let letter = argument.as_bytes().last();
            name.first() == Some(&b'-')
                && name.get(1) != Some(&b'-')
                && name.iter().skip(1).any(|byte| Some(byte) == letter)
        }
        None => name == argument.as_bytes(),
    }
}
