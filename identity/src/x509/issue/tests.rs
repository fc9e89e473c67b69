//! Issuing: the template, its limits, and that what is issued verifies.

use super::*;
use crate::x509::testing::{NOW, bundle_of, id, issuer, key, request, td};
use crate::x509::{csr, verify_svid};

#[test]
fn a_requested_svid_is_issued_and_verifies() {
    let workload = key("w");
    let asked = csr::create(&workload, Some(&id("spiffe://example.org/w")), &[]).unwrap();
    let checked = csr::check(&asked).unwrap();
    assert_eq!(checked.uris, ["spiffe://example.org/w"]);
    let issuer = issuer("example.org");
    let wanted = request("spiffe://example.org/w", &checked.public_key);
    let svid = issue_svid(&wanted, &issuer).unwrap();
    let leaf = verify_svid(&svid.chain, &bundle_of(&issuer), NOW).unwrap();
    assert_eq!(leaf.spiffe_id, wanted.spiffe_id);
    assert_eq!(leaf.public_key, workload.public_key_spki());
    assert_eq!(leaf.serial, svid.serial);
    assert_eq!(leaf.authority_key_id.as_deref(), Some(issuer.key_id()));
    assert_eq!(issuer.trust_domain(), Some(&td("example.org")));
}
