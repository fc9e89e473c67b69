//! What a class is to be: a file, flags, or both.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use clap::Args;
use vouchsafe_identity::SpiffeId;
use vouchsafe_proto::vouchsafe::run::v1 as run;

use super::harden::HardenArgs;
use super::measurement::Measurement;
use super::view::{INHERIT, ISOLATION, ON_END, SpecFile, whole_seconds, word};
use crate::error::CliError;
use crate::values;

/// Largest file of a class, in bytes.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;
const BUFFER_BYTES: usize = 64 * 1024;

/// What a class is to be.
#[derive(Debug, Args)]
pub(crate) struct SpecArgs {
    /// A file with all of it, TOML or JSON; `-` for standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// What `vouchsafe measure` printed, in either form, for its program and files; `-` for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["program", "script", "module"])]
    from_measurement: Option<PathBuf>,
    /// What it is, for people
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// The interpreter or native program, hashed here
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
    /// The script that the interpreter runs, hashed here
    #[arg(long, value_name = "PATH", conflicts_with = "module")]
    script: Option<PathBuf>,
    /// The module that the interpreter runs
    #[arg(long, value_name = "NAME")]
    module: Option<String>,
    /// Launchers may add arguments
    #[arg(long, value_name = "BOOL")]
    extra_args: Option<bool>,
    /// A node's or alias's SPIFFE ID, or `any` (repeat)
    #[arg(long = "may-run-on", value_name = "ID")]
    nodes: Vec<String>,
    /// Who may launch: `uid:N`, `user:NAME`, `gid:N`, a SPIFFE ID, or one with `/**` (repeat)
    #[arg(long = "launcher", value_name = "WHO")]
    launchers: Vec<String>,
    /// The longest life of a run [default: 24h]
    #[arg(long, value_parser = values::duration, value_name = "SPAN")]
    max_ttl: Option<Duration>,
    /// Live runs at a time, over all nodes [default: 16]
    #[arg(long, value_name = "N")]
    max_runs: Option<u32>,
    /// Launch leases for each node: so many runs may be launched there while the server is away [default: 0]
    #[arg(long, value_name = "N")]
    offline_runs: Option<u32>,
    /// How long a lease holds that is not renewed [default: 1h]
    #[arg(long, value_parser = values::duration, value_name = "SPAN")]
    offline_for: Option<Duration>,
    /// Life of X.509-SVIDs
    #[arg(long, value_parser = values::duration, value_name = "SPAN")]
    x509_svid_ttl: Option<Duration>,
    /// Life of JWT-SVIDs
    #[arg(long, value_parser = values::duration, value_name = "SPAN")]
    jwt_svid_ttl: Option<Duration>,
    /// Each run has one of these users for itself, as in `70000-70099`
    #[arg(long, value_name = "FIRST-LAST", value_parser = pool)]
    uid_pool: Option<(u32, u32)>,
    /// Runs have this user: `UID:GID`; `launcher` for that of who launches
    #[arg(long, value_name = "UID:GID", value_parser = fixed_user, conflicts_with = "uid_pool")]
    user: Option<RunUser>,
    /// A variable of loader or interpreter that launchers may set (repeat)
    #[arg(long = "env-allow", value_name = "NAME")]
    env_allow: Vec<String>,
    /// What a run's other processes get: none, children, derived
    #[arg(long, value_name = "WHAT")]
    inherit: Option<String>,
    /// What keeps them from its memory: process, none
    #[arg(long, value_name = "HOW")]
    isolation: Option<String>,
    /// Whether files may be within reach of the run's user and of the launcher
    #[arg(long, value_name = "BOOL")]
    allow_mutable_files: Option<bool>,
    /// What becomes of a run's other processes when the main one ends: kill, leave
    #[arg(long, value_name = "WHAT")]
    on_end: Option<String>,
    #[command(flatten)]
    harden: HardenArgs,
    /// An audience whose tokens say run, class and task (repeat)
    #[arg(long = "claims-audience", value_name = "AUDIENCE")]
    claims_audiences: Vec<String>,
    /// An audience whose tokens have the class's id as `sub` (repeat)
    #[arg(long = "class-sub-audience", value_name = "AUDIENCE")]
    class_sub_audiences: Vec<String>,
    /// The argument by which a run is told its model, as in `--model`; it must be the launcher's first, or among the class's own; `''`: none
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    model_argument: Option<String>,
    /// A model that a run may be told to use, or the beginning of its name and `*` (repeat) [default: any]
    #[arg(long = "allow-model", value_name = "NAME")]
    models: Vec<String>,
    /// Whether it takes no new runs
    #[arg(long, value_name = "BOOL")]
    disabled: Option<bool>,
}

