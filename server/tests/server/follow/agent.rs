//! An agent that follows: it does what it is told, and checks its set at each resume point.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use vouchsafe_proto::spire::api::types;
use vouchsafe_proto::vouchsafe::run::v1::{Class, Revocation};
use vouchsafe_proto::vouchsafe::sync::v1::authority_taint::Authority;
use vouchsafe_proto::vouchsafe::sync::v1::change::Kind;
use vouchsafe_proto::vouchsafe::sync::v1::follow_request::Message as Ask;
use vouchsafe_proto::vouchsafe::sync::v1::follow_response::Message;
use vouchsafe_proto::vouchsafe::sync::v1::sync_client::SyncClient;
use vouchsafe_proto::vouchsafe::sync::v1::{
    AuthorityTaint, Change, FollowRequest, FollowResponse, FullReason, Hello, LiveRun, Page, ResumePoint,
    Welcome,
};
use vouchsafe_runtime::{ItemDigest, SetDigest};

use crate::support::*;

/// Longer than anything takes.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// What the agent holds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held {
    pub(crate) entries: BTreeMap<String, types::Entry>,
    pub(crate) bundles: BTreeMap<String, types::Bundle>,
    pub(crate) classes: BTreeMap<String, Class>,
    pub(crate) runs: BTreeMap<String, LiveRun>,
    /// How runs ended.
    pub(crate) ended: BTreeMap<String, String>,
    pub(crate) revoked: BTreeMap<String, Revocation>,
    pub(crate) point: Option<ResumePoint>,
    /// How often an authority was tainted, apart from what came with whole bundles.
    pub(crate) taints: usize,
}

impl Held {
    fn digest(&self) -> Vec<u8> {
        let entries = self.entries.values();
        let entries = entries.map(|e| ItemDigest::of_entry(&e.id, e.revision_number, e.created_at));
        let bundles = self.bundles.values().map(|bundle| {
            let mut parsed = bundle_of(bundle.clone());
            let hint = u64::try_from(bundle.refresh_hint).unwrap();
            parsed.refresh_hint = Some(Duration::from_secs(hint));
            ItemDigest::of_bundle(&parsed)
        });
        let classes = self.classes.values().map(|class| {
            let names = (class.name.as_str(), class.id.as_str());
            ItemDigest::of_class(names, class.version, class.created_at, class.updated_at)
        });
        let runs = self.runs.values().map(|run| {
            let class = (run.class.as_str(), run.class_version);
            ItemDigest::of_run(
                (&run.run_id, &run.spiffe_id),
                class,
                run.admitted_at,
                run.expires_at,
            )
        });
        let revoked = self.revoked.values();
        let revoked = revoked
            .map(|one| ItemDigest::of_revocation(&one.run_id, &one.spiffe_id, one.revoked_at, one.until));
        let all = entries.chain(bundles).chain(classes).chain(runs);
        let all = all.chain(revoked);
        all.collect::<SetDigest>().as_bytes().to_vec()
    }

    fn apply(&mut self, change: Change) {
        match change.kind.unwrap() {
            Kind::EntryPut(entry) => {
                self.entries.insert(entry.id.clone(), entry);
            }
            Kind::EntryGone(id) => {
                self.entries.remove(&id);
            }
            Kind::BundlePut(bundle) => {
                self.bundles.insert(bundle.trust_domain.clone(), bundle);
            }
            Kind::BundleGone(name) => {
                self.bundles.remove(&name);
            }
            Kind::AuthorityTaint(taint) => self.taint(taint),
            Kind::ClassPut(class) => {
                self.classes.insert(class.name.clone(), *class);
            }
            Kind::ClassGone(name) => {
                self.classes.remove(&name);
            }
            Kind::RunPut(run) => {
                self.runs.insert(run.run_id.clone(), run);
            }
            Kind::RunGone(gone) => {
                self.runs.remove(&gone.run_id);
                self.ended.insert(gone.run_id, gone.reason);
            }
            Kind::RevocationPut(one) => {
                self.revoked.insert(one.run_id.clone(), one);
            }
            Kind::RevocationGone(id) => {
                self.revoked.remove(&id);
            }
        }
    }

