//! SVIDs and join tokens as messages.

use vouchsafe_identity::x509::CertifiedChain;
use vouchsafe_proto::spire::api::types::{JoinToken, Jwtsvid, X509svid};

use super::spiffe_id_message;
use crate::usecases::issuing::IssuedToken;
use crate::usecases::tokens::NewToken;

/// An X.509-SVID.
pub fn x509_message(svid: CertifiedChain, hint: String) -> X509svid {
    X509svid {
        id: Some(spiffe_id_message(&svid.spiffe_id)),
        expires_at: svid.not_after.unix_timestamp(),
        cert_chain: svid.chain,
        hint,
    }
}

/// A JWT-SVID.
pub fn jwt_message(issued: IssuedToken) -> Jwtsvid {
    Jwtsvid {
        id: Some(spiffe_id_message(&issued.spiffe_id)),
        expires_at: issued.jwt.expires_at.unix_timestamp(),
        issued_at: issued.jwt.issued_at.unix_timestamp(),
        token: issued.jwt.token,
        hint: issued.hint,
    }
}

/// A join token.
pub fn token_message(new: &NewToken) -> JoinToken {
    JoinToken {
        value: new.token.expose().to_owned(),
        expires_at: new.expires_at.unix_timestamp(),
    }
}
