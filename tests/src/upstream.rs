//! A server that does as a test tells it: joins agents, knows entries, signs SVIDs, refuses. It speaks just enough of
//! SPIRE's protocol for an agent, over real TLS, so that agents can be tested against a server that misbehaves.

mod services;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use vouchsafe_identity::jwt::{SvidClaims, sign_svid};
use vouchsafe_identity::public_key::CheckedKey;
use vouchsafe_identity::x509::issue::{Issuer, SvidRequest, issue_svid, self_signed_ca};
use vouchsafe_identity::{
    Bundle, JwtAuthority, KeyAlgorithm, LocalKey, Signer, SpiffeId, TrustDomain, X509Authority,
    random_serial, x509,
};
use vouchsafe_proto::spire::api::types;
use vouchsafe_proto::spire::api::types::permission_denied_details::Reason;
use vouchsafe_runtime::tls::{
    self, AcceptLimits, BundleHandle, ClientAuth, ConnectionMetrics, PeerRule, SvidHandle,
};
use vouchsafe_runtime::{Clock, TaskGroup};

/// The server's trust domain.
pub const TRUST_DOMAIN: &str = "example.org";
/// The token that joins one agent.
pub const TOKEN: &str = "open-sesame";
/// The `kid` of its JWT key.
const JWT_KEY: &str = "jwt-key";

/// What the server does. Change it while it runs.
#[derive(Debug, Clone)]
pub struct Behaviour {
    /// The entries, by id.
    pub entries: BTreeMap<String, types::Entry>,
    /// Entries in one message.
    pub page_size: usize,
    /// Life of agents' SVIDs.
    pub agent_ttl: Duration,
    /// Life of workloads' X.509-SVIDs.
    pub x509_ttl: Duration,
    /// Life of JWT-SVIDs.
    pub jwt_ttl: Duration,
    /// Every call of an agent is refused for this reason.
    pub refuse: Option<Reason>,
    /// Every call of an agent fails: the server is overloaded, or its store is gone.
    pub away: bool,
    /// How long the server takes over each JWT-SVID.
    pub jwt_delay: Duration,
    /// Whether [`TOKEN`] was not used yet.
    pub token_unused: bool,
    /// Further bundles, by trust domain.
    pub federated: BTreeMap<String, Bundle>,
}

impl Default for Behaviour {
    fn default() -> Self {
        let hour = Duration::from_secs(3600);
        Self {
            entries: BTreeMap::new(),
            page_size: 500,
            agent_ttl: hour,
            x509_ttl: hour,
            jwt_ttl: Duration::from_secs(300),
            refuse: None,
            away: false,
            jwt_delay: Duration::ZERO,
            token_unused: true,
            federated: BTreeMap::new(),
        }
    }
}

/// How often each thing was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Agents that joined.
    pub attested: usize,
    /// Renewals of agents' SVIDs.
    pub renewed: usize,
    /// X.509-SVIDs of workloads.
    pub x509: usize,
    /// JWT-SVIDs.
    pub jwt: usize,
    /// Whole sets of entries.
    pub synced: usize,
}

/// The serial numbers that an agent may come with.
#[derive(Debug, Default)]
struct Serials {
    current: String,
    next: Option<String>,
}

#[derive(Debug)]
struct State {
    behaviour: Behaviour,
    counts: Counts,
    serials: Serials,
    bundle: Bundle,
}

/// The server.
#[derive(Debug, Clone)]
pub struct Upstream {
    address: SocketAddr,
    connections: ConnectionMetrics,
    shared: Arc<Shared>,
    /// By which agents know the server.
    shown: SvidHandle,
    /// By which the server knows its agents.
    known: BundleHandle,
    group: TaskGroup,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    signing: Mutex<Signing>,
    clock: Clock,
}

/// What signs now.
#[derive(Debug)]
struct Signing {
    issuer: Issuer,
    jwt: LocalKey,
}