    fn taint(&mut self, taint: AuthorityTaint) {
        let bundle = self.bundles.get_mut(&taint.trust_domain).unwrap();
        bundle.sequence_number = taint.sequence_number;
        match taint.authority.unwrap() {
            Authority::X509Sha256(hash) => {
                let is = |a: &&mut types::X509Certificate| *digest(&SHA256, &a.asn1).as_ref() == *hash;
                bundle.x509_authorities.iter_mut().find(is).unwrap().tainted = true;
            }
            Authority::JwtKeyId(id) => {
                let is = |a: &&mut types::JwtKey| a.key_id == id;
                bundle.jwt_authorities.iter_mut().find(is).unwrap().tainted = true;
            }
        }
        self.taints += 1;
    }

    fn reach(&mut self, point: ResumePoint) {
        assert_eq!(
            self.digest(),
            point.digest,
            "the set differs at revision {}",
            point.revision
        );
        assert!(
            self.point
                .as_ref()
                .is_none_or(|before| before.revision <= point.revision)
        );
        self.point = Some(point);
    }
}

/// One stream.
pub(crate) struct Follows {
    pub(crate) ask: mpsc::Sender<FollowRequest>,
    pub(crate) answers: Streaming<FollowResponse>,
    pub(crate) held: Held,
    pub(crate) pages: usize,
    pub(crate) changes: usize,
    pub(crate) full_reason: FullReason,
    new: Held,
}

pub(crate) fn hello(resume: Option<ResumePoint>) -> FollowRequest {
    let hello = Hello {
        version: 1,
        resume,
        ..Hello::default()
    };
    FollowRequest {
        message: Some(Ask::Hello(hello)),
    }
}

/// As [`hello`], for classes and runs too.
pub(crate) fn hello_for_runs(resume: Option<ResumePoint>) -> FollowRequest {
    let hello = Hello {
        version: 1,
        features: vec!["later".to_owned(), "runs".to_owned()],
        resume,
        ..Hello::default()
    };
    FollowRequest {
        message: Some(Ask::Hello(hello)),
    }
}

impl Follows {
    /// Follows classes and runs too, and takes the whole set.
    pub(crate) async fn open_for_runs(server: &TestServer, agent: &Identity) -> Self {
        let mut stream = Self::begin(server, agent, hello_for_runs(None)).await;
        assert_eq!(stream.welcome().await.features, ["runs"]);
        stream.until(|held| held.point.is_some()).await;
        stream
    }

    /// Follows on from what the agent holds, classes and runs too.
    pub(crate) async fn resume_for_runs(server: &TestServer, agent: &Identity, held: Held) -> Self {
        let stream = Self::begin(server, agent, hello_for_runs(held.point.clone())).await;
        Self { held, ..stream }
    }

    /// Follows from nothing on, and takes the whole set.
    pub(crate) async fn open(server: &TestServer, agent: &Identity) -> Self {
        let mut stream = Self::begin(server, agent, hello(None)).await;
        assert_eq!(stream.welcome().await.full_reason(), FullReason::First);
        stream.until(|held| held.point.is_some()).await;
        stream
    }

    /// Follows on from what the agent holds.
    pub(crate) async fn resume(server: &TestServer, agent: &Identity, held: Held) -> Self {
        let stream = Self::begin(server, agent, hello(held.point.clone())).await;
        Self { held, ..stream }
    }

    pub(crate) async fn begin(server: &TestServer, agent: &Identity, first: FollowRequest) -> Self {
        Self::try_begin(server, agent, first).await.unwrap()
    }

