//! SPIFFE IDs: what SPIFFE-ID §2 forbids is refused, what it allows is kept as it stands.

use proptest::prelude::*;

use super::*;

fn refused(uri: &str) -> SpiffeIdError {
    SpiffeId::new(uri).expect_err(uri)
}

#[test]
fn spiffe_id_2_scheme_must_be_spiffe() {
    for uri in [
        "http://example.org/w",
        "SPIFFE://example.org/w",
        "Spiffe://example.org/w",
        "spiffe:/example.org/w",
        "spiffe:example.org/w",
        "//example.org/w",
        "example.org/w",
        " spiffe://example.org/w",
        "spiffe",
    ] {
        assert!(matches!(refused(uri), SpiffeIdError::Scheme(_)), "{uri}");
    }
    assert_eq!(refused(""), SpiffeIdError::Empty);
}

#[test]
fn spiffe_id_2_query_and_fragment_must_not_be_there() {
    for uri in ["spiffe://example.org/w?a=b", "spiffe://example.org/w#x"] {
        assert!(
            matches!(refused(uri), SpiffeIdError::PathChar { found: '?' | '#', .. }),
            "{uri}"
        );
    }
    for uri in ["spiffe://example.org?a=b", "spiffe://example.org#x"] {
        assert!(
            matches!(refused(uri), SpiffeIdError::TrustDomainChar { .. }),
            "{uri}"
        );
    }
}

#[test]
fn spiffe_id_2_1_host_must_not_be_empty() {
    for uri in ["spiffe://", "spiffe:///w", "spiffe:////w"] {
        assert!(matches!(refused(uri), SpiffeIdError::NoTrustDomain(_)), "{uri}");
    }
    for name in ["", "spiffe://"] {
        assert!(matches!(
            TrustDomain::new(name),
            Err(SpiffeIdError::NoTrustDomain(_))
        ));
    }
}

#[test]
fn spiffe_id_2_1_userinfo_and_port_must_be_empty() {
    for (uri, found) in [
        ("spiffe://user@example.org/w", '@'),
        ("spiffe://user:secret@example.org/w", ':'),
        ("spiffe://example.org:8080/w", ':'),
        ("spiffe://example.org:/w", ':'),
        ("spiffe://@example.org/w", '@'),
    ] {
        let error = refused(uri);
        assert!(
            matches!(&error, SpiffeIdError::TrustDomainChar { found: one, .. } if *one == found),
            "{uri}: {error}"
        );
    }
}

#[test]
fn spiffe_id_2_1_host_must_be_lower_case() {
    for uri in ["spiffe://Example.org/w", "spiffe://example.ORG"] {
        assert!(
            matches!(refused(uri), SpiffeIdError::TrustDomainChar { .. }),
            "{uri}"
        );
    }
}

#[test]
fn spiffe_id_2_1_host_must_have_only_letters_numbers_dots_dashes_underscores() {
    for uri in [
        "spiffe://exämple.org/w",
        "spiffe://example.org\u{0}/w",
        "spiffe://exa mple.org/w",
        "spiffe://example.org\n/w",
        "spiffe://[::1]/w",
        "spiffe://example,org/w",
        "spiffe://example.org\\w",
        "spiffe://ｅxample.org/w",
    ] {
        assert!(
            matches!(refused(uri), SpiffeIdError::TrustDomainChar { .. }),
            "{uri}"
        );
    }
    for name in ["a", "10.0.0.1", "a-b_c.d", "-", "..", "1", "_"] {
        assert_eq!(TrustDomain::new(name).unwrap().name(), name);
    }
}

#[test]
fn spiffe_id_2_1_names_that_look_like_addresses_must_be_names_like_any_other() {
    // Dotted quads, numbers that other parsers read as addresses, names that DNS forbids.
    for name in [
        "10.0.0.1",
        "010.0.0.1",
        "1.2.3",
        "0x7f.1",
        "4294967295",
        "a..b",
        "-a.",
        "_._",
    ] {
        let id = SpiffeId::new(&format!("spiffe://{name}/w")).unwrap();
        assert_eq!(id.trust_domain_name(), name);
        assert_eq!(id.trust_domain(), TrustDomain::new(name).unwrap());
        assert_eq!(id.to_string(), format!("spiffe://{name}/w"));
    }
    assert_ne!(
        TrustDomain::new("10.0.0.1").unwrap(),
        TrustDomain::new("010.0.0.1").unwrap()
    );
}

