//! The hot paths, each as a function that can be called over and over: what `make bench-guard` counts instructions of.
//! Everything that a path needs is made before, and not counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair,
    KeyPair, UnparsedPublicKey,
};
use time::OffsetDateTime;
use tokio::runtime::{Builder, Runtime};
use vouchsafe_agent::cache::EntryIndex;
use vouchsafe_agent::entry::{Entry as Held, EntryVersion};
use vouchsafe_audit::{Draft, Outcome, Principal};
use vouchsafe_identity::jwt::{SvidClaims, sign_svid};
use vouchsafe_identity::key::LocalKey;
use vouchsafe_identity::x509::csr;
use vouchsafe_identity::x509::issue::{Issuer, SvidRequest, issue_svid, self_signed_ca};
use vouchsafe_identity::{KeyAlgorithm, Selector, SelectorSet, Signer, SpiffeId, TrustDomain};
use vouchsafe_runtime::uds::frames::FrameReader;
use vouchsafe_server::index::Index;
use vouchsafe_store::{
    ChangeKind, Commit, Entry, EntryId, Expect, Key, MemoryStore, Record, SharedStore, Store,
};

/// Names of all hot paths.
pub const PATHS: [&str; 9] = [
    "raw-verify-and-sign",
    "raw-es256",
    "issue-x509-svid",
    "mint-jwt-svid",
    "index-authorized-entry",
    "index-authorized-entries",
    "agent-match-selectors",
    "read-frames",
    "commit-entry",
];

/// Entries in the indexes.
const ENTRIES: usize = 10_000;
/// Agents that share them.
const AGENTS: usize = 100;

/// One round of a hot path.
pub type Round = Box<dyn FnMut() -> anyhow::Result<()>>;

/// Makes everything ready for a hot path.
///
/// # Errors
/// When there is none of that name, or something that it needs cannot be made.
pub fn prepare(name: &str) -> anyhow::Result<Round> {
    match name {
        "raw-verify-and-sign" => raw_verify_and_sign(),
        "raw-es256" => raw_es256(),
        "issue-x509-svid" => issue(),
        "mint-jwt-svid" => mint(),
        "index-authorized-entry" => authorized_entry(),
        "index-authorized-entries" => authorized_entries(),
        "agent-match-selectors" => match_selectors(),
        "read-frames" => read_frames(),
        "commit-entry" => commit_entry(),
        other => bail!("there is no hot path `{other}`: there are {}", PATHS.join(", ")),
    }
}

/// Runs rounds. What is counted is what happens in here, so this must stay a function of its own with this name.
///
/// # Errors
/// What the round says.
#[inline(never)]
pub fn counted_rounds(round: &mut Round, count: u32) -> anyhow::Result<()> {
    for _ in 0..count {
        round()?;
    }
    Ok(())
}

fn unspecified(_nothing: aws_lc_rs::error::Unspecified) -> anyhow::Error {
    anyhow!("the cryptographic library failed")
}

fn now() -> anyhow::Result<OffsetDateTime> {
    Ok(OffsetDateTime::from_unix_timestamp(1_900_000_000)?)
}

fn raw_verify_and_sign() -> anyhow::Result<Round> {
    let random = SystemRandom::new();
    let signer = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(unspecified)?;
    let csr = [7_u8; 160];
    let signature = signer.sign(&random, &csr).map_err(unspecified)?;
    let public = signer.public_key().as_ref().to_vec();
    Ok(Box::new(move || {
        let verifier = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &public);
        verifier.verify(&csr, signature.as_ref()).map_err(unspecified)?;
        signer.sign(&random, &[7; 450]).map(drop).map_err(unspecified)
    }))
}

fn raw_es256() -> anyhow::Result<Round> {
    let random = SystemRandom::new();
    let signer = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(unspecified)?;
    Ok(Box::new(move || {
        signer.sign(&random, &[7; 260]).map(drop).map_err(unspecified)
    }))
}

