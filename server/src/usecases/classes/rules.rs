//! What every class must keep to.

use std::collections::HashSet;

use vouchsafe_identity::run::RunError;
use vouchsafe_identity::{SpiffeId, TrustDomain};
use vouchsafe_store::class::{
    ClassNodes, ClassSpec, Code, Harden, LauncherRule, MeasuredFile, Model, Offline, Program, RunUser,
    SvidPolicy,
};

use super::super::issuing::{MAX_AUDIENCE_BYTES, MAX_AUDIENCES};

/// Longest life of a run where the operator names none: 24 hours.
pub const DEFAULT_MAX_TTL_SECONDS: u32 = 24 * 3600;
/// Longest life that a run may be given: 30 days.
pub const MAX_MAX_TTL_SECONDS: u32 = 30 * 24 * 3600;
/// Live runs of a class where the operator names no number.
pub const DEFAULT_MAX_RUNS: u32 = 16;
/// Most live runs of a class.
pub const MAX_MAX_RUNS: u32 = 10_000;
/// Most launch leases of a class that each node holds.
const MAX_OFFLINE_RUNS: u32 = 100;
/// How long a launch lease holds where the operator says nothing: an hour.
pub const DEFAULT_OFFLINE_FOR_SECONDS: u32 = 3600;
/// The shortest that a launch lease may hold: a minute.
const MIN_OFFLINE_FOR_SECONDS: u32 = 60;
/// The longest: 7 days.
const MAX_OFFLINE_FOR_SECONDS: u32 = 7 * 24 * 3600;

const MAX_DESCRIPTION_BYTES: usize = 1024;
const MAX_PATH_BYTES: usize = 4095;
const MAX_ARG_BYTES: usize = 4096;
const MAX_ARGS: usize = 64;
const MAX_FILES: usize = 256;
const MAX_MODULE_BYTES: usize = 256;
const MAX_ENV_NAMES: usize = 64;
const MAX_ENV_NAME_BYTES: usize = 128;
const MAX_NODES: usize = 256;
const MAX_LAUNCHERS: usize = 256;
const MAX_POOL_UIDS: u32 = 65_536;
const MAX_MODELS: usize = 64;
const MAX_HARDEN_PATHS: usize = 64;
const MAX_HARDEN_PORTS: usize = 256;

/// Which rule a class breaks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClassRuleError {
    /// A name or id is malformed, or of another trust domain.
    #[error(transparent)]
    Run(#[from] RunError),
    /// More of something than the limit.
    #[error("{count} {what} are more than the limit of {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// A text is too long.
    #[error("{what} of {bytes} bytes is longer than the limit of {limit} bytes")]
    TooLong {
        /// Which text.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A number is out of its range.
    #[error("`{field}` of {value} is out of range: {least} to {most}")]
    Range {
        /// Which field, with its unit.
        field: &'static str,
        /// Its value.
        value: u64,
        /// The least that is allowed.
        least: u64,
        /// The most.
        most: u64,
    },
    /// Not the path of a file as the kernel would name it.
    #[error("{what} `{path}` is not an absolute path without `.`, `..`, empty parts and control characters")]
    Path {
        /// What the path is for.
        what: &'static str,
        /// The path.
        path: String,
    },
    /// A file is named twice.
    #[error("file `{0}` is named twice")]
    FileTwice(String),
    /// Not the name of a module.
    #[error("`{0}` is not the name of a module: letters, digits, `_` and `.`")]
    Module(String),
    /// Not an argument that could say a model.
    #[error("`{0}` is no argument that says a model: write it as `--model`, without a value")]
    ModelArgument(String),
    /// Not a model's name.
    #[error("`{0}` is not a model: a name, or the beginning of one with `*` after it")]
    Model(String),
    /// Not the name of a variable.
    #[error(
        "`{0}` is not the name of a variable: 1 to {MAX_ENV_NAME_BYTES} letters, digits and `_`, no digit first"
    )]
    EnvName(String),
    /// A character that no argument or description may have.
    #[error("{0} has a control character")]
    Control(&'static str),
    /// A node of another trust domain, or not an id of a node.
    #[error("node `{0}` is no SPIFFE ID with a path in the server's trust domain")]
    Node(SpiffeId),
    /// A launcher of another trust domain.
    #[error("launcher `{0}` is not in the server's trust domain")]
    Launcher(SpiffeId),
    /// Runs of user 0 cannot be kept from each other.
    #[error("uid 0 can read every run's memory: name another user, or none for the launcher's own")]
    Root,
    /// An audience is empty or too long.
    #[error("an audience is empty, or longer than the limit of {MAX_AUDIENCE_BYTES} bytes")]
    Audience,
}

