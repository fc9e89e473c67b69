//! Issuing: the template, its limits, and that what is issued verifies.

use time::Duration;

use super::*;
use crate::x509::testing::{BrokenKey, NOW, authority_params, bundle_of, id, issuer, key, request, td};
use crate::x509::{csr, key_id, parse_leaf, verify_svid};
use crate::{Bundle, X509Authority};

#[test]
fn a_requested_svid_is_issued_and_verifies() {
    let workload = key("w");
    let asked = csr::create(&workload, Some(&id("spiffe://example.org/w")), &[]).unwrap();
    let checked = csr::check(&asked).unwrap();
    assert_eq!(checked.uris, ["spiffe://example.org/w"]);
    let issuer = issuer("example.org");
    let wanted = request("spiffe://example.org/w", checked.public_key.spki());
    let svid = issue_svid(&wanted, &issuer).unwrap();
    let leaf = verify_svid(&svid.chain, &bundle_of(&issuer), NOW).unwrap();
    assert_eq!(leaf.spiffe_id, wanted.spiffe_id);
    assert_eq!(leaf.public_key, workload.public_key_spki());
    assert_eq!(leaf.serial, svid.serial);
    assert_eq!(leaf.authority_key_id.as_deref(), Some(issuer.key_id()));
    assert_eq!(issuer.trust_domain(), Some(&td("example.org")));
}

#[test]
fn the_template_is_spires() {
    let issuer = issuer("example.org");
    let workload = key("w");
    let mut wanted = request("spiffe://example.org/w", workload.public_key_spki());
    wanted.dns_names = vec!["w.example.org".to_owned(), "w2.example.org".to_owned()];
    let svid = issue_svid(&wanted, &issuer).unwrap();
    let (_, leaf) = X509Certificate::from_der(&svid.chain[0]).unwrap();
    assert_eq!(leaf.subject().to_string(), "C=US, O=SPIRE, CN=w.example.org");
    let constraints = leaf.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && !constraints.value.ca);
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical);
    // digitalSignature, keyEncipherment and keyAgreement: bits 0, 2 and 4.
    assert_eq!(usage.value.flags, 0b1_0101);
    let purposes = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.server_auth && purposes.client_auth && !purposes.any);
    let mut ids = (None, None);
    for extension in leaf.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => ids.0 = Some(hex::encode(id.0)),
            ParsedExtension::AuthorityKeyIdentifier(aki) => {
                ids.1 = aki.key_identifier.as_ref().map(|id| hex::encode(id.0));
            }
            _ => {}
        }
    }
    assert_eq!(ids.0.unwrap(), key_id(workload.public_key_spki()));
    assert_eq!(ids.1.unwrap(), issuer.key_id());
    assert_eq!(leaf.extensions().len(), 6, "no CRL or OCSP location");
    assert_eq!(parse_leaf(&svid.chain[0]).unwrap().dns_names, wanted.dns_names);
}

#[test]
fn a_common_name_that_is_too_long_is_left_out() {
    let mut wanted = request("spiffe://example.org/w", key("w").public_key_spki());
    wanted.dns_names = vec![format!("{}.{}", "a".repeat(60), "b".repeat(60))];
    let svid = issue_svid(&wanted, &issuer("example.org")).unwrap();
    let (_, leaf) = X509Certificate::from_der(&svid.chain[0]).unwrap();
    assert_eq!(leaf.subject().to_string(), "C=US, O=SPIRE");
}

#[test]
fn an_authority_is_made_by_the_book() {
    let signer = key("ca");
    let serial = [1; 16];
    let (from, to) = (NOW, NOW + Duration::DAY);
    let der = self_signed_ca(&td("example.org"), &signer, from, to, &serial).unwrap();
    let (rest, ca) = X509Certificate::from_der(&der).unwrap();
    assert!(rest.is_empty());
    assert!(ca.verify_signature(None).is_ok());
    assert_eq!(ca.subject().as_raw(), ca.issuer().as_raw());
    assert_eq!(
        ca.subject().to_string(),
        format!("C=US, O=SPIFFE, serialNumber={}", u128::from_be_bytes(serial))
    );
    assert!(ca.basic_constraints().unwrap().unwrap().value.ca);
    let usage = ca.key_usage().unwrap().unwrap();
    // keyCertSign and cRLSign: bits 5 and 6.
    assert!(usage.critical && usage.value.flags == 0b110_0000);
    let names = ca.subject_alternative_name().unwrap().unwrap();
    assert_eq!(
        names.value.general_names,
        [GeneralName::URI("spiffe://example.org")]
    );
    assert_eq!(ca.validity().not_after.to_datetime(), to);
}