fn local_key() -> anyhow::Result<Arc<LocalKey>> {
    Ok(Arc::new(LocalKey::generate("hot", KeyAlgorithm::EcP256)?))
}

/// A CSR comes in, its SVID goes out.
fn issue() -> anyhow::Result<Round> {
    let (signer, now) = (local_key()?, now()?);
    let until = now + Duration::from_secs(86_400);
    let serial = [7; 16];
    let ca = self_signed_ca(
        &TrustDomain::new("example.org")?,
        signer.as_ref(),
        now,
        until,
        &serial,
    )?;
    let issuer = Issuer::new(&ca, signer)?;
    let request = csr::create(local_key()?.as_ref(), None, &[])?;
    let spiffe_id = SpiffeId::new("spiffe://example.org/agent/7")?;
    Ok(Box::new(move || {
        let checked = csr::check(&request)?;
        issue_svid(
            &SvidRequest {
                spiffe_id: spiffe_id.clone(),
                public_key: checked.public_key,
                dns_names: Vec::new(),
                not_before: now,
                not_after: now + Duration::from_secs(3600),
                serial,
            },
            &issuer,
        )?;
        Ok(())
    }))
}

fn mint() -> anyhow::Result<Round> {
    let (signer, issued_at) = (local_key()?, now()?);
    let claims = SvidClaims {
        subject: SpiffeId::new("spiffe://example.org/agent/7")?,
        audience: vec!["spiffe://example.org/database".to_owned()],
        issued_at,
        expires_at: issued_at + Duration::from_secs(300),
        issuer: None,
        jti: None,
        run: None,
    };
    Ok(Box::new(move || {
        sign_svid(&claims, signer.key_id(), signer.as_ref())?;
        Ok(())
    }))
}

fn runtime() -> anyhow::Result<Runtime> {
    Ok(Builder::new_current_thread().build()?)
}

fn agent_id(n: usize) -> anyhow::Result<SpiffeId> {
    Ok(SpiffeId::new(&format!(
        "spiffe://example.org/spire/agent/join_token/{n:032x}"
    ))?)
}

fn entry_id(n: usize) -> anyhow::Result<EntryId> {
    Ok(EntryId::new(&format!("{n:08x}-0000-4000-8000-000000000000"))?)
}

fn selectors(n: usize) -> anyhow::Result<SelectorSet> {
    Ok(SelectorSet::from([
        Selector::new("unix", &format!("path:/opt/agents/{n}/bin/agent"))?,
        Selector::new("unix", &format!("sha256:{n:064x}"))?,
    ]))
}

fn entry(n: usize) -> anyhow::Result<Entry> {
    Ok(Entry::new(
        entry_id(n)?,
        SpiffeId::new(&format!("spiffe://example.org/agent/{n}"))?,
        agent_id(n % AGENTS)?,
        selectors(n)?,
        now()?,
    ))
}

fn index() -> anyhow::Result<Arc<Index>> {
    let store: SharedStore = Arc::new(MemoryStore::new("hot"));
    runtime()?.block_on(async {
        let all = (0..ENTRIES).try_fold(Commit::default(), |commit, n| {
            anyhow::Ok(commit.put(Record::Entry(entry(n)?)))
        })?;
        store.commit(all).await?;
        Ok(Index::load(&store).await?)
    })
}

fn authorized_entry() -> anyhow::Result<Round> {
    let (index, now, agent, id) = (index()?, now()?, agent_id(7)?, entry_id(7)?);
    Ok(Box::new(move || {
        index
            .authorized_entry(&agent, &id, now)
            .map(drop)
            .context("the agent may serve the entry")
    }))
}

fn authorized_entries() -> anyhow::Result<Round> {
    let (index, now, agent) = (index()?, now()?, agent_id(7)?);
    Ok(Box::new(move || {
        let found = index.authorized_entries(&agent, now).len();
        anyhow::ensure!(found == ENTRIES / AGENTS, "{found} entries");
        Ok(())
    }))
}

