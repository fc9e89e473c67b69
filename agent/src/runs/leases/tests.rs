//! Which leases count, and for whom; that each is used once.

use vouchsafe_identity::jwt::sign_lease;
use vouchsafe_identity::{Bundle, ClassName, JwtAuthority, KeyAlgorithm, LocalKey, Signer, TrustDomain};

use super::*;
use crate::knowledge::{News, Whole};
use crate::testing::{at, authority, runs};

const NODE: &str = "spiffe://example.org/spire/agent/x";

fn id(number: u128) -> RunId {
    RunId::made(1, number)
}

fn spiffe_id(run: RunId) -> SpiffeId {
    format!("spiffe://example.org/agent/r/run/{run}").parse().unwrap()
}

struct Fixture {
    key: LocalKey,
    leases: Leases,
    runs: Runs,
    // The own SVID counts as long as somebody tells it.
    _own: watch::Sender<Option<Arc<OwnSvid>>>,
    folder: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let (own, seen) = watch::channel(Some(authority().own_svid(NODE)));
        let clock = Clock::manual(at(0));
        let folder = tempfile::tempdir().unwrap();
        Self {
            key: LocalKey::generate("k1", KeyAlgorithm::EcP256).unwrap(),
            leases: Leases {
                knowledge: KnowledgeBase::new(TrustDomain::new("example.org").unwrap(), None),
                status: Arc::new(Status::new(clock.clone())),
                own: seen,
                clock,
                marks: Marks::open(folder.path()).unwrap(),
            },
            runs: runs(),
            _own: own,
            folder,
        }
    }

    fn signed(&self, lease: &LaunchLease) -> String {
        sign_lease(lease, "k1", &self.key).unwrap()
    }

    /// The server says that there is this class, and these leases.
    fn told(&self, spec: ClassSpec, leases: Vec<LiveRun>) {
        let mut bundle = Bundle::empty(TrustDomain::new("example.org").unwrap());
        bundle.jwt_authorities.push(JwtAuthority {
            key_id: "k1".to_owned(),
            public_key: self.key.public_key_spki().to_vec(),
            expires_at: None,
            tainted: false,
        });
        let class = Class {
            name: "r".to_owned(),
            version: 3,
            spec: Some(spec),
            ..Class::default()
        };
        self.leases.knowledge.learn(News::Whole(Whole {
            bundles: vec![bundle],
            classes: [(ClassName::new("r").unwrap(), Arc::new(class))].into(),
            runs: leases
                .into_iter()
                .map(|run| (RunId::new(&run.run_id).unwrap(), Arc::new(run)))
                .collect(),
            ..Whole::default()
        }));
        self.runs.lease(&self.leases.knowledge.get());
    }

    fn take(&self, asked: &AdmitRunRequest) -> Result<LaunchLease, NoLease> {
        self.leases.take(&self.runs, asked)
    }
}

fn said(run: RunId) -> LaunchLease {
    LaunchLease {
        run: spiffe_id(run),
        node: NODE.parse().unwrap(),
        class: ClassName::new("r").unwrap(),
        class_version: 3,
        issued_at: at(-10),
        expires_at: at(3600),
    }
}

fn lease(run: RunId, token: String) -> LiveRun {
    LiveRun {
        run_id: run.to_string(),
        spiffe_id: spiffe_id(run).to_string(),
        class: "r".to_owned(),
        class_version: 3,
        lease: token,
        ..LiveRun::default()
    }
}

fn spec() -> ClassSpec {
    ClassSpec {
        launchers: vec!["uid:1000".to_owned()],
        offline_runs: 1,
        max_ttl_seconds: 7200,
        ..ClassSpec::default()
    }
}

fn by(uid: u32) -> AdmitRunRequest {
    AdmitRunRequest {
        class: "r".to_owned(),
        launcher: Some(Launcher {
            uid,
            gids: vec![uid, 200],
            ..Launcher::default()
        }),
        ..AdmitRunRequest::default()
    }
}

