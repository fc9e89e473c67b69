//! Records outlive releases: what was written is read back, what is newer is refused, what is damaged is named.

#![expect(
    clippy::unwrap_used,
    reason = "tests; helpers stand outside of test functions"
)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use time::OffsetDateTime;
use vouchsafe_audit::{Draft, Outcome, Principal, Record, RecordError, SCHEMA_VERSION};
use vouchsafe_identity::SpiffeId;

/// A line as 0.1.0 wrote it; it must be readable for ever.
const LINE_0_1_0: &str = r#"{"schema":1,"log_id":"server-1.audit","seq":7,"at":"2027-01-15T08:00:05Z","request_id":"r1","traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","principal":{"kind":"spiffe","id":"spiffe://example.org/a"},"scope":"agent","action":"/spire.api.server.entry.v1.Entry/BatchCreateEntry","outcome":"refused","code":"PERMISSION_DENIED","reason":"not an admin","facts":{"count":"2"}}"#;

fn principals() -> [Principal; 4] {
    [
        Principal::Anonymous {
            source: "192.0.2.1:4711".to_owned(),
        },
        Principal::Local { uid: 1000, pid: 42 },
        Principal::Spiffe {
            id: SpiffeId::new("spiffe://example.org/a").unwrap(),
        },
        Principal::System {
            component: "rotator".to_owned(),
        },
    ]
}

fn record() -> Record {
    let [_, _, spiffe, _] = principals();
    Record {
        schema: SCHEMA_VERSION,
        log_id: "server-1.audit".to_owned(),
        seq: 7,
        draft: Draft {
            at: OffsetDateTime::from_unix_timestamp(1_800_000_005).unwrap(),
            request_id: "r1".to_owned(),
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
            principal: spiffe,
            scope: "agent".into(),
            action: "/spire.api.server.entry.v1.Entry/BatchCreateEntry".into(),
            outcome: Outcome::Refused,
            code: Some("PERMISSION_DENIED".into()),
            reason: Some("not an admin".to_owned()),
            facts: BTreeMap::from([("count".into(), "2".to_owned())]),
        },
    }
}

