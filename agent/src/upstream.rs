//! What the agent asks of the server, as traits, and why a call can fail. [`client`] asks a real server by gRPC.

pub mod client;
pub mod convert;
pub mod refusal;

use async_trait::async_trait;
use vouchsafe_identity::SpiffeId;
use vouchsafe_identity::secret::Secret;

use crate::cache::rotation::Lifetime;
use crate::entry::EntryId;
use crate::knowledge::{Knowledge, News};
use crate::status::SyncMode;
pub use client::Upstream;
pub use refusal::{Refusal, UpstreamError};

/// A request for an X.509-SVID: the key stays here.
#[derive(Debug, Clone)]
pub struct X509Request {
    /// The entry that it rests on.
    pub entry: EntryId,
    /// PKCS#10, DER.
    pub csr: Vec<u8>,
}

/// A JWT-SVID as the server gave it.
#[derive(Debug)]
pub struct IssuedJwt {
    /// The token in compact form.
    pub token: Secret<String>,
    /// Its `sub`, where that need not be the id that was asked for.
    pub spiffe_id: Option<SpiffeId>,
    /// From when to when it is valid.
    pub lifetime: Lifetime,
}

/// Signs SVIDs for entries of this agent.
#[async_trait]
pub trait Authority: Send + Sync {
    /// X.509-SVIDs, one answer for each request, in order: DER certificates, leaf first, or why not.
    ///
    /// # Errors
    /// [`UpstreamError`] when the call as a whole failed.
    async fn issue_x509(
        &self,
        requests: &[X509Request],
    ) -> Result<Vec<Result<Vec<Vec<u8>>, String>>, UpstreamError>;

    /// One JWT-SVID.
    ///
    /// # Errors
    /// [`UpstreamError`] when there is none to be had.
    async fn issue_jwt(&self, entry: &EntryId, audience: &[String]) -> Result<IssuedJwt, UpstreamError>;
}

/// Where entries and bundles come from.
#[async_trait]
pub trait EntrySource: Send {
    /// Waits until there is something, and gives what the server says. The first call does not wait for changes. What
    /// it gives has been learned when it is called again.
    ///
    /// # Errors
    /// [`UpstreamError`]; the caller waits and calls again.
    async fn next(&mut self, known: &Knowledge) -> Result<News, UpstreamError>;

    /// By which way the source hears of changes.
    fn mode(&self) -> SyncMode;
}