fn match_selectors() -> anyhow::Result<Round> {
    let held = (0..ENTRIES).map(|n| {
        Ok(Arc::new(Held {
            id: entry_id(n)?.as_str().into(),
            version: EntryVersion {
                revision: 0,
                created_at: 1,
            },
            spiffe_id: SpiffeId::new(&format!("spiffe://example.org/agent/{n}"))?,
            selectors: selectors(n)?,
            federates_with: Vec::new(),
            hint: String::new(),
            store_svid: false,
            prefetch: true,
            single_jwt: false,
        }))
    });
    let index = EntryIndex::new(held.collect::<anyhow::Result<Vec<_>>>()?);
    let mut process = selectors(7)?;
    for more in [
        "uid:1000",
        "gid:1000",
        "user:agent",
        "group:agent",
        "supplementary_gid:27",
    ] {
        process.insert(Selector::new("unix", more)?);
    }
    Ok(Box::new(move || {
        let found = index.identities(&process).len();
        anyhow::ensure!(found == 1, "{found} entries");
        Ok(())
    }))
}

/// What a Python client writes for one call on a new connection: its `:authority` is to be mended.
fn read_frames() -> anyhow::Result<Round> {
    let mut block = Vec::new();
    let mut field = |first: &[u8], texts: &[&str]| -> anyhow::Result<()> {
        block.extend_from_slice(first);
        for text in texts {
            block.push(u8::try_from(text.len())?);
            block.extend_from_slice(text.as_bytes());
        }
        Ok(())
    };
    field(&[0x83, 0x86], &[])?;
    field(&[0x41], &["run%2Fvouchsafe%2Fagent.sock"])?;
    field(&[0x44], &["/SpiffeWorkloadAPI/FetchX509SVID"])?;
    for (name, value) in [
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("user-agent", "grpc-python/1.70.0 grpc-c/45.0.0 (linux; chttp2)"),
        ("workload.spiffe.io", "true"),
    ] {
        field(&[0x40], &[name, value])?;
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(0x4, 0, 0, &[0, 3, 0, 0, 0, 100])?);
    bytes.extend(frame(0x1, 0x4, 1, &block)?);
    bytes.extend(frame(0x0, 0x1, 1, &[0; 5])?);
    let mut out = Vec::with_capacity(bytes.len());
    Ok(Box::new(move || {
        out.clear();
        FrameReader::new().push(&bytes, &mut out)?;
        anyhow::ensure!(out.len() == bytes.len(), "bytes were held back");
        Ok(())
    }))
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> anyhow::Result<Vec<u8>> {
    let [high, low] = u16::try_from(payload.len())?.to_be_bytes();
    let mut bytes = vec![0, high, low, kind, flags, 0, 0, 0, stream];
    bytes.extend_from_slice(payload);
    Ok(bytes)
}

/// What the server commits when an entry is created: expectations, the entry, its change and its record.
fn commit_entry() -> anyhow::Result<Round> {
    let (store, runtime, at) = (MemoryStore::new("hot"), runtime()?, now()?);
    let mut next = 0;
    Ok(Box::new(move || {
        let entry = entry(next)?;
        next += 1;
        let draft = Draft {
            at,
            request_id: format!("{next:032x}"),
            traceparent: None,
            principal: Principal::Local { uid: 0, pid: 1 },
            scope: "local".into(),
            action: "entry.create".into(),
            outcome: Outcome::Done,
            code: None,
            reason: None,
            facts: BTreeMap::from([("entry_id".into(), entry.id.to_string())]),
        };
        let commit = Commit::default()
            .expect(Expect::Absent(Key::EntryShape(entry.shape())))
            .expect(Expect::Absent(Key::Entry(entry.id.clone())))
            .change(ChangeKind::Entry(entry.id.clone()))
            .put(Record::Entry(entry))
            .audit(draft);
        runtime.block_on(store.commit(commit))?;
        Ok(())
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_runs() {
        for name in PATHS {
            let mut round = prepare(name).unwrap();
            counted_rounds(&mut round, 2).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        }
        assert!(prepare("idle").is_err());
    }
}
