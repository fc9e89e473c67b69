//! What callers send is refused where SPIFFE or SPIRE forbid it.

use super::*;

fn id(trust_domain: &str, path: &str) -> types::Spiffeid {
    types::Spiffeid {
        trust_domain: trust_domain.to_owned(),
        path: path.to_owned(),
    }
}

#[test]
fn ids_that_spiffe_forbids_are_refused_and_a_path_never_joins_the_trust_domain() {
    for (trust_domain, path) in [
        ("", "/a"),
        ("example.org", "a"),
        ("example.org", ".evil.test/a"),
        ("example.org", "/"),
        ("example.org", "/a/"),
        ("example.org", "/a//b"),
        ("example.org", "/../a"),
        ("example.org", "/a%20"),
        ("Example.org", "/a"),
        ("example.org:80", "/a"),
        ("user@example.org", "/a"),
        ("example.org/x", "/a"),
    ] {
        let refused = spiffe_id("f", Some(&id(trust_domain, path)));
        assert!(refused.is_err(), "{trust_domain} {path} gave {refused:?}");
    }
    assert_eq!(spiffe_id("f", None), Err(ConvertError::Missing("f")));
    let good = spiffe_id("f", Some(&id("example.org", "/a"))).unwrap();
    assert_eq!(spiffe_id_message(&good), id("example.org", "/a"));
}

#[test]
fn numbers_out_of_range_are_refused() {
    assert!(ttl("t", -1).is_err());
    assert!(time("t", -1).is_err());
    assert!(time("t", i64::MAX).is_err());
    assert_eq!(time("t", 0), Ok(None));
    assert!(page_size(-1).is_err());
    assert_eq!(page_size(0), Ok(usize::MAX));
    assert_eq!(page_size(i32::MAX), Ok(MAX_PAGE_ROWS));
}

#[test]
fn a_mask_picks_fields_and_what_it_leaves_out_need_not_be_valid() {
    let broken = types::Entry {
        spiffe_id: Some(id("", "")),
        x509_svid_ttl: -5,
        hint: "h".to_owned(),
        ..types::Entry::default()
    };
    assert!(entry::patch(&broken, None).is_err());
    let mask = types::EntryMask {
        hint: true,
        ..types::EntryMask::default()
    };
    let patch = entry::patch(&broken, Some(&mask)).unwrap();
    assert_eq!(patch.hint.as_deref(), Some("h"));
    assert!(patch.spiffe_id.is_none() && patch.x509_svid_ttl_seconds.is_none());
}

#[test]
fn filters_by_nothing_or_by_an_unknown_relation_are_refused() {
    use vouchsafe_proto::spire::api::server::entry::v1::list_entries_request::Filter;
    let by = |selectors: Vec<types::Selector>, relation: i32| Filter {
        by_selectors: Some(types::SelectorMatch {
            selectors,
            r#match: relation,
        }),
        ..Filter::default()
    };
    let one = types::Selector {
        r#type: "unix".to_owned(),
        value: "uid:0".to_owned(),
    };
    assert!(filter::list_entries(Some(&by(Vec::new(), 0))).is_err());
    assert!(filter::list_entries(Some(&by(vec![one.clone()], 9))).is_err());
    assert!(filter::list_entries(Some(&by(vec![one], 3))).is_ok());
}

#[test]
fn times_in_gos_layout_are_read() {
    use vouchsafe_proto::spire::api::server::agent::v1::list_agents_request::Filter;
    let by = |text: &str| {
        let filter = Filter {
            by_expires_before: text.to_owned(),
            ..Filter::default()
        };
        filter::list_agents(Some(&filter)).map(|filter| filter.expires_before.map(|at| at.unix_timestamp()))
    };
    assert_eq!(by("2021-05-12 02:03:04 +0000 UTC"), Ok(Some(1_620_784_984)));
    assert_eq!(by("2021-05-12 04:03:04.25 +0200 +02"), Ok(Some(1_620_784_984)));
    assert_eq!(by(""), Ok(None));
    assert!(by("tomorrow").is_err());
}
