//! What holds for any bytes that are read as the leaf of an X.509-SVID.

use vouchsafe_identity::SpiffeId;
use vouchsafe_identity::x509::{MAX_CERTIFICATE_BYTES, parse_leaf};

/// Reads any bytes as a leaf.
pub(crate) fn check(data: &[u8]) {
    if let Ok(leaf) = parse_leaf(data) {
        assert!(data.len() <= MAX_CERTIFICATE_BYTES);
        assert_eq!(
            SpiffeId::new(leaf.spiffe_id.as_str()).as_ref(),
            Ok(&leaf.spiffe_id)
        );
        assert!(!leaf.spiffe_id.path().is_empty(), "a workload has a path");
        assert!(!leaf.serial.starts_with("00"));
        let mut longer = data.to_vec();
        longer.push(0);
        assert!(parse_leaf(&longer).is_err(), "no byte may follow");
    }
}
