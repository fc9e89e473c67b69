//! From a command, as a shell would take it, to what the launcher would start: an ELF program, and what code it runs.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use vouchsafe_workload_attestors::{HEAD_BYTES, Interpreter, Program, Shebang};

use super::Place;
use super::files::{self, Files};
use super::python;
use crate::error::CliError;
use crate::launch::find_program;

const ELF: &[u8] = b"\x7fELF";

/// What the launcher would start.
#[derive(Debug)]
pub(super) struct Start {
    /// The ELF file, by the path that a class gives it: without links, unless the path has a meaning for the program.
    pub(super) program: PathBuf,
    /// Which interpreter it is, if it is one.
    pub(super) interpreter: Option<Interpreter>,
    /// What it runs.
    pub(super) code: Code,
    /// The arguments after that.
    pub(super) fixed: Vec<OsString>,
}

/// What a program runs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Code {
    /// Itself.
    Native,
    /// A script, by its path without links.
    Script(PathBuf),
    /// `python -m`.
    Module(String),
    /// `java -jar`, by its path without links; it stands among the fixed arguments.
    Jar(PathBuf),
}

impl Start {
    /// The command for a launch request.
    pub(super) fn argv(&self) -> Vec<OsString> {
        let mut argv = vec![self.program.clone().into_os_string()];
        match &self.code {
            Code::Native | Code::Jar(_) => {}
            Code::Script(path) => argv.push(path.clone().into_os_string()),
            Code::Module(name) => argv.extend(["-m".into(), name.into()]),
        }
        argv.extend(self.fixed.iter().cloned());
        argv
    }

    /// Whether it is Python, of any version.
    pub(super) fn is_python(&self) -> bool {
        is_python(self.interpreter.as_ref())
    }
}

fn is_python(interpreter: Option<&Interpreter>) -> bool {
    interpreter.is_some_and(|interpreter| interpreter.name().starts_with("python"))
}

/// Finds out what a command would start.
pub(super) fn resolve(command: &[OsString], place: Place<'_>, files: &Files) -> Result<Start, CliError> {
    let found = find_program(command, place.path, place.folder)?;
    let arguments = command.get(1..).unwrap_or_default();
    let Some(words) = script_words(&found, files)? else {
        return started(&found, arguments.to_vec(), place, files);
    };
    let script = files::real(&found)?;
    if let Some(name) = found.file_name().filter(|name| is_interpreter(name)) {
        let text = format!(
            "`{}` is itself a script that chooses the interpreter: name that interpreter, as `{} -c 'import sys; \
             print(sys.executable)'` prints it for Python",
            found.display(),
            name.display()
        );
        return Err(CliError::Invalid(text));
    }
    let interpreter = find_program(&words, place.path, place.folder)?;
    if script_words(&interpreter, files)?.is_some() {
        let text = format!(
            "`{}`, which the first line of `{}` names, is itself a script: name the program that it starts",
            interpreter.display(),
            script.display()
        );
        return Err(CliError::Invalid(text));
    }
    let mut all = words.get(1..).unwrap_or_default().to_vec();
    all.push(script.into_os_string());
    all.extend_from_slice(arguments);
    started(&interpreter, all, place, files)
}

fn is_interpreter(name: &OsStr) -> bool {
    Interpreter::of_executable(name.as_bytes()).is_some()
}

/// The words of a script's first line; `None` of an ELF program.
fn script_words(found: &Path, files: &Files) -> Result<Option<Vec<OsString>>, CliError> {
    let measured = files.open(&files::real(found)?)?;
    let head = files::head(&measured, HEAD_BYTES)?;
    if head.starts_with(ELF) {
        return Ok(None);
    }
    let wrong = |why: &dyn std::fmt::Display| CliError::Invalid(format!("`{}`: {why}", found.display()));
    let Some(shebang) = Shebang::parse(&head).map_err(|error| wrong(&error))? else {
        return Err(wrong(
            &"it is neither an ELF program nor a script whose first line names an interpreter by `#!`",
        ));
    };
    let words = shebang.words().map_err(|error| wrong(&error))?;
    Ok(Some(
        words
            .into_iter()
            .map(|word| OsStr::from_bytes(word).to_owned())
            .collect(),
    ))
}

