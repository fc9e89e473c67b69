//! What holds for any bytes that are read as a certificate request.

use vouchsafe_identity::public_key;
use vouchsafe_identity::x509::csr;

/// Checks any bytes as a request.
pub(crate) fn check(data: &[u8]) {
    if let Ok(checked) = csr::check(data) {
        assert!(data.len() <= csr::MAX_CSR_BYTES);
        let key = &checked.public_key;
        assert_eq!(public_key::check(key.spki()), Ok(key.kind()));
        assert!(checked.dns_names.iter().all(|name| name.is_ascii()));
        let mut longer = data.to_vec();
        longer.push(0);
        assert!(csr::check(&longer).is_err(), "no byte may follow");
    }
}
