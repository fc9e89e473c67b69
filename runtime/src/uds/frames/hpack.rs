//! Walks the fields of an HPACK header block (RFC 7541) and mends the values of `:authority` in place.
//! Nothing changes its length, encoded or decoded, so the dynamic tables of both ends keep agreeing.
//! It does not judge the block: what is wrong with other fields is for the HTTP/2 server to say.

use std::ops::Range;

use super::huffman;

const AUTHORITY: &[u8] = b":authority";

/// `:authority` in the static table (RFC 7541 appendix A).
const AUTHORITY_INDEX: usize = 1;

/// First index of the dynamic table (RFC 7541 §2.3.3).
const FIRST_DYNAMIC_INDEX: usize = 62;

/// Continuation bytes of an integer that are still read; more than any length or index needs.
const MAX_INTEGER_CONTINUATIONS: u32 = 4;

/// Stands for each byte that an authority may not hold.
const SUBSTITUTE: u8 = b'-';

/// Why a header block cannot be walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HpackError {
    /// A field goes on beyond the block's end.
    #[error("a header block ends within a field")]
    Truncated,
    /// A number has more digits than any valid one (RFC 7541 §5.1).
    #[error("a header block holds a number that is too large")]
    IntegerTooLarge,
    /// A Huffman-coded `:authority` does not decode (RFC 7541 §5.2).
    #[error("a header block holds a string that is not in Huffman code")]
    Huffman,
}

/// Which entries of the connection's dynamic table are named `:authority`: one bit an entry, the newest
/// lowest. Evictions take the oldest and move no other, so sizes need not be followed; and a table of
/// 4096 bytes holds at most 128 entries (RFC 7541 §4.1).
#[derive(Debug, Default)]
pub(super) struct Names(u128);

impl Names {
    fn insert(&mut self, is_authority: bool) {
        self.0 = (self.0 << 1) | u128::from(is_authority);
    }

    fn is_authority(&self, index: usize) -> bool {
        let age = index
            .checked_sub(FIRST_DYNAMIC_INDEX)
            .and_then(|age| u32::try_from(age).ok());
        index == AUTHORITY_INDEX
            || age
                .and_then(|age| self.0.checked_shr(age))
                .is_some_and(|bits| bits & 1 == 1)
    }
}

/// Mends each `:authority` of a whole header block.
pub(super) fn mend(block: &mut [u8], names: &mut Names) -> Result<(), HpackError> {
    for value in authorities(block, names)? {
        let bytes = block.get_mut(value.range).unwrap_or_default();
        if value.huffman {
            huffman::mend(bytes)?;
        } else if !is_authority(bytes) {
            for byte in bytes.iter_mut().filter(|byte| !is_safe(**byte)) {
                *byte = SUBSTITUTE;
            }
        }
    }
    Ok(())
}

/// Whether the HTTP/2 server takes these bytes for an authority. It asks the same parser.
pub(super) fn is_authority(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| is_safe(*byte)) || http::uri::Authority::try_from(bytes).is_ok()
}

/// Bytes that may stand anywhere in an authority: unreserved and sub-delims of RFC 3986 §2.
pub(super) fn is_safe(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte)
}

/// A string of a header block, as it is coded.
struct Text {
    range: Range<usize>,
    huffman: bool,
}

/// The values of the `:authority` fields of `block`. Follows the dynamic table.
fn authorities(block: &[u8], names: &mut Names) -> Result<Vec<Text>, HpackError> {
    let mut found = Vec::new();
    let mut cursor = Cursor { block, at: 0 };
    while let Some(first) = cursor.next() {
        // RFC 7541 §6: what a field is, its first bits tell.
        let (index, inserts) = if first & 0x80 != 0 {
            cursor.integer(first, 7)?;
            continue;
        } else if first & 0x40 != 0 {
            (cursor.integer(first, 6)?, true)
        } else if first & 0x20 != 0 {
            cursor.integer(first, 5)?;
            continue;
        } else {
            (cursor.integer(first, 4)?, false)
        };
        let is_authority = if index == 0 {
            let name = cursor.string()?;
            let bytes = block.get(name.range).unwrap_or_default();
            if name.huffman {
                bytes == huffman::authority_name()
            } else {
                bytes == AUTHORITY
            }
        } else {
            names.is_authority(index)
        };
        let value = cursor.string()?;
        if inserts {
            names.insert(is_authority);
        }
        if is_authority {
            found.push(value);
        }
    }
    Ok(found)
}

struct Cursor<'a> {
    block: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn next(&mut self) -> Option<u8> {
        let byte = self.block.get(self.at).copied();
        self.at += usize::from(byte.is_some());
        byte
    }

    /// An integer whose prefix is the last `bits` bits of `first` (RFC 7541 §5.1).
    fn integer(&mut self, first: u8, bits: u32) -> Result<usize, HpackError> {
        let mask = (1_usize << bits) - 1;
        let mut value = usize::from(first) & mask;
        if value < mask {
            return Ok(value);
        }
        for digit in 0..MAX_INTEGER_CONTINUATIONS {
            let byte = self.next().ok_or(HpackError::Truncated)?;
            value += usize::from(byte & 0x7f) << (7 * digit);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(HpackError::IntegerTooLarge)
    }

    /// A string literal (RFC 7541 §5.2).
    fn string(&mut self) -> Result<Text, HpackError> {
        let first = self.next().ok_or(HpackError::Truncated)?;
        let len = self.integer(first, 7)?;
        let range = self.at..self.at + len;
        if range.end > self.block.len() {
            return Err(HpackError::Truncated);
        }
        self.at = range.end;
        Ok(Text {
            range,
            huffman: first & 0x80 != 0,
        })
    }
}
