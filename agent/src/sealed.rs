//! The agent's state on disk, sealed: what it needs to serve after a restart while the server is away.
//!
//! Entries, bundles and X.509-SVIDs with their keys. Not JWT-SVIDs: whoever holds such a token is its owner, and it is
//! cached for one process, whose identity does not outlive the process. What is refused at the start is never used in
//! part: the agent then starts as if nothing had been sealed.

mod disk;
mod keeper;
pub mod key;
pub mod log;
pub mod record;
mod snapshot;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use time::OffsetDateTime;
use vouchsafe_identity::{Bundle, ClassName, RunId, TrustDomain};
use vouchsafe_proto::vouchsafe::run::v1::{Class, Revocation};
use vouchsafe_proto::vouchsafe::sync::v1::LiveRun;

use crate::cache::slots::X509Svid;
use crate::entry::{Entry, EntryId};
use crate::knowledge::Resume;
use disk::Files;
pub use disk::{LoadError, SealError};
pub use keeper::Keeper;
pub use key::{SealKeyError, SealKeySource};
use snapshot::Snapshot;
use vouchsafe_runtime::seal::SealKeys;
use vouchsafe_runtime::seal::file::SecretFileError;

/// What was sealed, as far as it may be used now.
#[derive(Debug, Default)]
pub struct Restored {
    /// The entries that this agent may serve.
    pub entries: Vec<Arc<Entry>>,
    /// All bundles.
    pub bundles: Vec<Bundle>,
    /// X.509-SVIDs that have not ended, by entry.
    pub svids: Vec<(EntryId, X509Svid)>,
    /// The same of runs and launch leases.
    pub run_svids: Vec<(EntryId, X509Svid)>,
    /// X.509-SVIDs that were left out, because they have ended.
    pub left_out: usize,
    /// When the server was last heard.
    pub heard_at: Option<OffsetDateTime>,
    /// Up to where its changes were followed.
    pub resume: Option<Resume>,
    /// The classes that may run on this node.
    pub classes: BTreeMap<ClassName, Arc<Class>>,
    /// The runs that lived on it, as the server knew them.
    pub runs: BTreeMap<RunId, Arc<LiveRun>>,
    /// The runs whose SVIDs are revoked.
    pub revoked: BTreeMap<RunId, Arc<Revocation>>,
}

/// Seals and opens the state in one data_dir. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Seal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    keys: Arc<SealKeys>,
    files: Mutex<Sealing>,
    key_file: Option<PathBuf>,
}

#[derive(Debug)]
enum Sealing {
    On(Files),
    /// The server refused this agent: nothing is sealed any more.
    Wiped,
}

impl Seal {
    /// Takes hold of the sealed state; makes key and folder where they are missing. Gives nothing where nothing is to be
    /// sealed. `credentials` is the folder of the service manager's credentials.
    ///
    /// # Errors
    /// [`SealKeyError`] names the file and what to do.
    pub fn open(
        source: &SealKeySource,
        data_dir: &Path,
        credentials: Option<&Path>,
    ) -> Result<Option<Self>, SealKeyError> {
        let Some(secret) = source.secret(data_dir, credentials)? else {
            return Ok(None);
        };
        let keys = SealKeys::derive(&secret).map_err(|_short| SealKeyError::NoRandomness)?;
        let keys = Arc::new(keys);
        let files = Files::open(data_dir, Arc::clone(&keys)).map_err(|source| {
            SecretFileError::io("make the folder of what is sealed by", data_dir, source)
        })?;
        Ok(Some(Self(Arc::new(Inner {
            keys,
            files: Mutex::new(Sealing::On(files)),
            key_file: source.file(data_dir),
        }))))
    }

    /// The keys, to seal the key of the agent's own SVID too.
    pub fn keys(&self) -> Arc<SealKeys> {
        Arc::clone(&self.0.keys)
    }

