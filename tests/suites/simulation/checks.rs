//! What a caller is served, and the looks at it: does it verify, was a serial given twice, have the logs a gap?

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tonic::{Code, Status};
use vouchsafe_identity::bundle::X509Authority;
use vouchsafe_identity::x509::verify_svid;
use vouchsafe_identity::{Bundle, LocalKey, Signer, TrustDomain};
use vouchsafe_proto::spire::api::types;
use vouchsafe_proto::workload::{
    JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest, X509svidRequest, X509svidResponse,
};
use vouchsafe_runtime::Clock;
use vouchsafe_store::sled::{SledConfig, SledStore};
use vouchsafe_store::{AuditReader, ChangeReader, Revision, Store};
use vouchsafe_tests::daemons::TRUST_DOMAIN;
use vouchsafe_tests::workload::{certificates, connect};

/// How long a caller waits for an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Who a caller's JWT-SVIDs are for.
const AUDIENCE: &str = "simulation";

/// One answer of the Workload API.
#[derive(Debug)]
pub(crate) enum Served {
    Svids(Vec<Svid>),
    Refused(Status),
}

/// One X.509-SVID with what came along.
#[derive(Debug)]
pub(crate) struct Svid {
    chain: Vec<Vec<u8>>,
    key: Vec<u8>,
    bundle: Bundle,
    id: String,
}

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Svids(_) => write!(f, "served {:?}", self.ids()),
            Self::Refused(status) => write!(f, "refused: {status}"),
        }
    }
}

impl Served {
    fn svids(&self) -> &[Svid] {
        match self {
            Self::Svids(svids) => svids,
            Self::Refused(_) => &[],
        }
    }

    /// Whether it is just this. A refusal for another reason than that there is nothing says nothing.
    pub(crate) fn is_all_of(&self, wanted: &BTreeSet<String>) -> bool {
        match self {
            Self::Svids(_) => self.ids() == *wanted,
            Self::Refused(status) => wanted.is_empty() && status.code() == Code::PermissionDenied,
        }
    }

    /// The paths of what was served.
    pub(crate) fn ids(&self) -> BTreeSet<String> {
        self.svids().iter().map(|svid| svid.id.clone()).collect()
    }

    /// Whether the bundle that came along has all of these authorities.
    pub(crate) fn trusts(&self, authorities: &[Vec<u8>]) -> bool {
        let has = |svid: &Svid, der: &Vec<u8>| {
            let roots = svid.bundle.x509_authorities.iter();
            roots.map(|root| &root.certificate).any(|root| root == der)
        };
        let mut svids = self.svids().iter();
        !self.svids().is_empty() && svids.all(|svid| authorities.iter().all(|der| has(svid, der)))
    }

    /// Whether anything was signed by one of these authorities.
    pub(crate) fn hangs_on(&self, authorities: &[Vec<u8>]) -> bool {
        let bundle = Bundle {
            x509_authorities: authorities.iter().map(|der| authority(der)).collect(),
            ..Bundle::empty(trust_domain())
        };
        self.svids().iter().any(|svid| {
            let Ok(leaf) =
                vouchsafe_identity::x509::svid::parse_leaf(svid.chain.first().map_or(&[][..], |der| der))
            else {
                return false;
            };
            verify_svid(&svid.chain, &bundle, leaf.not_before).is_ok()
        })
    }
}

/// What was served since the beginning.
#[derive(Debug, Default)]
pub(crate) struct Seen(HashMap<String, Vec<u8>>);

impl Seen {
    /// Looks at an answer: all of it verifies now, with the key and the bundle that came along, and no serial is
    /// on two certificates. After the clock went back (`strange`), what was issued before is not valid yet.
    pub(crate) fn look(&mut self, served: &Served, clock: &Clock, strange: bool) -> anyhow::Result<()> {
        for svid in served.svids() {
            let leaf = match verify_svid(&svid.chain, &svid.bundle, clock.now()) {
                Ok(leaf) => leaf,
                Err(_) if strange => continue,
                Err(error) => bail!("served what does not verify: {error}"),
            };
            ensure!(
                leaf.spiffe_id.path() == svid.id,
                "`{}` in the certificate of `{}`",
                leaf.spiffe_id,
                svid.id
            );
            let key = LocalKey::from_pkcs8("served", &svid.key)?;
            ensure!(
                key.public_key_spki() == spki(svid)?,
                "the key is not that of the certificate"
            );
            let serial = hex::encode(&leaf.serial);
            let der = svid.chain.first().context("a leaf")?;
            let before = self.0.entry(serial.clone()).or_insert_with(|| der.clone());
            ensure!(before == der, "serial {serial} was given twice");
        }
        Ok(())
    }
}

fn spki(svid: &Svid) -> anyhow::Result<Vec<u8>> {
    use x509_parser::prelude::FromDer;
    let der = svid.chain.first().context("a leaf")?;
    let (_, leaf) = x509_parser::certificate::X509Certificate::from_der(der)?;
    Ok(leaf.tbs_certificate.subject_pki.raw.to_vec())
}

/// What a caller may be told in place of an SVID.
fn allowed(status: Status) -> anyhow::Result<Status> {
    match status.code() {
        Code::PermissionDenied | Code::Unavailable | Code::DeadlineExceeded => Ok(status),
        _ => bail!("a caller was told {status}"),
    }
}

