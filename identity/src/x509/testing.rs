//! What the tests of this package share: a trust domain with an authority and keys, at a fixed time.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType,
};
use time::macros::datetime;
use time::{Duration, OffsetDateTime};

use super::issue::{Issuer, SvidRequest, self_signed_ca};
use crate::public_key::CheckedKey;
use crate::{
    Bundle, JwtAuthority, KeyAlgorithm, LocalKey, SignError, Signer, SpiffeId, TrustDomain, X509Authority,
    random_serial,
};

/// The time at which all tests take place.
pub(crate) const NOW: OffsetDateTime = datetime!(2030-06-01 12:00:00 UTC);

pub(crate) fn td(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

pub(crate) fn id(uri: &str) -> SpiffeId {
    SpiffeId::new(uri).unwrap()
}

pub(crate) fn key(key_id: &str) -> LocalKey {
    LocalKey::generate(key_id, KeyAlgorithm::EcP256).unwrap()
}

/// An authority that lives from yesterday to tomorrow.
pub(crate) fn issuer(trust_domain: &str) -> Issuer {
    let signer: Arc<dyn Signer> = Arc::new(key("ca"));
    let certificate = self_signed_ca(
        &td(trust_domain),
        &*signer,
        NOW - Duration::DAY,
        NOW + Duration::DAY,
        &random_serial().unwrap(),
    )
    .unwrap();
    Issuer::new(&certificate, signer).unwrap()
}

/// The bundle of an authority alone.
pub(crate) fn bundle_of(issuer: &Issuer) -> Bundle {
    let mut bundle = Bundle::empty(issuer.trust_domain().unwrap().clone());
    bundle.x509_authorities.push(X509Authority {
        certificate: issuer.certificate().to_vec(),
        tainted: false,
    });
    bundle
}

/// A bundle with one JWT key.
pub(crate) fn jwt_bundle(trust_domain: &str, key_id: &str, spki: &[u8]) -> Bundle {
    let mut bundle = Bundle::empty(td(trust_domain));
    bundle.jwt_authorities.push(JwtAuthority {
        key_id: key_id.to_owned(),
        public_key: spki.to_vec(),
        expires_at: None,
        tainted: false,
    });
    bundle
}

/// A request for an SVID of one hour.
pub(crate) fn request(spiffe_id: &str, public_key: &[u8]) -> SvidRequest {
    SvidRequest {
        spiffe_id: id(spiffe_id),
        public_key: CheckedKey::new(public_key).unwrap(),
        dns_names: Vec::new(),
        not_before: NOW - Duration::seconds(10),
        not_after: NOW + Duration::HOUR,
        serial: random_serial().unwrap(),
    }
}

/// A key whose keeper always fails.
#[derive(Debug)]
pub(crate) struct BrokenKey(LocalKey);

impl BrokenKey {
    pub(crate) fn new() -> Self {
        Self(key("broken"))
    }
}

impl Signer for BrokenKey {
    fn key_id(&self) -> &str {
        self.0.key_id()
    }

    fn algorithm(&self) -> KeyAlgorithm {
        self.0.algorithm()
    }

    fn public_key_spki(&self) -> &[u8] {
        self.0.public_key_spki()
    }

    fn sign(&self, _message: &[u8]) -> Result<Vec<u8>, SignError> {
        Err(SignError {
            key_id: self.key_id().to_owned(),
            reason: "the token was pulled out".to_owned(),
        })
    }
}

/// Parameters of a leaf that keeps every rule, for tests that then break one.
pub(crate) fn leaf_params(spiffe_id: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = NOW - Duration::HOUR;
    params.not_after = NOW + Duration::HOUR;
    params.serial_number = Some(random_serial().unwrap().to_vec().into());
    params.subject_alt_names = vec![SanType::URI(spiffe_id.try_into().unwrap())];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params
}

/// Parameters of an authority that keeps every rule; without a name, it is outside SPIFFE.
pub(crate) fn authority_params(common_name: &str, uri: Option<&str>) -> CertificateParams {
    let mut params = leaf_params("spiffe://unused");
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = NOW - Duration::DAY;
    params.not_after = NOW + Duration::DAY;
    params.subject_alt_names = uri
        .map(|uri| SanType::URI(uri.try_into().unwrap()))
        .into_iter()
        .collect();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.extended_key_usages.clear();
    params
}
