//! What holds of the frame reader whatever a client sends. Shared by the property tests of this package and
//! by the fuzz target under `tests/fuzz`.

use vouchsafe_runtime::uds::frames::{FrameError, FrameReader, FrameWriter};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Panics where an invariant does not hold for `input`, cut into chunks whose lengths are `cuts` in turn.
pub(crate) fn check(input: &[u8], cuts: &[u8]) {
    check_bytes(input, cuts);
    // Few random inputs begin as HTTP/2 does: let them get beyond that as well.
    check_bytes(&[PREFACE, input].concat(), cuts);
    check_claims(input, cuts);
}

/// An answer to a PING is seen once and does not go on where it is claimed, wherever it is cut; all others go on.
fn check_claims(input: &[u8], cuts: &[u8]) {
    let mut wanted = [0; 8];
    for (to, from) in wanted.iter_mut().zip(input) {
        *to = *from;
    }
    let other = wanted.map(|byte| !byte);
    let answers = [other, wanted, other].map(|payload| FrameWriter::ping_answer(&payload));
    let (mut reader, mut out, mut claimed) = (FrameReader::new(), Vec::new(), 0);
    let wire = [PREFACE, &answers.concat()].concat();
    for chunk in chunks(&wire, cuts) {
        let mut claim = |payload: &[u8; 8]| {
            claimed += usize::from(*payload == wanted);
            *payload == wanted
        };
        let read = reader.push_claiming(chunk, &mut out, &mut claim);
        assert_eq!(read, Ok(()));
    }
    assert_eq!(claimed, 1);
    let [first, _, last] = &answers;
    assert_eq!(
        out,
        [PREFACE, first, last].concat(),
        "what is not claimed goes on"
    );
}

fn check_bytes(input: &[u8], cuts: &[u8]) {
    let (whole, result, held) = read(std::iter::once(input));
    let (cut, cut_result, cut_held) = read(chunks(input, cuts));
    assert_eq!(whole, cut, "chunking changes the output");
    assert_eq!(result, cut_result, "chunking changes the result");
    assert!(whole.len() <= input.len(), "more comes out than went in");
    if result.is_ok() {
        assert_eq!(held, cut_held, "chunking changes what is held");
        assert_eq!(whole.len() + held, input.len(), "bytes are lost or added");
    }
    let (again, again_result, _) = read(std::iter::once(whole.as_slice()));
    assert_eq!(
        again_result,
        Ok(()),
        "what went on is not accepted by another reader"
    );
    assert!(whole.starts_with(&again), "what was mended is mended again");
}

fn read<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, Result<(), FrameError>, usize) {
    let mut reader = FrameReader::new();
    let mut out = Vec::new();
    let mut result = Ok(());
    for chunk in chunks {
        result = reader.push(chunk, &mut out);
        if result.is_err() {
            break;
        }
    }
    (out, result, reader.held())
}

fn chunks<'a>(mut input: &'a [u8], cuts: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut lengths = cuts
        .iter()
        .copied()
        .filter(|length| *length > 0)
        .chain([1])
        .collect::<Vec<_>>()
        .into_iter()
        .cycle();
    std::iter::from_fn(move || {
        let length = usize::from(lengths.next().unwrap_or(1)).min(input.len());
        let (chunk, rest) = input.split_at(length);
        input = rest;
        (length > 0).then_some(chunk)
    })
}
