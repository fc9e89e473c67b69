//! `spire.api.server.entry.v1.Entry`.

use async_trait::async_trait;
use tonic::{Request, Response, Status, Streaming};
use vouchsafe_proto::spire::api::server::entry::v1::entry_server::Entry;
use vouchsafe_proto::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchCreateEntryResponse, BatchDeleteEntryRequest, BatchDeleteEntryResponse,
    BatchUpdateEntryRequest, BatchUpdateEntryResponse, CountEntriesRequest, CountEntriesResponse,
    GetAuthorizedEntriesRequest, GetAuthorizedEntriesResponse, GetEntryRequest, ListEntriesRequest,
    ListEntriesResponse, SyncAuthorizedEntriesRequest, SyncAuthorizedEntriesResponse,
    batch_create_entry_response, batch_delete_entry_response, batch_update_entry_response,
};
use vouchsafe_proto::spire::api::types::{self, EntryMask};
use vouchsafe_store as store;

use super::conversation::{Responses, conversation};
use super::{Api, call, refuse, sync};
use crate::convert::{self, ConvertError, entry, filter};
use crate::errors::{ToStatus, item_ok};
use crate::layers::Call;
use crate::usecases::registry::RegistryError;

type Outcome = Result<store::Entry, RegistryError>;

#[async_trait]
impl Entry for Api {
    type SyncAuthorizedEntriesStream = Responses<SyncAuthorizedEntriesResponse>;

    async fn count_entries(
        &self,
        request: Request<CountEntriesRequest>,
    ) -> Result<Response<CountEntriesResponse>, Status> {
        let filter = filter::count_entries(request.get_ref().filter.as_ref()).map_err(refuse)?;
        let count = convert::count_message(self.index.count_entries(&filter));
        Ok(Response::new(CountEntriesResponse { count }))
    }

    async fn list_entries(
        &self,
        request: Request<ListEntriesRequest>,
    ) -> Result<Response<ListEntriesResponse>, Status> {
        let asked = request.get_ref();
        let filter = filter::list_entries(asked.filter.as_ref()).map_err(refuse)?;
        let size = convert::page_size(asked.page_size).map_err(refuse)?;
        let token = asked.page_token.as_str();
        if !token.is_empty() && store::EntryId::new(token).is_err() {
            return Err(refuse(ConvertError::PageToken(token.to_owned())));
        }
        let page = self
            .index
            .entries(&filter, (!token.is_empty()).then_some(token), size);
        let last = page.rows.last().filter(|_| page.more);
        let mask = asked.output_mask.as_ref();
        Ok(Response::new(ListEntriesResponse {
            next_page_token: last.map(|row| row.id.to_string()).unwrap_or_default(),
            entries: page.rows.iter().map(|row| entry::message(row, mask)).collect(),
        }))
    }

    async fn get_entry(&self, request: Request<GetEntryRequest>) -> Result<Response<types::Entry>, Status> {
        let asked = request.get_ref();
        let id = convert::entry_id(&asked.id).map_err(refuse)?;
        let found = self
            .index
            .entry(&id)
            .ok_or_else(|| refuse(RegistryError::NotFound(id)))?;
        Ok(Response::new(entry::message(&found, asked.output_mask.as_ref())))
    }

    async fn batch_create_entry(
        &self,
        request: Request<BatchCreateEntryRequest>,
    ) -> Result<Response<BatchCreateEntryResponse>, Status> {
        let call = call(&request)?;
        let BatchCreateEntryRequest { entries, output_mask } = request.into_inner();
        let parsed = entries
            .iter()
            .map(|item| Ok((chosen_id(item)?, entry::patch(item, None)?)));
        let (good, bad) = split(parsed);
        let outcomes = self.registry.create(&call.origin(), good).await;
        let results = join(outcomes, bad, |outcome: Result<Outcome, ConvertError>| {
            let (status, entry) = item(outcome, output_mask.as_ref());
            batch_create_entry_response::Result {
                status: Some(status),
                entry,
            }
        });
        count(&call, results.iter().map(|result| result.status.as_ref()));
        Ok(Response::new(BatchCreateEntryResponse { results }))
    }

    async fn batch_update_entry(
        &self,
        request: Request<BatchUpdateEntryRequest>,
    ) -> Result<Response<BatchUpdateEntryResponse>, Status> {
        let call = call(&request)?;
        let BatchUpdateEntryRequest {
            entries,
            input_mask,
            output_mask,
        } = request.into_inner();
        let parsed = entries.iter().map(|item| {
            let id = convert::entry_id(&item.id)?;
            Ok((id, entry::patch(item, input_mask.as_ref())?))
        });
        let (good, bad) = split(parsed);
        let outcomes = self.registry.update(&call.origin(), good).await;
        let results = join(outcomes, bad, |outcome: Result<Outcome, ConvertError>| {
            let (status, entry) = item(outcome, output_mask.as_ref());
            batch_update_entry_response::Result {
                status: Some(status),
                entry,
            }
        });
        count(&call, results.iter().map(|result| result.status.as_ref()));
        Ok(Response::new(BatchUpdateEntryResponse { results }))
    }

