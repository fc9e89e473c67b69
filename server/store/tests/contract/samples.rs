//! Values to store.

use std::collections::BTreeMap;
use std::time::Duration;

use time::OffsetDateTime;
use vouchsafe_audit::{Draft, Outcome, Principal};
use vouchsafe_identity::{
    Bundle, ClassId, ClassName, JwtAuthority, KeyAlgorithm, Labels, RunId, Selector, Sha256, SpiffeId,
    TaskId, TrustDomain, X509Authority,
};
use vouchsafe_store::class::{
    ClassNodes, ClassSpec, Code, FileRole, Harden, Inherit, Isolation, LauncherRule, MeasuredFile, Model,
    Offline, OnEnd, Program, RunUser, SvidPolicy,
};
use vouchsafe_store::run::{EndReason, Ended, Lease, Started};
use vouchsafe_store::{
    Class, Entry, EntryId, JoinToken, JournalKey, JournalRow, KeyPurpose, Node, Revocation, Run, SlotState,
    TokenHash,
};

pub(crate) fn time(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_800_000_000 + seconds).unwrap()
}

pub(crate) fn spiffe_id(path: &str) -> SpiffeId {
    SpiffeId::new(&format!("spiffe://example.org{path}")).unwrap()
}

pub(crate) fn trust_domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

pub(crate) fn entry_id(id: &str) -> EntryId {
    EntryId::new(id).unwrap()
}

/// An entry whose shape follows from its uid.
pub(crate) fn entry(id: &str, uid: u32) -> Entry {
    Entry {
        id: entry_id(id),
        spiffe_id: spiffe_id("/workload"),
        parent_id: spiffe_id("/spire/agent/join_token/a"),
        selectors: [format!("unix:uid:{uid}"), "unix:path:/usr/bin/python3".to_owned()]
            .iter()
            .map(|selector| selector.parse().unwrap())
            .collect(),
        x509_svid_ttl_seconds: 3600,
        jwt_svid_ttl_seconds: 300,
        federates_with: vec![trust_domain("other.org")],
        admin: true,
        downstream: false,
        expires_at: Some(time(86_400)),
        dns_names: vec!["workload.example.org".to_owned()],
        revision_number: 3,
        store_svid: false,
        hint: "first".to_owned(),
        created_at: time(0),
        disable_x509_svid_prefetch: true,
        jwt_svid_include_jti: true,
    }
}

pub(crate) fn node(name: &str) -> Node {
    Node {
        id: spiffe_id(&format!("/spire/agent/join_token/{name}")),
        attestation_type: "join_token".to_owned(),
        serial: "0a1b".to_owned(),
        expires_at: time(3600),
        next_serial: Some("0a1c".to_owned()),
        next_expires_at: Some(time(7200)),
        handed_out_before: Vec::new(),
        selectors: ["join_token:x".parse().unwrap()].into(),
        banned: false,
        can_reattest: false,
        agent_version: "0.1.0".to_owned(),
    }
}

pub(crate) fn token(hash: &str) -> JoinToken {
    JoinToken {
        hash: TokenHash(hash.to_owned()),
        expires_at: time(600),
        alias: Some(spiffe_id("/alias")),
        spent: None,
    }
}

pub(crate) fn bundle(name: &str, sequence: u64) -> Bundle {
    Bundle {
        trust_domain: trust_domain(name),
        x509_authorities: vec![X509Authority {
            certificate: vec![0x30, 0x82, 1, 2, 3],
            tainted: true,
        }],
        jwt_authorities: vec![JwtAuthority {
            key_id: "kid".to_owned(),
            public_key: vec![0x30, 0x59, 9],
            expires_at: Some(time(9000)),
            tainted: false,
        }],
        refresh_hint: Some(Duration::from_secs(300)),
        sequence,
    }
}

fn file(path: &str, role: Option<FileRole>) -> MeasuredFile {
    MeasuredFile {
        path: path.to_owned(),
        sha256: Sha256::new(&"0a".repeat(32)).unwrap(),
        role,
    }
}