#[test]
fn what_the_server_did_not_sign_for_this_node_and_this_class_as_it_is_is_no_lease() {
    let fixture = Fixture::new();
    let another = LocalKey::generate("k1", KeyAlgorithm::EcP256).unwrap();
    let run = id(1);
    let good = said(run);
    let wrong = [
        ("nobody", "x.y.z".to_owned()),
        ("another key", sign_lease(&good, "k1", &another).unwrap()),
        (
            "another node",
            fixture.signed(&LaunchLease {
                node: "spiffe://example.org/spire/agent/y".parse().unwrap(),
                ..good.clone()
            }),
        ),
        (
            "another run",
            fixture.signed(&LaunchLease {
                run: spiffe_id(id(2)),
                ..good.clone()
            }),
        ),
        (
            "another class",
            fixture.signed(&LaunchLease {
                class: ClassName::new("s").unwrap(),
                ..good.clone()
            }),
        ),
        (
            "an older class",
            fixture.signed(&LaunchLease {
                class_version: 2,
                ..good.clone()
            }),
        ),
        (
            "the past",
            fixture.signed(&LaunchLease {
                expires_at: at(0),
                ..good.clone()
            }),
        ),
    ];
    for (what, token) in wrong {
        fixture.told(spec(), vec![lease(run, token)]);
        assert_eq!(
            fixture.take(&by(1000)),
            Err(NoLease::None("r".to_owned())),
            "{what}"
        );
    }
    fixture.told(spec(), vec![lease(run, fixture.signed(&good))]);
    assert_eq!(fixture.take(&by(1000)), Ok(good));
}

#[test]
fn a_lease_is_taken_once_also_when_the_server_tells_of_it_again() {
    let fixture = Fixture::new();
    let leases = || {
        let of = |number| lease(id(number), fixture.signed(&said(id(number))));
        vec![of(1), of(2)]
    };
    fixture.told(spec(), leases());
    let first = fixture.take(&by(1000)).unwrap().run;
    fixture.told(spec(), leases());
    let second = fixture.take(&by(1000)).unwrap().run;
    assert_ne!(first, second);
    fixture.told(spec(), leases());
    assert_eq!(fixture.take(&by(1000)), Err(NoLease::None("r".to_owned())));
}

#[test]
fn a_lease_that_an_earlier_life_of_the_agent_used_is_not_taken_again() {
    let fixture = Fixture::new();
    let held = |fixture: &Fixture| vec![lease(id(1), fixture.signed(&said(id(1))))];
    fixture.told(spec(), held(&fixture));
    fixture.take(&by(1000)).unwrap();
    // The next life of the agent.
    let fixture = Fixture {
        runs: runs(),
        ..fixture
    };
    fixture.leases.remember(&fixture.runs).unwrap();
    // Before the server is heard nothing is known of leases, and nothing is forgotten.
    fixture.runs.lease(&fixture.leases.knowledge.get());
    fixture.told(spec(), held(&fixture));
    assert_eq!(fixture.take(&by(1000)), Err(NoLease::None("r".to_owned())));
    // What cannot be noted is not launched.
    std::fs::remove_dir_all(fixture.folder.path()).unwrap();
    fixture.told(spec(), vec![lease(id(2), fixture.signed(&said(id(2))))]);
    assert!(matches!(fixture.take(&by(1000)), Err(NoLease::Io(_))));
}

