//! The logic of the fuzz targets over random input, so that it runs with the other tests (tests/fuzz runs it longer).

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test helper that fails is a test that fails"
)]

#[path = "invariants/sealed.rs"]
mod sealed;

use proptest::prelude::*;
use vouchsafe_agent::entry::{Entry, EntryVersion};
use vouchsafe_agent::sealed::record::{Batch, Change};
use vouchsafe_identity::{Bundle, TrustDomain, X509Authority};

/// A batch that is sound, as bytes.
fn batch(name: &str, hint: &str, bytes: &[u8]) -> Vec<u8> {
    let entry = Entry {
        id: name.into(),
        version: EntryVersion {
            revision: 3,
            created_at: 4,
        },
        spiffe_id: format!("spiffe://example.org/{name}").parse().unwrap(),
        selectors: std::iter::once("unix:uid:1".parse().unwrap()).collect(),
        federates_with: vec![TrustDomain::new("far.example").unwrap()],
        hint: hint.to_owned(),
        store_svid: false,
        prefetch: true,
        single_jwt: false,
    };
    let mut bundle = Bundle::empty(TrustDomain::new("example.org").unwrap());
    bundle.x509_authorities.push(X509Authority {
        certificate: bytes.to_vec(),
        tainted: true,
    });
    let batch = Batch {
        changes: vec![Change::entry(&entry), Change::bundle(&bundle)],
        last: true,
    };
    batch.to_bytes().to_vec()
}

proptest! {
    #[test]
    fn sealed_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        sealed::check(&bytes);
    }

    #[test]
    fn sealed_batches(name in "[a-z]{1,9}", hint in ".{0,9}", bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        sealed::check(&batch(&name, &hint, &bytes));
    }

    #[test]
    fn sealed_batches_with_a_byte_that_differs(name in "[a-z]{1,9}", at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = batch(&name, "", &[1, 2, 3]);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        sealed::check(&bytes);
    }
}
