//! What is not opened, and what is.

use proptest::prelude::*;
use vouchsafe_identity::secret::Secret;

use super::*;

const AGENT: &str = "spiffe://example.org/spire/agent/join_token/one";
const ID: LogId = [7; LOG_ID_BYTES];

fn keys(fill: u8) -> SealKeys {
    SealKeys::derive(&Secret::new(vec![fill; 32])).unwrap()
}

fn head(frames: u64) -> Head {
    Head {
        log: ID,
        frames,
        sealed_at: 5,
    }
}

fn log(texts: &[&str]) -> Vec<u8> {
    let frames = texts.iter().enumerate();
    let frames = frames.map(|(n, text)| frame(&keys(1), AGENT, &ID, n as u64, text.as_bytes()).unwrap());
    std::iter::once(header(&ID)).chain(frames).flatten().collect()
}

fn opened(agent: &str, frames: u64, bytes: &[u8]) -> Result<(Vec<String>, bool), BadSeal> {
    let mut texts = Vec::new();
    let read = read(&keys(1), agent, &head(frames), &mut bytes.to_vec(), |text| {
        texts.push(String::from_utf8(text.to_vec()).unwrap());
        Ok(())
    })?;
    assert_eq!(usize::try_from(read.frames), Ok(texts.len()));
    Ok((texts, read.torn))
}

#[test]
fn frames_come_back_in_order() {
    let (texts, torn) = opened(AGENT, 3, &log(&["a", "", "c"])).unwrap();
    assert_eq!(texts, ["a", "", "c"]);
    assert!(!torn);
}

#[test]
fn what_was_sealed_for_another_agent_is_refused() {
    let other = "spiffe://example.org/spire/agent/join_token/two";
    assert!(matches!(
        opened(other, 1, &log(&["a"])),
        Err(BadSeal::NotOpened(_))
    ));
    let mut sealed = head(1).seal(&keys(1), AGENT).unwrap();
    assert!(matches!(
        Head::open(&keys(1), other, &mut sealed),
        Err(BadSeal::NotOpened(_))
    ));
}

#[test]
fn what_was_sealed_with_another_key_is_refused() {
    let read = read(&keys(2), AGENT, &head(1), &mut log(&["a"]), |_| Ok(()));
    assert!(matches!(read, Err(BadSeal::NotOpened(_))));
}

#[test]
fn a_newer_version_is_named_and_what_is_none_of_ours_too() {
    let mut newer = log(&["a"]);
    newer[9] = 2;
    assert_eq!(opened(AGENT, 1, &newer), Err(BadSeal::TooNew { found: 2 }));
    newer[9] = 0;
    assert_eq!(opened(AGENT, 1, &newer), Err(BadSeal::NoVersion));
    assert_eq!(opened(AGENT, 1, b""), Err(BadSeal::Foreign));
    assert_eq!(opened(AGENT, 1, b"{\"version\":1}   "), Err(BadSeal::Foreign));
    let other = [&header(&[8; LOG_ID_BYTES])[..], &log(&["a"])[HEADER_BYTES..]].concat();
    assert_eq!(opened(AGENT, 1, &other), Err(BadSeal::Foreign));
}

#[test]
fn what_was_surely_written_may_not_lack_and_an_unfinished_end_is_left_out() {
    let whole = log(&["a", "b", "c"]);
    let two = log(&["a", "b"]).len();
    for end in two..whole.len() {
        assert!(opened(AGENT, 3, &whole[..end]).is_err(), "cut at {end}");
        let (texts, torn) = opened(AGENT, 2, &whole[..end]).unwrap();
        assert_eq!((texts.len(), torn), (2, end > two), "cut at {end}");
    }
    assert_eq!(opened(AGENT, 3, &whole[..two]), Err(BadSeal::CutOff));
    // A page of zeros is what some file systems leave after a loss of power.
    let zeros = [&whole[..two], &[0; 300]].concat();
    assert!(opened(AGENT, 2, &zeros).unwrap().1);
    assert!(opened(AGENT, 3, &zeros).is_err());
}

#[test]
fn frames_may_not_change_places_or_come_twice() {
    let length = frame(&keys(1), AGENT, &ID, 0, b"a").unwrap().len();
    let whole = log(&["a", "b"]);
    let (head, rest) = whole.split_at(HEADER_BYTES);
    let (first, second) = rest.split_at(length);
    for wrong in [
        [head, second, first].concat(),
        [head, first, first].concat(),
        [head, second].concat(),
    ] {
        assert!(opened(AGENT, 2, &wrong).is_err());
        assert!(
            opened(AGENT, 1, &wrong).is_ok_and(|(texts, _)| texts == ["a"])
                || wrong.starts_with(&[head, second].concat())
        );
    }
}

#[test]
fn a_head_says_what_was_sealed_in_it_and_no_bit_may_differ() {
    let sealed = head(9).seal(&keys(1), AGENT).unwrap();
    assert_eq!(Head::open(&keys(1), AGENT, &mut sealed.clone()), Ok(head(9)));
    for bit in 0..sealed.len() * 8 {
        let mut bytes = sealed.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(Head::open(&keys(1), AGENT, &mut bytes).is_err(), "{bit}");
    }
}

proptest! {
    #[test]
    fn one_bit_that_differs_condemns_the_whole(texts in prop::collection::vec("[a-z]{0,20}", 1..5), at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let texts: Vec<_> = texts.iter().map(String::as_str).collect();
        let mut bytes = log(&texts);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(opened(AGENT, texts.len() as u64, &bytes).is_err());
    }

    #[test]
    fn any_bytes_are_refused_and_nothing_worse(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(opened(AGENT, 1, &bytes).is_err());
        let ours = [header(&ID), bytes].concat();
        prop_assert!(opened(AGENT, 1, &ours).is_err());
        prop_assert!(Head::open(&keys(1), AGENT, &mut ours.clone()).is_err());
    }
}
