//! HPACK's Huffman code (RFC 7541 §5.2 and appendix B), as far as mending an authority needs it: a byte
//! that an authority may not hold is replaced by one whose code has as many bits.
//! For a few bytes there is none (`#`, `<`, `>`, `^`, `{`, `}`, `\`, the backquote, controls, anything
//! beyond ASCII): a value with one of them stays as it is, and the HTTP/2 server refuses the request.

use std::sync::LazyLock;

use super::hpack::{HpackError, is_authority, is_safe};

/// Bits of each symbol's code, by symbol; the last is the end of the string. The code is canonical: codes
/// ascend by length, then by symbol, so their lengths say it all.
#[rustfmt::skip]
const CODE_BITS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// Bytes that stand in for others with equally long codes. Every byte with a code of 5 or 8 bits is safe.
const SUBSTITUTES: [u8; 5] = [b'-', b'x', b'!', b'+', b'~'];

/// Longest padding of a string, in bits (RFC 7541 §5.2: strictly less than 8).
const MAX_PADDING_BITS: u32 = 7;

/// Longest code.
const MAX_CODE_BITS: u32 = 30;

#[derive(Debug, Clone, Copy)]
struct Code {
    bits: u32,
    code: u32,
    symbol: usize,
}

/// A decoded byte and where its code stands.
#[derive(Debug, Clone, Copy)]
struct Decoded {
    at: usize,
    byte: u8,
}

/// All codes, ascending by length and code.
static CODES: LazyLock<Vec<Code>> = LazyLock::new(|| {
    let bits_and_symbol = CODE_BITS
        .iter()
        .enumerate()
        .map(|(symbol, bits)| (u32::from(*bits), symbol));
    let mut sorted: Vec<_> = bits_and_symbol.collect();
    sorted.sort_unstable();
    let (mut next, mut length) = (0_u32, 0);
    let assign = |(bits, symbol)| {
        let code = next << (bits - length);
        (next, length) = (code + 1, bits);
        Code { bits, code, symbol }
    };
    sorted.into_iter().map(assign).collect()
});

static AUTHORITY_NAME: LazyLock<Vec<u8>> = LazyLock::new(|| encode(b":authority"));

/// `:authority` in Huffman code. A string has one coding only.
pub(super) fn authority_name() -> &'static [u8] {
    &AUTHORITY_NAME
}

/// Mends an authority that is in Huffman code, where equally long substitutes exist.
pub(super) fn mend(coded: &mut [u8]) -> Result<(), HpackError> {
    let decoded = decode(coded)?;
    let text: Vec<u8> = decoded.iter().map(|symbol| symbol.byte).collect();
    if is_authority(&text) {
        return Ok(());
    }
    let unsafe_ones = decoded.iter().filter(|symbol| !is_safe(symbol.byte));
    let changes: Option<Vec<_>> = unsafe_ones
        .map(|symbol| Some((symbol.at, substitute(symbol.byte)?)))
        .collect();
    for (at, code) in changes.unwrap_or_default() {
        put(coded, at, code);
    }
    Ok(())
}

/// The code of a safe byte that is as long as that of `byte`.
fn substitute(byte: u8) -> Option<Code> {
    let wanted = code_of(byte)?.bits;
    SUBSTITUTES
        .iter()
        .filter_map(|byte| code_of(*byte))
        .find(|code| code.bits == wanted)
}

fn code_of(byte: u8) -> Option<Code> {
    CODES
        .iter()
        .find(|code| code.symbol == usize::from(byte))
        .copied()
}

fn decode(coded: &[u8]) -> Result<Vec<Decoded>, HpackError> {
    let mut decoded = Vec::with_capacity(coded.len() * 8 / 5);
    let (mut code, mut bits) = (0_u32, 0_u32);
    for at in 0..coded.len() * 8 {
        code = (code << 1) | u32::from(bit(coded, at));
        bits += 1;
        let index = CODES.partition_point(|entry| (entry.bits, entry.code) < (bits, code));
        match CODES.get(index) {
            Some(entry) if (entry.bits, entry.code) == (bits, code) => {
                // The end-of-string symbol must not occur.
                let byte = u8::try_from(entry.symbol).map_err(|_| HpackError::Huffman)?;
                decoded.push(Decoded {
                    at: at + 1 - bits as usize,
                    byte,
                });
                (code, bits) = (0, 0);
            }
            _ if bits >= MAX_CODE_BITS => return Err(HpackError::Huffman),
            _ => {}
        }
    }
    let padding_is_ones = code.count_ones() == bits;
    if bits > MAX_PADDING_BITS || !padding_is_ones {
        return Err(HpackError::Huffman);
    }
    Ok(decoded)
}

