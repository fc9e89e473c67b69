//! What all frames of a log say together: of several changes of the same thing the last counts.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message;
use time::OffsetDateTime;
use vouchsafe_identity::{Bundle, ClassName, RunId};
use vouchsafe_proto::vouchsafe::run::v1::{Class, Revocation};
use vouchsafe_proto::vouchsafe::sync::v1::LiveRun;

use super::{Batch, BundleRecord, Change, EntryRecord, Kind, ResumeRecord, SvidRecord, moment, nonsense};
use crate::cache::slots::X509Svid;
use crate::entry::{Entry, EntryId};
use crate::knowledge::Resume;
use crate::sealed::log::BadSeal;
use crate::sync::push::protocol::{class_digest, revocation_digest, run_digest};

/// What all frames of a log say together.
#[derive(Debug, Default)]
pub struct Contents {
    /// The entries.
    pub entries: Vec<Arc<Entry>>,
    /// The bundles.
    pub bundles: Vec<Bundle>,
    /// X.509-SVIDs with their keys, by entry; valid ones and others.
    pub svids: Vec<(EntryId, X509Svid)>,
    /// The same of runs and launch leases.
    pub run_svids: Vec<(EntryId, X509Svid)>,
    /// When the server was last heard.
    pub heard_at: Option<OffsetDateTime>,
    /// Up to where its changes were followed.
    pub resume: Option<Resume>,
    /// The classes that may run on this node.
    pub classes: BTreeMap<ClassName, Arc<Class>>,
    /// The runs that lived on it.
    pub runs: BTreeMap<RunId, Arc<LiveRun>>,
    /// The runs whose SVIDs are revoked.
    pub revoked: BTreeMap<RunId, Arc<Revocation>>,
}

/// Takes in frames, and gives what they say together.
#[derive(Debug, Default)]
pub struct Reader {
    waiting: Vec<Change>,
    entries: BTreeMap<String, EntryRecord>,
    bundles: BTreeMap<String, BundleRecord>,
    svids: BTreeMap<String, SvidRecord>,
    run_svids: BTreeMap<String, SvidRecord>,
    heard_at: Option<i64>,
    resume: ResumeRecord,
    classes: BTreeMap<String, Class>,
    runs: BTreeMap<String, LiveRun>,
    revoked: BTreeMap<String, Revocation>,
}

impl Reader {
    /// Takes in the text of one frame.
    ///
    /// # Errors
    /// [`BadSeal::Nonsense`] when it is not a batch of changes.
    pub fn take(&mut self, text: &[u8]) -> Result<(), BadSeal> {
        let batch = Batch::decode(text).map_err(nonsense)?;
        self.waiting.extend(batch.changes);
        if batch.last {
            for change in std::mem::take(&mut self.waiting) {
                self.apply(change.kind.ok_or_else(|| nonsense("a change of no kind"))?);
            }
        }
        Ok(())
    }

    fn apply(&mut self, kind: Kind) {
        match kind {
            Kind::Entry(entry) => drop(self.entries.insert(entry.id.clone(), entry)),
            Kind::EntryGone(id) => drop(self.entries.remove(&id)),
            Kind::Bundle(bundle) => drop(self.bundles.insert(bundle.trust_domain.clone(), bundle)),
            Kind::BundleGone(name) => drop(self.bundles.remove(&name)),
            Kind::Svid(svid) => drop(self.svids.insert(svid.entry_id.clone(), svid)),
            Kind::SvidGone(id) => drop(self.svids.remove(&id)),
            Kind::RunSvid(svid) => drop(self.run_svids.insert(svid.entry_id.clone(), svid)),
            Kind::RunSvidGone(id) => drop(self.run_svids.remove(&id)),
            Kind::Heard(at) => self.heard_at = Some(at),
            Kind::Resume(resume) => self.resume = resume,
            Kind::Class(class) => drop(self.classes.insert(class.name.clone(), *class)),
            Kind::ClassGone(name) => drop(self.classes.remove(&name)),
            Kind::Run(run) => drop(self.runs.insert(run.run_id.clone(), run)),
            Kind::RunGone(id) => drop(self.runs.remove(&id)),
            Kind::Revocation(one) => drop(self.revoked.insert(one.run_id.clone(), one)),
            Kind::RevocationGone(id) => drop(self.revoked.remove(&id)),
        }
    }

    /// Everything up to the last frame that said that it was all.
    ///
    /// # Errors
    /// [`BadSeal::Nonsense`] when something in it cannot be.
    pub fn finish(self) -> Result<Contents, BadSeal> {
        let entries = self
            .entries
            .into_values()
            .map(|entry| Entry::try_from(entry).map(Arc::new));
        let bundles = self.bundles.into_values().map(Bundle::try_from);
        let entries: Vec<_> = entries.collect::<Result<_, BadSeal>>()?;
        let bundles: Vec<_> = bundles.collect::<Result<_, BadSeal>>()?;
        let told = self.classes.values().map(class_digest);
        let told = told.chain(self.runs.values().map(run_digest));
        let told = told.chain(self.revoked.values().map(revocation_digest));
        let resume = self.resume.read(&entries, &bundles, told);
        let classes = self
            .classes
            .into_iter()
            .map(|(name, class)| Ok((ClassName::new(&name).map_err(nonsense)?, Arc::new(class))));
        Ok(Contents {
            resume,
            classes: classes.collect::<Result<_, BadSeal>>()?,
            runs: by_run(self.runs)?,
            revoked: by_run(self.revoked)?,
            entries,
            bundles,
            svids: read_svids(self.svids)?,
            run_svids: read_svids(self.run_svids)?,
            heard_at: self.heard_at.map(moment).transpose()?,
        })
    }
}

fn read_svids(all: BTreeMap<String, SvidRecord>) -> Result<Vec<(EntryId, X509Svid)>, BadSeal> {
    let read = |(id, svid): (String, SvidRecord)| Ok((id.as_str().into(), svid.read()?));
    all.into_iter().map(read).collect()
}

/// What hangs on runs, by their ids.
fn by_run<T>(all: BTreeMap<String, T>) -> Result<BTreeMap<RunId, Arc<T>>, BadSeal> {
    let by_run = |(id, one): (String, T)| Ok((RunId::new(&id).map_err(nonsense)?, Arc::new(one)));
    all.into_iter().map(by_run).collect()
}
