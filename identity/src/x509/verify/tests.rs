//! Chains that must not be believed, then those that must.

use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use time::Duration;

use super::*;
use crate::x509::issue::issue_svid;
use crate::x509::testing::{NOW, authority_params, bundle_of, issuer, key, leaf_params, request, td};
use crate::{Signer, X509Authority};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(params: CertificateParams) -> Authority {
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn below(upper: &Authority, params: CertificateParams) -> Authority {
    CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), upper).unwrap()
}

fn leaf_of(authority: &Authority, params: &CertificateParams) -> Vec<u8> {
    let key = KeyPair::generate().unwrap();
    params.signed_by(&key, authority).unwrap().der().to_vec()
}

fn trusting(trust_domain: &str, roots: &[&[u8]]) -> Bundle {
    let mut bundle = Bundle::empty(td(trust_domain));
    bundle.x509_authorities = roots
        .iter()
        .map(|root| X509Authority {
            certificate: root.to_vec(),
            tainted: false,
        })
        .collect();
    bundle
}

/// An SVID of `spiffe://example.org/w` and the bundle that verifies it.
fn good() -> (Vec<Vec<u8>>, Bundle) {
    let issuer = issuer("example.org");
    let wanted = request("spiffe://example.org/w", key("w").public_key_spki());
    let svid = issue_svid(&wanted, &issuer).unwrap();
    (svid.chain, bundle_of(&issuer))
}

#[test]
fn an_authority_of_another_trust_domain_is_not_believed() {
    let (chain, _) = good();
    let other = bundle_of(&issuer("other.org"));
    assert!(matches!(
        verify_svid(&chain, &other, NOW),
        Err(VerifyError::ForeignTrustDomain { .. })
    ));
    // An authority of other.org that signs a name of example.org.
    let rogue = authority(authority_params("rogue", Some("spiffe://other.org")));
    let forged = leaf_of(&rogue, &leaf_params("spiffe://example.org/w"));
    let bundle = trusting("other.org", &[rogue.der()]);
    assert!(matches!(
        verify_svid(std::slice::from_ref(&forged), &bundle, NOW),
        Err(VerifyError::ForeignTrustDomain { .. })
    ));
    let (_, ours) = good();
    assert!(matches!(
        verify_svid(&[forged], &ours, NOW),
        Err(VerifyError::Untrusted { .. })
    ));
}

#[test]
fn a_root_that_the_peer_sends_itself_is_not_believed() {
    let rogue = authority(authority_params("rogue", Some("spiffe://example.org")));
    let forged = leaf_of(&rogue, &leaf_params("spiffe://example.org/w"));
    let (_, bundle) = good();
    assert!(matches!(
        verify_svid(&[forged, rogue.der().to_vec()], &bundle, NOW),
        Err(VerifyError::Untrusted { .. })
    ));
}

#[test]
fn an_empty_bundle_believes_nobody() {
    let (chain, _) = good();
    assert!(matches!(
        verify_svid(&chain, &trusting("example.org", &[]), NOW),
        Err(VerifyError::NoAuthority(_))
    ));
    assert!(matches!(
        verify_svid(&chain, &trusting("example.org", &[b"junk"]), NOW),
        Err(VerifyError::NoAuthority(_))
    ));
}

#[test]
fn expired_and_early_leaves_are_refused_to_the_second() {
    let (chain, bundle) = good();
    let (from, to) = (NOW - Duration::seconds(10), NOW + Duration::HOUR);
    let judged = |at| verify_svid(&chain, &bundle, at);
    assert!(judged(from).is_ok() && judged(to).is_ok());
    assert!(judged(to + Duration::milliseconds(900)).is_ok());
    assert!(matches!(
        judged(from - Duration::SECOND),
        Err(VerifyError::NotYetValid { not_before, .. }) if not_before == from
    ));
    assert!(matches!(
        judged(to + Duration::SECOND),
        Err(VerifyError::Expired { not_after, .. }) if not_after == to
    ));
    let ancient = OffsetDateTime::UNIX_EPOCH - Duration::DAY;
    assert!(matches!(judged(ancient), Err(VerifyError::NotYetValid { .. })));
}