    pub(crate) async fn try_begin(
        server: &TestServer,
        agent: &Identity,
        first: FollowRequest,
    ) -> Result<Self, Status> {
        let (ask, asked) = mpsc::channel(8);
        ask.send(first).await.unwrap();
        let mut client = SyncClient::new(server.tls(Some(agent)).await);
        let answers = client.follow(ReceiverStream::new(asked)).await?.into_inner();
        Ok(Self {
            ask,
            answers,
            held: Held::default(),
            pages: 0,
            changes: 0,
            full_reason: FullReason::Unspecified,
            new: Held::default(),
        })
    }

    pub(crate) async fn ask(&self, message: Ask) {
        self.ask
            .send(FollowRequest {
                message: Some(message),
            })
            .await
            .unwrap();
    }

    /// The first message.
    pub(crate) async fn welcome(&mut self) -> Welcome {
        let first = timeout(LONG, self.answers.message()).await.unwrap().unwrap();
        let Some(Message::Welcome(welcome)) = first.unwrap().message else {
            panic!("no welcome");
        };
        assert!(!welcome.log_id.is_empty());
        welcome
    }

    /// Takes the next message and does what it says.
    pub(crate) async fn step(&mut self) -> Result<(), Status> {
        let message = timeout(LONG, self.answers.message()).await.unwrap()?;
        match message.unwrap().message.unwrap() {
            Message::Welcome(_) => {}
            Message::Page(page) => self.page(page),
            Message::Delta(delta) => {
                assert!(delta.changes.len() <= 500);
                self.changes += delta.changes.len();
                delta
                    .changes
                    .into_iter()
                    .for_each(|change| self.held.apply(change));
                if let Some(point) = delta.resume {
                    self.held.reach(point);
                }
            }
        }
        Ok(())
    }

    fn page(&mut self, page: Page) {
        assert!(page.entries.len() + page.bundles.len() <= 500);
        self.pages += 1;
        if page.full_reason() != FullReason::Unspecified {
            self.full_reason = page.full_reason();
        }
        let entries = page.entries.into_iter();
        self.new
            .entries
            .extend(entries.map(|entry| (entry.id.clone(), entry)));
        let bundles = page.bundles.into_iter();
        self.new
            .bundles
            .extend(bundles.map(|bundle| (bundle.trust_domain.clone(), bundle)));
        let classes = page.classes.into_iter();
        self.new
            .classes
            .extend(classes.map(|class| (class.name.clone(), class)));
        let runs = page.runs.into_iter();
        self.new.runs.extend(runs.map(|run| (run.run_id.clone(), run)));
        let revoked = page.revocations.into_iter();
        self.new
            .revoked
            .extend(revoked.map(|one| (one.run_id.clone(), one)));
        if let Some(point) = page.resume {
            let before = self.held.point.take();
            self.held = std::mem::take(&mut self.new);
            self.held.point = before;
            self.held.reach(point);
        }
    }

    /// Follows until what the agent holds is as it should be, at least to the next resume point.
    pub(crate) async fn until(&mut self, good: impl Fn(&Held) -> bool) {
        let wait = async {
            loop {
                if self.held.point.is_some() && good(&self.held) {
                    return;
                }
                self.step().await.unwrap();
            }
        };
        assert!(timeout(LONG, wait).await.is_ok(), "it never comes to that");
    }

    /// Follows to the end of the stream.
    pub(crate) async fn until_ended(&mut self) -> Result<(), Status> {
        let ended = async {
            loop {
                self.step().await?;
            }
        };
        timeout(LONG, ended).await.unwrap()
    }

    /// As [`Follows::until_ended`].
    pub(crate) async fn ended(mut self) -> Result<(), Status> {
        self.until_ended().await
    }

    /// Nothing has been told that is not read yet.
    pub(crate) async fn assert_quiet(&mut self) {
        let quiet = timeout(Duration::from_millis(200), self.answers.message()).await;
        assert!(quiet.is_err(), "{quiet:?}");
    }
}
