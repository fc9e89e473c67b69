//! What the agent asks for: all that the attestors find of a process, and a fingerprint of the process that
//! must be the same before, after, and whenever the agent looks again.

use std::fs::File;
use std::io;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use nix::fcntl::OFlag;
use tokio::time::Instant;
use vouchsafe_attestors::{Asked, Evidence, FileId, Process, Reach, WorkloadAttestError, WorkloadAttestor};
use vouchsafe_sys::{AuxiliaryVector, NamespaceId, PidFd, SysError, user_namespace_of};

use crate::proc_dir::{ProcDir, failed, file_id, linked_file, still_alive};
use crate::reads::Reads;
use crate::unix::same_credentials;

/// What changes when a process executes a program or changes its credentials. Compare two of one process (which one it is,
/// its pidfd says); an identity may be given only where they are equal.
///
/// A program can give itself the `image` and the `layout` of another: it writes its own memory and, by prctl(2), its auxiliary
/// vector. So equal fingerprints do not say that there was no other program in between that executed this one again: what is
/// read of a program in between must be read of `exe`, and the kernel's word on each exec stands beside this.
///
/// `exe`, `image` and `layout` are absent where the agent may not look into the process (it is not root);
/// path and hash are withheld then anyway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    uid: u32,
    gid: u32,
    exe: Option<FileId>,
    /// Hash of the 16 AT_RANDOM bytes. A program may overwrite its own, so that two of its images have the same
    /// hash: `layout` stands beside it.
    image: Option<[u8; 32]>,
    /// Hash of the auxiliary vector: where code, stack, loader and the kernel's page stand.
    layout: Option<[u8; 32]>,
}

/// A process as it was measured.
#[derive(Debug, Clone)]
pub struct Measurement {
    /// What was found, and what was withheld.
    pub evidence: Evidence,
    /// What must not change until an identity is given.
    pub fingerprint: Fingerprint,
    /// When the fingerprint was seen last.
    pub seen: Instant,
}

/// Runs every attestor of the agent on a process.
#[derive(Clone)]
pub struct Measurer {
    attestors: Arc<[Arc<dyn WorkloadAttestor>]>,
    reads: Arc<Reads>,
}

impl std::fmt::Debug for Measurer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.attestors.iter().map(|attestor| attestor.name()).collect();
        f.debug_struct("Measurer")
            .field("attestors", &names)
            .finish_non_exhaustive()
    }
}

impl Measurer {
    /// A measurer with these attestors; `reads` is the one that they were made with.
    #[must_use]
    pub fn new(attestors: Vec<Arc<dyn WorkloadAttestor>>, reads: Arc<Reads>) -> Self {
        Self {
            attestors: attestors.into(),
            reads,
        }
    }

    /// Measures the process with every attestor, for what is asked. One that fails makes the whole measurement fail.
    ///
    /// # Errors
    /// [`WorkloadAttestError`]: of an attestor, `Changed` when the process executed a program or changed
    /// its credentials meanwhile, `Gone` when it ended.
    pub async fn measure(
        &self,
        process: &Process,
        asked: &Asked,
    ) -> Result<Measurement, WorkloadAttestError> {
        self.measure_from(process, asked, None).await
    }

    /// The same of a process that must still be what it was when `before` was taken.
    ///
    /// # Errors
    /// As [`Measurer::measure`].
    pub async fn measure_since(
        &self,
        process: &Process,
        asked: &Asked,
        before: &Fingerprint,
    ) -> Result<Measurement, WorkloadAttestError> {
        self.measure_from(process, asked, Some(before.clone())).await
    }

    async fn measure_from(
        &self,
        process: &Process,
        asked: &Asked,
        before: Option<Fingerprint>,
    ) -> Result<Measurement, WorkloadAttestError> {
        let (subject, attestors) = (process.clone(), Arc::clone(&self.attestors));
        let wanted = asked.clone();
        let read = move || measure(&subject, &attestors, &wanted, before);
        let (mut measured, others) = self.reads.run(process, "the process", read).await?;
        if others.is_empty() {
            return Ok(measured);
        }
        for attestor in others {
            measured.evidence.merge(attestor.attest(process, asked).await?);
        }
        let now = self.fingerprint(process).await?;
        measured.unless_changed(process, &now)
    }

