//! What is due, what is served, and what is forgotten.

use super::*;
use crate::testing::{at, entry, svid};

fn slots_of(entries: &[Arc<Entry>], limit: usize) -> Slots {
    let mut slots = Slots::new(limit);
    slots.follow(&EntryIndex::new(entries.iter().cloned()));
    slots
}

fn ids(entries: &[Arc<Entry>]) -> Vec<String> {
    entries.iter().map(|entry| entry.id.to_string()).collect()
}

/// What is due in both lanes, the urgent first.
fn due(slots: &mut Slots, now: OffsetDateTime, count: usize) -> Vec<Arc<Entry>> {
    let mut due = slots.take_due(Lane::Urgent, now, count);
    due.extend(slots.take_due(Lane::Ahead, now, count - due.len()));
    due
}

fn next(slots: &Slots, now: OffsetDateTime) -> Option<OffsetDateTime> {
    let lanes = [Lane::Urgent, Lane::Ahead];
    lanes
        .into_iter()
        .filter_map(|lane| slots.next_due(lane, now))
        .min()
}

fn changed(entry: &Entry, change: impl FnOnce(&mut Entry)) -> Arc<Entry> {
    let mut entry = Entry::clone(entry);
    entry.version.revision += 1;
    change(&mut entry);
    Arc::new(entry)
}

#[test]
fn an_expired_svid_is_not_served() {
    let one = entry("one", &["unix:uid:1"]);
    let mut slots = slots_of(std::slice::from_ref(&one), 10);
    slots.issued(&one.id, svid(&one, at(0), at(100)));
    assert!(matches!(slots.look(&one, at(99)), Held::Ready(_)));
    assert!(matches!(slots.look(&one, at(100)), Held::Awaited));
}

#[test]
fn an_svid_whose_life_has_not_begun_is_not_served() {
    let one = entry("one", &["unix:uid:1"]);
    let mut slots = slots_of(std::slice::from_ref(&one), 10);
    slots.restore(&one, svid(&one, at(86_400), at(90_000)));
    assert!(matches!(slots.look(&one, at(0)), Held::Awaited));
    assert_eq!(slots.ends(at(0)), None);
    assert!(matches!(slots.look(&one, at(86_400)), Held::Ready(_)));
    assert_eq!(slots.ends(at(86_400)), Some((at(90_000), at(90_000))));
}

#[test]
fn what_was_had_and_what_failed_before_the_clock_was_set_back_is_asked_for_at_once() {
    let [had, failed] = ["had", "failed"].map(|id| entry(id, &["unix:uid:1"]));
    let mut slots = slots_of(&[had.clone(), failed.clone()], 10);
    let ahead = at(86_400);
    assert_eq!(due(&mut slots, ahead, 9).len(), 2);
    slots.issued(&had.id, svid(&had, ahead, at(90_000)));
    slots.failed(&failed.id, "no", ahead);
    assert!(due(&mut slots, ahead, 9).is_empty());
    assert_eq!(next(&slots, at(0)), Some(at(0)));
    assert_eq!(due(&mut slots, at(0), 9).len(), 2);
}

#[test]
fn what_was_held_before_finds_a_place_only_where_there_is_room() {
    let entries: Vec<_> = (0..3).map(|n| entry(&format!("e{n}"), &["unix:uid:1"])).collect();
    let mut slots = slots_of(&entries, 2);
    for one in &entries {
        slots.restore(one, svid(one, at(0), at(100)));
    }
    assert_eq!(slots.held(), 2);
}

#[test]
fn an_svid_of_another_id_is_not_served_after_the_entry_changed() {
    let one = entry("one", &["unix:uid:1"]);
    let mut slots = slots_of(std::slice::from_ref(&one), 10);
    slots.issued(&one.id, svid(&one, at(0), at(100)));
    let other = changed(&one, |e| {
        e.spiffe_id = "spiffe://example.org/other".parse().unwrap()
    });
    slots.follow(&EntryIndex::new([Arc::clone(&other)]));
    assert!(matches!(slots.look(&other, at(1)), Held::Awaited));
    assert_eq!(ids(&due(&mut slots, at(1), 10)), ["one"]);
}

