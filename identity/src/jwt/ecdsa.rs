//! From the signature encoding of X.509 to the one of JWS (RFC 7518 §3.4): r and s side by side.

use x509_parser::asn1_rs::{FromDer, Integer, Sequence};

/// Bytes of each half of a P-256 signature.
const P256_HALF: usize = 32;

/// An ASN.1 `Ecdsa-Sig-Value` as 64 bytes, or nothing when it is not one of P-256.
pub(super) fn to_fixed_p256(der: &[u8]) -> Option<Vec<u8>> {
    let (rest, sequence) = Sequence::from_der(der).ok()?;
    if !rest.is_empty() {
        return None;
    }
    let (after_r, r) = Integer::from_der(&sequence.content).ok()?;
    let (after_s, s) = Integer::from_der(after_r).ok()?;
    if !after_s.is_empty() {
        return None;
    }
    let mut fixed = Vec::with_capacity(2 * P256_HALF);
    for half in [&r, &s] {
        let bytes = unsigned(half)?;
        let padding = P256_HALF.checked_sub(bytes.len())?;
        fixed.resize(fixed.len() + padding, 0);
        fixed.extend_from_slice(bytes);
    }
    Some(fixed)
}

/// The bytes of a number without leading zeros, or nothing when it is negative.
fn unsigned<'a>(integer: &'a Integer<'_>) -> Option<&'a [u8]> {
    let bytes = integer.as_ref();
    let is_negative = bytes.first().is_none_or(|first| first & 0x80 != 0);
    let start = bytes.iter().position(|byte| *byte != 0)?;
    bytes.get(start..).filter(|_| !is_negative)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_halves_are_padded_and_long_ones_refused() {
        let fixed = to_fixed_p256(&[0x30, 0x06, 0x02, 0x01, 0x01, 0x02, 0x01, 0x02]).unwrap();
        assert_eq!(fixed.len(), 64);
        assert_eq!((fixed[31], fixed[63]), (1, 2));
        assert_eq!(fixed.iter().filter(|byte| **byte != 0).count(), 2);

        let mut long = vec![0x30, 0x26, 0x02, 0x21];
        long.extend([1; 33]);
        long.extend([0x02, 0x01, 0x01]);
        assert_eq!(to_fixed_p256(&long), None);
    }

    #[test]
    fn negative_numbers_and_extra_bytes_are_refused() {
        assert_eq!(
            to_fixed_p256(&[0x30, 0x06, 0x02, 0x01, 0x81, 0x02, 0x01, 0x02]),
            None
        );
        assert_eq!(
            to_fixed_p256(&[0x30, 0x06, 0x02, 0x01, 0x01, 0x02, 0x01, 0x02, 0x00]),
            None
        );
        assert_eq!(
            to_fixed_p256(&[0x30, 0x07, 0x02, 0x01, 0x01, 0x02, 0x01, 0x02, 0x00]),
            None
        );
    }
}
