//! `vouchsafe.run.v1.Runs`.

use async_trait::async_trait;
use tonic::{Request, Response, Status};
use vouchsafe_identity::RunId;
use vouchsafe_proto::vouchsafe::run::v1::runs_server::Runs;
use vouchsafe_proto::vouchsafe::run::v1::{
    GetRunRequest, KillRunRequest, ListRevocationsRequest, ListRevocationsResponse, ListRunsRequest,
    ListRunsResponse, Run, RunState,
};
use vouchsafe_store as store;

use super::{Api, call, refuse};
use crate::convert::{self, ConvertError, run};

/// Runs that are looked at for one page of those that have ended.
const MAX_PAGE_RUNS: usize = 1000;

impl Api {
    fn run_message(&self, found: &store::Run) -> Run {
        let uses = self.index.run(&found.id).map(|live| live.uses());
        run::message(found, uses.unwrap_or_default())
    }
}

/// The run after which a page begins.
fn after(token: &str) -> Result<Option<RunId>, Status> {
    match token {
        "" => Ok(None),
        token => run::run_id(token)
            .map(Some)
            .map_err(|_| refuse(ConvertError::PageToken(token.to_owned()))),
    }
}

#[async_trait]
impl Runs for Api {
    async fn list_runs(
        &self,
        request: Request<ListRunsRequest>,
    ) -> Result<Response<ListRunsResponse>, Status> {
        let asked = request.get_ref();
        let filter = run::filter(asked).map_err(refuse)?;
        let states = run::states(asked).map_err(refuse)?;
        let size = convert::page_size(asked.page_size).map_err(refuse)?;
        let size = size.min(MAX_PAGE_RUNS);
        let after = after(&asked.page_token)?;
        let is_wanted = |found: &store::Run| states.is_empty() || states.contains(&run::state(found));
        // What lives is in the index; for the rest the store is read, a few at a time.
        let (runs, next) = if !states.is_empty() && !states.contains(&RunState::Ended) {
            let page = self.index.runs(&filter, after.as_ref(), size);
            let next = page.rows.last().filter(|_| page.more).map(|live| live.run.id);
            (page.rows.iter().map(|live| live.run.clone()).collect(), next)
        } else {
            let stored = self.runs.stored(&filter, after, size).await;
            stored.map_err(refuse)?
        };
        Ok(Response::new(ListRunsResponse {
            next_page_token: next.map(String::from).unwrap_or_default(),
            runs: runs
                .iter()
                .filter(|found| is_wanted(found))
                .map(|found| self.run_message(found))
                .collect(),
        }))
    }

    async fn get_run(&self, request: Request<GetRunRequest>) -> Result<Response<Run>, Status> {
        let id = run::run_id(&request.get_ref().run_id).map_err(refuse)?;
        let found = self.runs.get(id).await.map_err(refuse)?;
        Ok(Response::new(self.run_message(&found)))
    }

    async fn kill_run(&self, request: Request<KillRunRequest>) -> Result<Response<Run>, Status> {
        let call = call(&request)?;
        let id = run::run_id(&request.get_ref().run_id).map_err(refuse)?;
        call.fact("run", id.to_string());
        let killed = self.runs.kill(&call.origin(), id).await.map_err(refuse)?;
        Ok(Response::new(self.run_message(&killed)))
    }

    async fn list_revocations(
        &self,
        request: Request<ListRevocationsRequest>,
    ) -> Result<Response<ListRevocationsResponse>, Status> {
        let asked = request.get_ref();
        let size = convert::page_size(asked.page_size).map_err(refuse)?;
        let after = after(&asked.page_token)?;
        let page = self.index.revocations(after.as_ref(), size.min(MAX_PAGE_RUNS));
        let last = page.rows.last().filter(|_| page.more);
        let next = last.map(|revoked| String::from(revoked.revocation.run));
        Ok(Response::new(ListRevocationsResponse {
            next_page_token: next.unwrap_or_default(),
            revocations: page.rows.iter().map(|revoked| run::revocation(revoked)).collect(),
        }))
    }
}