#[test]
fn spiffe_id_2_1_host_must_not_have_percent_encoding() {
    assert!(matches!(
        refused("spiffe://example%2eorg/w"),
        SpiffeIdError::TrustDomainChar { found: '%', .. }
    ));
}

#[test]
fn spiffe_id_2_2_path_must_not_have_percent_encoding() {
    for uri in ["spiffe://example.org/%77", "spiffe://example.org/a%2Fb"] {
        assert!(
            matches!(refused(uri), SpiffeIdError::PathChar { found: '%', .. }),
            "{uri}"
        );
    }
}

#[test]
fn spiffe_id_2_2_path_must_not_have_empty_or_relative_segments() {
    for uri in ["spiffe://example.org//w", "spiffe://example.org/a//b"] {
        assert!(matches!(refused(uri), SpiffeIdError::EmptySegment(_)), "{uri}");
    }
    for uri in [
        "spiffe://example.org/.",
        "spiffe://example.org/..",
        "spiffe://example.org/a/../b",
        "spiffe://example.org/a/./b",
        "spiffe://example.org/a/..",
    ] {
        assert!(matches!(refused(uri), SpiffeIdError::DotSegment(_)), "{uri}");
    }
    for uri in ["spiffe://example.org/...", "spiffe://example.org/.a/b..c"] {
        assert_eq!(SpiffeId::new(uri).unwrap().as_str(), uri);
    }
}

#[test]
fn spiffe_id_2_2_path_must_not_end_with_a_slash() {
    for uri in ["spiffe://example.org/", "spiffe://example.org/w/"] {
        assert!(matches!(refused(uri), SpiffeIdError::EmptySegment(_)), "{uri}");
    }
}

#[test]
fn spiffe_id_2_2_segments_must_have_only_letters_numbers_dots_dashes_underscores() {
    for bad in [
        '~', '!', '$', '&', '\'', '(', ')', '*', '+', ',', ';', '=', ':', '@', ' ', '\\', 'é', '\u{0}', '\n',
        '|',
    ] {
        let uri = format!("spiffe://example.org/a{bad}b");
        assert!(
            matches!(refused(&uri), SpiffeIdError::PathChar { found, .. } if found == bad),
            "{uri}"
        );
    }
    let all = "spiffe://example.org/abcXYZ019.-_/x";
    assert_eq!(SpiffeId::new(all).unwrap().path(), "/abcXYZ019.-_/x");
}

#[test]
fn spiffe_id_2_3_must_support_2048_bytes() {
    let longest = format!("spiffe://example.org/{}", "a".repeat(MAX_ID_BYTES - 21));
    assert_eq!(longest.len(), MAX_ID_BYTES);
    assert_eq!(SpiffeId::new(&longest).unwrap().as_str(), longest);
    assert!(matches!(
        refused(&format!("{longest}a")),
        SpiffeIdError::TooLong {
            len: 2049,
            limit: MAX_ID_BYTES,
            ..
        }
    ));
}

#[test]
fn spiffe_id_2_3_trust_domain_has_at_most_255_bytes() {
    let longest = "a".repeat(MAX_TRUST_DOMAIN_BYTES);
    assert_eq!(TrustDomain::new(&longest).unwrap().name(), longest);
    for uri in [format!("{longest}a"), format!("spiffe://{longest}a/w")] {
        assert!(TrustDomain::new(&uri).is_err());
        assert!(SpiffeId::new(&uri).is_err());
    }
}

#[test]
fn spiffe_id_2_4_path_is_case_sensitive() {
    assert_ne!(
        SpiffeId::new("spiffe://example.org/W").unwrap(),
        SpiffeId::new("spiffe://example.org/w").unwrap()
    );
}

#[test]
fn an_id_knows_its_parts() {
    let id = SpiffeId::new("spiffe://example.org/ns/prod/w").unwrap();
    assert_eq!(id.path(), "/ns/prod/w");
    assert_eq!(id.trust_domain(), TrustDomain::new("example.org").unwrap());
    assert_eq!(id.trust_domain_name(), "example.org");
    assert_eq!(id.segments().collect::<Vec<_>>(), ["ns", "prod", "w"]);
    let root = id.trust_domain().id();
    assert_eq!((root.as_str(), root.path()), ("spiffe://example.org", ""));
    assert_eq!(root.segments().count(), 0);
    assert!(id.is_member_of(&root.trust_domain()));
    assert!(!id.is_member_of(&TrustDomain::new("example.or").unwrap()));
}