/// The user of runs, where it is not of a pool.
#[derive(Debug, Clone, Copy)]
enum RunUser {
    Launcher,
    Fixed { uid: u32, gid: u32 },
}

fn fixed_user(text: &str) -> Result<RunUser, String> {
    if text == "launcher" {
        return Ok(RunUser::Launcher);
    }
    let parsed = text
        .split_once(':')
        .and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)));
    let (uid, gid) = parsed.ok_or("write it as `70000:70000`, by numbers, or as `launcher`")?;
    Ok(RunUser::Fixed { uid, gid })
}

fn pool(text: &str) -> Result<(u32, u32), String> {
    let parsed = text
        .split_once('-')
        .and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    parsed.ok_or_else(|| "write it as `70000-70099`".to_owned())
}

impl SpecArgs {
    /// The file, or the class as it was, with what the flags name.
    pub(super) fn onto(self, old: Option<run::ClassSpec>) -> Result<run::ClassSpec, CliError> {
        let is_stdin = |path: &Option<PathBuf>| path.as_ref().is_some_and(|path| path.as_os_str() == "-");
        if is_stdin(&self.file) && is_stdin(&self.from_measurement) {
            let text = "--file and --from-measurement cannot both be standard input";
            return Err(CliError::Usage(text.to_owned()));
        }
        let mut spec = match &self.file {
            Some(path) => spec_file(path)?.wire()?,
            None => old.unwrap_or_default(),
        };
        if let Some(path) = &self.from_measurement {
            let wrong = |why| CliError::Invalid(format!("`{}`: {why}", path.display()));
            Measurement::parse(&read(path)?).map_err(wrong)?.onto(&mut spec)?;
        }
        self.program_onto(spec.program.get_or_insert_default())?;
        if !self.nodes.is_empty() {
            spec.any_node = self.nodes.iter().any(|node| node == "any");
            spec.nodes = named_nodes(self.nodes)?;
        }
        user_onto(&mut spec.user, self.uid_pool, self.user);
        for (list, given) in [
            (&mut spec.launchers, self.launchers),
            (&mut spec.env_allow, self.env_allow),
            (&mut spec.claims_audiences, self.claims_audiences),
            (&mut spec.class_sub_audiences, self.class_sub_audiences),
        ] {
            if !given.is_empty() {
                *list = given;
            }
        }
        for (name, place, given) in [
            ("--max-ttl", &mut spec.max_ttl_seconds, self.max_ttl),
            ("--offline-for", &mut spec.offline_for_seconds, self.offline_for),
            (
                "--x509-svid-ttl",
                &mut spec.x509_svid_ttl_seconds,
                self.x509_svid_ttl,
            ),
            (
                "--jwt-svid-ttl",
                &mut spec.jwt_svid_ttl_seconds,
                self.jwt_svid_ttl,
            ),
        ] {
            if let Some(span) = given {
                *place = whole_seconds(name, span)?;
            }
        }
        if self.inherit.is_some() {
            spec.inherit = word("--inherit", self.inherit.as_deref(), &INHERIT)?;
        }
        if self.isolation.is_some() {
            spec.isolation = word("--isolation", self.isolation.as_deref(), &ISOLATION)?;
        }
        if self.on_end.is_some() {
            spec.on_end = word("--on-end", self.on_end.as_deref(), &ON_END)?;
        }
        spec.allow_mutable_files = self.allow_mutable_files.unwrap_or(spec.allow_mutable_files);
        self.harden.onto(spec.harden.get_or_insert_default())?;
        model_onto(&mut spec.model, self.model_argument, self.models)?;
        spec.description = self.description.unwrap_or(spec.description);
        spec.max_runs = match self.max_runs {
            Some(0) => return Err(CliError::Invalid("--max-runs must not be 0".to_owned())),
            given => given.unwrap_or(spec.max_runs),
        };
        spec.offline_runs = self.offline_runs.unwrap_or(spec.offline_runs);
        if self.offline_runs == Some(0) {
            spec.offline_for_seconds = 0;
        }
        spec.disabled = self.disabled.unwrap_or(spec.disabled);
        Ok(spec)
    }