    async fn batch_delete_entry(
        &self,
        request: Request<BatchDeleteEntryRequest>,
    ) -> Result<Response<BatchDeleteEntryResponse>, Status> {
        let call = call(&request)?;
        let ids = request.into_inner().ids;
        let (good, bad) = split(ids.iter().map(|id| convert::entry_id(id)));
        let outcomes = self.registry.delete(&call.origin(), good).await;
        let mut names = ids.iter();
        let results = join(
            outcomes,
            bad,
            |outcome: Result<Result<(), RegistryError>, ConvertError>| {
                let status = match outcome {
                    Ok(Ok(())) => item_ok(),
                    Ok(Err(e)) => e.to_item(),
                    Err(e) => e.to_item(),
                };
                batch_delete_entry_response::Result {
                    status: Some(status),
                    id: names.next().cloned().unwrap_or_default(),
                }
            },
        );
        count(&call, results.iter().map(|result| result.status.as_ref()));
        Ok(Response::new(BatchDeleteEntryResponse { results }))
    }

    async fn get_authorized_entries(
        &self,
        request: Request<GetAuthorizedEntriesRequest>,
    ) -> Result<Response<GetAuthorizedEntriesResponse>, Status> {
        let call = call(&request)?;
        let agent = call.agent().map_err(|status| *status)?;
        let mask = request.get_ref().output_mask.as_ref();
        let entries = self.index.authorized_entries(agent, call.at);
        call.fact("count", entries.len().to_string());
        let entries = entries.iter().map(|found| entry::message(found, mask)).collect();
        Ok(Response::new(GetAuthorizedEntriesResponse { entries }))
    }

    async fn sync_authorized_entries(
        &self,
        request: Request<Streaming<SyncAuthorizedEntriesRequest>>,
    ) -> Result<Response<Self::SyncAuthorizedEntriesStream>, Status> {
        let call = call(&request)?;
        let agent = call.agent().map_err(|status| *status)?;
        let entries = self.index.authorized_entries(agent, call.at);
        call.fact("count", entries.len().to_string());
        let limit = self.limits.sync_timeout.get();
        let incoming = request.into_inner();
        let talk = conversation(move |outgoing| async move {
            let late = |_| Status::deadline_exceeded("the synchronisation took too long");
            let run = sync::serve(entries, incoming, outgoing);
            tokio::time::timeout(limit, run).await.map_err(late)?
        });
        Ok(Response::new(talk))
    }
}

fn chosen_id(item: &types::Entry) -> Result<Option<store::EntryId>, ConvertError> {
    match item.id.as_str() {
        "" => Ok(None),
        id => convert::entry_id(id).map(Some),
    }
}

/// Items that can be worked on, and what to say in the places of the others.
fn split<T>(parsed: impl Iterator<Item = Result<T, ConvertError>>) -> (Vec<T>, Vec<Option<ConvertError>>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for item in parsed {
        match item {
            Ok(item) => {
                good.push(item);
                bad.push(None);
            }
            Err(e) => bad.push(Some(e)),
        }
    }
    (good, bad)
}

/// Outcomes and errors in the order of the request.
fn join<O, R>(
    outcomes: Vec<O>,
    bad: Vec<Option<ConvertError>>,
    mut result: impl FnMut(Result<O, ConvertError>) -> R,
) -> Vec<R> {
    let mut outcomes = outcomes.into_iter();
    bad.into_iter()
        .filter_map(|error| match error {
            Some(error) => Some(result(Err(error))),
            None => outcomes.next().map(|outcome| result(Ok(outcome))),
        })
        .collect()
}

/// The entry that stands, or the one that stands in the way.
fn item(
    outcome: Result<Outcome, ConvertError>,
    mask: Option<&EntryMask>,
) -> (types::Status, Option<types::Entry>) {
    let message = |found: store::Entry| entry::message(&found.into(), mask);
    match outcome {
        Ok(Ok(made)) => (item_ok(), Some(message(made))),
        Ok(Err(RegistryError::Similar(existing))) => {
            let status = RegistryError::Similar(None).to_item();
            (status, existing.map(|existing| message(*existing)))
        }
        Ok(Err(e)) => (e.to_item(), None),
        Err(e) => (e.to_item(), None),
    }
}

fn count<'a>(call: &Call, statuses: impl Iterator<Item = Option<&'a types::Status>>) {
    let (mut items, mut failed) = (0_usize, 0_usize);
    for status in statuses {
        items += 1;
        failed += usize::from(status.is_none_or(|status| status.code != 0));
    }
    call.fact("count", items.to_string());
    call.fact("failed", failed.to_string());
}