    /// What a process that has just connected is: how much of it may be measured by an agent that lives in
    /// `namespaces`, and its fingerprint.
    ///
    /// # Errors
    /// As [`Measurer::reach`] and [`Measurer::fingerprint`].
    pub async fn first_look(
        &self,
        namespaces: AgentNamespaces,
        mut process: Process,
    ) -> Result<(Process, Fingerprint), WorkloadAttestError> {
        let subject = process.clone();
        let read = move || {
            let reach = namespaces.reach_of(&subject.pidfd, subject.pid)?;
            Ok((reach, fingerprint(&subject)?))
        };
        let (reach, fingerprint) = self.reads.run(&process, "the process", read).await?;
        process.reach = reach;
        process.program = fingerprint.exe;
        Ok((process, fingerprint))
    }

    /// How much of the process may be measured by an agent that lives in `namespaces`.
    ///
    /// # Errors
    /// As [`AgentNamespaces::reach_of`], and `TimedOut`.
    pub async fn reach(
        &self,
        namespaces: AgentNamespaces,
        process: &Process,
    ) -> Result<Reach, WorkloadAttestError> {
        let (pidfd, pid) = (Arc::clone(&process.pidfd), process.pid);
        let read = move || namespaces.reach_of(&pidfd, pid);
        self.reads.run(process, "the namespaces", read).await
    }

    /// Runs blocking reads about a process where they can hang nobody but its own user.
    ///
    /// # Errors
    /// Those of `read`, and `TimedOut`.
    pub async fn look<T: Send + 'static>(
        &self,
        process: &Process,
        what: &'static str,
        read: impl FnOnce() -> Result<T, WorkloadAttestError> + Send + 'static,
    ) -> Result<T, WorkloadAttestError> {
        self.reads.run(process, what, read).await
    }

    /// The fingerprint of the process as it is now: dear things are not read for it, so that it can be
    /// taken before every answer.
    ///
    /// # Errors
    /// `Gone` when it ended, `CredentialsDiffer` when its ids are not those that came with it, `Unreadable`.
    pub async fn fingerprint(&self, process: &Process) -> Result<Fingerprint, WorkloadAttestError> {
        let subject = process.clone();
        let read = move || fingerprint(&subject);
        self.reads.run(process, "the fingerprint", read).await
    }
}

impl Measurement {
    fn unless_changed(mut self, process: &Process, now: &Fingerprint) -> Result<Self, WorkloadAttestError> {
        if *now != self.fingerprint {
            return Err(WorkloadAttestError::Changed { pid: process.pid });
        }
        self.seen = Instant::now();
        Ok(self)
    }
}

/// Attestors that cannot measure by reads alone.
type Others = Vec<Arc<dyn WorkloadAttestor>>;

/// Everything that blocking reads find, in one go: each change of threads costs more than what is read.
fn measure(
    process: &Process,
    attestors: &[Arc<dyn WorkloadAttestor>],
    asked: &Asked,
    before: Option<Fingerprint>,
) -> Result<(Measurement, Others), WorkloadAttestError> {
    let mut measured = Measurement {
        fingerprint: before.map_or_else(|| fingerprint(process), Ok)?,
        evidence: Evidence::default(),
        seen: Instant::now(),
    };
    let mut others = Others::new();
    for attestor in attestors {
        match attestor.attest_blocking(process, asked) {
            Some(found) => measured.evidence.merge(found?),
            None => others.push(Arc::clone(attestor)),
        }
    }
    let now = fingerprint(process)?;
    Ok((measured.unless_changed(process, &now)?, others))
}

/// As few reads as tell one program from another: this is done several times for each call.
fn fingerprint(process: &Process) -> Result<Fingerprint, WorkloadAttestError> {
    let (uid, gid) = effective_ids(process)?;
    same_credentials(process, uid, gid)?;
    let exe = match linked_file(process, "exe") {
        Ok(exe) => Some(exe),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
        Err(error) => return Err(failed(process, "`/proc/PID/exe`", error)),
    };
    let vector = permitted(AuxiliaryVector::of(process.pid));
    let vector = vector.map_err(|error| unknown(process, "the auxiliary vector", error))?;
    let image = match &vector {
        Some(vector) => permitted(vector.at_random()),
        None => Ok(None),
    };
    let image = image.map_err(|error| unknown(process, "AT_RANDOM", error))?;
    // All was read by number: it was this process's as long as this process lives.
    still_alive(process)?;
    Ok(Fingerprint {
        uid,
        gid,
        exe,
        image: image.map(|bytes| hash(bytes.expose())),
        layout: vector.map(|vector| hash(vector.expose())),
    })
}