fn started(
    found: &Path,
    arguments: Vec<OsString>,
    place: Place<'_>,
    files: &Files,
) -> Result<Start, CliError> {
    let real = files::real(found)?;
    let interpreter = Interpreter::of_executable(real.as_os_str().as_bytes());
    let kept = called(found)?;
    // A virtual environment rests on the path by which its Python was called; so does a program of many names.
    let by_its_name = match &interpreter {
        Some(_) => is_python(interpreter.as_ref()) && python::environment(&kept, files)?.is_some(),
        None => real.file_name() != found.file_name(),
    };
    let program = if by_its_name { kept } else { real };
    let (code, fixed) = match &interpreter {
        Some(interpreter) => code(interpreter, arguments, place)?,
        None => (Code::Native, arguments),
    };
    Ok(Start {
        program,
        interpreter,
        code,
        fixed,
    })
}

/// The path with its folder's links followed, and the name as it was called.
fn called(found: &Path) -> Result<PathBuf, CliError> {
    match (found.parent(), found.file_name()) {
        (Some(folder), Some(name)) => Ok(files::real(folder)?.join(name)),
        _ => files::real(found),
    }
}

fn code(
    interpreter: &Interpreter,
    arguments: Vec<OsString>,
    place: Place<'_>,
) -> Result<(Code, Vec<OsString>), CliError> {
    let name = interpreter.name();
    let mut bytes = vec![name.as_bytes()];
    bytes.extend(arguments.iter().map(|argument| argument.as_bytes()));
    let refused = |why: &str| Err(CliError::Invalid(format!("`{name}`: {why}")));
    let program = match interpreter.program(&bytes) {
        Ok(program) => program,
        Err(unclear) => return refused(&unclear.to_string()),
    };
    let given = |at: usize| bytes.get(at.saturating_add(1)).copied().unwrap_or_default();
    let rest = |from: usize| arguments.get(from..).unwrap_or_default().to_vec();
    match program {
        Program::Script(path) if given(0) == path => {
            let script = files::real(&place.folder.join(OsStr::from_bytes(path)))?;
            Ok((Code::Script(script), rest(1)))
        }
        Program::Module(module) if is_python(Some(interpreter)) => {
            let attached = [b"-m", module].concat();
            let from = match given(0) {
                b"-m" => 2,
                first if first == attached => 1,
                first => return Err(option(name, first)),
            };
            let Ok(module) = std::str::from_utf8(module) else {
                return refused("the module's name is not UTF-8");
            };
            Ok((Code::Module(module.to_owned()), rest(from)))
        }
        Program::Jar(path) if given(0) == b"-jar" && given(1) == path => {
            let jar = files::real(&place.folder.join(OsStr::from_bytes(path)))?;
            let mut fixed = vec!["-jar".into(), jar.clone().into_os_string()];
            fixed.extend(rest(2));
            Ok((Code::Jar(jar), fixed))
        }
        Program::Inline => refused(
            "code from the command line or from standard input is nothing that can be approved: name a script or a \
             module",
        ),
        Program::Class(_) | Program::Module(_) => refused(
            "what a class path leads to cannot be measured: put it into a jar, and run that by `-jar`",
        ),
        Program::Script(_) | Program::Jar(_) => Err(option(name, given(0))),
    }
}

fn option(name: &str, option: &[u8]) -> CliError {
    CliError::Invalid(format!(
        "the launcher starts `{name}` without options of its own, and `{}` is one: have the script do it, or a variable \
         that the class allows (`env_allow`)",
        option.escape_ascii()
    ))
}

/// A module that is of no Python that is known.
pub(super) fn unknown_module(name: &str) -> CliError {
    CliError::Invalid(format!(
        "where the module `{name}` stands is not known: name its file with --module-file"
    ))
}
