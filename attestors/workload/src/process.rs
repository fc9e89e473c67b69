//! The `process` attestor: what an interpreter runs, and where a process stands. What rests on the command line is asserted:
//! a process writes its own, and only a launcher that chose it could measure it. The rest is the kernel's word. What costs
//! more than a look at the command line is looked for only where somebody asks for it.

mod ancestors;
mod ask;
mod group;
mod place;
mod venv;

use std::ffi::{OsStr, OsString};
use std::fs::read_link;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use vouchsafe_attestors::{Asked, Evidence, Process, Reach, Trust, WorkloadAttestError, WorkloadAttestor};

use self::ask::{
    ANCESTOR, CGROUP, CWD, IMMUTABLE, INTERPRETER_PATH, INTERPRETER_SHA256, INVOCATION, LOCK, NON_DUMPABLE,
    PACKAGE, UNIT, VENV,
};
use self::group::Groups;
use self::venv::{Folders, Venv};
use crate::digest::{DEFAULT_HASH_LIMIT_BYTES, Hasher};
use crate::interpreter::{Interpreter, Program};
use crate::proc_dir::{ProcDir, file_id};
use crate::reads::Reads;
use crate::script::{self, Script};
use crate::text::add;
use crate::unix::{cannot_open, path_here};

pub use self::ancestors::lineage;
pub use self::ask::ask;

const NAME: &str = "process";

/// Longest command line that is read, in bytes.
const MAX_ARGV_BYTES: u64 = 256 * 1024;

/// Most packages that are told to who asks for all.
const MAX_PACKAGES: usize = 512;

/// Where systemd keeps what it says of its units.
const SYSTEMD_DIR: &str = "/run/systemd";

/// Settings of the `process` attestor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessConfig {
    /// Largest script, jar, lock file or interpreter that is hashed, in bytes; of a larger one the hash alone is withheld.
    pub hash_limit_bytes: u64,
    /// Where systemd keeps what it says of its units: `/run/systemd`, or where a container shows the host's.
    pub systemd_dir: PathBuf,
}

impl Default for ProcessConfig {
    fn default() -> Self {
        Self {
            hash_limit_bytes: DEFAULT_HASH_LIMIT_BYTES,
            systemd_dir: PathBuf::from(SYSTEMD_DIR),
        }
    }
}

/// The `process` attestor.
#[derive(Debug)]
pub struct ProcessAttestor {
    reads: Arc<Reads>,
    known: Arc<Known>,
}

/// What need not be found out anew for each process.
#[derive(Debug)]
struct Known {
    hasher: Hasher,
    folders: Folders,
    groups: Groups,
}

impl ProcessAttestor {
    /// An attestor whose blocking reads share the places of `reads`.
    #[must_use]
    pub fn new(config: ProcessConfig, reads: Arc<Reads>) -> Self {
        let known = Known {
            hasher: Hasher::new(config.hash_limit_bytes),
            folders: Folders::default(),
            groups: Groups::new(config.systemd_dir),
        };
        Self {
            reads,
            known: Arc::new(known),
        }
    }
}

#[async_trait]
impl WorkloadAttestor for ProcessAttestor {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn attest(&self, process: &Process, asked: &Asked) -> Result<Evidence, WorkloadAttestError> {
        let (process, known, asked) = (process.clone(), Arc::clone(&self.known), asked.clone());
        let subject = process.clone();
        let measure = move || measure(&process, &known, &asked);
        self.reads
            .run(&subject, "the `process` measurement", measure)
            .await
    }

    fn attest_blocking(
        &self,
        process: &Process,
        asked: &Asked,
    ) -> Option<Result<Evidence, WorkloadAttestError>> {
        Some(measure(process, &self.known, asked))
    }
}

fn measure(process: &Process, known: &Known, asked: &Asked) -> Result<Evidence, WorkloadAttestError> {
    let dir = ProcDir::open(process)?;
    let mut evidence = Evidence::default();
    match &process.reach {
        Reach::Full => {
            let program = look(&mut evidence, &dir, &known.hasher)?;
            if !asked.is_empty() {
                dearer(&mut evidence, &dir, process, known, asked, program)?;
            }
        }
        Reach::NamespaceOnly { reason } => evidence.withhold(NAME, reason),
        // A reach that this attestor does not know is not one to trust.
        _ => evidence.withhold(NAME, "how far the process can be measured is not known"),
    }
    dir.still_alive()?;
    Ok(evidence)
}

