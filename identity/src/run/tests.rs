//! What is refused, and that every id is read back as it was made.

use proptest::prelude::*;

use super::*;

const ULID: &str = "01K9Z3V7Q8R4S5T6V7W8X9YZAB";

fn id(path: &str) -> SpiffeId {
    SpiffeId::new(&format!("spiffe://example.org{path}")).unwrap()
}

#[test]
fn a_class_name_is_short_plain_and_begins_and_ends_with_a_letter_or_digit() {
    for good in ["a", "0", "researcher", "a-b", "a--b", &"a".repeat(63)] {
        assert_eq!(ClassName::new(good).unwrap().as_str(), good);
    }
    for bad in [
        "",
        "-",
        "-a",
        "a-",
        "A",
        "a_b",
        "a.b",
        "a b",
        "a/b",
        "ä",
        "a\n",
        &"a".repeat(64),
    ] {
        let refused = ClassName::new(bad).unwrap_err();
        assert!(refused.to_string().contains("63"), "{refused}");
    }
}

#[test]
fn a_class_id_is_a_workload_of_the_trust_domain_and_names_no_run() {
    let td = TrustDomain::new("example.org").unwrap();
    for good in ["/a", "/agent/researcher", "/running", "/child/1", "/agent/RUN"] {
        assert!(ClassId::of(id(good)).unwrap().within(&td).is_ok(), "{good}");
    }
    let refused = |path: &str| ClassId::of(id(path)).unwrap_err();
    assert!(matches!(refused(""), RunError::NoPath(_)));
    assert!(matches!(refused("/spire"), RunError::Reserved(_)));
    assert!(matches!(refused("/spire/agent/x"), RunError::Reserved(_)));
    for path in ["/run", "/a/run", "/run/a", "/a/run/b", &format!("/a/run/{ULID}")] {
        assert!(matches!(refused(path), RunError::RunSegment(_)), "{path}");
    }
    let room = MAX_CLASS_ID_BYTES - id("").as_str().len() - 1;
    assert!(ClassId::of(id(&format!("/{}", "a".repeat(room)))).is_ok());
    let long = refused(&format!("/{}", "a".repeat(room + 1)));
    assert_eq!(
        long.to_string(),
        "a class id of 513 bytes is longer than the limit of 512 bytes"
    );
    let foreign = ClassId::new("spiffe://other.org/a").unwrap().within(&td);
    assert!(matches!(foreign, Err(RunError::Foreign { .. })));
    assert!(ClassId::new("https://example.org/a").is_err());
}

#[test]
fn only_the_canonical_spelling_is_a_run_id() {
    assert_eq!(RunId::new(ULID).unwrap().to_string(), ULID);
    let lower = ULID.to_lowercase();
    let (longer, other) = (format!("{ULID}0"), ULID.replace('A', "I"));
    for bad in [
        "",
        &lower,
        &longer,
        &other,
        &ULID[1..],
        "8ZZZZZZZZZZZZZZZZZZZZZZZZZ",
        "0000000000000000000000000!",
        "é1K9Z3V7Q8R4S5T6V7W8X9YZAB",
    ] {
        assert!(matches!(RunId::new(bad), Err(RunError::RunId(_))), "{bad}");
    }
}

#[test]
fn what_is_not_the_id_of_a_run_is_not_read_as_one() {
    for path in [
        "/a".to_owned(),
        "/a/run".to_owned(),
        format!("/run/{ULID}"),
        format!("/spire/run/{ULID}"),
        format!("/a/run/{}", ULID.to_lowercase()),
        format!("/a/run/{ULID}/child"),
        format!("/a/run/{ULID}/child/0"),
        format!("/a/run/{ULID}/child/01"),
        format!("/a/run/{ULID}/child/-1"),
        format!("/a/run/{ULID}/child/4294967296"),
        format!("/a/run/{ULID}/child/1/x"),
        format!("/a/run/{ULID}/x"),
        format!("/a/run/b/run/{ULID}"),
    ] {
        assert_eq!(RunIdentity::parse(&id(&path)), None, "{path}");
    }
}

