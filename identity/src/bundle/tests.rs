//! Bundle documents: JWK sets and PEM, and what is refused in them.

use super::*;
use crate::Signer;
use crate::x509::testing::{bundle_of, issuer, key, td};

#[test]
fn a_bundle_survives_its_document() {
    let issuer = issuer("example.org");
    let jwt = key("jwt");
    let mut bundle = bundle_of(&issuer);
    bundle.sequence = 7;
    bundle.refresh_hint = Some(Duration::from_secs(300));
    bundle.jwt_authorities.push(JwtAuthority {
        key_id: "k1".to_owned(),
        public_key: jwt.public_key_spki().to_vec(),
        expires_at: None,
        tainted: false,
    });
    let document = bundle.to_jwks().unwrap();
    assert_eq!(Bundle::from_jwks(td("example.org"), &document).unwrap(), bundle);
}
