//! Header blocks as clients send them, and as attackers might.

use proptest::prelude::*;

use super::huffman::tests::{coded, text_of};
use super::*;

/// What grpcio, grpc-java and others put into `:authority` on a unix socket.
const SOCKET_PATHS: [&str; 4] = [
    "tmp%2Fx%2Fagent.sock",
    "/run/vouchsafe/agent.sock",
    "run/a b/agent.sock",
    "%2Ftmp%2Fx:y:z",
];

/// Authorities that are right as they are.
const RIGHT: [&str; 5] = [
    "localhost",
    "localhost:50051",
    "[::1]:443",
    "user@host",
    "unix-x.sock",
];

#[derive(Debug, Clone, Copy)]
enum Name {
    Static,
    Literal,
    Coded,
    Dynamic(usize),
}

/// One literal field named `:authority`; `kind` is the field's first bits: 0x40, 0x10 or 0.
fn authority_field(kind: u8, name: Name, value: &[u8], huffman: bool) -> Vec<u8> {
    let mut field = Vec::new();
    let prefix = if kind == 0x40 { 6 } else { 4 };
    match name {
        Name::Static => integer(&mut field, kind, prefix, 1),
        Name::Dynamic(index) => integer(&mut field, kind, prefix, index),
        Name::Literal => {
            field.push(kind);
            string(&mut field, b":authority", false);
        }
        Name::Coded => {
            field.push(kind);
            string(&mut field, b":authority", true);
        }
    }
    string(&mut field, value, huffman);
    field
}

fn integer(out: &mut Vec<u8>, first: u8, bits: u32, value: usize) {
    let mask = (1 << bits) - 1;
    if value < mask {
        out.push(first | u8::try_from(value).unwrap());
        return;
    }
    out.push(first | u8::try_from(mask).unwrap());
    let mut rest = value - mask;
    while rest >= 128 {
        out.push(u8::try_from(rest % 128).unwrap() | 0x80);
        rest /= 128;
    }
    out.push(u8::try_from(rest).unwrap());
}

