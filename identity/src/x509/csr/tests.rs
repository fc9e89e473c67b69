//! Requests of each wrong kind, made by OpenSSL (`tests/data/make`) or bent here; then the right ones.

use proptest::prelude::*;

use super::*;
use crate::x509::testing::{id, key};

macro_rules! made_by_openssl {
    ($name:literal) => {
        include_bytes!(concat!("../../../tests/data/csr/", $name, ".der")).as_slice()
    };
}

fn key_refused(der: &[u8]) -> PublicKeyError {
    match check(der) {
        Err(CsrError::Key(error)) => error,
        other => panic!("{other:?}"),
    }
}

/// A DER value: tag, shortest length, content.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let len = u16::try_from(content.len()).unwrap().to_be_bytes();
    let header = match len {
        [0, short] if short < 0x80 => vec![tag, short],
        [0, middle] => vec![tag, 0x81, middle],
        [high, low] => vec![tag, 0x82, high, low],
    };
    [&header, content].concat()
}

/// The three parts of a request, each with its header.
fn parts(der: &[u8]) -> [Vec<u8>; 3] {
    let outer = fields_of_one(SEQUENCE, der).unwrap();
    [outer[0], outer[1], outer[2]].map(|part| tlv(part.tag, part.content))
}

#[test]
fn bytes_that_are_no_request_are_malformed() {
    let certificate = crate::x509::testing::issuer("example.org");
    for der in [&[][..], b"\x30\x00", b"-----BEGIN", certificate.certificate()] {
        assert!(matches!(check(der), Err(CsrError::Malformed(_))), "{der:?}");
    }
    assert_eq!(
        check(&vec![0x30; MAX_CSR_BYTES + 1]),
        Err(CsrError::TooLong(MAX_CSR_BYTES + 1))
    );
}

#[test]
fn bytes_behind_the_request_are_refused() {
    let mut der = made_by_openssl!("p256").to_vec();
    der.push(0);
    assert_eq!(check(&der), Err(CsrError::ExtraBytes));
    let twice = [made_by_openssl!("p256"), made_by_openssl!("p256")].concat();
    assert_eq!(check(&twice), Err(CsrError::ExtraBytes));
}

#[test]
fn bytes_within_the_request_are_refused() {
    let der = made_by_openssl!("p256");
    let null = [0x05, 0x00];
    let [info, algorithm, signature] = parts(der);
    let same = [info.clone(), algorithm.clone(), signature.clone()].concat();
    assert_eq!(tlv(0x30, &same), der);
    assert_eq!(
        check(&tlv(0x30, &[same.as_slice(), &null].concat())),
        Err(CsrError::ExtraBytes)
    );
    let fields = &info[info.len() - fields_of_one(SEQUENCE, der).unwrap()[0].content.len()..];
    let fat = tlv(0x30, &[fields, &null].concat());
    assert!(matches!(
        check(&tlv(0x30, &[fat, algorithm, signature].concat())),
        Err(CsrError::Malformed(_))
    ));
}

#[test]
fn bytes_beside_the_list_of_extensions_are_refused() {
    // A request signed by us whose attribute holds a second list, which asks for a CA.
    let list = tlv(0x30, &tlv(0x30, &[0x06, 0x03, 0x55, 0x1d, 0x0e, 0x04, 0x00]));
    let oid = [0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 14];
    let set = tlv(0x31, &[list.clone(), list].concat());
    let attributes = tlv(0xa0, &tlv(0x30, &[oid.as_slice(), &set].concat()));
    assert_eq!(check(&signed(&attributes)), Err(CsrError::ExtraBytes));
}

