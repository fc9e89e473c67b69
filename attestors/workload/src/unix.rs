//! The `unix` attestor: ids, names and groups of a process, path and SHA-256 of its executable, as SPIRE
//! names them. All of it is measured.
//!
//! A path is given only where the executable is the file of that name in the agent's own mount namespace:
//! in a namespace of its own any user can mount any program over any path (DESIGN §5).

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use async_trait::async_trait;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::unistd::{Gid, Group, Uid, User};
use vouchsafe_attestors::{Asked, Evidence, Process, Reach, Trust, WorkloadAttestError, WorkloadAttestor};

use crate::digest::{DEFAULT_HASH_LIMIT_BYTES, Hasher};
use crate::names::Names;
use crate::proc_dir::{ProcDir, Status, file_id};
use crate::reads::Reads;
use crate::text::{add, shown};

const NAME: &str = "unix";

/// Most supplementary groups that are turned into selectors; the kernel allows 65,536.
const MAX_GROUPS: usize = 1024;

/// What only a process that is wholly within reach is measured for.
const BEYOND_NAMESPACE: [&str; 4] = [
    "unix:supplementary_gid",
    "unix:supplementary_group",
    "unix:path",
    "unix:sha256",
];

/// Settings of the `unix` attestor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnixConfig {
    /// Largest executable that is hashed, in bytes; of a larger one `unix:sha256` alone is withheld.
    pub hash_limit_bytes: u64,
}

impl Default for UnixConfig {
    fn default() -> Self {
        Self {
            hash_limit_bytes: DEFAULT_HASH_LIMIT_BYTES,
        }
    }
}

/// The `unix` attestor.
#[derive(Debug)]
pub struct UnixAttestor {
    reads: Arc<Reads>,
    known: Arc<Known>,
}

/// What need not be found out anew for each process.
#[derive(Debug)]
struct Known {
    hasher: Hasher,
    users: Names,
    groups: Names,
}

impl Known {
    fn new(config: UnixConfig) -> Self {
        Self {
            hasher: Hasher::new(config.hash_limit_bytes),
            users: Names::new(|id| Ok(User::from_uid(Uid::from_raw(id))?.map(|user| user.name))),
            groups: Names::new(|id| Ok(Group::from_gid(Gid::from_raw(id))?.map(|group| group.name))),
        }
    }
}

impl UnixAttestor {
    /// An attestor whose blocking reads share the places of `reads`.
    #[must_use]
    pub fn new(config: UnixConfig, reads: Arc<Reads>) -> Self {
        Self {
            reads,
            known: Arc::new(Known::new(config)),
        }
    }
}

#[async_trait]
impl WorkloadAttestor for UnixAttestor {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn attest(&self, process: &Process, _asked: &Asked) -> Result<Evidence, WorkloadAttestError> {
        let (process, known) = (process.clone(), Arc::clone(&self.known));
        let subject = process.clone();
        let measure = move || measure(&process, &known);
        self.reads.run(&subject, "the `unix` measurement", measure).await
    }

    fn attest_blocking(
        &self,
        process: &Process,
        _asked: &Asked,
    ) -> Option<Result<Evidence, WorkloadAttestError>> {
        Some(measure(process, &self.known))
    }
}

fn measure(process: &Process, known: &Known) -> Result<Evidence, WorkloadAttestError> {
    let dir = ProcDir::open(process)?;
    let status = dir.status()?;
    same_credentials(process, status.uid, status.gid)?;
    let mut evidence = Evidence::default();
    ids(&mut evidence, &status, known);
    match &process.reach {
        Reach::Full => {
            groups(&mut evidence, &status.groups, known);
            executable(&mut evidence, &dir, &known.hasher)?;
        }
        Reach::NamespaceOnly { reason } => withhold(&mut evidence, reason),
        // A reach that this attestor does not know is not one to trust.
        _ => withhold(&mut evidence, "how far the process can be measured is not known"),
    }
    dir.still_alive()?;
    Ok(evidence)
}

fn withhold(evidence: &mut Evidence, reason: &str) {
    for what in BEYOND_NAMESPACE {
        evidence.withhold(what, reason);
    }
}

/// The ids that came with the process must be those that it has: effective ones, which SPIRE uses as well.
pub(crate) fn same_credentials(process: &Process, uid: u32, gid: u32) -> Result<(), WorkloadAttestError> {
    let pairs = [("uid", process.uid, uid), ("gid", process.gid, gid)];
    match pairs.into_iter().find(|(_, given, found)| given != found) {
        None => Ok(()),
        Some((what, given, found)) => Err(WorkloadAttestError::CredentialsDiffer {
            pid: process.pid,
            what,
            given,
            found,
        }),
    }
}

