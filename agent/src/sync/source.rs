//! Follows what the server pushes, and asks a server that does not push, as SPIRE's do not. Whether it does is tried
//! anew now and then, and after each renewal of the agent's own SVID.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use tonic::Code;

use super::polling::Polling;
use super::push::Push;
use crate::knowledge::{Knowledge, News};
use crate::status::SyncMode;
use crate::upstream::client::Link;
use crate::upstream::{EntrySource, Upstream, UpstreamError};

/// A server that did not push is asked again after this long: it may have been replaced by one that does.
pub const PUSH_AGAIN: Duration = Duration::from_secs(600);
/// After so many streams in a row with what cannot be used, the server is asked instead.
const MOST_FAULTS: u32 = 3;

/// Both ways.
#[derive(Debug)]
pub struct Source {
    upstream: Upstream,
    push: Push,
    polling: Polling,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Push { faults: u32 },
    Poll { until: Instant, link: Link },
}

impl Source {
    /// Tries push first.
    pub fn new(upstream: Upstream, polling: Polling) -> Self {
        Self {
            push: Push::new(upstream.clone()),
            upstream,
            polling,
            way: Way::Push { faults: 0 },
        }
    }

    fn poll_for_now(&mut self) {
        self.way = Way::Poll {
            until: Instant::now() + PUSH_AGAIN,
            link: self.upstream.link(),
        };
    }

    /// Takes in that push did not work; what is left of it for the caller.
    fn push_failed(&mut self, error: UpstreamError, faults: u32, before: bool) -> Option<UpstreamError> {
        match error {
            UpstreamError::Rejected { code, message } => {
                match code {
                    Code::Unimplemented if before => tracing::debug!("the server still pushes no changes"),
                    Code::Unimplemented => {
                        tracing::info!("the server pushes no changes: it is asked for them");
                    }
                    code => tracing::warn!(
                        ?code,
                        error = message,
                        "the server does not let this agent follow its changes: it is asked for them"
                    ),
                }
                self.poll_for_now();
                None
            }
            UpstreamError::Nonsense(_) if faults + 1 >= MOST_FAULTS => {
                tracing::error!(%error, "the server's changes cannot be followed: it is asked for them");
                self.poll_for_now();
                None
            }
            UpstreamError::Nonsense(_) => {
                self.way = Way::Push { faults: faults + 1 };
                Some(error)
            }
            other => Some(other),
        }
    }
}

#[async_trait]
impl EntrySource for Source {
    async fn next(&mut self, known: &Knowledge) -> Result<News, UpstreamError> {
        let mut polled_before = false;
        loop {
            match &self.way {
                Way::Push { faults } => {
                    let faults = *faults;
                    match self.push.next(known).await {
                        Ok(news) => {
                            let faults = if news.is_agreed() { 0 } else { faults };
                            self.way = Way::Push { faults };
                            return Ok(news);
                        }
                        Err(error) => {
                            if let Some(error) = self.push_failed(error, faults, polled_before) {
                                return Err(error);
                            }
                        }
                    }
                }
                Way::Poll { until, link } => {
                    polled_before = true;
                    tokio::select! {
                        () = self.polling.pause() => return self.polling.ask(known).await,
                        () = tokio::time::sleep_until(*until) => {}
                        () = self.upstream.replaced(link) => {}
                    }
                    self.way = Way::Push { faults: 0 };
                }
            }
        }
    }

    fn mode(&self) -> SyncMode {
        match self.way {
            Way::Push { .. } => SyncMode::Push,
            Way::Poll { .. } => SyncMode::Poll,
        }
    }
}

#[cfg(test)]
mod tests;
