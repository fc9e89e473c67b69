//! Leaves of each wrong kind: a rule of X509-SVID broken at a time.

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

use super::*;
use crate::x509::testing::{issuer, leaf_params, request};

const KEY_USAGE: [u64; 4] = [2, 5, 29, 15];
const ALT_NAMES: [u64; 4] = [2, 5, 29, 17];

/// The leaf that the parameters describe, signed by its own key: nothing here looks at signatures.
fn leaf(params: &CertificateParams) -> Vec<u8> {
    params
        .self_signed(&KeyPair::generate().unwrap())
        .unwrap()
        .der()
        .to_vec()
}

/// What is said of a good leaf after it was spoilt.
fn spoilt(spoil: impl FnOnce(&mut CertificateParams)) -> SvidError {
    let mut params = leaf_params("spiffe://example.org/w");
    spoil(&mut params);
    parse_leaf(&leaf(&params)).unwrap_err()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

#[test]
fn a_leaf_by_the_book_is_read() {
    let mut params = leaf_params("spiffe://example.org/w");
    params
        .subject_alt_names
        .push(SanType::DnsName("w.example.org".try_into().unwrap()));
    params
        .subject_alt_names
        .push(SanType::IpAddress("10.0.0.1".parse().unwrap()));
    params.serial_number = Some(vec![0xab, 0xcd].into());
    let info = parse_leaf(&leaf(&params)).unwrap();
    assert_eq!(info.spiffe_id.as_str(), "spiffe://example.org/w");
    assert_eq!(info.dns_names, ["w.example.org"]);
    assert_eq!(info.serial, "abcd");
    assert_eq!(info.authority_key_id, None);
    assert_eq!(
        (info.not_before, info.not_after),
        (params.not_before, params.not_after)
    );
}

#[test]
fn x509_svid_2_must_have_exactly_one_uri_san() {
    assert_eq!(
        spoilt(|params| params.subject_alt_names.clear()),
        SvidError::UriNames(0)
    );
    assert_eq!(
        spoilt(|params| params.subject_alt_names.push(uri("spiffe://example.org/other"))),
        SvidError::UriNames(2)
    );
    assert_eq!(
        spoilt(|params| params.subject_alt_names.push(uri("https://example.org"))),
        SvidError::UriNames(2)
    );
    assert_eq!(
        spoilt(|params| params.subject_alt_names.push(uri("spiffe://example.org/w"))),
        SvidError::UriNames(2)
    );
}

#[test]
fn x509_svid_3_1_leaf_id_must_have_a_path() {
    assert!(matches!(
        spoilt(|params| params.subject_alt_names = vec![uri("spiffe://example.org")]),
        SvidError::NoPath(id) if id.as_str() == "spiffe://example.org"
    ));
    assert!(matches!(
        spoilt(|params| params.subject_alt_names = vec![uri("spiffe://example.org/")]),
        SvidError::Id(_)
    ));
}

#[test]
fn x509_svid_3_1_uri_san_must_be_critical_without_subject() {
    // SAN: one URI, `spiffe://a/b`, in an extension that is not critical.
    let names = [&[0x30, 14, 0x86, 12][..], b"spiffe://a/b"].concat();
    let mut params = leaf_params("spiffe://a/b");
    params.subject_alt_names.clear();
    let mut extension = CustomExtension::from_oid_content(&ALT_NAMES, names);
    params.custom_extensions = vec![extension.clone()];
    assert_eq!(parse_leaf(&leaf(&params)), Err(SvidError::NamesNotCritical));
    extension.set_criticality(true);
    params.custom_extensions = vec![extension];
    assert!(parse_leaf(&leaf(&params)).is_ok());
}

#[test]
fn x509_svid_4_1_leaf_must_not_set_ca() {
    assert_eq!(
        spoilt(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        SvidError::IsCa
    );
    assert_eq!(
        parse_leaf(issuer("example.org").certificate()),
        Err(SvidError::IsCa)
    );
}

#[test]
fn x509_svid_4_3_key_usage_must_be_set_and_critical() {
    assert_eq!(spoilt(|params| params.key_usages.clear()), SvidError::NoKeyUsage);
    let digital_signature = vec![0x03, 2, 7, 0x80];
    let mut extension = CustomExtension::from_oid_content(&KEY_USAGE, digital_signature);
    let not_critical = extension.clone();
    assert_eq!(
        spoilt(|params| {
            params.key_usages.clear();
            params.custom_extensions = vec![not_critical];
        }),
        SvidError::NoKeyUsage
    );
    extension.set_criticality(true);
    let mut params = leaf_params("spiffe://example.org/w");
    params.key_usages.clear();
    params.custom_extensions = vec![extension];
    assert!(parse_leaf(&leaf(&params)).is_ok());
}

#[test]
fn x509_svid_4_3_leaf_must_set_digital_signature() {
    assert_eq!(
        spoilt(|params| params.key_usages = vec![KeyUsagePurpose::KeyAgreement]),
        SvidError::NoDigitalSignature
    );
}

#[test]
fn x509_svid_4_3_leaf_must_not_set_key_cert_sign_or_crl_sign() {
    for usage in [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign] {
        assert_eq!(
            spoilt(|params| params.key_usages.push(usage)),
            SvidError::SigningUsage
        );
    }
}

#[test]
fn x509_svid_4_4_extended_key_usage_must_have_both_purposes_when_included() {
    for purposes in [
        vec![ExtendedKeyUsagePurpose::ServerAuth],
        vec![ExtendedKeyUsagePurpose::ClientAuth],
        vec![ExtendedKeyUsagePurpose::Any],
        vec![ExtendedKeyUsagePurpose::CodeSigning],
    ] {
        assert_eq!(
            spoilt(|params| params.extended_key_usages = purposes),
            SvidError::ExtendedKeyUsage
        );
    }
    let mut params = leaf_params("spiffe://example.org/w");
    params.extended_key_usages.clear();
    assert!(parse_leaf(&leaf(&params)).is_ok());
}

#[test]
fn x509_svid_5_2_scheme_must_be_spiffe() {
    assert!(matches!(
        spoilt(|params| params.subject_alt_names = vec![uri("https://example.org/w")]),
        SvidError::Id(SpiffeIdError::Scheme(_))
    ));
    assert!(matches!(
        spoilt(|params| params.subject_alt_names = vec![uri("spiffe://example.org/%77")]),
        SvidError::Id(SpiffeIdError::PathChar { .. })
    ));
}

#[test]
fn extensions_that_stand_twice_are_refused() {
    let digital_signature = vec![0x03, 2, 7, 0x80];
    let mut again = CustomExtension::from_oid_content(&KEY_USAGE, digital_signature);
    again.set_criticality(true);
    assert!(matches!(
        spoilt(|params| params.custom_extensions = vec![again]),
        SvidError::Malformed(_)
    ));
}

#[test]
fn extensions_that_cannot_be_read_are_refused() {
    let broken = CustomExtension::from_oid_content(&KEY_USAGE, vec![0x04, 0]);
    assert!(matches!(
        spoilt(|params| {
            params.key_usages.clear();
            params.custom_extensions = vec![broken];
        }),
        SvidError::Malformed(_)
    ));
}

#[test]
fn what_is_no_certificate_is_refused() {
    let mut extra = leaf(&leaf_params("spiffe://example.org/w"));
    extra.push(0);
    assert_eq!(parse_leaf(&extra), Err(SvidError::ExtraBytes));
    assert!(matches!(parse_leaf(b""), Err(SvidError::Malformed(_))));
    assert_eq!(
        parse_leaf(&vec![0x30; MAX_CERTIFICATE_BYTES + 1]),
        Err(SvidError::TooLong(MAX_CERTIFICATE_BYTES + 1))
    );
}

#[test]
fn a_serial_reads_as_it_was_issued() {
    let issuer = issuer("example.org");
    let key = crate::x509::testing::key("w");
    let mut wanted = request("spiffe://example.org/w", crate::Signer::public_key_spki(&key));
    for (serial, text) in [
        ([0xff; 16], "ff".repeat(16)),
        ([0x7f; 16], "7f".repeat(16)),
        (
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 1],
            "8001".to_owned(),
        ),
    ] {
        wanted.serial = serial;
        let svid = super::super::issue::issue_svid(&wanted, &issuer).unwrap();
        assert_eq!(svid.serial, text);
        assert_eq!(parse_leaf(&svid.chain[0]).unwrap().serial, text);
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(parse_leaf(&bytes).is_err());
    }

    #[test]
    fn bent_leaves_keep_the_rules(
        at in any::<proptest::sample::Index>(), with in any::<u8>()
    ) {
        let mut der = leaf(&leaf_params("spiffe://example.org/w"));
        let at = at.index(der.len());
        der[at] = with;
        if let Ok(info) = parse_leaf(&der) {
            prop_assert!(!info.spiffe_id.path().is_empty());
            prop_assert_eq!(SpiffeId::new(info.spiffe_id.as_str()).unwrap(), info.spiffe_id);
        }
    }
}
