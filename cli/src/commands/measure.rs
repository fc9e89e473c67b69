//! `vouchsafe measure`: what a class would say of a command. Files are measured by the launcher's code, and the command is held
//! against the result as a launch would hold it, so that what is printed is what will be compared.

mod account;
mod command;
mod files;
mod installed;
mod packages;
mod python;
#[cfg(test)]
mod tests;
mod view;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use vouchsafe_agent::runs::command::{Command, Sockets};
use vouchsafe_launch::environment::is_loader_variable;
use vouchsafe_proto::vouchsafe::launch::v1::LaunchRequest;
use vouchsafe_proto::vouchsafe::run::v1::ClassSpec;

use self::command::{Code, Start};
use self::files::Files;
use self::packages::Packages;
use self::python::Python;
use self::view::MeasureView;
use super::class::{Measurement, ProgramFile};
use crate::args::Global;
use crate::error::CliError;
use crate::output::Output;

/// Most files of a class; the server refuses more.
const MAX_FILES: usize = 256;

/// Flags of `vouchsafe measure`.
#[derive(Debug, Args)]
pub(crate) struct MeasureArgs {
    /// Warn of files that this user could change, as runs must not: a name, `UID` or `UID:GID`
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// What stands for the program's packages [default: lock files where there are any, else the RECORDs]
    #[arg(long, value_enum, value_name = "WHAT")]
    packages: Option<PackagesBy>,
    /// A lock file that stands elsewhere (repeat)
    #[arg(long = "lock", value_name = "FILE")]
    locks: Vec<PathBuf>,
    /// The file of the module, where it is not found by itself
    #[arg(long, value_name = "FILE")]
    module_file: Option<PathBuf>,
    /// A model, or a file that says which one (repeat)
    #[arg(long = "model", value_name = "FILE")]
    models: Vec<PathBuf>,
    /// A prompt of the agent (repeat)
    #[arg(long = "prompt", value_name = "FILE")]
    prompts: Vec<PathBuf>,
    /// A manifest of its tools (repeat)
    #[arg(long = "tools", value_name = "FILE")]
    tools: Vec<PathBuf>,
    /// A skill (repeat)
    #[arg(long = "skill", value_name = "FILE")]
    skills: Vec<PathBuf>,
    /// Any other file that must be as it is now (repeat)
    #[arg(long = "other", value_name = "FILE")]
    others: Vec<PathBuf>,
    /// The command with its arguments, after `--`
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// What stands for the packages of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PackagesBy {
    /// Lock files: which versions were asked for.
    Lock,
    /// RECORD of each package: which files were installed, native extensions among them.
    Record,
    /// Both.
    Both,
    /// Nothing.
    None,
}

/// From where a command is looked for.
#[derive(Debug, Clone, Copy)]
struct Place<'a> {
    folder: &'a Path,
    path: Option<&'a OsStr>,
}

/// Runs the command.
pub(crate) fn run(args: &MeasureArgs, global: &Global, output: &Output) -> Result<(), CliError> {
    let folder = std::env::current_dir().map_err(|source| CliError::Stdio {
        what: "the working directory",
        source,
    })?;
    let path = std::env::var_os("PATH");
    let place = Place {
        folder: &folder,
        path: path.as_deref(),
    };
    let names = std::env::vars_os().map(|(name, _)| name);
    let view = measured(args, place, names, global)?;
    for warning in &view.warnings {
        output.note(&format!("warning: {warning}"));
    }
    output.show(&view, || view.toml());
    Ok(())
}

