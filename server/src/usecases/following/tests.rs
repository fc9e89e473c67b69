//! An agent that does what it is told holds what it may serve, through any walk of changes, cuts and resumes.

use proptest::prelude::*;
use vouchsafe_identity::{Bundle, JwtAuthority, Selector, SelectorSet, X509Authority};
use vouchsafe_identity::{ClassId, Labels, Sha256};
use vouchsafe_store::class::{ClassNodes, ClassSpec, Isolation, MeasuredFile, OnEnd, Program, SvidPolicy};
use vouchsafe_store::run::{EndReason, Ended};
use vouchsafe_store::{
    ChangeKind, Class, Commit, Entry, Key, MemoryStore, Node, Record, Revocation, Run, SharedStore,
};

use super::*;
use crate::index::{Following, Index};

const START: i64 = 1_800_000_000;
const AGENT: &str = "/spire/agent/x";
const LOG: &str = "log";
const DOMAINS: [&str; 3] = ["example.org", "a.test", "b.test"];

fn id(path: &str) -> SpiffeId {
    SpiffeId::new(&format!("spiffe://example.org{path}")).unwrap()
}

fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

fn selectors(numbers: &[u8]) -> SelectorSet {
    numbers
        .iter()
        .map(|n| Selector::new("t", &n.to_string()).unwrap())
        .collect()
}

#[derive(Debug, Clone)]
struct Draft {
    name: u8,
    parent: &'static str,
    spiffe_id: &'static str,
    has: Vec<u8>,
    federates: Vec<&'static str>,
    lives: Option<i64>,
}