#[test]
fn extensions_asked_for_twice_are_refused() {
    let oid = [0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 14];
    let key_id = tlv(0x30, &[0x06, 0x03, 0x55, 0x1d, 0x0e, 0x04, 0x02, 0x04, 0x00]);
    let attribute = |extensions: &[u8]| {
        let set = tlv(0x31, &tlv(0x30, extensions));
        tlv(0x30, &[oid.as_slice(), &set].concat())
    };
    let one = attribute(&key_id);
    assert!(check(&signed(&tlv(0xa0, &one))).is_ok());
    let two_attributes = tlv(0xa0, &[one.clone(), one].concat());
    let repeated = tlv(0xa0, &attribute(&[key_id.clone(), key_id].concat()));
    for attributes in [two_attributes, repeated] {
        assert!(matches!(
            check(&signed(&attributes)),
            Err(CsrError::Malformed(text)) if text.contains("twice")
        ));
    }
}

/// A request with these attributes and a signature that verifies.
fn signed(attributes: &[u8]) -> Vec<u8> {
    let key = key("w");
    let info = tlv(
        0x30,
        &[&[2, 1, 0, 0x30, 0], key.public_key_spki(), attributes].concat(),
    );
    let algorithm = tlv(0x30, &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]);
    let signature = [vec![0], key.sign(&info).unwrap()].concat();
    tlv(0x30, &[info, algorithm, tlv(0x03, &signature)].concat())
}

#[test]
fn a_signature_by_another_key_is_refused() {
    let (mine, other) = (key("mine"), key("other"));
    let der = create(&mine, None, &[]).unwrap();
    let at = der
        .windows(mine.public_key_spki().len())
        .position(|window| window == mine.public_key_spki())
        .unwrap();
    let mut stolen = der.clone();
    stolen[at..at + other.public_key_spki().len()].copy_from_slice(other.public_key_spki());
    assert_eq!(check(&stolen), Err(CsrError::Signature));
    assert!(check(&der).is_ok());
}

#[test]
fn a_flipped_bit_anywhere_is_refused() {
    let der = made_by_openssl!("p256");
    let good = check(der).unwrap();
    for at in 0..der.len() {
        for bit in 0..8 {
            let mut bent = der.to_vec();
            bent[at] ^= 1 << bit;
            assert!(check(&bent) != Ok(good.clone()), "byte {at} bit {bit}");
            assert!(check(&bent).is_err(), "byte {at} bit {bit}");
        }
    }
}

#[test]
fn weak_rsa_keys_are_refused() {
    assert_eq!(
        key_refused(made_by_openssl!("rsa1024")),
        PublicKeyError::RsaSize(1024)
    );
    assert_eq!(
        key_refused(made_by_openssl!("rsa-e3")),
        PublicKeyError::RsaExponent(3)
    );
    assert_eq!(
        key_refused(made_by_openssl!("rsa5120")),
        PublicKeyError::RsaSize(5120)
    );
}

#[test]
fn keys_of_other_kinds_are_refused() {
    for der in [
        made_by_openssl!("p521"),
        made_by_openssl!("secp256k1"),
        made_by_openssl!("ed448"),
        made_by_openssl!("rsa-pss-key"),
    ] {
        assert!(matches!(key_refused(der), PublicKeyError::Unsupported(_)));
    }
    for der in [
        made_by_openssl!("p256-compressed"),
        made_by_openssl!("p256-explicit"),
    ] {
        assert_eq!(key_refused(der), PublicKeyError::Malformed);
    }
}

#[test]
fn sha1_and_unknown_signatures_are_refused() {
    for der in [made_by_openssl!("rsa2048-sha1"), made_by_openssl!("p256-sha512")] {
        assert!(matches!(check(der), Err(CsrError::SignatureAlgorithm(_))));
    }
}

#[test]
fn a_request_for_a_ca_is_refused() {
    assert_eq!(check(made_by_openssl!("ca")), Err(CsrError::CaRequested));
    for der in [made_by_openssl!("key-cert-sign"), made_by_openssl!("crl-sign")] {
        assert_eq!(check(der), Err(CsrError::SigningUsageRequested));
    }
}

