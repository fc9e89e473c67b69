//! What Python would find, without running it: a virtual environment, the file of a module, the records of packages. The folders
//! are those of an isolated start (`PYTHONSAFEPATH`, `PYTHONNOUSERSITE`); `.pth` files are not followed.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use vouchsafe_workload_attestors::{MAX_PYVENV_BYTES, Pyvenv, PyvenvError};

use super::command::Start;
use super::files::{self, Files};
use crate::error::CliError;

const CONFIG: &str = "pyvenv.cfg";

/// A virtual environment.
#[derive(Debug)]
pub(super) struct Environment {
    /// Its folder.
    folder: PathBuf,
    /// Its `pyvenv.cfg`.
    config: PathBuf,
    says: Pyvenv,
}

/// Looks for the virtual environment of a Python that is called by this path: beside it, then one folder above.
pub(super) fn environment(called: &Path, files: &Files) -> Result<Option<Environment>, CliError> {
    for folder in called.ancestors().skip(1).take(2) {
        let config = folder.join(CONFIG);
        match config.symlink_metadata() {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => continue,
            Err(error) => return Err(files::unreadable(&config)(error).into()),
            Ok(_) => {}
        }
        let measured = files.open(&config)?;
        let bytes = files::head(&measured, MAX_PYVENV_BYTES.saturating_add(1))?;
        match Pyvenv::parse(&bytes) {
            // Python takes such a folder for none too.
            Err(PyvenvError::NoHome) => {}
            Err(error) => {
                let text = format!("`{}` makes no virtual environment: {error}", config.display());
                return Err(CliError::Invalid(text));
            }
            Ok(says) => {
                let folder = folder.to_owned();
                return Ok(Some(Environment { folder, config, says }));
            }
        }
    }
    Ok(None)
}

/// A module's file, and the `__init__.py` of each package that runs before it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Module {
    pub(super) file: PathBuf,
    pub(super) inits: Vec<PathBuf>,
}

/// Where a Python looks.
#[derive(Debug)]
pub(super) struct Python {
    environment: Option<Environment>,
    library: Vec<PathBuf>,
    packages: Vec<PathBuf>,
}

impl Python {
    /// The Python that would be started; `None` where it is another program.
    pub(super) fn of(start: &Start, files: &Files) -> Result<Option<Self>, CliError> {
        if !start.is_python() {
            return Ok(None);
        }
        let environment = environment(&start.program, files)?;
        let real = files::real(&start.program)?;
        let home = match &environment {
            Some(environment) => environment.says.home(),
            None => real.parent().unwrap_or(Path::new("/")),
        };
        let base = home.parent().unwrap_or(Path::new("/"));
        let version = environment
            .as_ref()
            .and_then(|environment| environment.says.version())
            .map(|(major, minor)| format!("python{major}.{minor}"))
            .or_else(|| versioned(real.file_name()))
            .or_else(|| only_version(&base.join("lib")));
        let Some(version) = version else {
            // Its folders are needed for modules and records alone, which say so then.
            return Ok(Some(Self {
                environment,
                library: Vec::new(),
                packages: Vec::new(),
            }));
        };
        let own = |base: &Path| base.join("lib").join(&version).join("site-packages");
        let mut packages = Vec::new();
        packages.extend(environment.as_ref().map(|environment| own(&environment.folder)));
        if environment
            .as_ref()
            .is_none_or(|environment| environment.says.system_site())
        {
            packages.push(own(base));
            if base == Path::new("/usr") {
                packages.push(Path::new("/usr/local/lib").join(&version).join("dist-packages"));
                packages.push(PathBuf::from("/usr/lib/python3/dist-packages"));
            }
        }
        let library = vec![base.join("lib").join(&version)];
        Ok(Some(Self {
            environment,
            library,
            packages,
        }))
    }

    /// The `pyvenv.cfg` of its virtual environment.
    pub(super) fn venv(&self) -> Option<&Path> {
        let environment = self.environment.as_ref();
        environment.map(|environment| environment.config.as_path())
    }

