//! What a launcher asked for, held against the class: gives what is to be started, or says what differs.
//!
//! The class decides what runs. Of the launcher's command only the arguments after the class's own are taken over; the
//! rest must lead to the same files, and is replaced by the class's paths, so that no link of the launcher's has a say.

mod model;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use vouchsafe_launch::environment::{self, Filtered};
use vouchsafe_launch::harden::{Files, Harden};
use vouchsafe_launch::{Digest, Expected, Isolation, OnEnd};
use vouchsafe_proto::vouchsafe::launch::v1::LaunchRequest;
use vouchsafe_proto::vouchsafe::run::v1 as proto;

pub use model::ModelError;

/// Most arguments.
pub const MAX_ARGUMENTS: usize = 4096;
/// Most variables.
pub const MAX_VARIABLES: usize = 4096;

/// By which a workload finds the Workload API (SPIFFE Workload Endpoint §4).
const ENDPOINT_VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";
/// By which `vouchsafe run` finds the launch socket.
const LAUNCH_VARIABLE: &str = "VOUCHSAFE_LAUNCH_SOCKET";
/// Keeps Python from the folder of packages in the user's home, whose user could put code there.
const NO_USER_SITE: &str = "PYTHONNOUSERSITE";
/// Keeps Python from looking for a module in the working directory.
const SAFE_PATH: &str = "PYTHONSAFEPATH";

/// Why a command is not the class's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The class as it came cannot be used.
    #[error("the class cannot be used: {0}")]
    Class(String),
    /// Another program.
    #[error("`{given}` is not the program of the class, `{expected}`")]
    Program {
        /// What was asked for.
        given: String,
        /// What the class has.
        expected: String,
    },
    /// Not what the interpreter is to run.
    #[error(
        "the arguments of `{program}` must begin with `{expected}`, as the class says; they begin with `{given}`"
    )]
    Code {
        /// The interpreter.
        program: String,
        /// What the class has.
        expected: String,
        /// What was asked for.
        given: String,
    },
    /// Arguments that the class does not allow.
    #[error("the class allows no arguments of the launcher's own (`extra_args`), and `{0}` is one")]
    ExtraArguments(String),
    /// It does not say its model as the class wants it.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// No absolute path.
    #[error("the working directory `{0}` is not an absolute path")]
    WorkingDirectory(String),
    /// Not `NAME=value`.
    #[error("`{0}` is not `NAME=value`")]
    Variable(String),
    /// Too many.
    #[error("{count} {what} are more than the limit of {max}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// The limit.
        max: usize,
    },
}

/// What is to be started, as far as the class and the launcher say it.
#[derive(Debug)]
pub struct Command {
    /// The program.
    pub program: Expected,
    /// The whole argument vector.
    pub argv: Vec<OsString>,
    /// The model that they say, where the class has them say it.
    pub model: Option<String>,
    /// The environment, without what the class does not allow.
    pub env: Vec<(OsString, OsString)>,
    /// Names of variables that were taken out.
    pub dropped: Vec<OsString>,
    /// Where it starts.
    pub cwd: PathBuf,
    /// Files that are measured.
    pub files: Vec<Expected>,
    /// Whether they must be out of the run's reach.
    pub immutable: bool,
    /// What the class demands.
    pub isolation: Isolation,
    /// What becomes of its children.
    pub on_end: OnEnd,
    /// What it may not do.
    pub harden: Harden,
}

/// Where the sockets of this agent are, for the run's environment.
#[derive(Debug, Clone)]
pub struct Sockets {
    /// Of the Workload API.
    pub workload: PathBuf,
    /// Of the launch API.
    pub launch: PathBuf,
}

