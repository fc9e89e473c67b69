//! What the agent asks of the server for its runs: to admit them, to sign for them, to note their ends.

use async_trait::async_trait;
use tonic::Code;
use vouchsafe_identity::secret::Secret;
use vouchsafe_identity::{RunId, SpiffeId};
use vouchsafe_launch::Outcome;
use vouchsafe_proto::vouchsafe::run::v1::admission_client::AdmissionClient;
use vouchsafe_proto::vouchsafe::run::v1::{
    AdmitRunRequest, AdmitRunResponse, Class, DescribeClassRequest, EndRunRequest, LeaseRunsRequest,
    LeaseRunsResponse, LeasedStart, NewRunJwtsvidRequest, NewRunX509sviDsRequest, ReportRunsRequest,
    StartRunRequest, end_run_request, new_run_x509svi_ds_request,
};

use super::run::asked_by;
use crate::cache::rotation::Lifetime;
use crate::entry::EntryId;
use crate::upstream::client::MAX_ANSWER_BYTES;
use crate::upstream::convert::moment;
use crate::upstream::{Authority, IssuedJwt, Upstream, UpstreamError, X509Request};

/// The server, for what runs need beside SVIDs.
#[async_trait]
pub trait Admission: Send + Sync {
    /// A class that may run on this node.
    ///
    /// # Errors
    /// As [`Admission::admit`].
    async fn class(&self, name: &str) -> Result<Class, UpstreamError>;

    /// Asks for a run.
    ///
    /// # Errors
    /// [`UpstreamError::NotAdmitted`] with the server's reason, or that the server is away.
    async fn admit(&self, request: AdmitRunRequest) -> Result<AdmitRunResponse, UpstreamError>;

    /// Renews the launch leases of a class, and fills them up.
    ///
    /// # Errors
    /// As [`Admission::admit`].
    async fn lease(&self, class: &str, version: u64) -> Result<LeaseRunsResponse, UpstreamError>;

    /// Says that a run's program has been started, and how it was launched if that was by a lease; gives when it ends at the
    /// latest, in Unix seconds.
    ///
    /// # Errors
    /// [`UpstreamError`].
    async fn started(&self, run: RunId, pid: i32, leased: Option<LeasedStart>) -> Result<i64, UpstreamError>;

    /// Says that a run is over; `None`: it never began.
    ///
    /// # Errors
    /// [`UpstreamError`].
    async fn ended(&self, run: RunId, outcome: Option<Outcome>) -> Result<(), UpstreamError>;

    /// Names runs that live here, `all` of them or some; gives those that live no longer for the server. Of all, those that
    /// are not named have ended for it.
    ///
    /// # Errors
    /// [`UpstreamError`].
    async fn report(&self, living: &[RunId], all: bool) -> Result<Vec<RunId>, UpstreamError>;
}

#[async_trait]
impl Admission for Upstream {
    async fn class(&self, name: &str) -> Result<Class, UpstreamError> {
        let class = name.to_owned();
        let request = &DescribeClassRequest { class };
        let described = self.call(async |channel| {
            AdmissionClient::new(channel)
                .describe_class(request.clone())
                .await
        });
        Ok(described.await?.into_inner())
    }

    async fn admit(&self, request: AdmitRunRequest) -> Result<AdmitRunResponse, UpstreamError> {
        let request = &request;
        let admitted =
            self.call(async |channel| AdmissionClient::new(channel).admit_run(request.clone()).await);
        Ok(admitted.await?.into_inner())
    }

    async fn lease(&self, class: &str, class_version: u64) -> Result<LeaseRunsResponse, UpstreamError> {
        let class = class.to_owned();
        let request = &LeaseRunsRequest { class, class_version };
        let leased =
            self.call(async |channel| AdmissionClient::new(channel).lease_runs(request.clone()).await);
        Ok(leased.await?.into_inner())
    }

    async fn started(&self, run: RunId, pid: i32, leased: Option<LeasedStart>) -> Result<i64, UpstreamError> {
        let request = &StartRunRequest {
            run_id: run.to_string(),
            pid: u32::try_from(pid).unwrap_or_default(),
            leased,
        };
        let told = self.call(async |channel| AdmissionClient::new(channel).start_run(request.clone()).await);
        Ok(told.await?.into_inner().expires_at)
    }