#[test]
fn a_newer_schema_is_refused() {
    let mut newer = record();
    for schema in [SCHEMA_VERSION + 1, u32::MAX] {
        newer.schema = schema;
        let refused = Record::from_line(&newer.to_line().unwrap()).unwrap_err();
        assert!(
            matches!(refused, RecordError::Newer { found } if found == schema),
            "{refused}"
        );
        assert!(refused.to_string().contains(&schema.to_string()), "{refused}");
    }
    // Even where the rest is nothing that this release knows.
    let refused = Record::from_line(r#"{"schema":2,"leaf":"abc"}"#).unwrap_err();
    assert!(matches!(refused, RecordError::Newer { found: 2 }), "{refused}");
}

#[test]
fn what_is_no_record_is_refused() {
    let good = record().to_line().unwrap();
    let cut = &good[..good.len() - 1];
    let other_outcome = good.replace("\"refused\"", "\"perhaps\"");
    let other_principal = good.replace("\"kind\":\"spiffe\"", "\"kind\":\"ghost\"");
    let bad_id = good.replace("spiffe://example.org/a", "spiffe://example.org/a/");
    let no_seq = good.replace("\"seq\":7,", "");
    let no_schema = good.replace("\"schema\":1,", "");
    let two_records = format!("{good}{good}");
    for line in [
        "",
        "{}",
        "null",
        cut,
        &other_outcome,
        &other_principal,
        &bad_id,
        &no_seq,
        &no_schema,
        &two_records,
    ] {
        let refused = Record::from_line(line).unwrap_err();
        assert!(
            matches!(refused, RecordError::Malformed(_)),
            "`{line}`: {refused}"
        );
    }
}

#[test]
fn the_line_of_0_1_0_is_read_and_written() {
    assert_eq!(Record::from_line(LINE_0_1_0).unwrap(), record());
    assert_eq!(record().to_line().unwrap(), LINE_0_1_0);
}

#[test]
fn fields_that_a_later_release_adds_are_left_alone() {
    let more = LINE_0_1_0
        .replace("\"seq\":7", "\"seq\":7,\"task\":{\"id\":\"t\"}")
        .replace("\"kind\":\"spiffe\"", "\"kind\":\"spiffe\",\"serial\":\"0a\"");
    assert_eq!(Record::from_line(&more).unwrap(), record());
}

#[test]
fn fields_that_say_nothing_are_not_written() {
    let mut bare = record();
    bare.draft.traceparent = None;
    bare.draft.code = None;
    bare.draft.reason = None;
    bare.draft.facts.clear();
    let line = bare.to_line().unwrap();
    for name in ["traceparent", "code", "reason", "facts", "null"] {
        assert!(!line.contains(name), "{line}");
    }
    assert_eq!(Record::from_line(&line).unwrap(), bare);
}

#[test]
fn every_principal_is_read_back_and_has_a_text() {
    let texts = [
        "anonymous from 192.0.2.1:4711",
        "uid 1000 (pid 42)",
        "spiffe://example.org/a",
        "system/rotator",
    ];
    for (principal, text) in principals().into_iter().zip(texts) {
        assert_eq!(principal.to_string(), text);
        let mut written = record();
        written.draft.principal = principal;
        assert_eq!(Record::from_line(&written.to_line().unwrap()).unwrap(), written);
    }
}

#[test]
fn every_outcome_is_read_back() {
    for outcome in [Outcome::Done, Outcome::Refused, Outcome::Failed] {
        let mut written = record();
        written.draft.outcome = outcome;
        assert_eq!(Record::from_line(&written.to_line().unwrap()).unwrap(), written);
    }
}

#[test]
fn a_date_that_has_no_text_is_an_error() {
    let mut late = record();
    late.draft.at = OffsetDateTime::UNIX_EPOCH.to_offset(time::UtcOffset::from_hms(1, 2, 3).unwrap());
    assert!(matches!(late.to_line(), Err(RecordError::Malformed(_))));
}

fn any_principal() -> impl Strategy<Value = Principal> {
    prop_oneof![
        ".{0,40}".prop_map(|source| Principal::Anonymous { source }),
        any::<(u32, i32)>().prop_map(|(uid, pid)| Principal::Local { uid, pid }),
        "[a-z0-9.]{1,20}(/[a-zA-Z0-9_-]{1,9}){0,4}".prop_map(|rest| Principal::Spiffe {
            id: SpiffeId::new(&format!("spiffe://{rest}")).unwrap(),
        }),
        ".{0,40}".prop_map(|component| Principal::System { component }),
    ]
}

prop_compose! {
    fn any_record()(
        (log_id, seq, second, nanosecond) in (".{0,20}", any::<u64>(), 0_i64..253_402_300_799, 0_u32..1_000_000_000),
        (request_id, traceparent, principal) in (".{0,40}", proptest::option::of(".{0,60}"), any_principal()),
        (scope, action) in (".{0,10}", ".{0,60}"),
        outcome in prop_oneof![Just(Outcome::Done), Just(Outcome::Refused), Just(Outcome::Failed)],
        (code, reason) in (proptest::option::of(".{0,20}"), proptest::option::of("\\PC{0,80}")),
        facts in proptest::collection::btree_map("[a-z_]{1,12}", any::<String>(), 0..5),
    ) -> Record {
        let at = OffsetDateTime::from_unix_timestamp(second).unwrap().replace_nanosecond(nanosecond).unwrap();
        let draft = Draft {
            at, request_id, traceparent, principal, outcome, reason,
            scope: scope.into(),
            action: action.into(),
            code: code.map(Into::into),
            facts: facts.into_iter().map(|(name, value)| (name.into(), value)).collect(),
        };
        Record { schema: SCHEMA_VERSION, log_id, seq, draft }
    }
}

proptest! {
    #[test]
    fn any_record_is_one_line_and_read_back(record in any_record()) {
        let line = record.to_line().unwrap();
        prop_assert!(!line.contains(['\n', '\r']));
        prop_assert_eq!(Record::from_line(&line).unwrap(), record);
    }

    #[test]
    fn any_text_is_read_or_refused(text: String) {
        let _either = Record::from_line(&text);
    }

    #[test]
    fn a_record_that_was_cut_is_refused(record in any_record(), at: prop::sample::Index) {
        let line = record.to_line().unwrap();
        let mut cut = at.index(line.len());
        while !line.is_char_boundary(cut) {
            cut -= 1;
        }
        prop_assert!(Record::from_line(&line[..cut]).is_err());
    }
}