fn string(out: &mut Vec<u8>, text: &[u8], huffman: bool) {
    let bytes = if huffman { coded(text) } else { text.to_vec() };
    integer(out, if huffman { 0x80 } else { 0 }, 7, bytes.len());
    out.extend(bytes);
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![len[1], len[2], len[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes.extend(frames.concat());
    bytes
}

fn read(input: &[u8]) -> (Vec<u8>, Result<(), FrameError>) {
    let mut out = Vec::new();
    let result = FrameReader::new().push(input, &mut out);
    (out, result)
}

/// Mends one block in a connection of its own, and returns the block as it went on.
fn mended(block: &[u8]) -> Vec<u8> {
    let input = connection(&[frame(HEADERS, END_HEADERS, 1, block)]);
    let (out, result) = read(&input);
    result.unwrap();
    assert_eq!(out.len(), input.len());
    let block_at = input.len() - block.len();
    assert_eq!(out[..block_at], input[..block_at], "only the block changes");
    out[block_at..].to_vec()
}

fn valid(authority: &[u8]) -> bool {
    http::uri::Authority::try_from(authority).is_ok()
}

#[test]
fn socket_paths_become_valid_in_every_coding() {
    for path in SOCKET_PATHS {
        for kind in [0x40, 0x10, 0] {
            for name in [Name::Static, Name::Literal, Name::Coded] {
                let plain = authority_field(kind, name, path.as_bytes(), false);
                let value = &mended(&plain)[plain.len() - path.len()..];
                assert!(valid(value), "{path} {kind} {name:?}: {value:?}");

                let field = authority_field(kind, name, path.as_bytes(), true);
                let len = coded(path.as_bytes()).len();
                let value = text_of(&mended(&field)[field.len() - len..]);
                assert!(valid(&value), "{path} {kind} {name:?}: {value:?}");
                assert_eq!(value.len(), path.len(), "the dynamic table keeps its size");
            }
        }
    }
    let field = authority_field(0x40, Name::Static, b"tmp%2Fx%2Fagent.sock", false);
    assert!(mended(&field).ends_with(b"tmp-2Fx-2Fagent.sock"));
}

#[test]
fn what_is_right_stays_as_it_is() {
    for authority in RIGHT {
        for huffman in [false, true] {
            let field = authority_field(0x40, Name::Static, authority.as_bytes(), huffman);
            assert_eq!(mended(&field), field, "{authority}");
        }
    }
    // Other fields keep bytes that an authority may not hold.
    let mut path = Vec::new();
    integer(&mut path, 0x40, 6, 4);
    string(&mut path, b"/grpc.health.v1.Health/Check", false);
    assert_eq!(mended(&path), path);
}

#[test]
fn an_authority_without_equally_long_substitutes_is_left_to_the_server() {
    let field = authority_field(0, Name::Static, b"a/b#c", true);
    assert_eq!(mended(&field), field);
}

#[test]
fn a_field_that_takes_its_name_from_the_dynamic_table_is_mended() {
    let mut other = vec![0x40];
    string(&mut other, b"te", false);
    string(&mut other, b"trailers", false);
    let first = authority_field(0x40, Name::Literal, b"a/b", false);
    // After `te` and a resize of the table, the authority's entry is the second newest.
    let block = [first, other, vec![0x3f, 0xe1, 0x1f]].concat();
    let again = authority_field(0, Name::Dynamic(63), b"c/d", false);
    let not_one = authority_field(0, Name::Dynamic(62), b"e/f", false);
    let out = mended(&[block, again, not_one].concat());
    let text = String::from_utf8_lossy(&out);
    assert!(
        text.contains("a-b") && text.contains("c-d") && text.contains("e/f"),
        "{text}"
    );
}

#[test]
fn padding_priority_and_continuations_are_taken_off_before_reading() {
    let field = authority_field(0x40, Name::Static, b"/run/x.sock", false);
    let padded = [&[3, 0, 0, 0, 9, 16][..], &field, &[0; 3]].concat();
    let whole = connection(&[frame(HEADERS, END_HEADERS | PADDED | PRIORITY, 1, &padded)]);
    assert!(read(&whole).0.windows(11).any(|part| part == b"-run-x.sock"));

    let right = mended(&field);
    for cut in 0..=field.len() {
        let cut_up = |field: &[u8]| {
            connection(&[
                frame(HEADERS, 0, 1, &field[..cut]),
                frame(CONTINUATION, 0, 1, &[]),
                frame(CONTINUATION, END_HEADERS, 1, &field[cut..]),
                frame(6, 0, 0, &[7; 8]),
            ])
        };
        assert_eq!(read(&cut_up(&field)), (cut_up(&right), Ok(())), "cut at {cut}");
    }
}

#[test]
fn nothing_of_a_header_block_goes_on_before_it_is_whole() {
    let field = authority_field(0x40, Name::Static, b"/run/x.sock", false);
    let head_only = connection(&[]);
    let input = connection(&[frame(HEADERS, END_HEADERS, 1, &field)]);
    let mut reader = FrameReader::new();
    let mut out = Vec::new();
    for byte in &input[..input.len() - 1] {
        reader.push(&[*byte], &mut out).unwrap();
    }
    assert_eq!(out, head_only);
    assert_eq!(reader.held(), input.len() - 1 - out.len());
    reader.push(&input[input.len() - 1..], &mut out).unwrap();
    assert_eq!(out.len(), input.len());
    assert_eq!(reader.held(), 0);
}

#[test]
fn another_protocol_is_refused_at_its_first_wrong_byte() {
    let (out, result) = read(b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(result, Err(FrameError::NotHttp2));
    assert!(out.is_empty());
    assert_eq!(read(b"PRI * HTTP/1.1").0, b"PRI * HTTP/");
}

#[test]
fn wrong_frames_end_the_connection_for_good() {
    let too_large = frame(0, 0, 1, &vec![0; MAX_FRAME_BYTES + 1]);
    let many = (0..=MAX_CONTINUATION_FRAMES)
        .map(|_| frame(CONTINUATION, 0, 1, &[]))
        .collect::<Vec<_>>();
    let large = vec![frame(CONTINUATION, 0, 1, &vec![0; MAX_FRAME_BYTES]); 4].concat();
    let open = frame(HEADERS, 0, 1, &[]);
    let cases = [
        (
            too_large,
            FrameError::FrameTooLarge {
                len: MAX_FRAME_BYTES + 1,
            },
        ),
        (
            [open.clone(), many.concat()].concat(),
            FrameError::TooManyContinuations,
        ),
        ([open.clone(), large].concat(), FrameError::HeaderBlockTooLarge),
        (
            [open.clone(), frame(0, 0, 1, b"x")].concat(),
            FrameError::Interleaved,
        ),
        ([open.clone(), open.clone()].concat(), FrameError::Interleaved),
        (
            [open, frame(CONTINUATION, END_HEADERS, 3, &[])].concat(),
            FrameError::Interleaved,
        ),
        (
            frame(CONTINUATION, END_HEADERS, 1, &[]),
            FrameError::LoneContinuation,
        ),
        (frame(HEADERS, END_HEADERS | PADDED, 1, &[]), FrameError::Padding),
        (
            frame(HEADERS, END_HEADERS | PADDED, 1, &[2, 0]),
            FrameError::Padding,
        ),
        (
            frame(HEADERS, END_HEADERS | PRIORITY, 1, &[0; 4]),
            FrameError::Padding,
        ),
        (
            frame(HEADERS, END_HEADERS, 1, &[0x41]),
            FrameError::Hpack(HpackError::Truncated),
        ),
        (
            frame(HEADERS, END_HEADERS, 1, &[0x41, 5, b'a']),
            FrameError::Hpack(HpackError::Truncated),
        ),
        (
            frame(HEADERS, END_HEADERS, 1, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            FrameError::Hpack(HpackError::IntegerTooLarge),
        ),
        (
            frame(HEADERS, END_HEADERS, 1, &[0x41, 0x82, 0xff, 0xff]),
            FrameError::Hpack(HpackError::Huffman),
        ),
    ];
    for (frames, expected) in cases {
        let mut reader = FrameReader::new();
        let mut out = Vec::new();
        assert_eq!(reader.push(&connection(&[frames]), &mut out), Err(expected));
        let given_on = out.len();
        assert_eq!(reader.push(b"more", &mut out), Err(expected));
        assert_eq!(reader.push(b"", &mut out), Err(expected));
        assert_eq!(out.len(), given_on);
    }
}

proptest! {
    #[test]
    fn any_text_becomes_a_valid_authority_of_the_same_length(
        text in proptest::collection::vec(any::<u8>(), 1..200),
        huffman in any::<bool>(),
        kind in prop_oneof![Just(0x40_u8), Just(0x10), Just(0)],
    ) {
        let field = authority_field(kind, Name::Static, &text, huffman);
        let out = mended(&field);
        prop_assert_eq!(out.len(), field.len());
        let value_len = if huffman { coded(&text).len() } else { text.len() };
        let value = out[out.len() - value_len..].to_vec();
        if huffman {
            let value = text_of(&value);
            prop_assert_eq!(value.len(), text.len());
            prop_assert!(valid(&value) || value == text);
        } else {
            prop_assert!(valid(&value));
        }
    }

    #[test]
    fn huffman_coded_paths_of_printable_bytes_become_valid(text in "[ -\"$-;=?@A-\\[\\]_a-z|~]{1,100}") {
        let field = authority_field(0x40, Name::Static, text.as_bytes(), true);
        let out = mended(&field);
        let value = text_of(&out[out.len() - coded(text.as_bytes()).len()..]);
        prop_assert!(valid(&value), "{:?}", value);
    }
}