impl Command {
    /// Holds a request against the class.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn of(
        request: &LaunchRequest,
        spec: &proto::ClassSpec,
        sockets: &Sockets,
    ) -> Result<Self, CommandError> {
        at_most("arguments", request.arguments.len(), MAX_ARGUMENTS)?;
        at_most("variables", request.environment.len(), MAX_VARIABLES)?;
        let program = spec
            .program
            .as_ref()
            .ok_or_else(|| CommandError::Class("it names no program".to_owned()))?;
        let cwd = PathBuf::from(OsString::from_vec(request.working_directory.clone()));
        let cwd = match cwd.as_os_str().is_empty() {
            true => PathBuf::from("/"),
            false if cwd.is_absolute() => cwd,
            false => return Err(CommandError::WorkingDirectory(cwd.display().to_string())),
        };
        let variables = variables(&request.environment)?;
        let executable = expected(program.executable.as_ref(), "its program")?;
        let looked_for = Looked {
            cwd: &cwd,
            path: variable(&variables, "PATH"),
        };
        let Arguments {
            mut argv,
            fixed,
            extra,
        } = arguments(&request.arguments, program, &executable, &looked_for)?;
        let model = spec.model.as_ref();
        let model = model.map(|rule| model::of(rule, &fixed, &extra)).transpose()?;
        argv.extend(fixed.into_iter().chain(extra));
        let mut files = Vec::new();
        for (file, what) in [
            (&program.script, "its script"),
            (&program.module_file, "its module"),
        ] {
            if file.is_some() {
                files.push(expected(file.as_ref(), what)?);
            }
        }
        for file in &spec.files {
            files.push(expected(Some(file), "a file")?);
        }
        let Filtered { mut kept, dropped } = environment::filtered(variables, &spec.env_allow);
        provide(&mut kept, program, spec, sockets);
        Ok(Self {
            program: executable,
            argv,
            model,
            env: kept,
            dropped,
            cwd,
            files,
            immutable: !spec.allow_mutable_files,
            isolation: match spec.isolation() {
                proto::Isolation::None => Isolation::None,
                _ => Isolation::Process,
            },
            on_end: match spec.on_end() {
                proto::OnEnd::Leave => OnEnd::Leave,
                _ => OnEnd::Kill,
            },
            harden: harden(spec.harden.as_ref()),
        })
    }
}

fn at_most(what: &'static str, count: usize, max: usize) -> Result<(), CommandError> {
    match count <= max {
        true => Ok(()),
        false => Err(CommandError::TooMany { what, count, max }),
    }
}

fn expected(file: Option<&proto::MeasuredFile>, what: &str) -> Result<Expected, CommandError> {
    let file = file.ok_or_else(|| CommandError::Class(format!("{what} is missing")))?;
    let sha256: Digest = file
        .sha256
        .parse()
        .map_err(|_| CommandError::Class(format!("the hash of {what} is `{}`", file.sha256)))?;
    Ok(Expected {
        path: PathBuf::from(&file.path),
        sha256: Some(sha256),
    })
}

type Variables = Vec<(OsString, OsString)>;

fn variables(given: &[Vec<u8>]) -> Result<Variables, CommandError> {
    let split = |variable: &Vec<u8>| {
        let at = variable
            .iter()
            .position(|byte| *byte == b'=')
            .filter(|at| *at > 0);
        let (name, value) = variable.split_at(at?);
        let value = value.get(1..)?;
        Some((
            OsStr::from_bytes(name).to_owned(),
            OsStr::from_bytes(value).to_owned(),
        ))
    };
    let named = |variable: &Vec<u8>| {
        // The value may be a secret.
        let name: Vec<u8> = variable
            .iter()
            .copied()
            .take_while(|byte| *byte != b'=')
            .collect();
        CommandError::Variable(String::from_utf8_lossy(&name).into_owned())
    };
    given
        .iter()
        .map(|variable| split(variable).ok_or_else(|| named(variable)))
        .collect()
}

fn variable<'a>(variables: &'a Variables, name: &str) -> Option<&'a OsStr> {
    let found = variables.iter().find(|(known, _)| known == name);
    found.map(|(_, value)| value.as_os_str())
}

/// From where a launcher's names of files are looked for.
struct Looked<'a> {
    cwd: &'a Path,
    path: Option<&'a OsStr>,
}

impl Looked<'_> {
    /// Whether a path of the launcher's leads to the file of the class.
    fn leads_to(&self, given: &OsStr, file: &Path) -> bool {
        let given = self.cwd.join(given);
        given == file || same(&given, file)
    }

    /// The same of a program, which may be a name that is looked for.
    fn is_program(&self, given: &OsStr, file: &Path) -> bool {
        if given.as_bytes().contains(&b'/') {
            return self.leads_to(given, file);
        }
        let folders = self.path.map(std::env::split_paths).into_iter().flatten();
        let found = folders
            .map(|folder| folder.join(given))
            .find(|path| path.exists());
        found.is_some_and(|found| self.leads_to(found.as_os_str(), file))
    }
}

/// Whether two paths lead to one file. What is opened and hashed later is the class's path alone.
fn same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    real(one).is_some_and(|one| real(other) == Some(one))
}