fn encode(text: &[u8]) -> Vec<u8> {
    let codes: Vec<_> = text.iter().filter_map(|byte| code_of(*byte)).collect();
    let bits = codes.iter().map(|code| code.bits as usize).sum::<usize>();
    let mut coded = vec![0xff; bits.div_ceil(8)];
    let mut at = 0;
    for code in codes {
        put(&mut coded, at, code);
        at += code.bits as usize;
    }
    coded
}

fn bit(coded: &[u8], at: usize) -> bool {
    coded
        .get(at / 8)
        .is_some_and(|byte| byte & (0x80 >> (at % 8)) != 0)
}

/// Writes a code over the bits from `at` on.
fn put(coded: &mut [u8], at: usize, code: Code) {
    for offset in 0..code.bits {
        let place = at + offset as usize;
        let mask = 0x80 >> (place % 8);
        if let Some(byte) = coded.get_mut(place / 8) {
            let one = (code.code >> (code.bits - 1 - offset)) & 1 == 1;
            *byte = if one { *byte | mask } else { *byte & !mask };
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in super::super) fn coded(text: &[u8]) -> Vec<u8> {
        encode(text)
    }

    pub(in super::super) fn text_of(coded: &[u8]) -> Vec<u8> {
        decode(coded).unwrap().iter().map(|symbol| symbol.byte).collect()
    }

    /// RFC 7541 §C.4.1, §C.6.1.
    #[test]
    fn the_standards_examples_code_as_it_says() {
        assert_eq!(hex(&encode(b"www.example.com")), "f1e3c2e5f23a6ba0ab90f4ff");
        assert_eq!(
            hex(&encode(b"Mon, 21 Oct 2013 20:13:21 GMT")),
            "d07abe941054d444a8200595040b8166e082a62d1bff"
        );
    }

    #[test]
    fn all_codes_are_prefix_free_and_fill_the_code_space() {
        let space: u64 = CODES
            .iter()
            .map(|code| 1_u64 << (MAX_CODE_BITS - code.bits))
            .sum();
        assert_eq!(space, 1 << MAX_CODE_BITS);
        assert_eq!(
            CODES.last().map(|code| (code.code, code.symbol)),
            Some((0x3fff_ffff, 256))
        );
    }

    #[test]
    fn substitutes_are_safe_and_only_the_documented_bytes_have_none() {
        assert!(SUBSTITUTES.iter().all(|byte| is_safe(*byte)));
        let without: Vec<u8> = (1..128)
            .filter(|byte| !is_safe(*byte) && substitute(*byte).is_none())
            .collect();
        let printable: Vec<u8> = without.iter().copied().filter(u8::is_ascii_graphic).collect();
        assert_eq!(printable, b"#<>\\^`{}");
        assert!((128..=255).all(|byte| substitute(byte).is_none()));
    }

    #[test]
    fn wrong_codes_are_refused() {
        for wrong in [
            &[0xff, 0xff][..],
            &[0xff, 0xff, 0xff, 0xff],
            &[0x00, 0xff, 0xff],
            &[0x18],
        ] {
            assert!(decode(wrong).is_err(), "{wrong:x?}");
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    proptest! {
        #[test]
        fn every_text_survives_its_code(text in proptest::collection::vec(any::<u8>(), 0..60)) {
            prop_assert_eq!(text_of(&encode(&text)), text);
        }

        #[test]
        fn any_bytes_are_mended_or_refused_within_their_length(mut bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let len = bytes.len();
            let decodable = decode(&bytes).is_ok();
            prop_assert_eq!(mend(&mut bytes).is_ok(), decodable);
            prop_assert_eq!(bytes.len(), len);
            prop_assert_eq!(decode(&bytes).is_ok(), decodable);
        }
    }
}
