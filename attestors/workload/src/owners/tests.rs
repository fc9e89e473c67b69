//! Whose a uid is.

use proptest::prelude::*;

use super::*;

/// How long a thread may take for what it does at once.
const PATIENCE: Duration = Duration::from_secs(20);

fn nobody(_name: &str) -> Option<u32> {
    None
}

#[test]
fn a_range_belongs_to_its_owner_by_name_by_number_and_by_unknown_name() {
    let text = b"alice:100000:65536\n1001:165536:10\n\n# a remark\nstranger:200000:1\n";
    let (table, skipped) = Table::parse(text, |name| (name == "alice").then_some(1000));
    assert_eq!(skipped, 0);
    for (uid, owner) in [
        (99_999, None),
        (100_000, Some(Owner::Uid(1000))),
        (165_535, Some(Owner::Uid(1000))),
        (165_536, Some(Owner::Uid(1001))),
        (165_546, None),
        (200_000, Some(Owner::Name("stranger".into()))),
        // The owners themselves count with what they own.
        (1000, Some(Owner::Uid(1000))),
        (1001, Some(Owner::Uid(1001))),
        (1002, None),
    ] {
        assert_eq!(table.owner_of(uid), owner, "{uid}");
    }
}

#[test]
fn malformed_lines_are_skipped_and_counted() {
    let text = b"a:1\nb:1:2:3\n:1:2\nc:x:2\nd:1:-2\ne:4294967296:1\nf:7:1\n\xff:\xff:1\ng:8:0\n";
    let (table, skipped) = Table::parse(text, nobody);
    assert_eq!(skipped, 7);
    assert_eq!(table.owner_of(7), Some(Owner::Name("f".into())));
    assert_eq!((table.owner_of(1), table.owner_of(8)), (None, None));
}

#[test]
fn a_file_that_changes_counts_as_it_is_and_one_that_is_gone_gives_nobody_any() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("subuid");
    let owners = Owners::of_file(&path);
    let of = |uid| owners.lock().table.owner_of(uid);
    assert_eq!(of(7), None);
    for owner in [1, 2] {
        let next = folder.path().join("next");
        fs::write(&next, format!("{owner}:7:1\n")).unwrap();
        fs::rename(&next, &path).unwrap();
        owners.look();
        assert_eq!(of(7), Some(Owner::Uid(owner)));
    }
    fs::remove_file(&path).unwrap();
    owners.look();
    assert_eq!(of(7), None);
}

#[tokio::test(start_paused = true)]
async fn the_file_is_looked_at_again_after_a_second_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("subuid");
    let owners = Owners::of_file(&path);
    fs::write(&path, "1:7:1\n").unwrap();
    assert_eq!(owners.of(7), None);
    assert!(!owners.lock().looking);
    tokio::time::advance(LOOK_EVERY).await;
    tokio::time::resume();
    let seen = async {
        while owners.of(7) != Some(Owner::Uid(1)) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.unwrap();
}

/// Starts and counts at the borders, and some between that overlap.
fn lines() -> impl Strategy<Value = Vec<(u32, u32, u64)>> {
    let start = prop_oneof![0_u32..40, Just(u32::MAX), (u32::MAX - 20)..u32::MAX];
    let count = prop_oneof![0_u64..30, Just(u64::from(u32::MAX)), Just(u64::MAX)];
    proptest::collection::vec((0_u32..5, start, count), 0..12)
}

proptest! {
    #[test]
    fn a_uid_belongs_to_the_first_line_that_gives_it(lines in lines(), near in 0_u32..80, high in 0_u32..30) {
        let text: String = lines.iter().map(|(owner, start, count)| format!("u{owner}:{start}:{count}\n")).collect();
        let (table, skipped) = Table::parse(text.as_bytes(), nobody);
        prop_assert_eq!(skipped, 0);
        for uid in [near, u32::MAX - high, u32::MAX] {
            let holds = |start: u32, count: u64| u64::from(uid) >= u64::from(start) && u64::from(uid - start) < count;
            let first = lines.iter().find(|(_, start, count)| holds(*start, *count));
            let expected = first.map(|(owner, ..)| Owner::Name(format!("u{owner}").into()));
            prop_assert_eq!(table.owner_of(uid), expected);
        }
    }

    #[test]
    fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "[a:0-9\n]{0,80}") {
        let _any = Table::parse(&bytes, nobody);
        let _almost = Table::parse(text.as_bytes(), nobody);
    }
}
