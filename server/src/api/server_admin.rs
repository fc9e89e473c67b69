//! `vouchsafe.server.v1.ServerAdmin`: health in parts, and the tail of the audit log.

use async_trait::async_trait;
use tonic::{Request, Response, Status};
use vouchsafe_ca::{Authority, Kind};
use vouchsafe_proto::vouchsafe::server::v1::server_admin_server::ServerAdmin;
use vouchsafe_proto::vouchsafe::server::v1::{
    BackupRequest, BackupResponse, HealthRequest, HealthResponse, TailAuditRequest, TailAuditResponse,
};
use vouchsafe_proto::vouchsafe::types::v1::{HealthPart, HealthStatus};

use super::backup::seal_keys;
use super::conversation::{Outgoing, Responses, conversation};
use super::{Api, refuse};
use crate::errors::chain;
use crate::layers::Call;

/// Records read from the store at a time.
const PAGE_RECORDS: usize = 256;

#[async_trait]
impl ServerAdmin for Api {
    type TailAuditStream = Responses<TailAuditResponse>;
    type BackupStream = Responses<BackupResponse>;

    async fn backup(&self, request: Request<BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        let call = Call::of(request.extensions()).map_err(|status| *status)?;
        let seal = seal_keys(&call, request.into_inner())?;
        call.fact("private_keys", if seal.is_some() { "sealed" } else { "none" });
        let api = self.clone();
        let talk = conversation(move |outgoing| async move {
            tokio::select! {
                () = api.stopping.cancelled() => Err(Status::unavailable("the server is shutting down")),
                ended = api.copy(seal, outgoing) => ended,
            }
        });
        Ok(Response::new(talk))
    }

    async fn health(&self, _request: Request<HealthRequest>) -> Result<Response<HealthResponse>, Status> {
        let parts = vec![self.store_health().await, self.index_health(), self.ca_health()];
        let worst = parts.iter().map(|part| part.status).max();
        let uptime = (self.clock.now() - self.started_at).whole_seconds().max(0);
        Ok(Response::new(HealthResponse {
            status: worst.unwrap_or(HealthStatus::Unspecified.into()),
            parts,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            trust_domain: self.trust_domain.name().to_owned(),
            uptime: Some(prost_types::Duration {
                seconds: uptime,
                nanos: 0,
            }),
        }))
    }

    async fn tail_audit(
        &self,
        request: Request<TailAuditRequest>,
    ) -> Result<Response<Self::TailAuditStream>, Status> {
        let TailAuditRequest { from_seq, follow } = request.into_inner();
        let api = self.clone();
        let talk = conversation(move |outgoing| async move {
            tokio::select! {
                () = api.stopping.cancelled() => Err(Status::unavailable("the server is shutting down")),
                ended = api.tail(from_seq.max(1), follow, outgoing) => ended,
            }
        });
        Ok(Response::new(talk))
    }
}

impl Api {
    async fn tail(&self, mut from: u64, follow: bool, to: Outgoing<TailAuditResponse>) -> Result<(), Status> {
        let mut news = self.store.revisions();
        loop {
            news.borrow_and_update();
            let records = self
                .store
                .audit_records(from, PAGE_RECORDS)
                .await
                .map_err(refuse)?;
            if records.is_empty() {
                if !follow {
                    return Ok(());
                }
                news.changed()
                    .await
                    .map_err(|_| Status::unavailable("the store has been closed"))?;
            }
            for record in records {
                let json = record.to_line().map_err(|e| Status::internal(chain(&e)))?;
                let seq = record.seq;
                to.send(TailAuditResponse { seq, json }).await?;
                from = seq.saturating_add(1);
            }
        }
    }

    async fn store_health(&self) -> HealthPart {
        if let Err(e) = self.store.audit_head().await {
            return part("store", HealthStatus::NotServing, chain(&e));
        }
        match self.store.takes_writes() {
            Ok(()) => part("store", HealthStatus::Serving, String::new()),
            Err(e) => part("store", HealthStatus::Degraded, chain(&e)),
        }
    }

    fn index_health(&self) -> HealthPart {
        let (stored, shown) = (*self.store.revisions().borrow(), self.index.applied());
        let behind = stored.0.saturating_sub(shown.0);
        let follow = self.index.followers();
        let detail = format!(
            "revision {}, {behind} behind the store, {follow} agents follow",
            shown.0
        );
        part("index", HealthStatus::Serving, detail)
    }

    fn ca_health(&self) -> HealthPart {
        let bundle = self.ca.bundle();
        let detail = format!(
            "bundle sequence {}, {} X.509 and {} JWT authorities",
            bundle.sequence,
            bundle.x509_authorities.len(),
            bundle.jwt_authorities.len()
        );
        if !self.serving() {
            return part("ca", HealthStatus::NotServing, detail);
        }
        let lost = [Kind::X509, Kind::Jwt].map(|kind| self.lost_keys(kind)).concat();
        match lost.is_empty() {
            true => part("ca", HealthStatus::Serving, detail),
            false => part(
                "ca",
                HealthStatus::Degraded,
                format!("{detail}; {}", lost.join("; ")),
            ),
        }
    }

    /// What an operator should do about keys that were gone when they were needed: somebody may have them.
    fn lost_keys(&self, kind: Kind) -> Vec<String> {
        let next = |authority: &Authority| match authority.tainted {
            true => "revoke it when what it signed has been issued anew",
            false => "taint and revoke it if somebody may have the key",
        };
        self.ca
            .authorities(kind)
            .iter()
            .filter(|authority| authority.lost)
            .map(|authority| {
                format!(
                    "the private key of {} authority `{}` is gone and another one took its place: {}",
                    kind.name(),
                    authority.id,
                    next(authority)
                )
            })
            .collect()
    }
}

fn part(name: &str, status: HealthStatus, detail: String) -> HealthPart {
    HealthPart {
        name: name.to_owned(),
        status: status.into(),
        detail,
    }
}
