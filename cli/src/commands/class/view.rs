//! A class as it is shown, and as files have it: `class show --output json` gives under `spec` what `--file` takes.

use serde::{Deserialize, Serialize};
use vouchsafe_proto::vouchsafe::run::v1 as run;

use crate::error::CliError;
use crate::output;
use crate::values;

/// Heads of the table of classes.
pub(super) const HEAD: [&str; 6] = ["NAME", "ID", "VERSION", "RUNS", "MAX RUNS", "STATE"];

/// A class.
#[derive(Debug, Serialize)]
pub(super) struct ClassView {
    name: String,
    id: String,
    version: u64,
    live_runs: u32,
    created_at: String,
    updated_at: String,
    spec: SpecFile,
}

/// What an operator says of a class.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct SpecFile {
    description: String,
    program: ProgramFile,
    files: Vec<MeasuredFile>,
    user: Option<User>,
    env_allow: Vec<String>,
    nodes: Vec<String>,
    any_node: bool,
    launchers: Vec<String>,
    max_ttl: Option<String>,
    max_runs: u32,
    offline_runs: u32,
    offline_for: Option<String>,
    x509_svid_ttl: Option<String>,
    jwt_svid_ttl: Option<String>,
    inherit: Option<String>,
    isolation: Option<String>,
    allow_mutable_files: bool,
    on_end: Option<String>,
    claims_audiences: Vec<String>,
    class_sub_audiences: Vec<String>,
    harden: HardenFile,
    disabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<ModelFile>,
}

/// What a class says of its program.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::commands) struct ProgramFile {
    pub(in crate::commands) executable: Option<MeasuredFile>,
    pub(in crate::commands) script: Option<MeasuredFile>,
    pub(in crate::commands) module: Option<String>,
    pub(in crate::commands) module_file: Option<MeasuredFile>,
    pub(in crate::commands) fixed_args: Vec<String>,
    pub(in crate::commands) extra_args: bool,
}

/// A file and what must be in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::commands) struct MeasuredFile {
    pub(in crate::commands) path: String,
    pub(in crate::commands) sha256: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::commands) role: Option<String>,
}

/// A user, or a pool of users.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum User {
    Fixed { uid: u32, gid: u32 },
    Pool { first_uid: u32, last_uid: u32 },
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct HardenFile {
    no_new_privs: bool,
    read_paths: Vec<String>,
    write_paths: Vec<String>,
    connect_ports: Option<Vec<u32>>,
    bind_ports: Option<Vec<u32>>,
}

/// How a run is told which model to use.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelFile {
    argument: String,
    #[serde(default)]
    allowed: Vec<String>,
}

impl ClassView {
    pub(super) fn of(class: run::Class) -> Result<Self, CliError> {
        let spec = class.spec.ok_or_else(|| CliError::Answer {
            what: "server",
            reason: "a class without a spec".to_owned(),
        })?;
        Ok(Self {
            name: class.name,
            id: class.id,
            version: class.version,
            live_runs: class.live_runs,
            created_at: values::show_time(class.created_at),
            updated_at: values::show_time(class.updated_at),
            spec: SpecFile::of(spec),
        })
    }