type Checked = Result<(), ClassRuleError>;

/// Checks a class that is to be written.
pub(super) fn check(trust_domain: &TrustDomain, spec: &ClassSpec) -> Checked {
    text("a description", &spec.description, MAX_DESCRIPTION_BYTES)?;
    program(&spec.program)?;
    files(&spec.files)?;
    user(spec.user)?;
    at_most("variables", spec.env_allow.len(), MAX_ENV_NAMES)?;
    spec.env_allow.iter().try_for_each(|name| env_name(name))?;
    nodes(trust_domain, &spec.nodes)?;
    launchers(trust_domain, &spec.launchers)?;
    range(
        "max_ttl_seconds",
        spec.max_ttl_seconds.into(),
        1,
        MAX_MAX_TTL_SECONDS.into(),
    )?;
    range("max_runs", spec.max_runs.into(), 1, MAX_MAX_RUNS.into())?;
    offline(spec)?;
    spec.model.iter().try_for_each(model)?;
    svids(&spec.svids)?;
    harden(&spec.harden)
}

fn offline(spec: &ClassSpec) -> Checked {
    let Some(Offline { runs, for_seconds }) = spec.offline else {
        return Ok(());
    };
    let most = spec.max_runs.min(MAX_OFFLINE_RUNS);
    range("offline_runs", runs.into(), 1, most.into())?;
    let (least, most) = (MIN_OFFLINE_FOR_SECONDS, MAX_OFFLINE_FOR_SECONDS);
    range(
        "offline_for_seconds",
        for_seconds.into(),
        least.into(),
        most.into(),
    )
}

fn model(model: &Model) -> Checked {
    let Model { argument, allowed } = model;
    text("a model's argument", argument, MAX_ARG_BYTES)?;
    let odd = |c: char| c == '=' || c.is_whitespace();
    if !argument.starts_with('-') || argument.trim_matches('-').is_empty() || argument.contains(odd) {
        return Err(ClassRuleError::ModelArgument(shown(argument)));
    }
    at_most("models", allowed.len(), MAX_MODELS)?;
    for name in allowed {
        text("a model's name", name, MAX_ARG_BYTES)?;
        let stem = name.strip_suffix('*').unwrap_or(name);
        if name.is_empty() || stem.contains('*') {
            return Err(ClassRuleError::Model(shown(name)));
        }
    }
    Ok(())
}

fn program(program: &Program) -> Checked {
    path("program", &program.executable.path)?;
    match &program.code {
        None => {}
        Some(Code::Script(script)) => path("script", &script.path)?,
        Some(Code::Module { name, file }) => {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.');
            if name.is_empty() || name.len() > MAX_MODULE_BYTES || !name.bytes().all(allowed) {
                return Err(ClassRuleError::Module(shown(name)));
            }
            if let Some(file) = file {
                path("module", &file.path)?;
            }
        }
    }
    at_most("arguments", program.fixed_args.len(), MAX_ARGS)?;
    let mut args = program.fixed_args.iter();
    args.try_for_each(|arg| text("an argument", arg, MAX_ARG_BYTES))
}

fn files(files: &[MeasuredFile]) -> Checked {
    at_most("files", files.len(), MAX_FILES)?;
    let mut seen = HashSet::new();
    for file in files {
        path("file", &file.path)?;
        if !seen.insert(&file.path) {
            return Err(ClassRuleError::FileTwice(shown(&file.path)));
        }
    }
    Ok(())
}

fn user(user: RunUser) -> Checked {
    match user {
        RunUser::Caller => Ok(()),
        RunUser::Fixed { uid: 0, .. } | RunUser::Pool { first_uid: 0, .. } => Err(ClassRuleError::Root),
        // The last number stands for nobody.
        RunUser::Fixed { uid, gid } => {
            let most = u64::from(u32::MAX - 1);
            range("uid", uid.into(), 1, most)?;
            range("gid", gid.into(), 0, most)
        }
        RunUser::Pool { first_uid, last_uid } => {
            let most = first_uid.saturating_add(MAX_POOL_UIDS - 1).min(u32::MAX - 1);
            range("last_uid", last_uid.into(), first_uid.into(), most.into())
        }
    }
}