/// What was executed, and what it says it runs.
struct Executed {
    exe: OwnedFd,
    /// Its name, of an interpreter.
    interpreter: Option<OsString>,
    is_python: bool,
    argv0: Option<Vec<u8>>,
    script: Option<Script>,
}

/// What is always looked for; `None` where the executable cannot be opened.
fn look(
    evidence: &mut Evidence,
    dir: &ProcDir<'_>,
    hasher: &Hasher,
) -> Result<Option<Executed>, WorkloadAttestError> {
    // Its name as the descriptor has it: another look at the process could be one at another program.
    let named = dir
        .executable()?
        .and_then(|exe| Ok((read_link(format!("/proc/self/fd/{}", exe.as_raw_fd()))?, exe)));
    let (path, exe) = match named {
        Ok((path, exe)) => (path, exe),
        Err(error) => {
            evidence.withhold(NAME, cannot_open(&error));
            return Ok(None);
        }
    };
    let mut executed = Executed {
        exe,
        interpreter: None,
        is_python: false,
        argv0: None,
        script: None,
    };
    let Some(interpreter) = Interpreter::of_executable(path.as_os_str().as_bytes()) else {
        return Ok(Some(executed));
    };
    say(evidence, "interpreter", interpreter.name().as_bytes());
    executed.interpreter = path.file_name().map(OsStr::to_owned);
    executed.is_python = interpreter.name().starts_with("python");
    let line = dir
        .read(c"cmdline", MAX_ARGV_BYTES)
        .map_err(|error| dir.failed("`/proc/PID/cmdline`", error))?;
    if line.len() as u64 > MAX_ARGV_BYTES {
        let reason = format!("the command line is over the limit of {MAX_ARGV_BYTES} bytes");
        evidence.withhold("process:script", reason);
        return Ok(Some(executed));
    }
    if line.iter().all(|byte| *byte == 0) {
        evidence.withhold("process:script", "the command line is empty");
        return Ok(Some(executed));
    }
    let arguments = arguments(&line);
    executed.argv0 = arguments.first().map(|first| first.to_vec());
    match interpreter.program(&arguments) {
        Ok(Program::Script(name)) => {
            executed.script = file(evidence, dir, hasher, ["script", "script_sha256"], name);
        }
        Ok(Program::Jar(name)) => drop(file(evidence, dir, hasher, ["jar", "jar_sha256"], name)),
        Ok(Program::Module(name)) => say(evidence, "module", name),
        Ok(Program::Class(name)) => say(evidence, "class", name),
        Ok(Program::Inline) => say(evidence, "inline", b"true"),
        Err(unclear) => evidence.withhold("process:script", unclear.to_string()),
    }
    Ok(Some(executed))
}

/// What is looked for only where somebody asks for it.
fn dearer(
    evidence: &mut Evidence,
    dir: &ProcDir<'_>,
    process: &Process,
    known: &Known,
    asked: &Asked,
    executed: Option<Executed>,
) -> Result<(), WorkloadAttestError> {
    if asked.has(CWD) {
        place::cwd(evidence, dir);
    }
    if asked.has(ANCESTOR) {
        ancestors::ancestors(evidence, process);
    }
    if asked.has(NON_DUMPABLE) {
        place::non_dumpable(evidence, dir, process);
    }
    if [CGROUP, UNIT, INVOCATION].iter().any(|what| asked.has(what)) {
        known.groups.say(evidence, dir, asked)?;
    }
    let Some(executed) = executed else {
        return Ok(());
    };
    if asked.has(IMMUTABLE) {
        place::immutable(evidence, dir, &executed.exe, executed.script.as_ref())?;
    }
    if executed.interpreter.is_some() {
        interpreter(evidence, dir, known, asked, &executed.exe);
    }
    let about_venv = asked.has(VENV) || asked.has(LOCK) || asked.has_any_below(PACKAGE);
    if let (true, true, Some(argv0)) = (about_venv, executed.is_python, &executed.argv0) {
        let found = file_id(&executed.exe)
            .map_err(|error| format!("the executable cannot be looked at: {error}"))
            .and_then(|exe| venv::find(dir, argv0, exe));
        match found {
            Ok(Some(found)) => {
                let name = executed.interpreter.as_deref().unwrap_or_default();
                environment(evidence, dir, known, asked, (&found, name));
            }
            Ok(None) => {}
            Err(reason) => evidence.withhold(VENV, reason),
        }
    }
    Ok(())
}