/// Asks once, on a new connection.
pub(crate) async fn fetch(socket: &Path) -> anyhow::Result<Served> {
    let answer = tokio::time::timeout(PATIENCE, async {
        let mut client = connect(socket).await?;
        let mut stream = match client.fetch_x509svid(X509svidRequest {}).await {
            Ok(stream) => stream.into_inner(),
            Err(status) => return Ok(Err(status)),
        };
        anyhow::Ok(match stream.message().await {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(Status::unavailable("the stream ended well")),
            Err(status) => Err(status),
        })
    });
    match answer
        .await
        .unwrap_or_else(|_late| Ok(Err(Status::deadline_exceeded("no answer"))))?
    {
        Ok(message) => Ok(Served::Svids(read(&message)?)),
        Err(status) => Ok(Served::Refused(allowed(status)?)),
    }
}

fn read(message: &X509svidResponse) -> anyhow::Result<Vec<Svid>> {
    let read = message.svids.iter().map(|svid| {
        let id = svid.spiffe_id.strip_prefix(&format!("spiffe://{TRUST_DOMAIN}"));
        Ok(Svid {
            chain: certificates(&svid.x509_svid)?,
            key: svid.x509_svid_key.clone(),
            bundle: Bundle {
                x509_authorities: certificates(&svid.bundle)?
                    .iter()
                    .map(|der| authority(der))
                    .collect(),
                ..Bundle::empty(trust_domain())
            },
            id: id.context("an id of this trust domain")?.to_owned(),
        })
    });
    read.collect()
}

/// Asks for JWT-SVIDs, each of which the agent must find good; whose they are.
pub(crate) async fn fetch_jwt(
    socket: &Path,
    clock: &Clock,
    strange: bool,
) -> anyhow::Result<BTreeSet<String>> {
    let mut client = connect(socket).await?;
    let asked = JwtsvidRequest {
        audience: vec![AUDIENCE.to_owned()],
        spiffe_id: String::new(),
    };
    let answer = tokio::time::timeout(PATIENCE, client.fetch_jwtsvid(asked)).await;
    let answer = match answer.unwrap_or_else(|_late| Err(Status::deadline_exceeded("no answer"))) {
        Ok(answer) => answer.into_inner(),
        Err(status) => {
            allowed(status)?;
            return Ok(BTreeSet::new());
        }
    };
    let mut ids = BTreeSet::new();
    for svid in answer.svids {
        let id = svid.spiffe_id.strip_prefix(&format!("spiffe://{TRUST_DOMAIN}"));
        ids.insert(id.context("an id of this trust domain")?.to_owned());
        let asked = ValidateJwtsvidRequest {
            audience: AUDIENCE.to_owned(),
            svid: svid.svid,
        };
        if let Err(status) = client.validate_jwtsvid(asked).await {
            // In between the caller may lose its entry: then it may not ask for that either.
            let excused = strange || status.code() == Code::PermissionDenied;
            ensure!(
                excused,
                "at {} a JWT-SVID was served that is not good: {status}",
                clock.now()
            );
        }
    }
    Ok(ids)
}

/// The JWT bundles that a caller is given, as they are told: JSON, one after the other.
pub(crate) async fn jwt_bundles(socket: &Path) -> anyhow::Result<String> {
    let mut client = connect(socket).await?;
    let mut stream = client.fetch_jwt_bundles(JwtBundlesRequest {}).await?.into_inner();
    let first = tokio::time::timeout(PATIENCE, stream.message()).await??;
    let bundles = first.context("a message")?.bundles.into_values();
    let texts: Result<Vec<String>, _> = bundles.map(String::from_utf8).collect();
    Ok(texts?.concat())
}

/// Whether nobody holds the store any more.
pub(crate) fn is_free(folder: &Path) -> bool {
    SledStore::open(folder, &SledConfig::default()).is_ok()
}

/// The store's logs, once nobody writes any more: no place is missing.
pub(crate) async fn logs(folder: &Path) -> anyhow::Result<()> {
    let store = SledStore::open(folder, &SledConfig::default())?;
    let head = store.audit_head().await?;
    let mut next = 1;
    loop {
        let records = store.audit_records(next, 512).await?;
        let Some(last) = records.last() else { break };
        let after = last.seq + 1;
        for (record, due) in records.iter().zip(next..) {
            ensure!(
                record.seq == due,
                "audit record {} stands where {due} is due",
                record.seq
            );
        }
        next = after;
    }
    ensure!(
        next == head + 1,
        "the audit log ends at {} and says {head}",
        next - 1
    );
    let latest = *store.revisions().borrow();
    let mut at = Revision::default();
    while let Some(changes) = store.changes(at, 512).await? {
        let Some(last) = changes.last() else { break };
        ensure!(
            last.revision > at && last.revision <= latest,
            "a change at {:?}",
            last.revision
        );
        at = last.revision;
    }
    Ok(())
}

/// A bundle's X.509 authorities as PEM.
pub(crate) fn pem(bundle: &types::Bundle) -> anyhow::Result<String> {
    let bundle = Bundle {
        x509_authorities: bundle
            .x509_authorities
            .iter()
            .map(|one| authority(&one.asn1))
            .collect(),
        ..Bundle::empty(trust_domain())
    };
    Ok(bundle.to_pem())
}

fn authority(der: &[u8]) -> X509Authority {
    X509Authority {
        certificate: der.to_vec(),
        tainted: false,
    }
}

fn trust_domain() -> TrustDomain {
    TrustDomain::new(TRUST_DOMAIN).unwrap()
}