#[test]
fn an_expired_authority_does_not_vouch() {
    let mut params = authority_params("root", Some("spiffe://example.org"));
    params.not_after = NOW - Duration::SECOND;
    let root = authority(params);
    let leaf = leaf_of(&root, &leaf_params("spiffe://example.org/w"));
    let bundle = trusting("example.org", &[root.der()]);
    assert!(matches!(
        verify_svid(&[leaf], &bundle, NOW),
        Err(VerifyError::NoAuthority(_))
    ));
}

#[test]
fn an_expired_intermediate_does_not_vouch() {
    let root = authority(authority_params("root", Some("spiffe://example.org")));
    let mut params = authority_params("lower", Some("spiffe://example.org"));
    params.not_after = NOW - Duration::SECOND;
    let lower = below(&root, params);
    let leaf = leaf_of(&lower, &leaf_params("spiffe://example.org/w"));
    let bundle = trusting("example.org", &[root.der()]);
    assert!(matches!(
        verify_svid(&[leaf, lower.der().to_vec()], &bundle, NOW),
        Err(VerifyError::Untrusted { .. })
    ));
}

#[test]
fn x509_svid_3_2_signing_certificate_must_not_have_a_path() {
    let root = authority(authority_params("root", Some("spiffe://example.org")));
    let lower = below(&root, authority_params("lower", Some("spiffe://example.org/w")));
    let leaf = leaf_of(&lower, &leaf_params("spiffe://example.org/admin"));
    let bundle = trusting("example.org", &[root.der()]);
    assert!(matches!(
        verify_svid(&[leaf, lower.der().to_vec()], &bundle, NOW),
        Err(VerifyError::SignedByWorkload(id)) if id.path() == "/w"
    ));
}

#[test]
fn x509_svid_3_2_signing_certificate_must_not_authenticate() {
    let issuer = issuer("example.org");
    let chain = [issuer.certificate().to_vec()];
    assert!(matches!(
        verify_svid(&chain, &bundle_of(&issuer), NOW),
        Err(VerifyError::Svid(SvidError::IsCa))
    ));
}

#[test]
fn x509_svid_4_1_a_leaf_must_not_sign_leaves() {
    let root = authority(authority_params("root", Some("spiffe://example.org")));
    let mut params = leaf_params("spiffe://example.org/w");
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "workload");
    let workload = below(&root, params);
    let forged = leaf_of(&workload, &leaf_params("spiffe://example.org/admin"));
    let bundle = trusting("example.org", &[root.der()]);
    assert!(matches!(
        verify_svid(&[forged, workload.der().to_vec()], &bundle, NOW),
        Err(VerifyError::Untrusted { .. })
    ));
}