fn measured(
    args: &MeasureArgs,
    place: Place<'_>,
    variables: impl Iterator<Item = OsString>,
    global: &Global,
) -> Result<MeasureView, CliError> {
    let user = args.user.as_deref().map(account::of).transpose()?;
    let mut files = Files::new(user.clone());
    let start = command::resolve(&args.command, place, &files)?;
    let python = Python::of(&start, &files)?;
    let (program, inits) = program(args, &start, python.as_ref(), place, &mut files)?;
    for init in inits {
        files.add(&init, "other")?;
    }
    if let Some(venv) = python.as_ref().and_then(Python::venv) {
        files.add(venv, "other")?;
    }
    let packages = Packages::of(&start, python.as_ref())?;
    let mut taken = packages.take(args.packages, &args.locks, place.folder, &mut files)?;
    for (paths, role) in [
        (&args.models, "model"),
        (&args.prompts, "prompt"),
        (&args.tools, "tools"),
        (&args.skills, "skill"),
        (&args.others, "other"),
    ] {
        for path in paths {
            files.add(&place.folder.join(path), role)?;
        }
    }
    let (listed, mutable) = files.done();
    if listed.len() > MAX_FILES {
        let text = format!(
            "{} files are more than a class may have, {MAX_FILES}: let a lock file stand for the packages (`--packages \
             lock`)",
            listed.len()
        );
        return Err(CliError::Invalid(text));
    }
    let measurement = Measurement {
        program,
        files: listed,
        env_allow: Vec::new(),
    };
    let argv = held(&start, &measurement, place, global)?;
    let mut loader_variables: Vec<String> = variables
        .filter(|name| is_loader_variable(name))
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    loader_variables.sort_unstable();
    if user.is_none() {
        taken
            .notes
            .push("without --user nobody looked whether runs could change these files".to_owned());
    }
    Ok(MeasureView::new(
        measurement,
        argv,
        loader_variables,
        user,
        mutable,
        taken,
    ))
}

/// What the class says of the program, and which files of packages run before its module.
fn program(
    args: &MeasureArgs,
    start: &Start,
    python: Option<&Python>,
    place: Place<'_>,
    files: &mut Files,
) -> Result<(ProgramFile, Vec<PathBuf>), CliError> {
    let mut program = ProgramFile {
        executable: Some(files.take(&start.program)?),
        ..ProgramFile::default()
    };
    let mut inits = Vec::new();
    if args.module_file.is_some() && !matches!(start.code, Code::Module(_)) {
        let text = "--module-file is for a command that runs a module, as `python -m NAME` does";
        return Err(CliError::Usage(text.to_owned()));
    }
    match &start.code {
        Code::Native => {}
        Code::Script(path) => program.script = Some(files.take(path)?),
        Code::Module(name) => {
            let file = match (&args.module_file, python) {
                (Some(file), _) => files::real(&place.folder.join(file))?,
                (None, Some(python)) => {
                    let module = python.module(name)?;
                    inits = module.inits;
                    module.file
                }
                (None, None) => return Err(command::unknown_module(name)),
            };
            program.module = Some(name.clone());
            program.module_file = Some(files.take(&file)?);
        }
        Code::Jar(path) => files.add(path, "other")?,
    }
    program.fixed_args = start
        .fixed
        .iter()
        .map(|arg| match arg.to_str() {
            Some(text) => Ok(text.to_owned()),
            None => Err(CliError::Invalid(format!(
                "the argument `{}` is not UTF-8, which a class cannot say",
                arg.to_string_lossy()
            ))),
        })
        .collect::<Result<_, _>>()?;
    Ok((program, inits))
}

/// Holds the command against the class that was measured, as a launch does; the argument vector that the program gets.
fn held(
    start: &Start,
    measurement: &Measurement,
    place: Place<'_>,
    global: &Global,
) -> Result<Vec<OsString>, CliError> {
    let mut spec = ClassSpec::default();
    measurement.clone().onto(&mut spec)?;
    let path = place.path.map(|path| [b"PATH=", path.as_bytes()].concat());
    let request = LaunchRequest {
        arguments: start.argv().into_iter().map(OsStringExt::into_vec).collect(),
        environment: path.into_iter().collect(),
        working_directory: place.folder.as_os_str().as_bytes().to_vec(),
        ..LaunchRequest::default()
    };
    let sockets = Sockets {
        workload: global.workload_socket.clone(),
        launch: global.launch_socket.clone(),
    };
    let held = Command::of(&request, &spec, &sockets);
    let refused = |error| CliError::Invalid(format!("a launch of this command would be refused: {error}"));
    Ok(held.map_err(refused)?.argv)
}
