//! `vouchsafe.run.v1.Admission`: what node agents ask for their runs.

use async_trait::async_trait;
use tonic::{Request, Response, Status};
use vouchsafe_proto::vouchsafe::run::v1::admission_server::Admission;
use vouchsafe_proto::vouchsafe::run::v1::{
    AdmitRunRequest, AdmitRunResponse, Class, DescribeClassRequest, EndRunRequest, EndRunResponse,
    LeaseRunsRequest, LeaseRunsResponse, NewRunJwtsvidRequest, NewRunJwtsvidResponse, NewRunX509sviDsRequest,
    NewRunX509sviDsResponse, ReportRunsRequest, ReportRunsResponse, RunX509svid, StartRunRequest,
    StartRunResponse, new_run_x509svi_ds_response,
};

use super::{Api, call, refuse};
use crate::convert::{class, run};
use crate::errors::ToStatus;
use crate::usecases::issuing::{IssuingError, RunItem};
use crate::usecases::runs::{MAX_REPORTED, RunsError};

#[async_trait]
impl Admission for Api {
    async fn describe_class(
        &self,
        request: Request<DescribeClassRequest>,
    ) -> Result<Response<Class>, Status> {
        let call = call(&request)?;
        let node = call.agent().map_err(|status| *status)?;
        let name = class::name(&request.into_inner().class).map_err(refuse)?;
        call.fact("class", name.as_str());
        let described = self.runs.describe(&call.origin(), node, &name);
        let described = described.map_err(|refusal| refuse(RunsError::from(refusal)))?;
        Ok(Response::new(class::message(
            &described,
            self.index.live_runs(&name),
        )))
    }

    async fn admit_run(
        &self,
        request: Request<AdmitRunRequest>,
    ) -> Result<Response<AdmitRunResponse>, Status> {
        let call = call(&request)?;
        let node = call.agent().map_err(|status| *status)?;
        let asked = request.into_inner();
        call.fact("class", asked.class.as_str());
        call.fact("task", asked.task.as_str());
        let asked = run::admission(asked).map_err(refuse)?;
        let admitted = self.runs.admit(&call.origin(), node, &asked).await;
        let admitted = admitted.map_err(refuse)?;
        call.fact("run", admitted.run.id.to_string());
        let live = self.index.live_runs(&admitted.run.class);
        Ok(Response::new(AdmitRunResponse {
            run_id: admitted.run.id.to_string(),
            spiffe_id: admitted.spiffe_id.to_string(),
            expires_at: admitted.run.expires_at.unix_timestamp(),
            class: Some(class::message(&admitted.class, live)),
        }))
    }

    async fn lease_runs(
        &self,
        request: Request<LeaseRunsRequest>,
    ) -> Result<Response<LeaseRunsResponse>, Status> {
        let call = call(&request)?;
        let node = call.agent().map_err(|status| *status)?;
        let LeaseRunsRequest {
            class: name,
            class_version,
        } = request.into_inner();
        call.fact("class", name.as_str());
        let name = class::name(&name).map_err(refuse)?;
        let leased = self
            .leases
            .renew(&call.origin(), node, &name, class_version)
            .await;
        let leased = leased.map_err(refuse)?;
        call.fact("count", leased.held.to_string());
        Ok(Response::new(LeaseRunsResponse {
            held: u32::try_from(leased.held).unwrap_or(u32::MAX),
            expires_at: leased.expires_at.map_or(0, |at| at.unix_timestamp()),
        }))
    }

    async fn start_run(
        &self,
        request: Request<StartRunRequest>,
    ) -> Result<Response<StartRunResponse>, Status> {
        let call = call(&request)?;
        let node = call.agent().map_err(|status| *status)?;
        let StartRunRequest { run_id, pid, leased } = request.into_inner();
        let id = run::run_id(&run_id).map_err(refuse)?;
        call.fact("run", run_id);
        let (origin, leased) = (call.origin(), leased.map(run::leased_start));
        let started = match leased.transpose().map_err(refuse)? {
            Some(told) => self.leases.launched(&origin, node, (id, pid), &told).await,
            None => self.runs.start(&origin, node, id, pid).await,
        };
        let expires_at = started.map_err(refuse)?.expires_at.unix_timestamp();
        Ok(Response::new(StartRunResponse { expires_at }))
    }