#[test]
fn a_trust_domain_is_read_with_and_without_scheme_but_never_with_a_path() {
    let bare = TrustDomain::new("example.org").unwrap();
    assert_eq!(TrustDomain::new("spiffe://example.org").unwrap(), bare);
    for text in ["spiffe://example.org/", "example.org/w", "spiffe://spiffe://a"] {
        assert!(TrustDomain::new(text).is_err(), "{text}");
    }
}

#[test]
fn a_path_never_becomes_part_of_the_trust_domain() {
    let td = TrustDomain::new("example.org").unwrap();
    assert_eq!(
        td.with_path("/w").unwrap(),
        SpiffeId::new("spiffe://example.org/w").unwrap()
    );
    assert_eq!(td.with_path("").unwrap(), td.id());
    for path in ["w", ".evil.org/w", "x"] {
        assert_eq!(
            td.with_path(path),
            Err(SpiffeIdError::RelativePath(path.to_owned()))
        );
    }
}

#[test]
fn prefixes_are_compared_by_whole_segments() {
    let at = |uri: &str| SpiffeId::new(uri).unwrap();
    let class = at("spiffe://example.org/agent/researcher");
    assert!(class.is_at_or_below(&class));
    assert!(at("spiffe://example.org/agent/researcher/run/1").is_at_or_below(&class));
    assert!(class.is_at_or_below(&at("spiffe://example.org")));
    assert!(!at("spiffe://example.org/agent/researcher2").is_at_or_below(&class));
    assert!(!at("spiffe://example.org2/agent").is_at_or_below(&at("spiffe://example.org")));
    assert!(!at("spiffe://example.org/agent").is_at_or_below(&class));
}

#[test]
fn ids_below_spire_are_reserved() {
    let reserved = |uri: &str| SpiffeId::new(uri).unwrap().is_reserved();
    assert!(reserved("spiffe://example.org/spire"));
    assert!(reserved("spiffe://example.org/spire/agent/x"));
    assert!(!reserved("spiffe://example.org/spire2"));
    assert!(!reserved("spiffe://example.org/a/spire"));
    assert!(!reserved("spiffe://example.org"));
}

#[test]
fn stored_and_sent_ids_are_checked_when_read_back() {
    let id: SpiffeId = serde_json::from_str("\"spiffe://example.org/w\"").unwrap();
    assert_eq!(serde_json::to_string(&id).unwrap(), "\"spiffe://example.org/w\"");
    assert!(serde_json::from_str::<SpiffeId>("\"spiffe://example.org/../w\"").is_err());
    assert!(serde_json::from_str::<TrustDomain>("\"Example.org\"").is_err());
}

/// SPIFFE-ID §2 as a grammar, written independently of the parser.
fn matches_grammar(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("spiffe://") else {
        return false;
    };
    let mut parts = rest.split('/');
    let host = parts.next().unwrap();
    let host_ok = !host.is_empty()
        && host.len() <= 255
        && host
            .bytes()
            .all(|b| b"abcdefghijklmnopqrstuvwxyz0123456789.-_".contains(&b));
    host_ok
        && text.len() <= 2048
        && parts.all(|segment| {
            !segment.is_empty()
                && segment != "."
                && segment != ".."
                && segment
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b))
        })
}

proptest! {
    #[test]
    fn reading_what_was_written_gives_the_same(
        host in "[a-z0-9._-]{1,40}", path in "(/[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,9}){0,4}"
    ) {
        let uri = format!("spiffe://{host}{path}");
        let id = SpiffeId::new(&uri).unwrap();
        prop_assert_eq!(id.to_string(), &*uri);
        prop_assert_eq!(id.to_string().parse::<SpiffeId>().unwrap(), id.clone());
        prop_assert_eq!(id.trust_domain().with_path(id.path()).unwrap(), id);
    }

    #[test]
    fn whatever_is_accepted_matches_the_grammar(text in "\\PC{0,40}") {
        prop_assert_eq!(SpiffeId::new(&text).is_ok(), matches_grammar(&text));
    }

    #[test]
    fn near_misses_are_judged_as_by_the_grammar(
        text in "(spiffe|Spiffe|http)(://|:/|:)[a-zA-Z.@:%_-]{0,6}(/|//|/\\.|/\\.\\.|[?#%~])?([a-zA-Z/.%?#]{0,8})"
    ) {
        prop_assert_eq!(SpiffeId::new(&text).is_ok(), matches_grammar(&text));
    }
}