/// Effective user and group id: asked of the pidfd where the kernel answers that.
fn effective_ids(process: &Process) -> Result<(u32, u32), WorkloadAttestError> {
    match process.pidfd.info() {
        Ok(info) => Ok((info.euid, info.egid)),
        Err(SysError::Unsupported { .. }) => {
            let status = ProcDir::open(process)?.status()?;
            Ok((status.uid, status.gid))
        }
        Err(error) => Err(unknown(process, "the credentials", error)),
    }
}

/// Nothing, of what may not be known.
fn permitted<T>(found: Result<T, SysError>) -> Result<Option<T>, SysError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(SysError::NotPermitted { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn unknown(process: &Process, what: &'static str, error: SysError) -> WorkloadAttestError {
    match error {
        SysError::Gone => WorkloadAttestError::Gone { pid: process.pid },
        error => failed(process, what, io::Error::other(error)),
    }
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    let digest = digest(&SHA256, bytes);
    let mut hash = [0; 32];
    for (to, from) in hash.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    hash
}

/// The namespaces that the agent itself lives in, read once at its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentNamespaces {
    pid: NamespaceId,
    user: NamespaceId,
}

impl AgentNamespaces {
    /// Those of the calling process.
    ///
    /// # Errors
    /// Where `/proc/self/ns` cannot be read.
    pub fn of_self() -> io::Result<Self> {
        let id = |path| {
            let file = file_id(File::open(path)?)?;
            Ok::<_, io::Error>(NamespaceId {
                dev: file.dev,
                ino: file.ino,
            })
        };
        Ok(Self {
            pid: id("/proc/self/ns/pid")?,
            user: id("/proc/self/ns/user")?,
        })
    }

    /// How much of the process may be measured. Who is root over a PID namespace can name any process in it
    /// as the sender of bytes; so where the owner is another user namespace than the agent's, the process
    /// is known only as one of that namespace. What cannot be told counts as foreign.
    ///
    /// # Errors
    /// `Gone` when the process has ended.
    pub fn reach_of(&self, pidfd: &Arc<PidFd>, pid: i32) -> Result<Reach, WorkloadAttestError> {
        let process = Process {
            pidfd: Arc::clone(pidfd),
            pid,
            uid: 0,
            gid: 0,
            reach: Reach::Full,
            program: None,
        };
        // Most live in the agent's own namespace, which is told without opening it.
        let own = linked_file(&process, "ns/pid").is_ok_and(|found| self.is_own(found));
        if own {
            still_alive(&process)?;
            return Ok(Reach::Full);
        }
        let dir = ProcDir::open(&process)?;
        let reach = self.look(&dir)?;
        dir.still_alive()?;
        Ok(reach)
    }

    fn is_own(&self, namespace: FileId) -> bool {
        (namespace.dev, namespace.ino) == (self.pid.dev, self.pid.ino)
    }

    fn look(&self, dir: &ProcDir<'_>) -> Result<Reach, WorkloadAttestError> {
        let foreign = |reason: &str| Reach::NamespaceOnly {
            reason: reason.to_owned(),
        };
        let namespace = match dir.open_link(c"ns/pid", OFlag::O_RDONLY) {
            Ok(namespace) => namespace,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                // Whoever may not follow the link may still count: one number means the namespace of `/proc`.
                return Ok(match dir.status()?.pid_namespaces {
                    1 => Reach::Full,
                    _ => foreign("the agent may not look at its PID namespace: run the agent as root"),
                });
            }
            Err(error) => return Err(dir.failed("`/proc/PID/ns/pid`", error)),
        };
        let id = file_id(&namespace).map_err(|error| dir.failed("`/proc/PID/ns/pid`", error))?;
        if self.is_own(id) {
            return Ok(Reach::Full);
        }
        match user_namespace_of(&namespace) {
            Ok(owner) if owner == self.user => Ok(Reach::Full),
            Ok(_) => Ok(foreign(
                "its PID namespace belongs to another user namespace than the agent's, whose root can name \
                 another process in its place",
            )),
            Err(SysError::NotPermitted { .. }) => Ok(foreign(
                "its PID namespace belongs to a user namespace that is not visible to the agent",
            )),
            Err(error) => Err(dir.failed("the owner of its PID namespace", io::Error::other(error))),
        }
    }
}

#[cfg(test)]
mod tests;