    /// The folder in which its virtual environment stands.
    pub(super) fn project(&self) -> Option<&Path> {
        let environment = self.environment.as_ref()?;
        environment.folder.parent()
    }

    /// The RECORD of each installed package, in order.
    pub(super) fn records(&self) -> Result<Vec<PathBuf>, CliError> {
        let mut records = Vec::new();
        for folder in &self.packages {
            let entries = match std::fs::read_dir(folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(files::unreadable(folder)(error).into()),
            };
            for entry in entries {
                let path = entry.map_err(files::unreadable(folder))?.path();
                let record = path.join("RECORD");
                if path.extension() == Some(OsStr::new("dist-info")) && record.symlink_metadata().is_ok() {
                    records.push(record);
                }
            }
        }
        records.sort_unstable();
        Ok(records)
    }

    /// Finds a module as `python -m` does: in the first folder that has its first part.
    pub(super) fn module(&self, name: &str) -> Result<Module, CliError> {
        let parts: Vec<&str> = name.split('.').collect();
        let letters = |part: &&str| {
            part.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        let good = parts.iter().all(|part| !part.is_empty() && letters(part));
        let (Some((first, rest)), true) = (parts.split_first(), good) else {
            return Err(CliError::Invalid(format!("`{name}` is not the name of a module")));
        };
        let folders = || self.library.iter().chain(&self.packages);
        let missing = || {
            let looked: Vec<String> = folders()
                .map(|folder| format!("`{}`", folder.display()))
                .collect();
            CliError::Invalid(format!(
                "the module `{name}` is not found in {}: name its file with --module-file",
                if looked.is_empty() {
                    "any folder that is known".to_owned()
                } else {
                    looked.join(", ")
                }
            ))
        };
        let found = folders().find_map(|folder| Found::real(folder, first));
        // A folder without `__init__.py` counts only where nothing else has the name.
        let found = found.or_else(|| folders().find_map(|folder| Found::bare(folder, first)));
        let (mut found, mut inits) = (found.ok_or_else(missing)?, Vec::new());
        for part in rest {
            let Found::Package { folder, init } = found else {
                return Err(missing());
            };
            inits.extend(init);
            let next = Found::real(&folder, part).or_else(|| Found::bare(&folder, part));
            found = next.ok_or_else(missing)?;
        }
        let file = match found {
            Found::File(file) => file,
            Found::Package { folder, init } => {
                inits.extend(init);
                folder.join("__main__.py")
            }
        };
        if !file.is_file() {
            let text = format!(
                "`{name}` is a package without `{}`, which cannot be run",
                file.display()
            );
            return Err(CliError::Invalid(text));
        }
        let inits = inits
            .iter()
            .map(|init| files::real(init))
            .collect::<Result<_, _>>()?;
        Ok(Module {
            file: files::real(&file)?,
            inits,
        })
    }
}

/// What one part of a module's name leads to.
enum Found {
    File(PathBuf),
    Package { folder: PathBuf, init: Option<PathBuf> },
}

impl Found {
    fn real(folder: &Path, part: &str) -> Option<Self> {
        let package = folder.join(part);
        let init = package.join("__init__.py");
        if init.is_file() {
            return Some(Self::Package {
                folder: package,
                init: Some(init),
            });
        }
        let file = folder.join(format!("{part}.py"));
        file.is_file().then_some(Self::File(file))
    }

    fn bare(folder: &Path, part: &str) -> Option<Self> {
        let folder = folder.join(part);
        folder.is_dir().then_some(Self::Package { folder, init: None })
    }
}

/// `python3.11` of `python3.11d`.
fn versioned(name: Option<&OsStr>) -> Option<String> {
    let name = name?.to_str()?.trim_end_matches(['d', 't']);
    let (major, minor) = name.strip_prefix("python")?.split_once('.')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(major) && digits(minor)).then(|| name.to_owned())
}

/// The name of the one library of Python in a folder.
fn only_version(folder: &Path) -> Option<String> {
    let entries = std::fs::read_dir(folder).ok()?.flatten();
    let mut names = entries.filter_map(|entry| versioned(Some(&entry.file_name())));
    let first = names.next()?;
    names.next().is_none().then_some(first)
}
