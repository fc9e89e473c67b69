//! A measurement as it is printed: a file for `class create` with comments for people, or JSON.

use std::ffi::OsString;

use serde::Serialize;
use vouchsafe_launch::User;

use super::files::Mutable;
use super::installed::Altered;
use super::packages::Taken;
use crate::commands::class::{MeasuredFile, Measurement};
use crate::output;

const HEAD: &str = "\
# What a class would say of this command. Each launch compares these files with their hashes, and refuses what differs.
#   vouchsafe class create NAME --id ID --from-measurement FILE --may-run-on NODE --launcher WHO
# takes it; or write here what else the class is to say (docs/classes.md), and use --file.
";

/// Most altered files that are named for people.
const MAX_NAMED: usize = 20;

/// A user by number.
#[derive(Debug, Serialize)]
struct UserView {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

/// A measurement.
#[derive(Debug, Serialize)]
pub(super) struct MeasureView {
    spec: Measurement,
    command: Vec<String>,
    loader_variables: Vec<String>,
    user: Option<UserView>,
    mutable: Vec<Mutable>,
    altered: Vec<Altered>,
    pub(super) warnings: Vec<String>,
}

impl MeasureView {
    pub(super) fn new(
        spec: Measurement,
        argv: Vec<OsString>,
        loader_variables: Vec<String>,
        user: Option<User>,
        mutable: Vec<Mutable>,
        taken: Taken,
    ) -> Self {
        let mut warnings: Vec<String> = mutable
            .iter()
            .map(|found| {
                let owner = match &found.owner {
                    Some(name) => format!("{name}, uid {}", found.owner_uid),
                    None => format!("uid {}", found.owner_uid),
                };
                let uid = user.as_ref().map(|user| user.uid).unwrap_or_default();
                format!(
                    "`{}` could be changed by the run itself: uid {uid} can write to `{}` (owner: {owner}); take that \
                     permission away, or the class must say `allow_mutable_files = true`",
                    found.path, found.writable
                )
            })
            .collect();
        if !loader_variables.is_empty() {
            warnings.push(format!(
                "runs do not see these variables of loaders and interpreters that are set here, unless the class allows \
                 them (`env_allow`): {}",
                loader_variables.join(", ")
            ));
        }
        let altered = taken.altered.iter().take(MAX_NAMED);
        warnings.extend(altered.map(|file| {
            format!(
                "`{}` is not what `{}` says: {}",
                file.path, file.record, file.reason
            )
        }));
        if let more @ 1.. = taken.altered.len().saturating_sub(MAX_NAMED) {
            warnings.push(format!(
                "{more} more files are not what the RECORDs say: install the packages anew"
            ));
        }
        warnings.extend(taken.notes);
        Self {
            spec,
            command: argv
                .iter()
                .map(|text| text.to_string_lossy().into_owned())
                .collect(),
            loader_variables,
            user: user.map(|user| UserView {
                uid: user.uid,
                gid: user.gid,
                groups: user.groups,
            }),
            mutable,
            altered: taken.altered,
            warnings,
        }
    }

    /// The file for `class create`.
    pub(super) fn toml(&self) -> String {
        let mut text = HEAD.to_owned();
        text.push_str(&format!("# The launcher starts: {}\n", list(&self.command)));
        for warning in &self.warnings {
            text.push_str(&format!("# warning: {}\n", output::value(warning)));
        }
        if !self.loader_variables.is_empty() {
            text.push_str(&format!("# env_allow = {}\n", list(&self.loader_variables)));
        }
        let program = &self.spec.program;
        text.push_str("\n[program]\n");
        for (key, file) in [("executable", &program.executable), ("script", &program.script)] {
            text.extend(file.as_ref().map(|file| format!("{key} = {}\n", inline(file))));
        }
        text.extend(
            program
                .module
                .as_ref()
                .map(|name| format!("module = {}\n", quoted(name))),
        );
        let module_file = program.module_file.as_ref();
        text.extend(module_file.map(|file| format!("module_file = {}\n", inline(file))));
        if !program.fixed_args.is_empty() {
            text.push_str(&format!("fixed_args = {}\n", list(&program.fixed_args)));
        }
        text.push_str("# extra_args = true   # launchers may add arguments\n");
        for file in &self.spec.files {
            let role = file.role.as_deref().unwrap_or("other");
            text.push_str(&format!(
                "\n[[files]]\npath = {}\nsha256 = {}\nrole = {}\n",
                quoted(&file.path),
                quoted(&file.sha256),
                quoted(role)
            ));
        }
        text
    }
}

fn quoted(text: &str) -> String {
    // JSON's strings are TOML's basic strings, but for one character that only TOML wants escaped.
    let json = serde_json::Value::from(text).to_string();
    json.replace('\u{7f}', "\\u007f")
}

fn list(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
    format!("[{}]", texts.join(", "))
}

fn inline(file: &MeasuredFile) -> String {
    format!(
        "{{ path = {}, sha256 = {} }}",
        quoted(&file.path),
        quoted(&file.sha256)
    )
}