    async fn end_run(&self, request: Request<EndRunRequest>) -> Result<Response<EndRunResponse>, Status> {
        let call = call(&request)?;
        let node = call.agent().map_err(|status| *status)?;
        let asked = request.into_inner();
        let id = run::run_id(&asked.run_id).map_err(refuse)?;
        call.fact("run", asked.run_id.as_str());
        let reason = run::outcome(asked).map_err(refuse)?;
        self.runs
            .end(&call.origin(), node, id, reason)
            .await
            .map_err(refuse)?;
        Ok(Response::new(EndRunResponse {}))
    }

    async fn report_runs(
        &self,
        request: Request<ReportRunsRequest>,
    ) -> Result<Response<ReportRunsResponse>, Status> {
        let call = call(&request)?;
        let node = call.agent().map_err(|status| *status)?;
        let ReportRunsRequest {
            run_ids: named,
            partial,
        } = request.into_inner();
        if named.len() > MAX_REPORTED {
            return Err(refuse(RunsError::TooMany(named.len())));
        }
        call.fact("count", named.len().to_string());
        let named = named.iter().map(|id| run::run_id(id)).collect::<Result<_, _>>();
        let gone = self
            .runs
            .report(&call.origin(), node, named.map_err(refuse)?, !partial)
            .await
            .map_err(refuse)?;
        Ok(Response::new(ReportRunsResponse {
            ended: gone.into_iter().map(String::from).collect(),
        }))
    }

    async fn new_run_x509svi_ds(
        &self,
        request: Request<NewRunX509sviDsRequest>,
    ) -> Result<Response<NewRunX509sviDsResponse>, Status> {
        let call = call(&request)?;
        let node = call.agent().map_err(|status| *status)?;
        let items = request.into_inner().items;
        // The layer has counted one signature for the call itself.
        let more = u32::try_from(items.len()).unwrap_or(u32::MAX).saturating_sub(1);
        let taken = self.rates.signatures.take(node, more).await;
        taken.map_err(|e| Status::resource_exhausted(e.to_string()))?;
        let items = items.into_iter().map(|item| {
            let run = run::run_id(&item.run_id).map_err(|e| IssuingError::Request(e.to_string()))?;
            Ok(RunItem {
                run,
                child: item.child,
                csr: item.csr,
            })
        });
        let outcomes = self.issuing.x509_for_runs(node, items.collect(), call.at).await;
        let mut issued = Vec::new();
        let results: Vec<_> = outcomes
            .into_iter()
            .map(|outcome| match outcome {
                Ok(svid) => {
                    issued.push(format!("{}={}", svid.spiffe_id, svid.serial));
                    new_run_x509svi_ds_response::Result {
                        svid: Some(RunX509svid {
                            spiffe_id: svid.spiffe_id.to_string(),
                            expires_at: svid.not_after.unix_timestamp(),
                            chain: svid.chain,
                        }),
                        ..Default::default()
                    }
                }
                Err(e) => {
                    let status = e.to_item();
                    new_run_x509svi_ds_response::Result {
                        code: status.code,
                        message: status.message,
                        svid: None,
                    }
                }
            })
            .collect();
        call.fact("count", results.len().to_string());
        call.fact("failed", (results.len() - issued.len()).to_string());
        call.fact("issued", issued.join(" "));
        Ok(Response::new(NewRunX509sviDsResponse { results }))
    }

    async fn new_run_jwtsvid(
        &self,
        request: Request<NewRunJwtsvidRequest>,
    ) -> Result<Response<NewRunJwtsvidResponse>, Status> {
        let call = call(&request)?;
        let node = call.agent().map_err(|status| *status)?;
        let NewRunJwtsvidRequest {
            run_id,
            audience,
            child,
        } = request.into_inner();
        let id = run::run_id(&run_id).map_err(refuse)?;
        call.fact("run", run_id);
        call.fact("audience", audience.join(" "));
        let issued = self
            .issuing
            .jwt_for_run(node, (id, child), audience, call.at)
            .map_err(refuse)?;
        super::svid::note(&call, &issued);
        Ok(Response::new(NewRunJwtsvidResponse {
            spiffe_id: issued.spiffe_id.to_string(),
            issued_at: issued.jwt.issued_at.unix_timestamp(),
            expires_at: issued.jwt.expires_at.unix_timestamp(),
            token: issued.jwt.token,
        }))
    }
}