/// The interpreter itself: the kernel's word.
fn interpreter(evidence: &mut Evidence, dir: &ProcDir<'_>, known: &Known, asked: &Asked, exe: &OwnedFd) {
    if asked.has(INTERPRETER_PATH) {
        match path_here(dir, exe) {
            Ok(path) => add(evidence, Trust::Measured, NAME, "interpreter_path", &path),
            Err(reason) => evidence.withhold(INTERPRETER_PATH, reason),
        }
    }
    if asked.has(INTERPRETER_SHA256) {
        match known.hasher.sha256(exe) {
            Ok(hash) => add(
                evidence,
                Trust::Measured,
                NAME,
                "interpreter_sha256",
                OsStr::new(&hash),
            ),
            Err(error) => evidence.withhold(INTERPRETER_SHA256, format!("it has no hash: {error}")),
        }
    }
}

fn environment(
    evidence: &mut Evidence,
    dir: &ProcDir<'_>,
    known: &Known,
    asked: &Asked,
    (found, python): (&Venv, &OsStr),
) {
    if asked.has(VENV) {
        say(evidence, "venv", found.folder.as_bytes());
    }
    if asked.has(LOCK) {
        for lock in found.locks(dir) {
            let hash = lock.and_then(|lock| {
                let hash = known.hasher.sha256(&lock.fd);
                let name = Path::new(&lock.path).display().to_string();
                hash.map_err(|error| format!("`{name}` has no hash: {error}"))
            });
            match hash {
                Ok(hash) => say(evidence, "lock_sha256", hash.as_bytes()),
                Err(reason) => evidence.withhold(LOCK, reason),
            }
        }
    }
    if asked.has_any_below(PACKAGE) {
        packages(evidence, dir, known, asked, (found, python));
    }
}

fn packages(
    evidence: &mut Evidence,
    dir: &ProcDir<'_>,
    known: &Known,
    asked: &Asked,
    (found, python): (&Venv, &OsStr),
) {
    let what = PACKAGE.trim_end_matches(':');
    let packages = match found.packages(dir, python, &known.folders) {
        Ok(packages) => packages,
        Err(reason) => return evidence.withhold(what, reason),
    };
    let wanted = packages
        .iter()
        .filter(|(name, _)| asked.has(&format!("{PACKAGE}{name}")));
    for (told, (name, versions)) in wanted.enumerate() {
        match versions.as_slice() {
            _ if asked.is_everything() && told >= MAX_PACKAGES => {
                let reason = format!("more than {MAX_PACKAGES} packages: the rest is not shown");
                return evidence.withhold(what, reason);
            }
            [version] => say(evidence, "package", format!("{name}=={version}").as_bytes()),
            several => evidence.withhold(
                &format!("{PACKAGE}{name}"),
                format!("it is there in {} versions", several.len()),
            ),
        }
    }
}

/// The arguments of `/proc/<pid>/cmdline`: each ends in a NUL, but for the last of a rewritten line.
fn arguments(line: &[u8]) -> Vec<&[u8]> {
    let line = line.strip_suffix(b"\0").unwrap_or(line);
    line.split(|byte| *byte == 0).collect()
}

fn file(
    evidence: &mut Evidence,
    dir: &ProcDir<'_>,
    hasher: &Hasher,
    what: [&str; 2],
    name: &[u8],
) -> Option<Script> {
    let [path, hash] = what;
    match script::find(dir, name) {
        Ok(script) => {
            add(evidence, Trust::Asserted, NAME, path, &script.path);
            match hasher.sha256(&script.fd) {
                Ok(found) => say(evidence, hash, found.as_bytes()),
                Err(error) => {
                    evidence.withhold(&format!("{NAME}:{hash}"), format!("it has no hash: {error}"))
                }
            }
            Some(script)
        }
        Err(reason) => {
            evidence.withhold(&format!("{NAME}:{path}"), reason.as_str());
            evidence.withhold(&format!("{NAME}:{hash}"), reason);
            None
        }
    }
}

fn say(evidence: &mut Evidence, name: &str, value: &[u8]) {
    add(evidence, Trust::Asserted, NAME, name, OsStr::from_bytes(value));
}

#[cfg(test)]
mod tests;