pub(crate) fn class(name: &str) -> Class {
    Class {
        name: ClassName::new(name).unwrap(),
        id: ClassId::of(spiffe_id(&format!("/agent/{name}"))).unwrap(),
        version: 2,
        spec: ClassSpec {
            description: "looks things up".to_owned(),
            program: Program {
                executable: file("/usr/bin/python3", None),
                code: Some(Code::Script(file("/opt/agent.py", None))),
                fixed_args: vec!["--quiet".to_owned()],
                extra_args: true,
            },
            files: vec![file("/opt/prompt.txt", Some(FileRole::Prompt))],
            user: RunUser::Pool {
                first_uid: 70_000,
                last_uid: 70_099,
            },
            env_allow: vec!["PYTHONPATH".to_owned()],
            nodes: ClassNodes::These(vec![spiffe_id("/node")]),
            launchers: vec![LauncherRule::Uid(1000), LauncherRule::Below(spiffe_id("/agent"))],
            max_ttl_seconds: 3600,
            max_runs: 4,
            svids: policy(),
            isolation: Isolation::Process,
            allow_mutable_files: false,
            on_end: OnEnd::Kill,
            harden: Harden {
                no_new_privs: true,
                connect_ports: Some(vec![443]),
                ..Harden::default()
            },
            disabled: false,
            model: Some(Model {
                argument: "--model".to_owned(),
                allowed: vec!["small-*".to_owned()],
            }),
            offline: Some(Offline {
                runs: 2,
                for_seconds: 600,
            }),
        },
        created_at: time(0),
        updated_at: time(9),
    }
}

fn policy() -> SvidPolicy {
    SvidPolicy {
        x509_ttl_seconds: 600,
        jwt_ttl_seconds: 60,
        inherit: Inherit::Derived,
        claims_audiences: vec!["tools".to_owned()],
        class_sub_audiences: vec!["database".to_owned()],
    }
}

/// The revocation of a run.
pub(crate) fn revocation(number: u64) -> Revocation {
    let run = run(number);
    Revocation {
        run: run.id,
        class_id: run.class_id,
        at: time(30),
        until: time(630),
        x509_serials: vec![format!("{number:032x}")],
        jwt_ids: vec!["5e2a".to_owned()],
    }
}

/// A run that has ended.
pub(crate) fn run(number: u64) -> Run {
    let class = class("researcher");
    Run {
        id: RunId::made(1_800_000_000_000 + number, 7),
        class: class.name,
        class_id: class.id,
        class_version: 2,
        place: 3,
        node: spiffe_id("/spire/agent/join_token/a"),
        launcher: "uid:1000".to_owned(),
        parent: Some(RunId::made(1_700_000_000_000, 8)),
        task: Some(TaskId::new("JIRA-1").unwrap()),
        labels: Labels::new(BTreeMap::from([("team".to_owned(), "blue".to_owned())])).unwrap(),
        uid: 70_003,
        isolation: Isolation::Process,
        measured_sha256: Some(Sha256::new(&"0b".repeat(32)).unwrap()),
        selectors: vec![Selector::new("ai", "model:small-1").unwrap()],
        svids: policy(),
        admitted_at: time(1),
        expires_at: time(3601),
        lease: Some(Lease {
            token: "a.b.c".to_owned(),
        }),
        started: Some(Started {
            at: time(2),
            pid: 4711,
        }),
        ended: Some(Ended {
            at: time(30),
            reason: EndReason::Exited(1),
            svids_end_at: time(630),
            svids_issued: 2,
        }),
    }
}

pub(crate) fn journal(server_id: &str, purpose: KeyPurpose, slot: char) -> JournalRow {
    JournalRow {
        key: JournalKey {
            server_id: server_id.to_owned(),
            purpose,
            algorithm: KeyAlgorithm::EcP256,
            slot,
        },
        state: SlotState::Active,
        key_id: format!("{}-{slot}", purpose.name()),
        authority_id: "00ff".to_owned(),
        public_key: vec![1, 2, 3],
        certificate: vec![4, 5],
        issued_at: time(1),
        expires_at: time(2),
        lost: false,
    }
}

pub(crate) fn draft(request_id: &str) -> Draft {
    Draft {
        at: time(5),
        request_id: request_id.to_owned(),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        principal: Principal::Local { uid: 1000, pid: 42 },
        scope: "local".into(),
        action: "entry.create".into(),
        outcome: Outcome::Done,
        code: Some("OK".into()),
        reason: None,
        facts: BTreeMap::from([("entry_id".into(), "e1".to_owned())]),
    }
}
