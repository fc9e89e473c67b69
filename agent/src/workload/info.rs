//! `WorkloadInfo.WhoAmI`: what the agent sees of the caller, and what it gets. Nothing of entries and of others.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use vouchsafe_proto::vouchsafe::workload::v1::workload_info_server::WorkloadInfo;
use vouchsafe_proto::vouchsafe::workload::v1::{WhoAmIRequest, WhoAmIResponse};

use super::Parts;
use crate::explain;
use crate::render;
use crate::runs::Standing;

/// The service.
#[derive(Debug, Clone)]
pub struct Info(pub Parts);

#[tonic::async_trait]
impl WorkloadInfo for Info {
    async fn who_am_i(&self, request: Request<WhoAmIRequest>) -> Result<Response<WhoAmIResponse>, Status> {
        let caller = self.0.caller(&request).await?;
        let known = self.0.known().await?;
        let (entries, reason) = match &caller.standing {
            Standing::Of(member) => (vec![Arc::clone(&member.entry)], String::new()),
            Standing::Outside => {
                let entries = known.entries.identities(&caller.selectors);
                let reason = match entries.is_empty() {
                    true => explain::reason(known.entries.len(), caller.selectors.len()),
                    false => String::new(),
                };
                (entries, reason)
            }
        };
        self.0.may_answer(&caller).await?;
        Ok(Response::new(WhoAmIResponse {
            selectors: render::findings(&caller.evidence),
            spiffe_ids: entries.iter().map(|entry| entry.spiffe_id.to_string()).collect(),
            reason,
        }))
    }
}