#[test]
fn names_that_would_not_be_issued_are_refused() {
    for (der, kind) in [
        (made_by_openssl!("ip-name"), "IP address"),
        (made_by_openssl!("email-name"), "email"),
        (made_by_openssl!("other-name"), "other name"),
    ] {
        assert_eq!(check(der), Err(CsrError::NameKind(kind)));
    }
    assert!(matches!(
        check(made_by_openssl!("bad-dns")),
        Err(CsrError::DnsName(DnsNameError::Label(_)))
    ));
}

#[test]
fn a_p256_key_signed_with_sha384_stays_a_p256_key() {
    let checked = check(made_by_openssl!("p256-sha384")).unwrap();
    assert_eq!(checked.public_key.kind(), PublicKeyKind::EcP256);
    assert_eq!(
        checked.public_key,
        check(made_by_openssl!("p256")).unwrap().public_key
    );
}

#[test]
fn requests_of_other_implementations_are_taken() {
    for (der, kind) in [
        (made_by_openssl!("p256"), PublicKeyKind::EcP256),
        (made_by_openssl!("p384"), PublicKeyKind::EcP384),
        (made_by_openssl!("ed25519"), PublicKeyKind::Ed25519),
        (made_by_openssl!("rsa2048"), PublicKeyKind::Rsa),
    ] {
        let checked = check(der).unwrap();
        assert_eq!(checked.public_key.kind(), kind);
        assert_eq!(checked.uris, ["spiffe://example.org/w"]);
        assert_eq!(checked.dns_names, ["w.example.org"]);
    }
    for der in [
        made_by_openssl!("no-names"),
        made_by_openssl!("not-ca"),
        made_by_openssl!("rsa4096"),
        made_by_openssl!("rsa2048-pss-signature"),
    ] {
        let checked = check(der).unwrap();
        assert_eq!((checked.uris.len(), checked.dns_names.len()), (0, 0));
    }
    let unknown = check(made_by_openssl!("unknown-extension")).unwrap();
    assert_eq!(unknown.uris, ["spiffe://example.org/w"]);
}

#[test]
fn the_names_asked_for_are_shown_as_they_stand() {
    let foreign = check(made_by_openssl!("foreign-id")).unwrap();
    assert_eq!(foreign.uris, ["spiffe://other.org/w"]);
    let two = check(made_by_openssl!("two-ids")).unwrap();
    assert_eq!(two.uris, ["spiffe://example.org/a", "spiffe://example.org/b"]);
}

#[test]
fn what_we_create_passes_our_check() {
    let key = key("w");
    let dns = ["w.example.org".to_owned(), "*.w.example.org".to_owned()];
    let der = create(&key, Some(&id("spiffe://example.org/w")), &dns).unwrap();
    let checked = check(&der).unwrap();
    assert_eq!(checked.public_key.spki(), key.public_key_spki());
    assert_eq!(checked.uris, ["spiffe://example.org/w"]);
    assert_eq!(checked.dns_names, dns);
    let bare = check(&create(&key, None, &[]).unwrap()).unwrap();
    assert!(bare.uris.is_empty() && bare.dns_names.is_empty());
    assert!(matches!(
        create(&key, None, &["a..b".to_owned()]),
        Err(CreateCsrError::DnsName(_))
    ));
}

#[test]
fn a_key_that_does_not_sign_says_why() {
    let error = create(&crate::x509::testing::BrokenKey::new(), None, &[]).unwrap_err();
    match error {
        CreateCsrError::Sign(error) => assert_eq!(error.reason, "the token was pulled out"),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(check(&bytes).is_err());
    }

    #[test]
    fn bent_requests_never_panic(
        at in any::<proptest::sample::Index>(), with in proptest::collection::vec(any::<u8>(), 0..8)
    ) {
        let mut der = made_by_openssl!("unknown-extension").to_vec();
        let at = at.index(der.len());
        der.splice(at..at, with.iter().copied());
        prop_assert_eq!(check(&der).is_ok(), with.is_empty());
    }
}