fn shown(argument: Option<&OsString>) -> String {
    argument.map_or_else(
        || "nothing".to_owned(),
        |text| text.to_string_lossy().into_owned(),
    )
}

/// The argument vector in its parts.
struct Arguments {
    /// The program, and what it runs.
    argv: Vec<OsString>,
    /// The class's own.
    fixed: Vec<OsString>,
    /// What the launcher added.
    extra: Vec<OsString>,
}

fn arguments(
    given: &[Vec<u8>],
    program: &proto::Program,
    executable: &Expected,
    looked: &Looked<'_>,
) -> Result<Arguments, CommandError> {
    let given: Vec<OsString> = given
        .iter()
        .map(|bytes| OsString::from_vec(bytes.clone()))
        .collect();
    let mut rest = given.as_slice();
    if let Some((first, others)) = rest.split_first() {
        if !looked.is_program(first, &executable.path) {
            return Err(CommandError::Program {
                given: first.to_string_lossy().into_owned(),
                expected: executable.path.display().to_string(),
            });
        }
        rest = others;
    }
    let mut argv = vec![executable.path.clone().into_os_string()];
    let own: Vec<OsString> = match (&program.script, program.module.as_str()) {
        (Some(script), _) => vec![script.path.clone().into()],
        (None, "") => Vec::new(),
        (None, module) => vec!["-m".into(), module.into()],
    };
    if !given.is_empty() && !own.is_empty() {
        let begins = match &program.script {
            Some(script) => rest
                .first()
                .is_some_and(|given| looked.leads_to(given, Path::new(&script.path))),
            None => rest.starts_with(&own),
        };
        if !begins {
            let joined: Vec<_> = own.iter().map(|text| text.to_string_lossy()).collect();
            return Err(CommandError::Code {
                program: executable.path.display().to_string(),
                expected: joined.join(" "),
                given: shown(rest.first()),
            });
        }
        rest = rest.get(own.len()..).unwrap_or_default();
    }
    argv.extend(own);
    let fixed: Vec<OsString> = program.fixed_args.iter().map(OsString::from).collect();
    // A launcher may give the whole command, or leave out what the class adds anyhow.
    let extra = rest.strip_prefix(fixed.as_slice()).unwrap_or(rest);
    if let (false, Some(first)) = (program.extra_args, extra.first()) {
        return Err(CommandError::ExtraArguments(first.to_string_lossy().into_owned()));
    }
    let extra = extra.to_vec();
    Ok(Arguments { argv, fixed, extra })
}

/// Adds what the run needs to find its identity, and what keeps an interpreter to measured code.
fn provide(env: &mut Variables, program: &proto::Program, spec: &proto::ClassSpec, sockets: &Sockets) {
    let endpoint = format!("unix://{}", sockets.workload.display());
    let mut given = vec![
        (ENDPOINT_VARIABLE, endpoint),
        (LAUNCH_VARIABLE, sockets.launch.display().to_string()),
    ];
    let interpreter = program.executable.as_ref().map(|file| file.path.as_str());
    let name = interpreter.and_then(|path| Path::new(path).file_name());
    if name.is_some_and(|name| name.as_bytes().starts_with(b"python")) {
        given.push((NO_USER_SITE, "1".to_owned()));
        if !program.module.is_empty() {
            given.push((SAFE_PATH, "1".to_owned()));
        }
    }
    for (name, value) in given {
        if spec.env_allow.iter().any(|allowed| allowed == name) {
            continue;
        }
        env.retain(|(known, _)| known != name);
        env.push((name.into(), value.into()));
    }
}

fn harden(harden: Option<&proto::Harden>) -> Harden {
    let Some(harden) = harden else {
        return Harden::default();
    };
    let paths = |paths: &[String]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
    let ports = |ports: &[u32]| {
        ports
            .iter()
            .filter_map(|port| u16::try_from(*port).ok())
            .collect()
    };
    let held = !harden.read_paths.is_empty() || !harden.write_paths.is_empty();
    Harden {
        no_new_privs: harden.no_new_privs,
        files: held.then(|| Files {
            read: paths(&harden.read_paths),
            write: paths(&harden.write_paths),
        }),
        connect: harden.hold_connect.then(|| ports(&harden.connect_ports)),
        bind: harden.hold_bind.then(|| ports(&harden.bind_ports)),
    }
}

#[cfg(test)]
mod tests;