#[test]
fn a_changed_entry_is_issued_anew_and_the_old_svid_serves_until_then() {
    let one = entry("one", &["unix:uid:1"]);
    let mut slots = slots_of(std::slice::from_ref(&one), 10);
    slots.issued(&one.id, svid(&one, at(0), at(100)));
    let newer = changed(&one, |e| e.hint = "new".to_owned());
    slots.follow(&EntryIndex::new([Arc::clone(&newer)]));
    assert!(matches!(slots.look(&newer, at(1)), Held::Ready(_)));
    assert_eq!(ids(&due(&mut slots, at(1), 10)), ["one"]);
}

#[test]
fn a_removed_entry_is_forgotten_with_its_svid() {
    let one = entry("one", &["unix:uid:1"]);
    let mut slots = slots_of(std::slice::from_ref(&one), 10);
    slots.issued(&one.id, svid(&one, at(0), at(100)));
    slots.follow(&EntryIndex::default());
    assert!(matches!(slots.look(&one, at(1)), Held::Awaited));
    assert_eq!(slots.held(), 0);
    slots.issued(&one.id, svid(&one, at(0), at(100)));
    assert_eq!(slots.held(), 0, "an answer that comes too late is dropped");
}

#[test]
fn an_svid_is_due_at_its_time_and_only_once() {
    let one = entry("one", &["unix:uid:1"]);
    let mut slots = slots_of(std::slice::from_ref(&one), 10);
    slots.issued(&one.id, svid(&one, at(0), at(100)));
    assert!(due(&mut slots, at(49), 10).is_empty());
    assert_eq!(next(&slots, at(49)), Some(at(50)));
    assert_eq!(ids(&due(&mut slots, at(50), 10)), ["one"]);
    assert!(due(&mut slots, at(50), 10).is_empty(), "it was asked for");
}

#[test]
fn what_fails_is_tried_again_later_and_later() {
    let one = entry("one", &["unix:uid:1"]);
    let mut slots = slots_of(std::slice::from_ref(&one), 10);
    let mut now = at(0);
    let mut last = time::Duration::ZERO;
    for _ in 0..10 {
        assert_eq!(ids(&due(&mut slots, now, 10)), ["one"]);
        slots.failed(&one.id, "no", now);
        assert!(matches!(slots.look(&one, now), Held::Failed(reason) if reason == "no"));
        let next = next(&slots, now).unwrap();
        assert!(next - now >= last && next - now <= LONGEST_RETRY);
        last = next - now;
        now = next;
    }
}

#[test]
fn a_failed_rotation_leaves_the_old_svid() {
    let one = entry("one", &["unix:uid:1"]);
    let mut slots = slots_of(std::slice::from_ref(&one), 10);
    slots.issued(&one.id, svid(&one, at(0), at(100)));
    slots.failed(&one.id, "away", at(60));
    assert!(matches!(slots.look(&one, at(61)), Held::Ready(_)));
}

#[test]
fn callers_that_wait_come_first() {
    let entries: Vec<_> = (0..5).map(|n| entry(&format!("e{n}"), &["unix:uid:1"])).collect();
    let mut slots = slots_of(&entries, 10);
    slots.pin(&entries[3], &Watcher::default());
    assert_eq!(ids(&due(&mut slots, at(0), 1)), ["e3"]);
}

#[test]
fn prefetching_stops_at_the_limit_and_a_caller_still_gets_its_own() {
    let entries: Vec<_> = (0..5).map(|n| entry(&format!("e{n}"), &["unix:uid:1"])).collect();
    let mut slots = slots_of(&entries, 2);
    assert_eq!(due(&mut slots, at(0), 10).len(), 2);
    slots.pin(&entries[4], &Watcher::default());
    assert_eq!(ids(&due(&mut slots, at(0), 10)), ["e4"]);
}

#[test]
fn the_longest_unused_go_first_and_pinned_ones_stay() {
    let entries: Vec<_> = (0..4).map(|n| entry(&format!("e{n}"), &["unix:uid:1"])).collect();
    let mut slots = Slots::new(2);
    let watcher = Watcher::default();
    let mut pins = Vec::new();
    for one in &entries {
        pins.push(slots.pin(one, &watcher));
        slots.issued(&one.id, svid(one, at(0), at(100)));
    }
    for n in 1..4 {
        slots.unpin(&entries[n].id, pins[n], &watcher);
    }
    assert_eq!(slots.held(), 2);
    assert!(matches!(slots.look(&entries[0], at(1)), Held::Ready(_)), "pinned");
    assert!(
        matches!(slots.look(&entries[3], at(1)), Held::Ready(_)),
        "used last"
    );
}