impl Draft {
    fn entry(&self, revision_number: i64, now: i64) -> Entry {
        let at = |seconds| OffsetDateTime::from_unix_timestamp(seconds).unwrap();
        Entry {
            federates_with: self.federates.iter().map(|name| domain(name)).collect(),
            expires_at: self.lives.map(|seconds| at(now + seconds)),
            revision_number,
            ..Entry::new(
                EntryId::new(&format!("e{}", self.name)).unwrap(),
                id(self.spiffe_id),
                id(self.parent),
                selectors(&self.has),
                at(START),
            )
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Put(Draft),
    Remove(u8),
    Node(Vec<u8>),
    Authority(usize),
    Taint(usize),
    NoBundle(usize),
    /// A class of that number, for these nodes; `None`: for all.
    Class(u8, Option<Vec<&'static str>>),
    NoClass(u8),
    /// A run of that number is admitted there, or has ended.
    Admit(u8, &'static str),
    End(u8, &'static str),
    /// A run is no longer kept.
    Prune(u8),
    /// The SVIDs of a run are revoked, or no longer, wherever it was.
    Revoke(u8),
    Over(u8),
    Later(i64),
    Cut,
    Return,
}

fn node(has: &[u8]) -> Node {
    Node {
        id: id(AGENT),
        attestation_type: "join_token".to_owned(),
        serial: "01".to_owned(),
        expires_at: OffsetDateTime::from_unix_timestamp(START).unwrap(),
        next_serial: None,
        next_expires_at: None,
        handed_out_before: Vec::new(),
        selectors: selectors(has),
        banned: false,
        can_reattest: false,
        agent_version: String::new(),
    }
}

fn hearing<'a>(agent: &'a SpiffeId, own: &'a TrustDomain) -> Audience<'a> {
    Audience {
        agent,
        own,
        runs: true,
    }
}

fn class(name: u8, version: u64, nodes: Option<&[&'static str]>) -> Class {
    let at = OffsetDateTime::from_unix_timestamp(START).unwrap();
    let these = |nodes: &[&'static str]| ClassNodes::These(nodes.iter().map(|path| id(path)).collect());
    Class {
        name: ClassName::new(&format!("c{name}")).unwrap(),
        id: ClassId::of(id(&format!("/agent/c{name}"))).unwrap(),
        version,
        spec: ClassSpec {
            description: String::new(),
            program: Program {
                executable: MeasuredFile {
                    path: "/bin/agent".to_owned(),
                    sha256: Sha256::new(&"0a".repeat(32)).unwrap(),
                    role: None,
                },
                code: None,
                fixed_args: Vec::new(),
                extra_args: false,
            },
            files: Vec::new(),
            user: Default::default(),
            env_allow: Vec::new(),
            nodes: nodes.map_or(ClassNodes::Any, these),
            launchers: Vec::new(),
            max_ttl_seconds: 60,
            max_runs: 9,
            svids: SvidPolicy::default(),
            isolation: Isolation::Process,
            allow_mutable_files: false,
            on_end: OnEnd::Kill,
            harden: Default::default(),
            disabled: false,
            offline: None,
            model: None,
        },
        created_at: at,
        updated_at: at,
    }
}

fn run(number: u8, node: &str) -> Run {
    let class = class(number, 1, None);
    let at = OffsetDateTime::from_unix_timestamp(START).unwrap();
    Run {
        id: RunId::made(1_800_000_000_000 + u64::from(number), 7),
        class: class.name,
        class_id: class.id,
        class_version: 1,
        place: u32::from(number) + 1,
        node: id(node),
        launcher: String::new(),
        parent: None,
        task: None,
        labels: Labels::default(),
        uid: 1,
        isolation: Isolation::Process,
        measured_sha256: None,
        selectors: Vec::new(),
        svids: SvidPolicy::default(),
        admitted_at: at,
        expires_at: at,
        lease: None,
        started: None,
        ended: None,
    }
}

/// An agent that does what it is told.
#[derive(Debug, Default)]
struct Model {
    entries: BTreeMap<EntryId, Arc<IndexedEntry>>,
    bundles: BTreeMap<TrustDomain, Bundle>,
    classes: BTreeMap<ClassName, Arc<Versioned<Class>>>,
    runs: BTreeMap<RunId, Arc<LiveRun>>,
    revoked: BTreeMap<RunId, Arc<Revoked>>,
}

impl Model {
    fn take_whole(&mut self, told: &Told) {
        self.entries = told
            .entries()
            .iter()
            .map(|e| (e.id.clone(), Arc::clone(e)))
            .collect();
        let bundles = told.bundles().map(|b| b.bundle.clone());
        self.bundles = bundles.map(|b| (b.trust_domain.clone(), b)).collect();
        let classes = told.classes().map(|c| (c.value.name.clone(), Arc::clone(c)));
        self.classes = classes.collect();
        self.runs = told.runs().map(|live| (live.run.id, Arc::clone(live))).collect();
        let revoked = told.revocations();
        self.revoked = revoked.map(|one| (one.revocation.run, Arc::clone(one))).collect();
    }

    fn apply(&mut self, items: Vec<Item>) {
        for item in items {
            match item {
                Item::Entry(entry) => {
                    self.entries.insert(entry.id.clone(), entry);
                }
                Item::EntryGone(id) => {
                    self.entries.remove(&id);
                }
                Item::Bundle(bundle) => {
                    let bundle = bundle.bundle.clone();
                    self.bundles.insert(bundle.trust_domain.clone(), bundle);
                }
                Item::BundleGone(name) => {
                    self.bundles.remove(&name);
                }
                Item::Class(class) => {
                    self.classes.insert(class.value.name.clone(), class);
                }
                Item::ClassGone(name) => {
                    self.classes.remove(&name);
                }
                Item::Run(live) => {
                    self.runs.insert(live.run.id, live);
                }
                Item::RunGone(id, _) => {
                    self.runs.remove(&id);
                }
                Item::Revocation(revoked) => {
                    self.revoked.insert(revoked.revocation.run, revoked);
                }
                Item::RevocationGone(id) => {
                    self.revoked.remove(&id);
                }
                Item::Taint(taint) => {
                    let bundle = self.bundles.get_mut(&taint.trust_domain).unwrap();
                    bundle.sequence = taint.sequence;
                    match taint.authority {
                        Authority::X509(hash) => {
                            let is = |a: &&mut X509Authority| {
                                aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &a.certificate).as_ref()
                                    == hash
                            };
                            bundle.x509_authorities.iter_mut().find(is).unwrap().tainted = true;
                        }
                        Authority::Jwt(key_id) => {
                            let is = |a: &&mut JwtAuthority| a.key_id == key_id;
                            bundle.jwt_authorities.iter_mut().find(is).unwrap().tainted = true;
                        }
                    }
                }
            }
        }
    }

    fn digest(&self) -> SetDigest {
        let entries = self.entries.values().map(|entry| digest_of(entry));
        entries
            .chain(self.bundles.values().map(ItemDigest::of_bundle))
            .chain(runs::digests(&self.classes, &self.runs))
            .chain(self.revoked.values().map(|one| one.digest()))
            .collect()
    }
}

/// The store with its index, and one agent that follows.
struct Walk {
    store: SharedStore,
    index: Arc<Index>,
    now: i64,
    steps: i64,
    bundles: BTreeMap<usize, Bundle>,
    stream: Option<(Following, Told)>,
    model: Model,
    point: Option<(Resume, i64)>,
}

impl Walk {
    async fn start() -> Self {
        let store: SharedStore = Arc::new(MemoryStore::new("server-1"));
        store
            .commit(Commit::default().put(Record::Node(node(&[0, 1]))))
            .await
            .unwrap();
        let index = Index::load(&store).await.unwrap();
        Self {
            store,
            index,
            now: START,
            steps: 0,
            bundles: BTreeMap::new(),
            stream: None,
            model: Model::default(),
            point: None,
        }
    }

    fn time(&self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(self.now).unwrap()
    }

    async fn commit(&self, commit: Commit) {
        // Two entries of one shape cannot be; then nothing happens.
        if let Ok(revision) = self.store.commit(commit).await {
            self.index.wait_for(revision).await;
        }
    }

    async fn bundle(&mut self, which: usize, change: impl FnOnce(&mut Bundle)) {
        let fresh = || Bundle::empty(domain(DOMAINS[which]));
        let bundle = self.bundles.entry(which).or_insert_with(fresh);
        change(bundle);
        bundle.sequence += 1;
        let commit = Commit::default().put(Record::Bundle(bundle.clone()));
        self.commit(commit.change(ChangeKind::Bundle(domain(DOMAINS[which]))))
            .await;
    }

    async fn put_run(&self, run: Run) {
        let kind = ChangeKind::Run(run.id);
        self.commit(Commit::default().put(Record::Run(run)).change(kind))
            .await;
    }

    async fn take_of_runs(&self, step: &Step) {
        match step {
            Step::Class(name, nodes) => {
                let made = class(*name, u64::try_from(self.steps).unwrap(), nodes.as_deref());
                let kind = ChangeKind::Class(made.name.clone());
                self.commit(Commit::default().put(Record::Class(made)).change(kind))
                    .await;
            }
            Step::NoClass(name) => {
                let name = class(*name, 0, None).name;
                let commit = Commit::default().delete(Key::Class(name.clone()));
                self.commit(commit.change(ChangeKind::Class(name))).await;
            }
            Step::Admit(number, node) => self.put_run(run(*number, node)).await,
            Step::End(number, node) => {
                let ended = Ended {
                    at: self.time(),
                    reason: EndReason::Lost,
                    svids_end_at: self.time(),
                    svids_issued: 0,
                };
                let ended = Some(ended);
                self.put_run(Run {
                    ended,
                    ..run(*number, node)
                })
                .await;
            }
            Step::Prune(number) => {
                let id = run(*number, AGENT).id;
                let commit = Commit::default().delete(Key::Run(id));
                self.commit(commit.change(ChangeKind::Run(id))).await;
            }
            Step::Revoke(number) => {
                let Run {
                    id: run, class_id, ..
                } = run(*number, AGENT);
                let revocation = Revocation {
                    run,
                    class_id,
                    at: self.time(),
                    until: self.time(),
                    x509_serials: Vec::new(),
                    jwt_ids: Vec::new(),
                };
                let commit = Commit::default().put(Record::Revocation(revocation));
                self.commit(commit.change(ChangeKind::Revocation(run))).await;
            }
            Step::Over(number) => {
                let id = run(*number, AGENT).id;
                let commit = Commit::default().delete(Key::Revocation(id));
                self.commit(commit.change(ChangeKind::Revocation(id))).await;
            }
            other => panic!("{other:?}"),
        }
    }

    async fn take(&mut self, step: &Step) {
        self.steps += 1;
        let n = self.steps;
        match step {
            Step::Put(draft) => {
                let entry = draft.entry(n, self.now);
                let kind = ChangeKind::Entry(entry.id.clone());
                self.commit(Commit::default().put(Record::Entry(entry)).change(kind))
                    .await;
            }
            Step::Remove(name) => {
                let id = EntryId::new(&format!("e{name}")).unwrap();
                let commit = Commit::default().delete(Key::Entry(id.clone()));
                self.commit(commit.change(ChangeKind::Entry(id))).await;
            }
            Step::Node(has) => {
                let commit = Commit::default().put(Record::Node(node(has)));
                self.commit(commit.change(ChangeKind::Node(id(AGENT)))).await;
            }
            Step::Authority(which) => {
                self.bundle(*which, |bundle| {
                    bundle.x509_authorities.push(X509Authority {
                        certificate: n.to_be_bytes().to_vec(),
                        tainted: false,
                    });
                    bundle.jwt_authorities.push(JwtAuthority {
                        key_id: n.to_string(),
                        public_key: Vec::new(),
                        expires_at: None,
                        tainted: false,
                    });
                })
                .await;
            }
            Step::Taint(which) => {
                self.bundle(*which, |bundle| {
                    bundle
                        .x509_authorities
                        .iter_mut()
                        .take(1)
                        .for_each(|a| a.tainted = true);
                    bundle
                        .jwt_authorities
                        .iter_mut()
                        .take(2)
                        .for_each(|a| a.tainted = true);
                })
                .await;
            }
            Step::NoBundle(which) => {
                self.bundles.remove(which);
                let name = domain(DOMAINS[*which]);
                let commit = Commit::default().delete(Key::Bundle(name.clone()));
                self.commit(commit.change(ChangeKind::Bundle(name))).await;
            }
            Step::Later(seconds) => self.now += seconds,
            Step::Cut => self.stream = None,
            Step::Return if self.stream.is_none() => self.open(),
            Step::Return => {}
            of_runs => self.take_of_runs(of_runs).await,
        }
        self.listen();
    }

    fn open(&mut self) {
        let (agent, own, now) = (id(AGENT), domain(DOMAINS[0]), self.time());
        let resume = self.point.as_ref().map(|(resume, _)| resume);
        let (following, (told, opening)) = self
            .index
            .join(&agent, |view| open(view, hearing(&agent, &own), LOG, resume, now));
        match opening {
            Opening::Whole(reason) => {
                assert_eq!(reason == WholeReason::First, resume.is_none());
                self.model.take_whole(&told);
            }
            Opening::Changes(items) => {
                self.model.apply(items);
                // What ended meanwhile is in no log: then the agent sees that its set differs, and asks for all.
                if self.point.as_ref().unwrap().1 < self.now && self.model.digest() != told.point().digest {
                    self.model.take_whole(&told);
                }
            }
        }
        self.stream = Some((following, told));
    }

    /// Does what the stream's task does when it is woken.
    fn listen(&mut self) {
        let now = self.time();
        let Some((following, told)) = &mut self.stream else {
            return;
        };
        let ended = told.next_end().is_some_and(|end| end <= now);
        let items = following.look(|view, mut pending| {
            pending.everything |= ended;
            told.catch_up(view, &pending, now)
        });
        self.model.apply(items);
        self.check();
    }

    fn check(&mut self) {
        let (_, told) = self.stream.as_ref().unwrap();
        let point = told.point();
        assert_eq!(self.model.digest(), point.digest);
        let held: Vec<_> = self.model.entries.values().cloned().collect();
        assert_eq!(held, self.index.authorized_entries(&id(AGENT), self.time()));
        let classes = self.index.classes(None, usize::MAX).rows.into_iter();
        let here = |class: &Arc<Versioned<Class>>| {
            self.index
                .is_among(&id(AGENT), &class.value.spec.nodes, self.time())
        };
        let classes: BTreeMap<_, _> = classes.filter(here).map(|c| (c.value.name.clone(), c)).collect();
        let names = |held: &BTreeMap<ClassName, Arc<Versioned<Class>>>| {
            held.values().map(|class| class.value.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(&self.model.classes), names(&classes));
        let filter = crate::index::RunFilter {
            node: Some(id(AGENT)),
            ..Default::default()
        };
        let runs = self.index.runs(&filter, None, usize::MAX).rows.into_iter();
        let runs: Vec<RunId> = runs.map(|live| live.run.id).collect();
        assert!(self.model.runs.keys().eq(&runs));
        let revoked = self.index.revocations(None, usize::MAX).rows;
        assert!(self.model.revoked.values().eq(&revoked));
        let mut wanted = BTreeSet::from([domain(DOMAINS[0])]);
        wanted.extend(held.iter().flat_map(|entry| entry.federates_with.iter().cloned()));
        let kept = self
            .bundles
            .values()
            .filter(|bundle| wanted.contains(&bundle.trust_domain));
        let kept = kept
            .map(|bundle| (bundle.trust_domain.clone(), bundle.clone()))
            .collect();
        assert_eq!(self.model.bundles, kept);
        let resume = Resume {
            log_id: LOG.to_owned(),
            revision: point.revision,
            digest: *point.digest.as_bytes(),
        };
        self.point = Some((resume, self.now));
    }
}

/// Runs a test beside the index that follows its store.
fn with_index(test: impl AsyncFnOnce(&mut Walk)) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut walk = Walk::start().await;
        let follows = Arc::clone(&walk.index).follow(Arc::clone(&walk.store));
        tokio::select! {
            ended = follows => panic!("the index stopped: {ended:?}"),
            () = test(&mut walk) => {}
        }
    });
}

fn draft(name: u8, parent: &'static str, spiffe_id: &'static str) -> Draft {
    Draft {
        name,
        parent,
        spiffe_id,
        has: vec![name],
        federates: Vec::new(),
        lives: None,
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    let parents = vec!["/spire/server", AGENT, "/spire/agent/y", "/a", "/b"];
    let put = (
        0..10_u8,
        prop::sample::select(parents),
        prop::sample::select(vec!["/a", "/b", "/c"]),
        prop::collection::vec(0..3_u8, 1..3),
        prop::sample::subsequence(vec!["a.test", "b.test"], 0..2),
        prop::option::weighted(0.2, 1..10_i64),
    );
    let put = put.prop_map(|(name, parent, spiffe_id, has, federates, lives)| {
        Step::Put(Draft {
            name,
            parent,
            spiffe_id,
            has,
            federates,
            lives,
        })
    });
    let nodes = prop::sample::subsequence(vec![AGENT, "/spire/agent/y", "/a", "/b", "/c"], 0..3);
    prop_oneof![
        8 => put,
        3 => (0..10_u8).prop_map(Step::Remove),
        1 => prop::collection::vec(0..3_u8, 0..3).prop_map(Step::Node),
        1 => (0..3_usize).prop_map(Step::Authority),
        1 => (0..3_usize).prop_map(Step::Taint),
        1 => (0..3_usize).prop_map(Step::NoBundle),
        3 => (0..4_u8, prop::option::weighted(0.8, nodes)).prop_map(|(name, nodes)| Step::Class(name, nodes)),
        1 => (0..4_u8).prop_map(Step::NoClass),
        2 => (0..4_u8, prop::sample::select(vec![AGENT, "/spire/agent/y"])).prop_map(|(n, on)| Step::Admit(n, on)),
        1 => (0..4_u8, prop::sample::select(vec![AGENT, "/spire/agent/y"])).prop_map(|(n, on)| Step::End(n, on)),
        1 => (0..4_u8).prop_map(Step::Prune),
        2 => (0..4_u8).prop_map(Step::Revoke),
        1 => (0..4_u8).prop_map(Step::Over),
        1 => (1..5_i64).prop_map(Step::Later),
        2 => Just(Step::Cut),
        3 => Just(Step::Return),
    ]
}

proptest! {
    #[test]
    fn an_agent_that_does_what_it_is_told_holds_what_it_may_serve(steps in prop::collection::vec(any_step(), 1..80)) {
        with_index(async |walk| {
            walk.take(&Step::Return).await;
            for step in &steps {
                walk.take(step).await;
            }
        });
    }
}

#[test]
fn many_changes_are_told_as_one_look_at_everything() {
    with_index(async |walk| {
        walk.take(&Step::Return).await;
        let (following, told) = walk.stream.take().unwrap();
        for n in 0..=crate::index::MAX_PENDING {
            let mut entry = draft(0, AGENT, "/a").entry(0, START);
            entry.id = EntryId::new(&format!("many-{n}")).unwrap();
            entry.hint = n.to_string();
            entry.selectors = [Selector::new("t", &n.to_string()).unwrap()].into();
            let kind = ChangeKind::Entry(entry.id.clone());
            walk.store
                .commit(Commit::default().put(Record::Entry(entry)).change(kind))
                .await
                .unwrap();
        }
        let latest = *walk.store.revisions().borrow();
        walk.index.wait_for(latest).await;
        let pending = following.look(|_, pending| pending);
        assert!(pending.overflowed && pending.everything && pending.entries.is_empty());
        walk.stream = Some((following, told));
        let (_, told) = walk.stream.as_mut().unwrap();
        let items = walk
            .index
            .join(&id(AGENT), |view| {
                told.catch_up(view, &pending, OffsetDateTime::UNIX_EPOCH)
            })
            .1;
        assert_eq!(items.len(), crate::index::MAX_PENDING + 1);
        walk.model.apply(items);
        walk.check();
    });
}

#[test]
fn what_does_not_concern_an_agent_does_not_wake_it_and_leaves_its_resume_point_good() {
    with_index(async |walk| {
        walk.take(&Step::Return).await;
        walk.take(&Step::Put(draft(1, AGENT, "/a"))).await;
        let (following, told) = walk.stream.take().unwrap();
        walk.take(&Step::Put(draft(2, "/spire/agent/y", "/b"))).await;
        assert_eq!(following.look(|_, pending| pending), Pending::default());
        drop((following, told));
        let resume = walk.point.clone().map(|(resume, _)| Resume {
            digest: [7; 32],
            ..resume
        });
        let own = domain(DOMAINS[0]);
        let opening = |resume: Option<&Resume>| {
            let agent = id(AGENT);
            let look = |view: &View<'_>| open(view, hearing(&agent, &own), LOG, resume, walk.time());
            walk.index.join(&agent, look).1.1
        };
        let good = walk.point.clone().map(|(resume, _)| resume).unwrap();
        assert_eq!(opening(Some(&good)), Opening::Changes(Vec::new()));
        assert_eq!(opening(None), Opening::Whole(WholeReason::First));
        assert_eq!(opening(resume.as_ref()), Opening::Whole(WholeReason::Digest));
        let other = Resume {
            log_id: "other".to_owned(),
            ..good.clone()
        };
        assert_eq!(opening(Some(&other)), Opening::Whole(WholeReason::Pruned));
        let future = Resume {
            revision: Revision(u64::MAX),
            ..good
        };
        assert_eq!(opening(Some(&future)), Opening::Whole(WholeReason::Pruned));
    });
}

#[test]
fn the_last_stream_of_an_agent_is_the_one_that_is_told() {
    with_index(async |walk| {
        let (first, ()) = walk.index.join(&id(AGENT), |_| ());
        let (second, ()) = walk.index.join(&id(AGENT), |_| ());
        first.news().await;
        assert!(first.look(|_, pending| pending.replaced));
        drop(first);
        walk.take(&Step::Put(draft(1, AGENT, "/a"))).await;
        second.news().await;
        assert!(second.look(|_, pending| pending.entries.contains("e1")));
        drop(second);
        assert_eq!(walk.index.followers(), 0);
    });
}

#[test]
fn after_a_restart_the_store_still_knows_what_changed() {
    with_index(async |walk| {
        walk.take(&Step::Put(draft(1, AGENT, "/a"))).await;
        walk.take(&Step::Return).await;
        walk.take(&Step::Cut).await;
        walk.take(&Step::Put(draft(2, AGENT, "/b"))).await;
        walk.take(&Step::Remove(1)).await;
        walk.index = Index::load(&walk.store).await.unwrap();
        let resume = walk.point.clone().map(|(resume, _)| resume);
        let (own, agent, now) = (domain(DOMAINS[0]), id(AGENT), walk.time());
        let look = |view: &View<'_>| open(view, hearing(&agent, &own), LOG, resume.as_ref(), now);
        let (_, (told, opening)) = walk.index.join(&agent, look);
        let Opening::Changes(items) = opening else {
            panic!("{opening:?}");
        };
        assert_eq!(items.len(), 2);
        walk.model.apply(items);
        assert_eq!(walk.model.digest(), told.point().digest);
    });
}