    fn program_onto(&self, program: &mut run::Program) -> Result<(), CliError> {
        if let Some(path) = &self.program {
            program.executable = Some(measured(path)?);
        }
        if let Some(path) = &self.script {
            program.script = Some(measured(path)?);
            (program.module, program.module_file) = (String::new(), None);
        }
        if let Some(module) = &self.module {
            program.module.clone_from(module);
            (program.script, program.module_file) = (None, None);
        }
        program.extra_args = self.extra_args.unwrap_or(program.extra_args);
        Ok(())
    }
}

fn user_onto(user: &mut Option<run::RunUser>, pool: Option<(u32, u32)>, given: Option<RunUser>) {
    use run::run_user::{Fixed, Pool, User};
    let new = match (pool, given) {
        (None, None) => return,
        (Some((first_uid, last_uid)), _) => Some(User::Pool(Pool { first_uid, last_uid })),
        (None, Some(RunUser::Fixed { uid, gid })) => Some(User::Fixed(Fixed { uid, gid })),
        (None, Some(RunUser::Launcher)) => None,
    };
    *user = new.map(|user| run::RunUser { user: Some(user) });
}

fn model_onto(
    model: &mut Option<run::Model>,
    argument: Option<String>,
    allowed: Vec<String>,
) -> Result<(), CliError> {
    match argument {
        Some(none) if none.is_empty() => *model = None,
        Some(argument) => model.get_or_insert_default().argument = argument,
        None => {}
    }
    match model {
        _ if allowed.is_empty() => Ok(()),
        Some(model) => {
            model.allowed = allowed;
            Ok(())
        }
        None => {
            let text = "--allow-model needs --model-argument: by which argument a run is told its model";
            Err(CliError::Usage(text.to_owned()))
        }
    }
}

fn named_nodes(nodes: Vec<String>) -> Result<Vec<String>, CliError> {
    let named: Vec<String> = nodes.into_iter().filter(|node| node != "any").collect();
    for node in &named {
        let wrong = |e| CliError::Invalid(format!("--may-run-on: {e}"));
        SpiffeId::new(node).map_err(wrong)?;
    }
    Ok(named)
}

fn spec_file(path: &Path) -> Result<SpecFile, CliError> {
    let text = read(path)?;
    let wrong = |why: String| CliError::Invalid(format!("`{}`: {why}", path.display()));
    match text.trim_start().starts_with('{') {
        true => serde_json::from_str(&text).map_err(|e| wrong(e.to_string())),
        false => toml::from_str(&text).map_err(|e| wrong(e.to_string())),
    }
}

fn read(path: &Path) -> Result<String, CliError> {
    let unreadable = |source| CliError::File {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let from: Box<dyn Read> = match path.as_os_str() == "-" {
        true => Box::new(std::io::stdin()),
        false => Box::new(File::open(path).map_err(unreadable)?),
    };
    let mut text = String::new();
    let mut from = from.take(MAX_FILE_BYTES + 1);
    from.read_to_string(&mut text).map_err(unreadable)?;
    if from.limit() == 0 {
        let text = format!(
            "`{}` is longer than the limit of {MAX_FILE_BYTES} bytes",
            path.display()
        );
        return Err(CliError::Invalid(text));
    }
    Ok(text)
}

/// A file by the path that the kernel would name, with its hash.
fn measured(path: &Path) -> Result<run::MeasuredFile, CliError> {
    let unreadable = |source| CliError::File {
        action: "measure",
        path: path.to_owned(),
        source,
    };
    let path = path.canonicalize().map_err(unreadable)?;
    let mut file = File::open(&path).map_err(unreadable)?;
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = file.read(&mut buffer).map_err(unreadable)?;
        if read == 0 {
            break;
        }
        context.update(buffer.get(..read).unwrap_or_default());
    }
    let text = path
        .to_str()
        .ok_or_else(|| CliError::Invalid(format!("`{}` has a name that is not UTF-8", path.display())))?;
    Ok(run::MeasuredFile {
        path: text.to_owned(),
        sha256: hex::encode(context.finish()),
        role: 0,
    })
}