    async fn ended(&self, run: RunId, outcome: Option<Outcome>) -> Result<(), UpstreamError> {
        let outcome = match outcome {
            Some(Outcome::Exited(code)) => Some(end_run_request::Outcome::Exited(code)),
            Some(Outcome::Signalled(signal)) => Some(end_run_request::Outcome::Signalled(signal)),
            None => Some(end_run_request::Outcome::NeverStarted(
                end_run_request::NeverStarted {},
            )),
            // The server says of those that are not reported that they are lost.
            Some(Outcome::Lost) => None,
        };
        let Some(outcome) = outcome else {
            return Ok(());
        };
        let request = &EndRunRequest {
            run_id: run.to_string(),
            outcome: Some(outcome),
        };
        let told = self.call(async |channel| AdmissionClient::new(channel).end_run(request.clone()).await);
        told.await.map(drop)
    }

    async fn report(&self, living: &[RunId], all: bool) -> Result<Vec<RunId>, UpstreamError> {
        let run_ids = living.iter().map(ToString::to_string).collect();
        let request = &ReportRunsRequest {
            run_ids,
            partial: !all,
        };
        let told =
            self.call(async |channel| AdmissionClient::new(channel).report_runs(request.clone()).await);
        let ended = told.await?.into_inner().ended;
        let read = |id: String| RunId::new(&id).map_err(|error| UpstreamError::Nonsense(error.to_string()));
        ended.into_iter().map(read).collect()
    }
}

/// Signs SVIDs of runs. An entry's id is that of the run, of a child with its number after it.
#[derive(Debug, Clone)]
pub struct RunAuthority(pub Upstream);

fn nonsense(what: impl Into<String>) -> UpstreamError {
    UpstreamError::Nonsense(what.into())
}

fn asked(entry: &EntryId) -> Result<(String, u32), UpstreamError> {
    asked_by(entry).ok_or_else(|| UpstreamError::Local(format!("`{entry}` is no run")))
}

#[async_trait]
impl Authority for RunAuthority {
    async fn issue_x509(
        &self,
        requests: &[X509Request],
    ) -> Result<Vec<Result<Vec<Vec<u8>>, String>>, UpstreamError> {
        let mut items = Vec::with_capacity(requests.len());
        for request in requests {
            let (run_id, child) = asked(&request.entry)?;
            let csr = request.csr.clone();
            items.push(new_run_x509svi_ds_request::Item { run_id, csr, child });
        }
        let request = &NewRunX509sviDsRequest { items };
        let answer = self.0.call(async |channel| {
            let mut client = AdmissionClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
            client.new_run_x509svi_ds(request.clone()).await
        });
        let results = answer.await?.into_inner().results.into_iter();
        Ok(results
            .map(|result| match (Code::from(result.code), result.svid) {
                (Code::Ok, Some(svid)) => Ok(svid.chain),
                (Code::Ok, None) => Err("the server sent no SVID".to_owned()),
                (code, _) => Err(format!("{code:?}: {}", result.message)),
            })
            .collect())
    }

    async fn issue_jwt(&self, entry: &EntryId, audience: &[String]) -> Result<IssuedJwt, UpstreamError> {
        let (run_id, child) = asked(entry)?;
        let request = &NewRunJwtsvidRequest {
            run_id,
            audience: audience.to_vec(),
            child,
        };
        let answer = self.0.call(async |channel| {
            AdmissionClient::new(channel)
                .new_run_jwtsvid(request.clone())
                .await
        });
        let svid = answer.await?.into_inner();
        let spiffe_id = SpiffeId::new(&svid.spiffe_id).map_err(|error| nonsense(error.to_string()))?;
        let not_before = moment(svid.issued_at).ok_or_else(|| nonsense("a JWT-SVID without a start"))?;
        let not_after = moment(svid.expires_at).ok_or_else(|| nonsense("a JWT-SVID without an end"))?;
        Ok(IssuedJwt {
            token: Secret::new(svid.token),
            spiffe_id: Some(spiffe_id),
            lifetime: Lifetime {
                not_before,
                not_after,
            },
        })
    }
}