#[test]
fn a_class_that_gives_no_leases_takes_no_runs_or_does_not_name_the_launcher_is_not_launched() {
    let fixture = Fixture::new();
    let held = || vec![lease(id(1), fixture.signed(&said(id(1))))];
    let unknown = AdmitRunRequest {
        class: "s".to_owned(),
        ..by(1000)
    };
    fixture.told(spec(), held());
    assert_eq!(fixture.take(&unknown), Err(NoLease::Never("s".to_owned())));
    for (spec, why) in [
        (
            ClassSpec {
                offline_runs: 0,
                ..spec()
            },
            NoLease::Never("r".to_owned()),
        ),
        (
            ClassSpec {
                disabled: true,
                ..spec()
            },
            NoLease::Disabled("r".to_owned()),
        ),
    ] {
        fixture.told(spec, held());
        assert_eq!(fixture.take(&by(1000)), Err(why));
    }
    fixture.told(spec(), held());
    assert_eq!(fixture.take(&by(1001)), Err(NoLease::Launcher("r".to_owned())));
    fixture.told(spec(), Vec::new());
    assert_eq!(fixture.take(&by(1000)), Err(NoLease::None("r".to_owned())));
}

#[test]
fn only_who_the_class_names_launches_by_a_lease() {
    let rules = |rules: &[&str]| ClassSpec {
        launchers: rules.iter().map(|rule| (*rule).to_owned()).collect(),
        ..ClassSpec::default()
    };
    let own = |user: &str, id: &str, parent: &str| AdmitRunRequest {
        launcher: Some(Launcher {
            uid: 1000,
            gids: vec![1000, 200],
            user: user.to_owned(),
            spiffe_id: id.to_owned(),
        }),
        parent_run_id: parent.to_owned(),
        ..AdmitRunRequest::default()
    };
    let alice = own("alice", "spiffe://example.org/team/a", "");
    for rule in [
        "uid:100",
        "uid:01000",
        "gid:20",
        "user:bob",
        "user:",
        "spiffe://example.org/team",
        "spiffe://example.org/team/a/**",
    ] {
        assert!(!may_launch(&rules(&[rule]), &alice), "{rule}");
    }
    assert!(!may_launch(&rules(&["user:"]), &own("", "", "")));
    assert!(!may_launch(
        &rules(&["uid:0"]),
        &AdmitRunRequest {
            launcher: None,
            parent_run_id: "run".to_owned(),
            ..AdmitRunRequest::default()
        }
    ));
    for rule in [
        "uid:1000",
        "gid:200",
        "user:alice",
        "spiffe://example.org/team/a",
        "spiffe://example.org/team/**",
    ] {
        assert!(may_launch(&rules(&["uid:1", rule]), &alice), "{rule}");
    }
    // A run by its own id alone.
    let run = own(
        "alice",
        "spiffe://example.org/team/a",
        "01K9Z3V7Q8R4S5T6V7W8X9YZAB",
    );
    assert!(!may_launch(&rules(&["uid:1000", "gid:200", "user:alice"]), &run));
    assert!(may_launch(&rules(&["spiffe://example.org/team/**"]), &run));
}

#[test]
fn a_run_of_a_lease_ends_with_it_or_when_its_class_says() {
    let fixture = Fixture::new();
    let held = || vec![lease(id(1), fixture.signed(&said(id(1))))];
    let brief = ClassSpec {
        max_ttl_seconds: 60,
        ..spec()
    };
    fixture.told(brief, held());
    let taken = fixture.take(&by(1000)).unwrap();
    assert!((at(60)..at(61)).contains(&taken.expires_at), "{taken:?}");
}

#[test]
fn a_leased_runs_svid_is_had_beforehand_and_not_once_the_lease_is_gone() {
    let fixture = Fixture::new();
    let token = fixture.signed(&said(id(1)));
    let wanted = || fixture.runs.lock().entries.len();
    fixture.told(spec(), vec![lease(id(1), token.clone())]);
    assert_eq!(wanted(), 1);
    fixture.told(spec(), Vec::new());
    assert_eq!(wanted(), 0);
    // Nothing came of it.
    fixture.told(spec(), vec![lease(id(1), token)]);
    fixture.take(&by(1000)).unwrap();
    assert_eq!(wanted(), 1);
    fixture.runs.drop_lease(id(1));
    assert_eq!(wanted(), 0);
}
