//! SPIRE's SyncAuthorizedEntries as a state machine without IO: each answer of the server goes in, what to send next
//! or the whole set comes out.
//!
//! Small sets come whole in one answer. Of large ones the server first tells the revisions, page by page; then the
//! agent asks for those that it lacks, at most a page at a time.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use vouchsafe_proto::spire::api::server::entry::v1::{
    SyncAuthorizedEntriesRequest, SyncAuthorizedEntriesResponse,
};
use vouchsafe_proto::spire::api::types::EntryMask;

use crate::entry::{Entry, EntryId, EntryVersion};
use crate::upstream::convert;

/// Most entries that an agent takes: a server that says there are more is not believed.
pub const MAX_ENTRIES: usize = 2_000_000;

/// Why the exchange cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// An answer that none was asked for, or of another kind than due.
    #[error("entries came where revisions were due")]
    OutOfTurn,
    /// The first page of revisions has none.
    #[error("an empty page of revisions announces more")]
    EmptyPage,
    /// More entries than [`MAX_ENTRIES`].
    #[error("more than {MAX_ENTRIES} entries")]
    TooMany,
}

/// What to do next.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Wait for another answer.
    Wait,
    /// Send this, then wait for an answer.
    Send(SyncAuthorizedEntriesRequest),
    /// This is the whole set; end the exchange.
    Done(Vec<Arc<Entry>>),
}

/// One exchange.
#[derive(Debug)]
pub struct Exchange {
    known: HashMap<EntryId, Arc<Entry>>,
    state: State,
}

#[derive(Debug)]
enum State {
    First,
    Revisions {
        page_size: usize,
        wanted: Vec<(EntryId, EntryVersion)>,
    },
    Entries {
        page_size: usize,
        kept: Vec<Arc<Entry>>,
        asked: VecDeque<EntryId>,
    },
}

/// The fields that an agent needs.
fn mask() -> EntryMask {
    EntryMask {
        spiffe_id: true,
        selectors: true,
        federates_with: true,
        admin: true,
        downstream: true,
        revision_number: true,
        store_svid: true,
        hint: true,
        additional_attributes: true,
        created_at: true,
        ..EntryMask::default()
    }
}

impl Exchange {
    /// Begins an exchange with what is known already; also gives the first request.
    pub fn begin(known: impl IntoIterator<Item = Arc<Entry>>) -> (Self, SyncAuthorizedEntriesRequest) {
        let known = known.into_iter().map(|entry| (entry.id.clone(), entry)).collect();
        let exchange = Self {
            known,
            state: State::First,
        };
        let request = SyncAuthorizedEntriesRequest {
            output_mask: Some(mask()),
            ids: Vec::new(),
        };
        (exchange, request)
    }

    /// Takes in an answer.
    ///
    /// # Errors
    /// [`ProtocolError`] when the server does not keep to the protocol; the exchange is over then.
    pub fn answer(&mut self, answer: SyncAuthorizedEntriesResponse) -> Result<Step, ProtocolError> {
        match std::mem::replace(&mut self.state, State::First) {
            State::First if answer.entry_revisions.is_empty() => {
                if answer.more {
                    return Err(ProtocolError::EmptyPage);
                }
                Ok(Step::Done(convert::entries(answer.entries)))
            }
            State::First => {
                let page_size = answer.entry_revisions.len();
                self.revisions(page_size, Vec::new(), answer)
            }
            State::Revisions { page_size, wanted } => self.revisions(page_size, wanted, answer),
            State::Entries {
                page_size,
                mut kept,
                asked,
            } => {
                kept.extend(convert::entries(answer.entries));
                if kept.len() > MAX_ENTRIES {
                    return Err(ProtocolError::TooMany);
                }
                if answer.more {
                    self.state = State::Entries {
                        page_size,
                        kept,
                        asked,
                    };
                    return Ok(Step::Wait);
                }
                Ok(self.ask(page_size, kept, asked))
            }
        }
    }

    fn revisions(
        &mut self,
        page_size: usize,
        mut wanted: Vec<(EntryId, EntryVersion)>,
        answer: SyncAuthorizedEntriesResponse,
    ) -> Result<Step, ProtocolError> {
        if !answer.entries.is_empty() {
            return Err(ProtocolError::OutOfTurn);
        }
        wanted.extend(answer.entry_revisions.into_iter().map(|told| {
            let version = EntryVersion {
                revision: told.revision_number,
                created_at: told.created_at,
            };
            (EntryId::from(told.id.as_str()), version)
        }));
        if wanted.len() > MAX_ENTRIES {
            return Err(ProtocolError::TooMany);
        }
        if answer.more {
            self.state = State::Revisions { page_size, wanted };
            return Ok(Step::Wait);
        }
        let mut kept = Vec::new();
        let mut missing = Vec::new();
        for (id, version) in wanted {
            match self.known.get(&id) {
                Some(entry) if entry.version == version => kept.push(Arc::clone(entry)),
                _ => missing.push(id),
            }
        }
        missing.sort_unstable();
        Ok(self.ask(page_size, kept, missing.into()))
    }

    /// Asks for the next page of what is missing, or is done.
    fn ask(&mut self, page_size: usize, kept: Vec<Arc<Entry>>, mut missing: VecDeque<EntryId>) -> Step {
        if missing.is_empty() {
            return Step::Done(kept);
        }
        let rest = missing.split_off(page_size.min(missing.len()));
        let ids = missing.iter().map(ToString::to_string).collect();
        self.state = State::Entries {
            page_size,
            kept,
            asked: rest,
        };
        Step::Send(SyncAuthorizedEntriesRequest {
            output_mask: None,
            ids,
        })
    }
}

#[cfg(test)]
mod tests;
