//! What a launch measured, told as selectors and as one hash: what a run is, by the class's files and arguments, never by what
//! the process says of itself.

use aws_lc_rs::digest::{Context, SHA256};
use vouchsafe_identity::Selector;
use vouchsafe_proto::vouchsafe::run::v1 as proto;

use super::command::Command;

/// What agents are made of beside their code.
const AI: &str = "ai";

/// The selectors of a run, `launchers` being the programs above it. What cannot be said as a selector is left out.
pub(super) fn selectors(spec: &proto::ClassSpec, command: &Command, launchers: &[Selector]) -> Vec<Selector> {
    let mut found = Vec::new();
    let mut add = |kind: &str, name: &str, value: &str| {
        // A line break in a selector would let a file's name forge lines of a listing.
        if !value.chars().any(char::is_control) {
            found.extend(Selector::new(kind, &format!("{name}:{value}")));
        }
    };
    if let Some(model) = &command.model {
        add(AI, "model", model);
    }
    for file in &spec.files {
        let (kind, name) = match file.role() {
            proto::FileRole::Model => (AI, "model_sha256"),
            proto::FileRole::Prompt => (AI, "prompt_sha256"),
            proto::FileRole::Tools => (AI, "tools_sha256"),
            proto::FileRole::Skill => (AI, "skill_sha256"),
            proto::FileRole::Lock => ("process", "lock_sha256"),
            proto::FileRole::Record | proto::FileRole::Other | proto::FileRole::Unspecified => continue,
        };
        add(kind, name, &file.sha256);
    }
    if let Some(program) = &spec.program {
        if let Some(executable) = &program.executable {
            add("unix", "path", &executable.path);
            add("unix", "sha256", &executable.sha256);
        }
        if let Some(script) = &program.script {
            add("process", "script", &script.path);
            add("process", "script_sha256", &script.sha256);
        }
        if !program.module.is_empty() {
            add("process", "module", &program.module);
        }
    }
    found.extend_from_slice(launchers);
    found
}

/// The hash of all that must be so before the program runs.
pub(super) fn hash(command: &Command) -> String {
    let mut context = Context::new(&SHA256);
    for file in std::iter::once(&command.program).chain(&command.files) {
        let hash = file.sha256.map(|hash| hash.to_string()).unwrap_or_default();
        context.update(format!("{hash}  {}\n", file.path.display()).as_bytes());
    }
    hex::encode(context.finish())
}