#[test]
fn a_class_owns_its_id_and_what_stands_below_its_run() {
    let owner = |path: &str| ClassId::owning(&id(path)).map(String::from);
    let class = Some("spiffe://example.org/a/b".to_owned());
    assert_eq!(owner("/a/b"), class);
    assert_eq!(owner("/a/b/run"), class);
    assert_eq!(owner("/a/b/run/x"), class);
    assert_eq!(owner(&format!("/a/b/run/{ULID}/child/1")), class);
    assert_eq!(owner("/a/b/run/x/run/y"), class);
    assert_ne!(owner("/a/b/c"), class);
    assert_ne!(owner("/a/b-run/x"), class);
    assert_eq!(owner("/run/x"), None);
    assert_eq!(owner(""), None);
}

#[test]
fn tasks_and_labels_and_digests_keep_to_their_limits() {
    for good in ["t", "JIRA-1", "a/b:c@d.e_f", &"t".repeat(128)] {
        assert_eq!(TaskId::new(good).unwrap().as_str(), good);
    }
    for bad in ["", " ", "a b", "a\"b", "ä", &"t".repeat(129)] {
        assert!(TaskId::new(bad).is_err(), "{bad}");
    }
    let one = |key: &str, value: &str| Labels::new(BTreeMap::from([(key.to_owned(), value.to_owned())]));
    assert!(one("a.b_c-d", "any ünï \"text\"").is_ok());
    assert!(one(&"k".repeat(63), &"v".repeat(256)).is_ok());
    for (key, value) in [("", ""), ("A", ""), ("a b", ""), (&*"k".repeat(64), "")] {
        assert!(matches!(one(key, value), Err(RunError::LabelKey(_))), "{key}");
    }
    for value in ["\n", "\u{1b}[2J", &"v".repeat(257)] {
        assert!(matches!(one("k", value), Err(RunError::LabelValue(_))), "{value}");
    }
    let many = |n: usize| Labels::new((0..n).map(|n| (format!("k{n}"), String::new())).collect());
    assert!(many(16).is_ok());
    assert_eq!(
        many(17).unwrap_err().to_string(),
        "17 labels are more than the limit of 16"
    );
    assert!(Sha256::new(&"0a".repeat(32)).is_ok());
    for bad in ["", &"0A".repeat(32), &"0a".repeat(31), &"0g".repeat(32)] {
        assert!(Sha256::new(bad).is_err(), "{bad}");
    }
}

#[test]
fn values_that_were_stored_are_checked_again() {
    assert!(serde_json::from_str::<ClassName>("\"A\"").is_err());
    assert!(serde_json::from_str::<RunId>("\"x\"").is_err());
    assert!(serde_json::from_str::<Labels>("{\"A\":\"\"}").is_err());
    assert!(serde_json::from_str::<ClassId>("\"spiffe://example.org/a/run\"").is_err());
}

proptest! {
    #[test]
    fn the_id_of_a_run_is_read_back(
        segments in prop::collection::vec("[a-zA-Z0-9_-]{1,8}", 1..5),
        at in 0_u64..(1 << 48),
        random: u128,
        child in prop::option::of(1_u32..),
    ) {
        let Ok(class) = ClassId::of(id(&format!("/{}", segments.join("/")))) else { return Ok(()) };
        let made = RunIdentity { class, run: RunId::made(at, random), child: child.and_then(NonZeroU32::new) };
        let spiffe_id = made.spiffe_id().unwrap();
        prop_assert_eq!(RunIdentity::parse(&spiffe_id), Some(made.clone()));
        prop_assert!(spiffe_id.is_at_or_below(made.class.spiffe_id()));
        prop_assert_eq!(ClassId::owning(&spiffe_id), Some(made.class));
    }

    /// Two texts that differ are never the same run: what is read is written as it stood.
    #[test]
    fn what_is_read_has_one_spelling(path in "(/(a|run|child|1|01|01K9Z3V7Q8R4S5T6V7W8X9YZAB|01k9z3v7q8r4s5t6v7w8x9yzab)){1,6}") {
        let id = id(&path);
        if let Some(read) = RunIdentity::parse(&id) {
            prop_assert_eq!(read.spiffe_id().unwrap(), id);
        }
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,40}") {
        let _either = ClassName::new(&text);
        let _either = RunId::new(&text);
        let _either = ClassId::new(&text);
        let _either = TaskId::new(&text);
        let _either = Sha256::new(&text);
    }
}
