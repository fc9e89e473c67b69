//! Values that the unit tests of this package share.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use time::OffsetDateTime;
use vouchsafe_attestors::WorkloadAttestor;
use vouchsafe_identity::secret::Secret;
use vouchsafe_identity::x509::issue::{Issuer, SvidRequest, issue_svid, self_signed_ca};
use vouchsafe_identity::{
    Bundle, KeyAlgorithm, LocalKey, SelectorSet, TrustDomain, X509Authority, random_serial, x509,
};
use vouchsafe_proto::spire::api::types;
use vouchsafe_runtime::Handed;
use vouchsafe_runtime::uds::{ConnectionLimits, GuardedListener, SocketConfig};
use vouchsafe_workload_attestors::{AgentNamespaces, Measurer, Reads, UnixAttestor, UnixConfig};

use crate::cache::rotation::Lifetime;
use crate::cache::slots::X509Svid;
use crate::cache::{JwtCache, Shelf, X509Cache};
use crate::caller::{CallPlaces, Gate, PresenceRule};
use crate::entry::{Entry, EntryId, EntryVersion};
use crate::node::OwnSvid;
use crate::node::state::StoredSvid;
use crate::runs::Runs;
use crate::upstream::{Authority, IssuedJwt, UpstreamError, X509Request};

/// So many seconds after a fixed moment.
pub(crate) fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(1_700_000_000 + seconds)
}

pub(crate) fn selectors(texts: &[&str]) -> SelectorSet {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// An entry `spiffe://example.org/<id>`.
pub(crate) fn entry(id: &str, texts: &[&str]) -> Arc<Entry> {
    Arc::new(Entry {
        id: id.into(),
        version: EntryVersion {
            revision: 1,
            created_at: 1,
        },
        spiffe_id: format!("spiffe://example.org/{id}").parse().unwrap(),
        selectors: selectors(texts),
        federates_with: Vec::new(),
        hint: String::new(),
        store_svid: false,
        prefetch: true,
        single_jwt: false,
    })
}

/// Such an entry as a server sends it.
pub(crate) fn entry_message(id: &str, revision: i64) -> types::Entry {
    types::Entry {
        id: id.to_owned(),
        spiffe_id: Some(types::Spiffeid {
            trust_domain: "example.org".to_owned(),
            path: format!("/{id}"),
        }),
        selectors: vec![types::Selector {
            r#type: "unix".to_owned(),
            value: "uid:1".to_owned(),
        }],
        revision_number: revision,
        created_at: 1,
        ..types::Entry::default()
    }
}

/// An SVID of the entry, to be replaced at half of its life. Its bytes mean nothing.
pub(crate) fn svid(entry: &Entry, not_before: OffsetDateTime, not_after: OffsetDateTime) -> X509Svid {
    let lifetime = Lifetime {
        not_before,
        not_after,
    };
    X509Svid {
        spiffe_id: entry.spiffe_id.clone(),
        version: entry.version,
        certificates: vec![1],
        key: Secret::new(vec![2]),
        lifetime,
        rotate_at: not_before + (not_after - not_before) / 2,
        serial: "01".to_owned(),
    }
}

/// An authority of `example.org`, made anew.
pub(crate) struct TestAuthority {
    issuer: Issuer,
}

pub(crate) fn authority() -> TestAuthority {
    authority_numbered(&random_serial().unwrap())
}

/// One with this serial number, which its name has in it: two of one number have one name.
pub(crate) fn authority_numbered(serial: &[u8; 16]) -> TestAuthority {
    let key = Arc::new(LocalKey::generate("ca", KeyAlgorithm::EcP256).unwrap());
    let trust_domain = TrustDomain::new("example.org").unwrap();
    let (from, to) = (at(-3600), at(10 * 365 * 86_400));
    let certificate = self_signed_ca(&trust_domain, key.as_ref(), from, to, serial).unwrap();
    TestAuthority {
        issuer: Issuer::new(&certificate, key).unwrap(),
    }
}

impl TestAuthority {
    pub(crate) fn bundle(&self) -> Bundle {
        let mut bundle = Bundle::empty(TrustDomain::new("example.org").unwrap());
        bundle.x509_authorities.push(X509Authority {
            certificate: self.issuer.certificate().to_vec(),
            tainted: false,
        });
        bundle.sequence = 1;
        bundle
    }

    /// The SVID of an agent.
    pub(crate) fn own_svid(&self, id: &str) -> Arc<OwnSvid> {
        let stored = StoredSvid::new(self.chain(id), "key", false);
        let trust_domain = TrustDomain::new("example.org").unwrap();
        Arc::new(OwnSvid::read(stored, &trust_domain).unwrap())
    }

    /// An SVID for a new key, valid for an hour.
    pub(crate) fn chain(&self, id: &str) -> Vec<Vec<u8>> {
        let key = LocalKey::generate("key", KeyAlgorithm::EcP256).unwrap();
        let csr = x509::csr::create(&key, None, &[]).unwrap();
        self.issue(&csr, id, at(0), at(3600))
    }

    /// An SVID for the key of a request.
    pub(crate) fn issue(
        &self,
        csr: &[u8],
        id: &str,
        not_before: OffsetDateTime,
        not_after: OffsetDateTime,
    ) -> Vec<Vec<u8>> {
        let request = SvidRequest {
            spiffe_id: id.parse().unwrap(),
            public_key: x509::csr::check(csr).unwrap().public_key,
            dns_names: Vec::new(),
            not_before,
            not_after,
            serial: random_serial().unwrap(),
        };
        issue_svid(&request, &self.issuer).unwrap().chain
    }
}

/// Runs that nobody signs for.
pub(crate) fn runs() -> Runs {
    struct Nobody;

    #[async_trait]
    impl Authority for Nobody {
        async fn issue_x509(
            &self,
            _requests: &[X509Request],
        ) -> Result<Vec<Result<Vec<Vec<u8>>, String>>, UpstreamError> {
            Err(UpstreamError::Unavailable("nobody signs".to_owned()))
        }

        async fn issue_jwt(&self, _: &EntryId, _: &[String]) -> Result<IssuedJwt, UpstreamError> {
            Err(UpstreamError::Unavailable("nobody signs".to_owned()))
        }
    }

    Runs::new(Shelf {
        x509: X509Cache::new(8),
        jwt: Arc::new(JwtCache::new(8)),
        authority: Arc::new(Nobody),
    })
}

/// Measures processes; this user's need not prove their presence.
pub(crate) fn gate() -> Gate {
    let reads = Arc::new(Reads::default());
    let unix = UnixConfig { hash_limit_bytes: 1 };
    let unix: Arc<dyn WorkloadAttestor> = Arc::new(UnixAttestor::new(unix, Arc::clone(&reads)));
    let this_user = nix::unistd::geteuid().as_raw();
    Gate::new(
        Measurer::new(vec![unix], reads),
        AgentNamespaces::of_self().unwrap(),
        PresenceRule::new(Duration::from_secs(10), BTreeSet::from([this_user])),
        CallPlaces::new(8),
        runs(),
    )
}

/// Listens on a socket for callers.
pub(crate) fn listener(socket: &Path) -> GuardedListener {
    let socket = SocketConfig {
        path: socket.to_owned(),
        mode: 0o600,
        group: None,
        handed: Handed::default(),
    };
    GuardedListener::bind(&socket, ConnectionLimits::default()).unwrap()
}