fn env_name(name: &str) -> Checked {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let first_is_digit = name.starts_with(|c: char| c.is_ascii_digit());
    if name.is_empty() || first_is_digit || name.len() > MAX_ENV_NAME_BYTES || !name.bytes().all(allowed) {
        return Err(ClassRuleError::EnvName(shown(name)));
    }
    Ok(())
}

fn nodes(trust_domain: &TrustDomain, nodes: &ClassNodes) -> Checked {
    let ClassNodes::These(nodes) = nodes else {
        return Ok(());
    };
    at_most("nodes", nodes.len(), MAX_NODES)?;
    let foreign = |id: &&SpiffeId| !id.is_member_of(trust_domain) || id.path().is_empty();
    match nodes.iter().find(foreign) {
        Some(id) => Err(ClassRuleError::Node(id.clone())),
        None => Ok(()),
    }
}

fn launchers(trust_domain: &TrustDomain, launchers: &[LauncherRule]) -> Checked {
    at_most("launchers", launchers.len(), MAX_LAUNCHERS)?;
    for launcher in launchers {
        match launcher {
            LauncherRule::Id(id) | LauncherRule::Below(id) if !id.is_member_of(trust_domain) => {
                return Err(ClassRuleError::Launcher(id.clone()));
            }
            _ => {}
        }
    }
    Ok(())
}

fn svids(policy: &SvidPolicy) -> Checked {
    let most = u64::from(MAX_MAX_TTL_SECONDS);
    range("x509_svid_ttl_seconds", policy.x509_ttl_seconds.into(), 0, most)?;
    range("jwt_svid_ttl_seconds", policy.jwt_ttl_seconds.into(), 0, most)?;
    for audiences in [&policy.claims_audiences, &policy.class_sub_audiences] {
        at_most("audiences", audiences.len(), MAX_AUDIENCES)?;
        let bad = |audience: &String| audience.is_empty() || audience.len() > MAX_AUDIENCE_BYTES;
        if audiences.iter().any(bad) {
            return Err(ClassRuleError::Audience);
        }
    }
    Ok(())
}

fn harden(harden: &Harden) -> Checked {
    for paths in [&harden.read_paths, &harden.write_paths] {
        at_most("paths to harden by", paths.len(), MAX_HARDEN_PATHS)?;
        paths.iter().try_for_each(|held| match held.as_str() {
            "/" => Ok(()),
            held => path("path to harden by", held),
        })?;
    }
    for ports in [&harden.connect_ports, &harden.bind_ports].into_iter().flatten() {
        at_most("ports to harden by", ports.len(), MAX_HARDEN_PORTS)?;
        for port in ports {
            range("port", (*port).into(), 1, u16::MAX.into())?;
        }
    }
    Ok(())
}

fn path(what: &'static str, path: &str) -> Checked {
    if path.len() > MAX_PATH_BYTES {
        return Err(ClassRuleError::TooLong {
            what,
            bytes: path.len(),
            limit: MAX_PATH_BYTES,
        });
    }
    let odd = |part: &str| matches!(part, "" | "." | "..");
    let good = path
        .strip_prefix('/')
        .is_some_and(|rest| !rest.split('/').any(odd))
        && !path.chars().any(char::is_control);
    if good {
        return Ok(());
    }
    Err(ClassRuleError::Path {
        what,
        path: shown(path),
    })
}

fn text(what: &'static str, text: &str, limit: usize) -> Checked {
    if text.len() > limit {
        return Err(ClassRuleError::TooLong {
            what,
            bytes: text.len(),
            limit,
        });
    }
    if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        return Err(ClassRuleError::Control(what));
    }
    Ok(())
}

fn at_most(what: &'static str, count: usize, limit: usize) -> Checked {
    if count > limit {
        return Err(ClassRuleError::TooMany { what, count, limit });
    }
    Ok(())
}

fn range(field: &'static str, value: u64, least: u64, most: u64) -> Checked {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(ClassRuleError::Range {
        field,
        value,
        least,
        most,
    })
}

fn shown(text: &str) -> String {
    text.chars().take(200).collect()
}