#[test]
fn an_svid_never_outlives_its_authority() {
    let issuer = issuer("example.org");
    let mut wanted = request("spiffe://example.org/w", key("w").public_key_spki());
    wanted.not_after = issuer.not_after() + Duration::DAY;
    let svid = issue_svid(&wanted, &issuer).unwrap();
    assert_eq!(svid.not_after, issuer.not_after());
    assert_eq!(parse_leaf(&svid.chain[0]).unwrap().not_after, issuer.not_after());

    wanted.not_before = issuer.not_after();
    assert!(matches!(
        issue_svid(&wanted, &issuer),
        Err(IssueError::Validity { .. })
    ));
}

#[test]
fn dates_that_make_no_certificate_are_refused() {
    let issuer = issuer("example.org");
    let mut wanted = request("spiffe://example.org/w", key("w").public_key_spki());
    for (from, to) in [
        (NOW, NOW),
        (NOW, NOW + Duration::milliseconds(900)),
        (NOW, NOW - Duration::HOUR),
        (OffsetDateTime::UNIX_EPOCH - Duration::SECOND, NOW),
    ] {
        (wanted.not_before, wanted.not_after) = (from, to);
        assert!(matches!(
            issue_svid(&wanted, &issuer),
            Err(IssueError::Validity { .. })
        ));
    }
}

#[test]
fn fractions_of_a_second_are_cut_off_and_reported_so() {
    let mut wanted = request("spiffe://example.org/w", key("w").public_key_spki());
    wanted.not_before += Duration::milliseconds(400);
    wanted.not_after += Duration::milliseconds(900);
    let svid = issue_svid(&wanted, &issuer("example.org")).unwrap();
    let leaf = parse_leaf(&svid.chain[0]).unwrap();
    assert_eq!(
        (leaf.not_before, leaf.not_after),
        (svid.not_before, svid.not_after)
    );
}

#[test]
fn x509_svid_3_1_leaf_without_path_is_not_issued() {
    let wanted = request("spiffe://example.org", key("w").public_key_spki());
    assert!(matches!(
        issue_svid(&wanted, &issuer("example.org")),
        Err(IssueError::NoPath(_))
    ));
}

#[test]
fn ids_of_other_trust_domains_are_not_issued() {
    for uri in ["spiffe://other.org/w", "spiffe://example.org.evil/w"] {
        assert!(matches!(
            issue_svid(&request(uri, key("w").public_key_spki()), &issuer("example.org")),
            Err(IssueError::ForeignTrustDomain { .. })
        ));
    }
}

#[test]
fn bad_names_and_zero_serials_are_not_issued() {
    let issuer = issuer("example.org");
    let good = request("spiffe://example.org/w", key("w").public_key_spki());
    let spoilt = |spoil: &dyn Fn(&mut SvidRequest)| {
        let mut wanted = good.clone();
        spoil(&mut wanted);
        issue_svid(&wanted, &issuer).unwrap_err()
    };
    assert!(matches!(
        spoilt(&|wanted| wanted.dns_names = vec!["a b".to_owned()]),
        IssueError::DnsName(_)
    ));
    assert!(matches!(
        spoilt(&|wanted| wanted.serial = [0; 16]),
        IssueError::ZeroSerial
    ));
}

#[test]
fn keys_of_every_kind_are_certified_as_they_are() {
    let issuer = issuer("example.org");
    for der in [
        include_bytes!("../../../tests/data/csr/p256-sha384.der").as_slice(),
        include_bytes!("../../../tests/data/csr/p384.der"),
        include_bytes!("../../../tests/data/csr/ed25519.der"),
        include_bytes!("../../../tests/data/csr/rsa2048.der"),
        include_bytes!("../../../tests/data/csr/rsa4096.der"),
    ] {
        let asked = csr::check(der).unwrap();
        let svid = issue_svid(
            &request("spiffe://example.org/w", asked.public_key.spki()),
            &issuer,
        )
        .unwrap();
        let leaf = verify_svid(&svid.chain, &bundle_of(&issuer), NOW).unwrap();
        assert_eq!(leaf.public_key, asked.public_key.spki());
    }
}