fn ids(evidence: &mut Evidence, status: &Status, known: &Known) {
    measured(evidence, "uid", &status.uid.to_string());
    name(evidence, "user", status.uid, known.users.of(status.uid));
    measured(evidence, "gid", &status.gid.to_string());
    name(evidence, "group", status.gid, known.groups.of(status.gid));
}

fn groups(evidence: &mut Evidence, groups: &[u32], known: &Known) {
    if groups.len() > MAX_GROUPS {
        let reason = format!("{} groups are over the limit of {MAX_GROUPS}", groups.len());
        evidence.withhold("unix:supplementary_gid", reason.as_str());
        return evidence.withhold("unix:supplementary_group", reason);
    }
    for gid in groups {
        measured(evidence, "supplementary_gid", &gid.to_string());
        name(evidence, "supplementary_group", *gid, known.groups.of(*gid));
    }
}

/// An id without a name has no selector of a name; one whose name cannot be looked up says so.
fn name(evidence: &mut Evidence, what: &str, id: u32, found: Result<Option<String>, Errno>) {
    match found {
        Ok(Some(name)) => measured(evidence, what, &name),
        Ok(None) => {}
        Err(errno) => {
            let reason = format!("the name of id {id} cannot be looked up: {}", errno.desc());
            evidence.withhold(&format!("{NAME}:{what}"), reason);
        }
    }
}

fn measured(evidence: &mut Evidence, name: &str, value: &str) {
    add(evidence, Trust::Measured, NAME, name, OsStr::new(value));
}

/// Path and hash, both of the file behind one descriptor of `/proc/<pid>/exe`.
fn executable(
    evidence: &mut Evidence,
    dir: &ProcDir<'_>,
    hasher: &Hasher,
) -> Result<(), WorkloadAttestError> {
    let exe = match dir.executable()? {
        Ok(exe) => exe,
        Err(error) => {
            let reason = cannot_open(&error);
            evidence.withhold("unix:path", reason.as_str());
            evidence.withhold("unix:sha256", reason);
            return Ok(());
        }
    };
    match path_here(dir, &exe) {
        Ok(path) => add(evidence, Trust::Measured, NAME, "path", &path),
        Err(reason) => evidence.withhold("unix:path", reason),
    }
    match hasher.sha256(&exe) {
        Ok(hash) => measured(evidence, "sha256", &hash),
        Err(error) => evidence.withhold("unix:sha256", format!("the executable has no hash: {error}")),
    }
    Ok(())
}

/// Why `/proc/<pid>/exe` cannot be opened, with the next step.
pub(crate) fn cannot_open(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "the agent may not look at the executable: run it as root or with CAP_SYS_PTRACE".to_owned()
        }
        io::ErrorKind::NotFound => "the process has no executable".to_owned(),
        _ => format!("the executable cannot be opened: {error}"),
    }
}

/// The executable's path, where it names that very file in the agent's mount namespace too. The text ends
/// in ` (deleted)` for a file that is gone; a file that is really named so passes like any other.
pub(crate) fn path_here(dir: &ProcDir<'_>, exe: &OwnedFd) -> Result<std::ffi::OsString, String> {
    let path = dir
        .read_link(c"exe")
        .map_err(|error| format!("the executable's path cannot be read: {error}"))?;
    if !path.as_bytes().starts_with(b"/") {
        return Err(format!("{} is not a path in a file system", shown(&path)));
    }
    // Of a path that the kernel printed no part is a link, unless it is a path of another namespace.
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let here = openat2(AT_FDCWD, path.as_os_str(), how).map_err(|errno| {
        let shown = shown(&path);
        match errno {
            Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP => format!(
                "{shown} is not in the agent's mount namespace: the executable was deleted or replaced, \
                 or the process has mounts of its own"
            ),
            errno => format!("{shown} cannot be opened by the agent: {}", errno.desc()),
        }
    })?;
    let same = |here: &OwnedFd| Ok::<_, io::Error>(file_id(here.as_fd())? == file_id(exe)?);
    match same(&here) {
        Ok(true) => Ok(path),
        Ok(false) => Err(format!(
            "{} is another file in the agent's mount namespace: the executable was replaced, or the process \
             has mounts of its own",
            shown(&path)
        )),
        Err(error) => Err(format!("{} cannot be compared: {error}", shown(&path))),
    }
}

#[cfg(test)]
mod tests;