#[test]
fn x509_svid_5_1_path_length_must_be_obeyed() {
    let limited = |name: &str, limit: u8| {
        let mut params = authority_params(name, Some("spiffe://example.org"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(limit));
        params
    };
    let judged = |root: &Authority, lower: &Authority| {
        let lowest = below(lower, authority_params("lowest", None));
        let leaf = leaf_of(&lowest, &leaf_params("spiffe://example.org/w"));
        let chain = [leaf, lowest.der().to_vec(), lower.der().to_vec()];
        verify_svid(&chain, &trusting("example.org", &[root.der()]), NOW)
    };
    for (at_root, below_it, allowed) in [(2, 1, true), (1, 1, false), (2, 0, false)] {
        let root = authority(limited("root", at_root));
        let lower = below(&root, limited("lower", below_it));
        let judged = judged(&root, &lower);
        assert_eq!(judged.is_ok(), allowed, "{at_root} {below_it}");
        assert!(allowed || matches!(judged, Err(VerifyError::Untrusted { .. })));
    }
}

#[test]
fn x509_svid_5_2_more_than_one_uri_must_be_rejected() {
    let root = authority(authority_params("root", Some("spiffe://example.org")));
    let mut params = leaf_params("spiffe://example.org/w");
    params
        .subject_alt_names
        .push(SanType::URI("spiffe://example.org/x".try_into().unwrap()));
    let bundle = trusting("example.org", &[root.der()]);
    assert!(matches!(
        verify_svid(&[leaf_of(&root, &params)], &bundle, NOW),
        Err(VerifyError::Svid(SvidError::UriNames(2)))
    ));
}

#[test]
fn x509_svid_4_2_ids_outside_the_name_constraints_must_not_be_believed() {
    // NameConstraints: permittedSubtrees with one URI, `foo.org`, in an extension that is critical.
    let subtree = [&[0x30, 13, 0xa0, 11, 0x30, 9, 0x86, 7][..], b"foo.org"].concat();
    let mut extension = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 30], subtree);
    extension.set_criticality(true);
    let mut params = authority_params("lower", Some("spiffe://example.org"));
    params.custom_extensions = vec![extension];
    let root = authority(authority_params("root", Some("spiffe://example.org")));
    let lower = below(&root, params);
    let leaf = leaf_of(&lower, &leaf_params("spiffe://example.org/w"));
    assert!(matches!(
        verify_svid(
            &[leaf, lower.der().to_vec()],
            &trusting("example.org", &[root.der()]),
            NOW
        ),
        Err(VerifyError::Untrusted {
            source: webpki::Error::NameConstraintViolation,
            ..
        })
    ));
}

#[test]
fn a_chain_without_leaf_or_too_long_is_refused() {
    let (mut chain, bundle) = good();
    assert!(matches!(
        verify_svid::<Vec<u8>>(&[], &bundle, NOW),
        Err(VerifyError::NoCertificate)
    ));
    chain.resize(
        MAX_CHAIN_CERTIFICATES + 1,
        bundle.x509_authorities[0].certificate.clone(),
    );
    assert!(matches!(
        verify_svid(&chain, &bundle, NOW),
        Err(VerifyError::ChainTooLong(9))
    ));
    chain.truncate(1);
    chain.push(vec![0; MAX_CERTIFICATE_BYTES + 1]);
    assert!(matches!(
        verify_svid(&chain, &bundle, NOW),
        Err(VerifyError::Svid(SvidError::TooLong(_)))
    ));
}

#[test]
fn x509_svid_3_2_chains_through_intermediates_are_followed() {
    let root = authority(authority_params("root", Some("spiffe://example.org")));
    let middle = below(&root, authority_params("middle", None));
    let lower = below(&middle, authority_params("lower", Some("spiffe://example.org")));
    let leaf = leaf_of(&lower, &leaf_params("spiffe://example.org/w"));
    let bundle = trusting("example.org", &[root.der()]);
    let chain = [leaf.clone(), lower.der().to_vec(), middle.der().to_vec()];
    let info = verify_svid(&chain, &bundle, NOW).unwrap();
    assert_eq!(info.spiffe_id.as_str(), "spiffe://example.org/w");
    let gap = [leaf, lower.der().to_vec()];
    assert!(matches!(
        verify_svid(&gap, &bundle, NOW),
        Err(VerifyError::Untrusted { .. })
    ));
}

#[test]
fn any_authority_of_the_bundle_will_do_during_a_rotation() {
    let (old, new) = (issuer("example.org"), issuer("example.org"));
    let bundle = trusting("example.org", &[old.certificate(), b"junk", new.certificate()]);
    for issuer in [&old, &new] {
        let wanted = request("spiffe://example.org/w", key("w").public_key_spki());
        let svid = issue_svid(&wanted, issuer).unwrap();
        assert!(verify_svid(&svid.chain, &bundle, NOW).is_ok());
    }
}

proptest! {
    #[test]
    fn a_bent_leaf_is_never_believed(at in any::<proptest::sample::Index>(), bit in 0..8u8) {
        let (mut chain, bundle) = good();
        let at = at.index(chain[0].len());
        chain[0][at] ^= 1 << bit;
        prop_assert!(verify_svid(&chain, &bundle, NOW).is_err());
    }
}
