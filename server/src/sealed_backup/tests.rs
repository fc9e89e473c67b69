//! What is not the whole file, as it was sealed, under its own key, is refused: by every byte, at every length.

use super::*;

fn keys(fill: u8) -> SealKeys {
    SealKeys::derive(&Secret::new(vec![fill; 32])).unwrap()
}

fn store() -> Vec<u8> {
    (0..=u8::MAX).cycle().take(3 * MAX_STORE_BYTES / 2).collect()
}

/// The parts of a file, each a chunk; the first has the head too.
fn parts(fill: u8) -> Vec<Vec<u8>> {
    let (mut sealer, head) = Sealer::begin(keys(fill)).unwrap();
    let secret = Secret::new(b"the private key".to_vec());
    let mut parts = vec![head, sealer.key("x509-ca-a", &secret).unwrap()];
    for part in store().chunks(MAX_STORE_BYTES) {
        parts.push(sealer.store(part).unwrap());
    }
    parts.push(sealer.end().unwrap());
    parts
}

fn opened(bytes: &[u8], fill: u8) -> Result<(Vec<u8>, Keys), UnsealError> {
    let mut into = Vec::new();
    let found = open(bytes, &keys(fill), &mut into)?;
    Ok((into, found))
}

#[test]
fn what_was_sealed_comes_back_and_nothing_of_it_stands_in_the_file() {
    let bytes = parts(1).concat();
    let (found, keys) = opened(&bytes, 1).unwrap();
    assert_eq!(found, store());
    assert_eq!(keys["x509-ca-a"].expose(), b"the private key");
    assert!(is_sealed(&bytes));
    for clear in [b"private".as_slice(), b"x509-ca-a", &store()[..16]] {
        assert!(!bytes.windows(clear.len()).any(|part| part == clear));
    }
    // All at once is cut into chunks too.
    let (mut sealer, mut bytes) = Sealer::begin(super::tests::keys(1)).unwrap();
    bytes.extend(sealer.store(&store()).unwrap());
    bytes.extend(sealer.end().unwrap());
    assert_eq!(opened(&bytes, 1).unwrap().0, store());
}

#[test]
fn another_key_is_named_as_such() {
    assert!(matches!(
        opened(&parts(1).concat(), 2),
        Err(UnsealError::WrongKey)
    ));
}

#[test]
fn a_file_that_was_cut_is_refused_at_every_length() {
    let parts = parts(1);
    let bytes = parts.concat();
    let near_ends = parts.iter().scan(0, |end, part| {
        *end += part.len();
        Some(*end)
    });
    let lengths = near_ends.flat_map(|end| end.saturating_sub(20)..end + 20);
    for length in lengths
        .chain((0..bytes.len()).step_by(997))
        .filter(|n| *n < bytes.len())
    {
        let refused = opened(&bytes[..length], 1).unwrap_err();
        let expected = match length {
            _ if length < MAGIC.len() => matches!(refused, UnsealError::Foreign),
            _ => matches!(refused, UnsealError::Cut(_)),
        };
        assert!(expected, "{length}: {refused}");
    }
}

#[test]
fn a_byte_that_was_changed_is_refused_wherever_it_is() {
    let parts = parts(1);
    let bytes = parts.concat();
    let head = parts[0].len() + parts[1].len() + 40;
    let places = (0..head)
        .chain((head..bytes.len()).step_by(1009))
        .chain(bytes.len() - 40..bytes.len());
    for place in places {
        let mut changed = bytes.clone();
        changed[place] ^= 1;
        opened(&changed, 1).unwrap_err();
    }
    let mut longer = bytes;
    longer.push(0);
    assert!(matches!(opened(&longer, 1), Err(UnsealError::Damaged(_))));
}

#[test]
fn parts_that_were_moved_left_out_repeated_or_taken_from_another_backup_are_refused() {
    let (parts, others) = (parts(1), parts(1));
    let arranged = |order: &[&Vec<u8>]| {
        order
            .iter()
            .flat_map(|part| part.iter().copied())
            .collect::<Vec<_>>()
    };
    let [head, key, first, second, end] = [0, 1, 2, 3, 4].map(|n| &parts[n]);
    for order in [
        [head, key, second, first, end].as_slice(),
        &[head, key, first, end],
        &[head, first, second, end],
        &[head, key, first, first, second, end],
        &[head, key, first, &others[3], end],
        &[head, key, first, second, &others[4]],
        &[head, end],
    ] {
        let refused = opened(&arranged(order), 1).unwrap_err();
        assert!(matches!(refused, UnsealError::Damaged(_)), "{refused}");
    }
    assert!(opened(&arranged(&[head, key, first, second, end]), 1).is_ok());
}

proptest::proptest! {
    /// Bytes that nobody sealed behind a right beginning: an error, without taking much memory.
    #[test]
    fn garbage_is_refused(tail in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        let bytes = [MAGIC, &tail].concat();
        proptest::prop_assert!(opened(&bytes, 1).is_err());
    }
}