#[test]
fn an_entry_that_asks_for_no_prefetch_waits_for_a_caller() {
    let shy = changed(&entry("shy", &["unix:uid:1"]), |e| e.prefetch = false);
    let mut slots = slots_of(std::slice::from_ref(&shy), 10);
    assert!(due(&mut slots, at(0), 10).is_empty());
    slots.pin(&shy, &Watcher::default());
    assert_eq!(ids(&due(&mut slots, at(0), 10)), ["shy"]);
}

#[test]
fn while_nobody_can_be_asked_an_svid_is_due_again_and_again() {
    let one = entry("one", &["unix:uid:1"]);
    let mut slots = slots_of(std::slice::from_ref(&one), 10);
    for second in 0..20 {
        assert_eq!(ids(&due(&mut slots, at(second), 10)), ["one"]);
        slots.unasked(&one.id, "away", at(second));
        assert!(matches!(slots.look(&one, at(second)), Held::Failed(reason) if reason == "away"));
    }
}

fn change(before: Option<&Arc<Entry>>, after: Option<&Arc<Entry>>) -> [EntryChange; 1] {
    let (before, after) = (before.cloned(), after.cloned());
    [EntryChange { before, after }]
}

#[tokio::test(start_paused = true)]
async fn who_holds_an_svid_is_woken_by_what_becomes_of_it_and_by_nothing_else() {
    let (one, other) = (entry("one", &["unix:uid:1"]), entry("other", &["unix:uid:1"]));
    let mut slots = slots_of(&[Arc::clone(&one), Arc::clone(&other)], 10);
    let watcher = Watcher::default();
    let woken = async || {
        tokio::time::timeout(std::time::Duration::from_secs(1), watcher.woken())
            .await
            .is_ok()
    };
    let pin = slots.pin(&one, &watcher);
    slots.issued(&other.id, svid(&other, at(0), at(100)));
    assert!(!woken().await);
    slots.issued(&one.id, svid(&one, at(0), at(100)));
    assert!(woken().await);
    slots.failed(&one.id, "no", at(1));
    assert!(woken().await);
    // An entry that was gone in between is held no more, and its caller hears of it.
    let index = EntryIndex::new([Arc::clone(&one), Arc::clone(&other)]);
    slots.change(&change(Some(&one), None), &index);
    slots.change(&change(None, Some(&one)), &index);
    assert!(woken().await);
    assert!(!slots.is_pinned(&one.id, pin));
    slots.unpin(&one.id, pin, &watcher);
}

#[test]
fn the_room_that_a_removed_entry_leaves_is_the_oldest_others() {
    let aged =
        |id: &str, created_at| changed(&entry(id, &["unix:uid:1"]), |e| e.version.created_at = created_at);
    let entries = [aged("young", 9), aged("old", 2), aged("first", 1)];
    let mut slots = slots_of(&entries, 1);
    assert_eq!(ids(&due(&mut slots, at(0), 10)), ["first"]);
    let index = EntryIndex::new(entries[..2].iter().cloned());
    slots.change(&change(Some(&entries[2]), None), &index);
    assert_eq!(ids(&due(&mut slots, at(0), 10)), ["old"]);
}

#[test]
fn changes_one_by_one_lead_to_where_the_whole_leads() {
    let one = entry("one", &["unix:uid:1"]);
    let mut slots = slots_of(&[], 10);
    let index = EntryIndex::new([Arc::clone(&one)]);
    slots.change(&change(None, Some(&one)), &index);
    assert_eq!(ids(&due(&mut slots, at(0), 10)), ["one"]);
    slots.issued(&one.id, svid(&one, at(0), at(100)));
    let newer = changed(&one, |e| e.hint = "new".to_owned());
    let index = EntryIndex::new([Arc::clone(&newer)]);
    slots.change(&change(Some(&one), Some(&newer)), &index);
    assert!(matches!(slots.look(&newer, at(1)), Held::Ready(_)));
    assert_eq!(ids(&due(&mut slots, at(1), 10)), ["one"], "issued anew");
    slots.change(&change(Some(&newer), None), &EntryIndex::default());
    assert_eq!(slots.held(), 0);
}