    /// What was sealed for this agent and may be used now. What is refused is warned of, and counts as nothing.
    pub fn restore(&self, agent: &str, trust_domain: &TrustDomain, now: OffsetDateTime) -> Option<Restored> {
        let files = self.0.files.lock().unwrap_or_else(PoisonError::into_inner);
        let Sealing::On(files) = &*files else {
            return None;
        };
        let loaded = match files.load(agent) {
            Ok(loaded) => loaded?,
            Err(error) => {
                tracing::warn!(%error, "the sealed state is not used: the agent serves when it has heard its server");
                return None;
            }
        };
        if loaded.torn {
            tracing::warn!("the sealed state ends in something unfinished, which is left out");
        }
        let restored = usable(loaded, now);
        let own = restored
            .bundles
            .iter()
            .any(|bundle| bundle.trust_domain == *trust_domain);
        if !own {
            tracing::warn!(%trust_domain, "the sealed state is not used: it has no bundle of the trust domain");
            return None;
        }
        Some(restored)
    }

    /// Seals a moment: what differs from `before`, or all of it.
    async fn write(
        &self,
        agent: String,
        snapshot: Snapshot,
        before: Option<Snapshot>,
        now: OffsetDateTime,
    ) -> Result<(), SealError> {
        let seal = self.clone();
        let now = now.unix_timestamp();
        let written = tokio::task::spawn_blocking(move || {
            let mut files = seal.0.files.lock().unwrap_or_else(PoisonError::into_inner);
            let Sealing::On(files) = &mut *files else {
                return Ok(());
            };
            match before.filter(|_| files.can_append(&agent)) {
                Some(before) => {
                    let changes = snapshot.since(&before);
                    if changes.is_empty() {
                        return Ok(());
                    }
                    files.append(changes, now)
                }
                None => files.rewrite(&agent, snapshot.all(), now),
            }
        });
        written.await.unwrap_or(Err(SealError::NoLog))
    }

    /// Removes everything that was sealed and, where it is a file of ours, the key. Nothing is sealed any more.
    ///
    /// # Errors
    /// [`SealError`] when something may still be there.
    pub async fn wipe(&self) -> Result<(), SealError> {
        let seal = self.clone();
        let wiped = tokio::task::spawn_blocking(move || {
            let mut files = seal.0.files.lock().unwrap_or_else(PoisonError::into_inner);
            let Sealing::On(mut on) = std::mem::replace(&mut *files, Sealing::Wiped) else {
                return Ok(());
            };
            // The key first: without it the rest is noise.
            let key = seal.0.key_file.as_deref().map_or(Ok(()), |path| {
                key::destroy(path).map_err(|source| SealError::Io {
                    action: "remove",
                    path: path.display().to_string(),
                    source,
                })
            });
            on.wipe().and(key)
        });
        wiped.await.unwrap_or(Err(SealError::NoLog))
    }
}

/// Leaves out what must not be served now. A clock that was set back brings no SVID back to life: what had ended when
/// the state was sealed stays ended.
fn usable(loaded: disk::Loaded, now: OffsetDateTime) -> Restored {
    let sealed_at = OffsetDateTime::from_unix_timestamp(loaded.sealed_at).unwrap_or(now);
    let latest = now.max(sealed_at);
    let contents = loaded.contents;
    let held = contents.svids.len() + contents.run_svids.len();
    let lasting = |svids: Vec<(EntryId, X509Svid)>| -> Vec<_> {
        let svids = svids.into_iter();
        svids.filter(|(_, svid)| !svid.lifetime.is_over(latest)).collect()
    };
    let (svids, run_svids) = (lasting(contents.svids), lasting(contents.run_svids));
    Restored {
        left_out: held - svids.len() - run_svids.len(),
        run_svids,
        entries: contents.entries,
        bundles: contents.bundles,
        svids,
        heard_at: contents.heard_at,
        resume: contents.resume,
        classes: contents.classes,
        runs: contents.runs,
        revoked: contents.revoked,
    }
}

#[cfg(test)]
mod tests;