impl Upstream {
    /// Starts a server on a free port, with an authority of its own.
    ///
    /// # Errors
    /// When it cannot listen or make its keys.
    pub async fn start() -> anyhow::Result<Self> {
        let clock = Clock::system();
        let shared = Arc::new(Shared::new(clock.clone())?);
        let (svid, bundles) = (SvidHandle::new(), BundleHandle::new());
        shared.show(&svid)?;
        bundles.set(shared.lock().bundle.clone());
        let rule = PeerRule::MemberOf(domain()?);
        let config = tls::server_config(&svid, &bundles, &clock, ClientAuth::Optional, rule)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (group, _failures) = TaskGroup::new();
        let connections = ConnectionMetrics::default();
        let incoming =
            tls::incoming_measured(listener, config, AcceptLimits::default(), &connections, &group);
        services::serve(Arc::clone(&shared), incoming, &group);
        Ok(Self {
            address,
            connections,
            shared,
            shown: svid,
            known: bundles,
            group,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many did not believe it, or were not believed.
    #[must_use]
    pub fn failed_handshakes(&self) -> u64 {
        self.connections.failed_handshakes()
    }

    /// Its bundle as PEM.
    #[must_use]
    pub fn bundle_pem(&self) -> String {
        self.shared.lock().bundle.to_pem()
    }

    /// Its bundle.
    #[must_use]
    pub fn bundle(&self) -> Bundle {
        self.shared.lock().bundle.clone()
    }

    /// Changes what it does.
    pub fn change(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.shared.lock().behaviour);
    }

    /// Adds one more authority to its bundle.
    ///
    /// # Errors
    /// When a key cannot be made.
    pub fn add_authority(&self) -> anyhow::Result<()> {
        let (authority, _) = authority(&self.shared.clock)?;
        let mut state = self.shared.lock();
        state.bundle.x509_authorities.push(authority);
        state.bundle.sequence += 1;
        Ok(())
    }

    /// Another authority and another JWT key sign from now on; the bundle keeps those before them.
    ///
    /// # Errors
    /// When a key cannot be made.
    pub fn replace_authorities(&self) -> anyhow::Result<()> {
        let (authority, issuer) = authority(&self.shared.clock)?;
        let mut state = self.shared.lock();
        let key_id = format!("{JWT_KEY}-{}", state.bundle.sequence);
        let jwt = LocalKey::generate(&key_id, KeyAlgorithm::EcP256)?;
        state.bundle.x509_authorities.push(authority);
        state.bundle.jwt_authorities.push(jwt_authority(&jwt));
        state.bundle.sequence += 1;
        self.known.set(state.bundle.clone());
        *self.shared.signing() = Signing { issuer, jwt };
        self.shared.show(&self.shown)
    }

    /// Taints every authority but those that sign.
    pub fn taint_old(&self) {
        let mut state = self.shared.lock();
        state.bundle.sequence += 1;
        if let Some((_, old)) = state.bundle.x509_authorities.split_last_mut() {
            old.iter_mut().for_each(|authority| authority.tainted = true);
        }
        if let Some((_, old)) = state.bundle.jwt_authorities.split_last_mut() {
            old.iter_mut().for_each(|authority| authority.tainted = true);
        }
    }

    /// Takes every authority but those that sign out of the bundle.
    pub fn revoke_old(&self) {
        let mut state = self.shared.lock();
        let bundle = &mut state.bundle;
        bundle.sequence += 1;
        let old = bundle.x509_authorities.len().saturating_sub(1);
        bundle.x509_authorities.drain(..old);
        let old = bundle.jwt_authorities.len().saturating_sub(1);
        bundle.jwt_authorities.drain(..old);
        self.known.set(state.bundle.clone());
    }

    /// How often each thing was done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.lock().counts.clone()
    }

    /// Ends the server and every connection to it.
    pub async fn stop(&self) {
        self.group.stop();
        let _all_ended = self.group.drain(Duration::from_secs(5)).await;
    }

    /// Adds an entry `spiffe://example.org/<id>`, or changes it.
    pub fn put_entry(&self, id: &str, selectors: &[&str], more: impl FnOnce(&mut types::Entry)) {
        let mut state = self.shared.lock();
        let entries = &mut state.behaviour.entries;
        let age = i64::try_from(entries.len()).unwrap_or(i64::MAX);
        let mut entry = entries.get(id).cloned().unwrap_or_else(|| types::Entry {
            id: id.to_owned(),
            spiffe_id: Some(types::Spiffeid {
                trust_domain: TRUST_DOMAIN.to_owned(),
                path: format!("/{id}"),
            }),
            created_at: 1_700_000_000 + age,
            ..types::Entry::default()
        });
        entry.revision_number += 1;
        entry.selectors = selectors
            .iter()
            .filter_map(|text| text.split_once(':'))
            .map(|(kind, value)| types::Selector {
                r#type: kind.to_owned(),
                value: value.to_owned(),
            })
            .collect();
        more(&mut entry);
        entries.insert(id.to_owned(), entry);
    }
}

/// The trust domain as a value.
///
/// # Errors
/// Never: the name is a good one.
pub fn domain() -> anyhow::Result<TrustDomain> {
    Ok(TrustDomain::new(TRUST_DOMAIN)?)
}

fn authority(clock: &Clock) -> anyhow::Result<(X509Authority, Issuer)> {
    let key = Arc::new(LocalKey::generate("ca", KeyAlgorithm::EcP256)?);
    let now = clock.now();
    let (from, to) = (now - time::Duration::hours(1), now + time::Duration::days(30));
    let certificate = self_signed_ca(&domain()?, key.as_ref(), from, to, &random_serial()?)?;
    let issuer = Issuer::new(&certificate, key)?;
    let authority = X509Authority {
        certificate,
        tainted: false,
    };
    Ok((authority, issuer))
}

fn jwt_authority(key: &LocalKey) -> JwtAuthority {
    JwtAuthority {
        key_id: key.key_id().to_owned(),
        public_key: key.public_key_spki().to_vec(),
        expires_at: None,
        tainted: false,
    }
}

impl Shared {
    fn new(clock: Clock) -> anyhow::Result<Self> {
        let (authority, issuer) = authority(&clock)?;
        let jwt = LocalKey::generate(JWT_KEY, KeyAlgorithm::EcP256)?;
        let mut bundle = Bundle::empty(domain()?);
        bundle.sequence = 1;
        bundle.x509_authorities.push(authority);
        bundle.jwt_authorities.push(jwt_authority(&jwt));
        let state = State {
            behaviour: Behaviour::default(),
            counts: Counts::default(),
            serials: Serials::default(),
            bundle,
        };
        Ok(Self {
            state: Mutex::new(state),
            signing: Mutex::new(Signing { issuer, jwt }),
            clock,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes an SVID for the server itself.
    fn show(&self, svid: &SvidHandle) -> anyhow::Result<()> {
        let key = LocalKey::generate("server", KeyAlgorithm::EcP256)?;
        let id = domain()?.with_path("/spire/server")?;
        let chain = self.issue(
            id,
            CheckedKey::new(key.public_key_spki())?,
            Duration::from_secs(86_400),
        )?;
        Ok(svid.set(&chain, &key.to_pkcs8())?)
    }

    fn signing(&self) -> MutexGuard<'_, Signing> {
        self.signing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn issue(&self, id: SpiffeId, public_key: CheckedKey, life: Duration) -> anyhow::Result<Vec<Vec<u8>>> {
        let now = self.clock.now();
        let request = SvidRequest {
            spiffe_id: id,
            public_key,
            dns_names: Vec::new(),
            not_before: now,
            not_after: now + life,
            serial: random_serial()?,
        };
        Ok(issue_svid(&request, &self.signing().issuer)?.chain)
    }

    /// An SVID for the key of a request, with its serial number.
    fn sign(&self, id: &str, csr: &[u8], life: Duration) -> anyhow::Result<(types::X509svid, String)> {
        let id: SpiffeId = id.parse()?;
        let key = x509::csr::check(csr)?.public_key;
        let chain = self.issue(id.clone(), key, life)?;
        let leaf = x509::parse_leaf(chain.first().context("a chain has a leaf")?)?;
        let svid = types::X509svid {
            cert_chain: chain,
            id: Some(parts(&id)),
            expires_at: leaf.not_after.unix_timestamp(),
            hint: String::new(),
        };
        Ok((svid, leaf.serial))
    }

    fn jwt(&self, id: &SpiffeId, audience: Vec<String>, life: Duration) -> anyhow::Result<types::Jwtsvid> {
        let now = self.clock.now();
        // Whole seconds, as tokens have them.
        let issued_at = OffsetDateTime::from_unix_timestamp(now.unix_timestamp())?;
        let claims = SvidClaims {
            subject: id.clone(),
            audience,
            issued_at,
            expires_at: issued_at + life,
            issuer: None,
            jti: Some(format!("{}", self.lock().counts.jwt)),
            run: None,
        };
        let token = {
            let signing = self.signing();
            sign_svid(&claims, signing.jwt.key_id(), &signing.jwt)?
        };
        Ok(types::Jwtsvid {
            token,
            id: Some(parts(id)),
            expires_at: claims.expires_at.unix_timestamp(),
            issued_at: issued_at.unix_timestamp(),
            hint: String::new(),
        })
    }
}

fn parts(id: &SpiffeId) -> types::Spiffeid {
    types::Spiffeid {
        trust_domain: id.trust_domain_name().to_owned(),
        path: id.path().to_owned(),
    }
}

fn bundle_message(bundle: &Bundle) -> types::Bundle {
    types::Bundle {
        trust_domain: bundle.trust_domain.name().to_owned(),
        x509_authorities: bundle
            .x509_authorities
            .iter()
            .map(|authority| types::X509Certificate {
                asn1: authority.certificate.clone(),
                tainted: authority.tainted,
            })
            .collect(),
        jwt_authorities: bundle
            .jwt_authorities
            .iter()
            .map(|authority| types::JwtKey {
                public_key: authority.public_key.clone(),
                key_id: authority.key_id.clone(),
                expires_at: authority.expires_at.map_or(0, OffsetDateTime::unix_timestamp),
                tainted: authority.tainted,
            })
            .collect(),
        refresh_hint: 5,
        sequence_number: bundle.sequence,
        wit_authorities: Vec::new(),
    }
}
