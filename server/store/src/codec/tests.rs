//! The stored forms: versions, damage, keys.

use proptest::prelude::*;
use vouchsafe_identity::KeyAlgorithm;

use super::*;
use crate::{ChangeKind, KeyPurpose};

const KINDS: [Kind; 13] = [
    Kind::Meta,
    Kind::Entry,
    Kind::Shape,
    Kind::Node,
    Kind::Token,
    Kind::Bundle,
    Kind::Journal,
    Kind::Changes,
    Kind::Audit,
    Kind::Class,
    Kind::ClassId,
    Kind::Run,
    Kind::RunPlace,
];

#[test]
fn a_newer_version_is_refused_before_the_value_is_looked_at() {
    for kind in KINDS {
        for bytes in [[kind.version() + 1].as_slice(), &[u8::MAX, 0, 0]] {
            for read in [
                decode::<String>(kind, bytes).map(|_| ()),
                revision_of(kind, bytes).map(|_| ()),
            ] {
                let Err(StoreError::Newer { found, known, .. }) = read else {
                    panic!("{kind:?}: {read:?}")
                };
                assert_eq!(found, u32::from(*bytes.first().unwrap()));
                assert_eq!(known, u32::from(kind.version()));
            }
        }
    }
}

#[test]
fn damage_is_named() {
    let good = encode(Kind::Node, Revision(7), &"a value").unwrap();
    for cut in 0..good.len() {
        let read = decode::<String>(Kind::Node, &good[..cut]);
        let Err(StoreError::Corrupt(what)) = read else {
            panic!("{cut} bytes: {read:?}")
        };
        assert!(what.starts_with("agent"), "{what}");
    }
    assert_eq!(decode::<String>(Kind::Node, &good).unwrap().value, "a value");
}

#[test]
fn an_audit_record_of_a_newer_schema_is_refused() {
    let mut bytes = encode(
        Kind::Audit,
        Revision(1),
        &serde_json::json!({"schema": 9, "seq": 1}),
    )
    .unwrap();
    let read = decode_audit(&bytes);
    assert!(
        matches!(
            read,
            Err(StoreError::Newer {
                found: 9,
                known: 1,
                ..
            })
        ),
        "{read:?}"
    );
    bytes.pop();
    assert!(matches!(decode_audit(&bytes), Err(StoreError::Corrupt(_))));
}

#[test]
fn records_come_back_from_their_rows_in_order_and_no_row_is_too_long() {
    let long = |length: usize| Draft {
        request_id: "r".repeat(length),
        ..draft()
    };
    let drafts: Vec<Draft> = [1, 100, 1500, 1500, 10, 4000, 10, 2900, 2, 700, 700, 700, 700]
        .map(long)
        .into();
    let mut rows = AuditRows::new(Revision(3));
    let mut stored = Vec::new();
    for (seq, draft) in (8..).zip(&drafts) {
        stored.extend(rows.add("s.audit", seq, draft).unwrap());
    }
    stored.extend(rows.end());
    assert!(rows.end().is_none());
    assert!(stored.len() < drafts.len());
    let mut read = Vec::new();
    for (key, row) in &stored {
        assert_eq!(revision_of(Kind::Audit, row).unwrap(), Revision(3));
        let records = decode_audit(row).unwrap();
        assert!(row.len() <= AUDIT_ROW_BYTES || records.len() == 1);
        assert_eq!(*key, numbered_key(Kind::Audit, records.last().unwrap().seq));
        read.extend(records);
    }
    let seqs: Vec<u64> = read.iter().map(|record| record.seq).collect();
    assert_eq!(seqs, (8..8 + drafts.len() as u64).collect::<Vec<_>>());
    assert!(read.into_iter().map(|record| record.draft).eq(drafts));
}

fn draft() -> Draft {
    Draft {
        at: time::OffsetDateTime::UNIX_EPOCH,
        request_id: String::new(),
        traceparent: None,
        principal: vouchsafe_audit::Principal::Local { uid: 0, pid: 1 },
        scope: "local".into(),
        action: "entry.create".into(),
        outcome: vouchsafe_audit::Outcome::Done,
        code: None,
        reason: Some("two\nlines".to_owned()),
        facts: std::collections::BTreeMap::new(),
    }
}

#[test]
fn kinds_share_no_keys() {
    let mut prefixes: Vec<u8> = KINDS.iter().map(|kind| kind.prefix()).collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    assert_eq!(prefixes.len(), KINDS.len());
}

#[test]
fn changes_that_a_newer_release_wrote_are_unknown() {
    let entry = ChangeKind::Entry(EntryId::new("e").unwrap());
    let text = r#"[{"kind":"policy","id":{"deep":[1]}},{"kind":"entry","id":"e","more":1},{"kind":"kill"}]"#;
    let read: Vec<ChangeKind> = serde_json::from_str(text).unwrap();
    assert_eq!(read, [ChangeKind::Unknown, entry.clone(), ChangeKind::Unknown]);
    // A kind that we know must be right.
    for text in [
        r#"{"kind":"entry","id":""}"#,
        r#"{"kind":"node"}"#,
        r#"{"id":"e"}"#,
    ] {
        assert!(serde_json::from_str::<ChangeKind>(text).is_err(), "{text}");
    }
    for kind in [entry, ChangeKind::Unknown] {
        let text = serde_json::to_string(&kind).unwrap();
        assert_eq!(serde_json::from_str::<ChangeKind>(&text).unwrap(), kind);
    }
}

proptest! {
    #[test]
    fn bytes_of_any_kind_never_panic(bytes: Vec<u8>) {
        for kind in KINDS {
            let _either = decode::<Vec<ChangeKind>>(kind, &bytes);
            let _either = decode_audit(&bytes);
        }
    }

    #[test]
    fn numbered_keys_are_in_order_of_their_numbers(a: u64, b: u64) {
        let (left, right) = (numbered_key(Kind::Audit, a), numbered_key(Kind::Audit, b));
        prop_assert_eq!(left.cmp(&right), a.cmp(&b));
        prop_assert!(left < Kind::Audit.end());
    }

    #[test]
    fn journals_of_two_servers_never_meet(a in ".{0,20}", b in ".{0,20}") {
        prop_assume!(a != b);
        let key = |server_id: &str| journal_key(&JournalKey {
            server_id: server_id.to_owned(),
            purpose: KeyPurpose::X509Ca,
            algorithm: KeyAlgorithm::EcP256,
            slot: 'a',
        });
        prop_assert!(!key(&a).starts_with(&journal_prefix(&b)));
    }
}