    /// One line of a table.
    pub(super) fn row(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.id.clone(),
            self.version.to_string(),
            self.live_runs.to_string(),
            self.spec.max_runs.to_string(),
            if self.spec.disabled { "disabled" } else { "enabled" }.to_owned(),
        ]
    }

    /// All of it, for people.
    pub(super) fn block(&self) -> String {
        let spec = &self.spec;
        let or = |text: &Option<String>, none: &str| text.clone().unwrap_or_else(|| none.to_owned());
        let file = |file: &MeasuredFile| format!("{} sha256:{}", file.path, file.sha256);
        let mut rows = vec![
            ("Name", self.name.clone()),
            ("ID", self.id.clone()),
            ("Version", self.version.to_string()),
            (
                "State",
                if spec.disabled { "disabled" } else { "enabled" }.to_owned(),
            ),
            ("Live runs", format!("{} of {}", self.live_runs, spec.max_runs)),
        ];
        if !spec.description.is_empty() {
            rows.push(("Description", spec.description.clone()));
        }
        let program = &spec.program;
        rows.extend(program.executable.as_ref().map(|named| ("Program", file(named))));
        rows.extend(program.script.as_ref().map(|named| ("Script", file(named))));
        rows.extend(program.module.as_ref().map(|name| ("Module", name.clone())));
        rows.extend(
            program
                .module_file
                .as_ref()
                .map(|named| ("Module file", file(named))),
        );
        rows.extend(program.fixed_args.iter().map(|arg| ("Argument", arg.clone())));
        rows.push(("More arguments", program.extra_args.to_string()));
        for named in &spec.files {
            let role = named.role.as_deref().unwrap_or("other");
            rows.push(("File", format!("{role} {}", file(named))));
        }
        model_rows(spec.model.as_ref(), &mut rows);
        rows.push(("User", user(spec.user.as_ref())));
        rows.extend(spec.env_allow.iter().map(|name| ("Variable", name.clone())));
        match spec.any_node {
            true => rows.push(("Node", "any".to_owned())),
            false => rows.extend(spec.nodes.iter().map(|node| ("Node", node.clone()))),
        }
        rows.extend(
            spec.launchers
                .iter()
                .map(|launcher| ("Launcher", launcher.clone())),
        );
        rows.push(("Longest life", or(&spec.max_ttl, "default")));
        if spec.offline_runs > 0 {
            let text = format!(
                "{} on each node, for {}",
                spec.offline_runs,
                or(&spec.offline_for, "1h")
            );
            rows.push(("Launch leases", text));
        }
        rows.push(("X509-SVID TTL", or(&spec.x509_svid_ttl, "default")));
        rows.push(("JWT-SVID TTL", or(&spec.jwt_svid_ttl, "default")));
        rows.push(("Inherit", or(&spec.inherit, "none")));
        rows.push(("Isolation", or(&spec.isolation, "process")));
        rows.push((
            "Mutable files",
            if spec.allow_mutable_files {
                "allowed"
            } else {
                "refused"
            }
            .to_owned(),
        ));
        rows.push(("On end", or(&spec.on_end, "kill")));
        rows.extend(
            spec.claims_audiences
                .iter()
                .map(|name| ("Claims for", name.clone())),
        );
        rows.extend(
            spec.class_sub_audiences
                .iter()
                .map(|name| ("Class as sub for", name.clone())),
        );
        harden_rows(&spec.harden, &mut rows);
        output::pairs(&rows)
    }
}

fn user(user: Option<&User>) -> String {
    match user {
        None => "the launcher's".to_owned(),
        Some(User::Fixed { uid, gid }) => format!("{uid}:{gid}"),
        Some(User::Pool { first_uid, last_uid }) => format!("one of {first_uid} to {last_uid}"),
    }
}