#[test]
fn the_upstream_chain_follows_the_leaf() {
    let root_key = rcgen::KeyPair::generate().unwrap();
    let root =
        rcgen::CertifiedIssuer::self_signed(authority_params("root", Some("spiffe://example.org")), root_key)
            .unwrap();
    let lower_key = key("lower");
    let spki = SubjectPublicKeyInfo::from_der(lower_key.public_key_spki()).unwrap();
    let lower = authority_params("lower", Some("spiffe://example.org"))
        .signed_by(&spki, &root)
        .unwrap();
    let issuer = Issuer::new(lower.der(), Arc::new(lower_key))
        .unwrap()
        .with_upstream_chain(vec![lower.der().to_vec()]);
    let svid = issue_svid(
        &request("spiffe://example.org/w", key("w").public_key_spki()),
        &issuer,
    )
    .unwrap();
    assert_eq!(svid.chain.len(), 2);
    let mut bundle = Bundle::empty(td("example.org"));
    bundle.x509_authorities.push(X509Authority {
        certificate: root.der().to_vec(),
        tainted: false,
    });
    assert!(verify_svid(&svid.chain, &bundle, NOW).is_ok());
}

#[test]
fn an_authority_with_another_key_is_refused() {
    let certificate = issuer("example.org").certificate().to_vec();
    assert!(matches!(
        Issuer::new(&certificate, Arc::new(key("stranger"))),
        Err(IssueError::KeyMismatch { key_id }) if key_id == "stranger"
    ));
}

/// An issuer of the certificate that the parameters describe, with the right key.
fn issuer_of(params: &CertificateParams) -> Result<Issuer, IssueError> {
    let signer = key("ca");
    let remote = RemoteKey::new(&signer);
    let certificate = params.self_signed(&remote).unwrap();
    Issuer::new(certificate.der(), Arc::new(signer))
}

#[test]
fn certificates_that_may_not_sign_make_no_issuer() {
    let good = authority_params("ca", Some("spiffe://example.org"));
    assert!(issuer_of(&good).is_ok());
    let mut no_ca = good.clone();
    no_ca.is_ca = IsCa::ExplicitNoCa;
    let mut no_usage = good.clone();
    no_usage.key_usages = vec![KeyUsagePurpose::CrlSign];
    let path = authority_params("ca", Some("spiffe://example.org/w"));
    for params in [no_ca, no_usage, path] {
        assert!(matches!(issuer_of(&params), Err(IssueError::NotAnAuthority(_))));
    }
    assert!(matches!(
        issuer_of(&authority_params("ca", Some("https://example.org"))),
        Err(IssueError::AuthorityId(_))
    ));
    let signer: Arc<dyn Signer> = Arc::new(key("ca"));
    for der in [b"".as_slice(), b"\x30\x00", &[0x30; MAX_CERTIFICATE_BYTES + 1]] {
        assert!(matches!(
            Issuer::new(der, Arc::clone(&signer)),
            Err(IssueError::MalformedAuthority(_))
        ));
    }
}

#[test]
fn an_authority_outside_spiffe_has_no_trust_domain_and_may_issue() {
    let issuer = issuer_of(&authority_params("company root", None)).unwrap();
    assert_eq!(issuer.trust_domain(), None);
    let wanted = request("spiffe://example.org/w", key("w").public_key_spki());
    assert!(issue_svid(&wanted, &issuer).is_ok());
}

#[test]
fn a_subject_that_cannot_be_repeated_makes_no_issuer() {
    let mut params = authority_params("ca", Some("spiffe://example.org"));
    params.distinguished_name.push(
        DnType::OrganizationName,
        DnValue::TeletexString("old".try_into().unwrap()),
    );
    assert!(matches!(issuer_of(&params), Err(IssueError::SubjectName(_))));
}

#[test]
fn a_key_that_does_not_sign_says_why() {
    let failed = |error: IssueError| match error {
        IssueError::Sign(error) => error.reason,
        other => panic!("{other:?}"),
    };
    let broken = BrokenKey::new();
    let (from, to) = (NOW, NOW + Duration::DAY);
    let made = self_signed_ca(&td("example.org"), &broken, from, to, &[1; 16]);
    assert_eq!(failed(made.unwrap_err()), "the token was pulled out");
    let spki = SubjectPublicKeyInfo::from_der(broken.public_key_spki()).unwrap();
    let upper = rcgen::KeyPair::generate().unwrap();
    let upper = rcgen::CertifiedIssuer::self_signed(authority_params("root", None), upper).unwrap();
    let certificate = authority_params("lower", Some("spiffe://example.org"))
        .signed_by(&spki, &upper)
        .unwrap();
    let made = Issuer::new(certificate.der(), Arc::new(broken));
    assert_eq!(failed(made.unwrap_err()), "the token was pulled out");
}
