//! When a bundle differs from the one that an agent holds in taints alone.

use aws_lc_rs::digest::{SHA256, digest};
use vouchsafe_identity::{Bundle, TrustDomain};

/// An authority that is no longer trusted to sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taint {
    /// Whose authority.
    pub trust_domain: TrustDomain,
    /// Which one.
    pub authority: Authority,
    /// The bundle's sequence number from now on.
    pub sequence: u64,
}

/// Names an authority within its bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authority {
    /// SHA-256 of the certificate, DER.
    X509([u8; 32]),
    /// The id of a key that signs JWT-SVIDs.
    Jwt(String),
}

/// The taints that make of the old bundle the new one; `None` when it takes more than that, or nothing.
pub(super) fn taints(old: &Bundle, new: &Bundle) -> Option<Vec<Taint>> {
    let mut found = Vec::new();
    let taint = |authority| Taint {
        trust_domain: new.trust_domain.clone(),
        authority,
        sequence: new.sequence,
    };
    let mut tainted = old.clone();
    tainted.sequence = new.sequence;
    for (was, is) in tainted.x509_authorities.iter_mut().zip(&new.x509_authorities) {
        if is.tainted && !was.tainted {
            let mut hash = [0; 32];
            hash.copy_from_slice(digest(&SHA256, &is.certificate).as_ref());
            found.push(taint(Authority::X509(hash)));
            was.tainted = true;
        }
    }
    for (was, is) in tainted.jwt_authorities.iter_mut().zip(&new.jwt_authorities) {
        if is.tainted && !was.tainted {
            found.push(taint(Authority::Jwt(is.key_id.clone())));
            was.tainted = true;
        }
    }
    (tainted == *new && !found.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use vouchsafe_identity::{JwtAuthority, X509Authority};

    use super::*;

    fn bundle() -> Bundle {
        let mut bundle = Bundle::empty(TrustDomain::new("example.org").unwrap());
        bundle.x509_authorities = [1, 2]
            .map(|n| X509Authority {
                certificate: vec![n],
                tainted: false,
            })
            .into();
        bundle.jwt_authorities.push(JwtAuthority {
            key_id: "k".to_owned(),
            public_key: vec![4, 5],
            expires_at: None,
            tainted: false,
        });
        bundle
    }

    #[test]
    fn only_new_taints_are_told_as_taints() {
        let old = bundle();
        let mut new = bundle();
        new.sequence = 5;
        assert_eq!(taints(&old, &new), None, "another sequence number alone");
        new.x509_authorities[1].tainted = true;
        new.jwt_authorities[0].tainted = true;
        let found = taints(&old, &new).unwrap();
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|taint| taint.sequence == 5));
        let hash: [u8; 32] = digest(&SHA256, &[2]).as_ref().try_into().unwrap();
        assert_eq!(found[0].authority, Authority::X509(hash));
        assert_eq!(found[1].authority, Authority::Jwt("k".to_owned()));
        assert_eq!(taints(&new, &old), None, "a taint that was taken back");
        let changes: [fn(&mut Bundle); 4] = [
            |b| {
                b.x509_authorities.pop();
            },
            |b| b.x509_authorities[0].certificate.push(1),
            |b| b.jwt_authorities[0].key_id.push('k'),
            |b| b.refresh_hint = Some(std::time::Duration::from_secs(1)),
        ];
        for change in changes {
            let mut other = new.clone();
            change(&mut other);
            assert_eq!(taints(&old, &other), None);
        }
    }
}
