//! The `process` attestor: what an interpreter runs. All of it is asserted: a process writes its own command
//! line, and only a launcher that chose it could measure it.

use std::ffi::OsStr;
use std::fs::read_link;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use async_trait::async_trait;
use vouchsafe_attestors::{Evidence, Process, Reach, Trust, WorkloadAttestError, WorkloadAttestor};

use crate::digest::{DEFAULT_HASH_LIMIT_BYTES, Hasher};
use crate::interpreter::{Interpreter, Program};
use crate::proc_dir::ProcDir;
use crate::reads::Reads;
use crate::script;
use crate::text::add;
use crate::unix::cannot_open;

const NAME: &str = "process";

/// Longest command line that is read, in bytes.
const MAX_ARGV_BYTES: u64 = 256 * 1024;

/// Settings of the `process` attestor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessConfig {
    /// Largest script or jar that is hashed, in bytes; of a larger one the hash alone is withheld.
    pub hash_limit_bytes: u64,
}

impl Default for ProcessConfig {
    fn default() -> Self {
        Self {
            hash_limit_bytes: DEFAULT_HASH_LIMIT_BYTES,
        }
    }
}

/// The `process` attestor.
#[derive(Debug)]
pub struct ProcessAttestor {
    reads: Arc<Reads>,
    hasher: Arc<Hasher>,
}

impl ProcessAttestor {
    /// An attestor whose blocking reads share the places of `reads`.
    #[must_use]
    pub fn new(config: ProcessConfig, reads: Arc<Reads>) -> Self {
        Self {
            reads,
            hasher: Arc::new(Hasher::new(config.hash_limit_bytes)),
        }
    }
}

#[async_trait]
impl WorkloadAttestor for ProcessAttestor {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn attest(&self, process: &Process) -> Result<Evidence, WorkloadAttestError> {
        let (process, hasher) = (process.clone(), Arc::clone(&self.hasher));
        let subject = process.clone();
        let measure = move || measure(&process, &hasher);
        self.reads
            .run(&subject, "the `process` measurement", measure)
            .await
    }

    fn attest_blocking(&self, process: &Process) -> Option<Result<Evidence, WorkloadAttestError>> {
        Some(measure(process, &self.hasher))
    }
}

fn measure(process: &Process, hasher: &Hasher) -> Result<Evidence, WorkloadAttestError> {
    let dir = ProcDir::open(process)?;
    let mut evidence = Evidence::default();
    match &process.reach {
        Reach::Full => look(&mut evidence, &dir, hasher)?,
        Reach::NamespaceOnly { reason } => evidence.withhold(NAME, reason),
        // A reach that this attestor does not know is not one to trust.
        _ => evidence.withhold(NAME, "how far the process can be measured is not known"),
    }
    dir.still_alive()?;
    Ok(evidence)
}

fn look(evidence: &mut Evidence, dir: &ProcDir<'_>, hasher: &Hasher) -> Result<(), WorkloadAttestError> {
    // Its name as the descriptor has it: another look at the process could be one at another program.
    let named = dir
        .executable()?
        .and_then(|exe| read_link(format!("/proc/self/fd/{}", exe.as_raw_fd())));
    let exe = match named {
        Ok(exe) => exe.into_os_string(),
        Err(error) => {
            evidence.withhold(NAME, cannot_open(&error));
            return Ok(());
        }
    };
    let Some(interpreter) = Interpreter::of_executable(exe.as_bytes()) else {
        return Ok(());
    };
    say(evidence, "interpreter", interpreter.name().as_bytes());
    let line = dir
        .read(c"cmdline", MAX_ARGV_BYTES)
        .map_err(|error| dir.failed("`/proc/PID/cmdline`", error))?;
    if line.len() as u64 > MAX_ARGV_BYTES {
        let reason = format!("the command line is over the limit of {MAX_ARGV_BYTES} bytes");
        evidence.withhold("process:script", reason);
        return Ok(());
    }
    if line.iter().all(|byte| *byte == 0) {
        evidence.withhold("process:script", "the command line is empty");
        return Ok(());
    }
    match interpreter.program(&arguments(&line)) {
        Ok(Program::Script(name)) => file(evidence, dir, hasher, ["script", "script_sha256"], name),
        Ok(Program::Jar(name)) => file(evidence, dir, hasher, ["jar", "jar_sha256"], name),
        Ok(Program::Module(name)) => say(evidence, "module", name),
        Ok(Program::Class(name)) => say(evidence, "class", name),
        Ok(Program::Inline) => say(evidence, "inline", b"true"),
        Err(unclear) => evidence.withhold("process:script", unclear.to_string()),
    }
    Ok(())
}

/// The arguments of `/proc/<pid>/cmdline`: each ends in a NUL, but for the last of a rewritten line.
fn arguments(line: &[u8]) -> Vec<&[u8]> {
    let line = line.strip_suffix(b"\0").unwrap_or(line);
    line.split(|byte| *byte == 0).collect()
}

fn file(evidence: &mut Evidence, dir: &ProcDir<'_>, hasher: &Hasher, what: [&str; 2], name: &[u8]) {
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
        }
        Err(reason) => {
            evidence.withhold(&format!("{NAME}:{path}"), reason.as_str());
            evidence.withhold(&format!("{NAME}:{hash}"), reason);
        }
    }
}

fn say(evidence: &mut Evidence, name: &str, value: &[u8]) {
    add(evidence, Trust::Asserted, NAME, name, OsStr::from_bytes(value));
}

#[cfg(test)]
mod tests;