fn model_rows(model: Option<&ModelFile>, rows: &mut Vec<(&'static str, String)>) {
    let Some(model) = model else { return };
    rows.push(("Model said by", model.argument.clone()));
    rows.extend(model.allowed.iter().map(|name| ("Model", name.clone())));
}

fn harden_rows(harden: &HardenFile, rows: &mut Vec<(&'static str, String)>) {
    if harden.no_new_privs {
        rows.push(("No new privileges", "true".to_owned()));
    }
    rows.extend(harden.read_paths.iter().map(|path| ("May read", path.clone())));
    rows.extend(harden.write_paths.iter().map(|path| ("May write", path.clone())));
    for (label, ports) in [
        ("May connect to", &harden.connect_ports),
        ("May bind", &harden.bind_ports),
    ] {
        if let Some(ports) = ports {
            let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
            rows.push((
                label,
                if ports.is_empty() {
                    "nothing".to_owned()
                } else {
                    ports.join(" ")
                },
            ));
        }
    }
}

fn span(seconds: u32) -> Option<String> {
    let span = std::time::Duration::from_secs(seconds.into());
    (seconds > 0).then(|| humantime::format_duration(span).to_string())
}

/// Seconds of a span that a file names.
fn seconds(field: &'static str, span: Option<&str>) -> Result<u32, CliError> {
    let Some(span) = span else { return Ok(0) };
    let wrong = |why: String| CliError::Invalid(format!("`{field}`: {why}"));
    let parsed = values::duration(span).map_err(wrong)?;
    whole_seconds(field, parsed)
}

/// Whole seconds, at least one.
pub(super) fn whole_seconds(field: &str, span: std::time::Duration) -> Result<u32, CliError> {
    match u32::try_from(span.as_secs()) {
        Ok(seconds) if seconds > 0 => Ok(seconds),
        _ => Err(CliError::Invalid(format!(
            "`{field}` of {} s is out of range: at least 1 s",
            span.as_secs()
        ))),
    }
}

/// Turns a word into a value of an enumeration, by the words that it knows.
pub(super) fn word<T: Copy + Into<i32>>(
    field: &str,
    text: Option<&str>,
    known: &[(&str, T)],
) -> Result<i32, CliError> {
    let Some(text) = text else { return Ok(0) };
    let found = known.iter().find(|(word, _)| *word == text);
    let words: Vec<&str> = known.iter().map(|(word, _)| *word).collect();
    let unknown = || CliError::Invalid(format!("`{field}` is `{text}`, not one of: {}", words.join(", ")));
    found.map(|(_, value)| (*value).into()).ok_or_else(unknown)
}

pub(super) const INHERIT: [(&str, run::Inherit); 3] = [
    ("none", run::Inherit::None),
    ("children", run::Inherit::Children),
    ("derived", run::Inherit::Derived),
];
pub(super) const ISOLATION: [(&str, run::Isolation); 2] = [
    ("process", run::Isolation::Process),
    ("none", run::Isolation::None),
];
pub(super) const ON_END: [(&str, run::OnEnd); 2] = [("kill", run::OnEnd::Kill), ("leave", run::OnEnd::Leave)];
pub(super) const ROLES: [(&str, run::FileRole); 7] = [
    ("lock", run::FileRole::Lock),
    ("record", run::FileRole::Record),
    ("prompt", run::FileRole::Prompt),
    ("tools", run::FileRole::Tools),
    ("skill", run::FileRole::Skill),
    ("model", run::FileRole::Model),
    ("other", run::FileRole::Other),
];

fn spelled<T: Copy + Into<i32>>(value: i32, known: &[(&str, T)]) -> Option<String> {
    let found = known.iter().find(|(_, known)| (*known).into() == value);
    found.map(|(word, _)| (*word).to_owned())
}

impl MeasuredFile {
    fn of(file: run::MeasuredFile) -> Self {
        Self {
            role: spelled(file.role, &ROLES),
            path: file.path,
            sha256: file.sha256,
        }
    }

    pub(super) fn wire(self) -> Result<run::MeasuredFile, CliError> {
        Ok(run::MeasuredFile {
            role: word("role", self.role.as_deref(), &ROLES)?,
            path: self.path,
            sha256: self.sha256,
        })
    }
}

impl ProgramFile {
    pub(super) fn wire(self) -> Result<run::Program, CliError> {
        let file = |file: Option<MeasuredFile>| file.map(MeasuredFile::wire).transpose();
        Ok(run::Program {
            executable: file(self.executable)?,
            script: file(self.script)?,
            module: self.module.unwrap_or_default(),
            module_file: file(self.module_file)?,
            fixed_args: self.fixed_args,
            extra_args: self.extra_args,
        })
    }
}

impl SpecFile {
    fn of(spec: run::ClassSpec) -> Self {
        let program = spec.program.unwrap_or_default();
        let harden = spec.harden.unwrap_or_default();
        Self {
            description: spec.description,
            program: ProgramFile {
                executable: program.executable.map(MeasuredFile::of),
                script: program.script.map(MeasuredFile::of),
                module: (!program.module.is_empty()).then_some(program.module),
                module_file: program.module_file.map(MeasuredFile::of),
                fixed_args: program.fixed_args,
                extra_args: program.extra_args,
            },
            files: spec.files.into_iter().map(MeasuredFile::of).collect(),
            user: spec.user.and_then(|user| user.user).map(|user| match user {
                run::run_user::User::Fixed(fixed) => User::Fixed {
                    uid: fixed.uid,
                    gid: fixed.gid,
                },
                run::run_user::User::Pool(pool) => User::Pool {
                    first_uid: pool.first_uid,
                    last_uid: pool.last_uid,
                },
            }),
            env_allow: spec.env_allow,
            nodes: spec.nodes,
            any_node: spec.any_node,
            launchers: spec.launchers,
            max_ttl: span(spec.max_ttl_seconds),
            max_runs: spec.max_runs,
            offline_runs: spec.offline_runs,
            offline_for: span(spec.offline_for_seconds),
            x509_svid_ttl: span(spec.x509_svid_ttl_seconds),
            jwt_svid_ttl: span(spec.jwt_svid_ttl_seconds),
            inherit: spelled(spec.inherit, &INHERIT),
            isolation: spelled(spec.isolation, &ISOLATION),
            allow_mutable_files: spec.allow_mutable_files,
            on_end: spelled(spec.on_end, &ON_END),
            claims_audiences: spec.claims_audiences,
            class_sub_audiences: spec.class_sub_audiences,
            harden: HardenFile {
                no_new_privs: harden.no_new_privs,
                read_paths: harden.read_paths,
                write_paths: harden.write_paths,
                connect_ports: harden.hold_connect.then_some(harden.connect_ports),
                bind_ports: harden.hold_bind.then_some(harden.bind_ports),
            },
            disabled: spec.disabled,
            model: spec.model.map(|model| ModelFile {
                argument: model.argument,
                allowed: model.allowed,
            }),
        }
    }

    /// As the server takes it.
    pub(super) fn wire(self) -> Result<run::ClassSpec, CliError> {
        let user = self.user.map(|user| match user {
            User::Fixed { uid, gid } => run::run_user::User::Fixed(run::run_user::Fixed { uid, gid }),
            User::Pool { first_uid, last_uid } => {
                run::run_user::User::Pool(run::run_user::Pool { first_uid, last_uid })
            }
        });
        let harden = self.harden;
        Ok(run::ClassSpec {
            description: self.description,
            program: Some(self.program.wire()?),
            files: self
                .files
                .into_iter()
                .map(MeasuredFile::wire)
                .collect::<Result<_, _>>()?,
            user: user.map(|user| run::RunUser { user: Some(user) }),
            env_allow: self.env_allow,
            nodes: self.nodes,
            any_node: self.any_node,
            launchers: self.launchers,
            max_ttl_seconds: seconds("max_ttl", self.max_ttl.as_deref())?,
            max_runs: self.max_runs,
            offline_runs: self.offline_runs,
            offline_for_seconds: seconds("offline_for", self.offline_for.as_deref())?,
            x509_svid_ttl_seconds: seconds("x509_svid_ttl", self.x509_svid_ttl.as_deref())?,
            jwt_svid_ttl_seconds: seconds("jwt_svid_ttl", self.jwt_svid_ttl.as_deref())?,
            inherit: word("inherit", self.inherit.as_deref(), &INHERIT)?,
            isolation: word("isolation", self.isolation.as_deref(), &ISOLATION)?,
            allow_mutable_files: self.allow_mutable_files,
            on_end: word("on_end", self.on_end.as_deref(), &ON_END)?,
            claims_audiences: self.claims_audiences,
            class_sub_audiences: self.class_sub_audiences,
            harden: Some(run::Harden {
                no_new_privs: harden.no_new_privs,
                read_paths: harden.read_paths,
                write_paths: harden.write_paths,
                hold_connect: harden.connect_ports.is_some(),
                connect_ports: harden.connect_ports.unwrap_or_default(),
                hold_bind: harden.bind_ports.is_some(),
                bind_ports: harden.bind_ports.unwrap_or_default(),
            }),
            disabled: self.disabled,
            model: self.model.map(|model| run::Model {
                argument: model.argument,
                allowed: model.allowed,
            }),
        })
    }
}
