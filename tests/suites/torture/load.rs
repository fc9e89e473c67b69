//! The load: callers on the admin socket that change, join, turn and issue until the server is gone.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use tokio::sync::watch;
use tonic::transport::Channel;
use tonic::{Code, Status};
use vouchsafe_identity::x509::csr;
use vouchsafe_identity::x509::svid::parse_leaf;
use vouchsafe_identity::{KeyAlgorithm, LocalKey, SpiffeId};
use vouchsafe_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use vouchsafe_proto::spire::api::server::agent::v1::attest_agent_response::Step as Answer;
use vouchsafe_proto::spire::api::server::agent::v1::{
    AgentX509svidParams, AttestAgentRequest, CreateJoinTokenRequest, attest_agent_request,
};
use vouchsafe_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use vouchsafe_proto::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest, BatchUpdateEntryRequest,
};
use vouchsafe_proto::spire::api::server::localauthority::v1::local_authority_client::LocalAuthorityClient;
use vouchsafe_proto::spire::api::server::localauthority::v1::{
    ActivateJwtAuthorityRequest, ActivateX509AuthorityRequest, PrepareJwtAuthorityRequest,
    PrepareX509AuthorityRequest,
};
use vouchsafe_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use vouchsafe_proto::spire::api::server::svid::v1::{MintJwtsvidRequest, MintX509svidRequest};
use vouchsafe_proto::spire::api::types;
use vouchsafe_tests::daemons::TRUST_DOMAIN;
use vouchsafe_tests::disk::Numbers;

use crate::ledger::{Event, Want};

/// Where callers tell what they do.
pub(crate) struct Diary {
    write: Box<dyn Fn(Event) + Send + Sync>,
    count: watch::Sender<usize>,
}

impl Diary {
    pub(crate) fn new(write: impl Fn(Event) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            write: Box::new(write),
            count: watch::Sender::new(0),
        })
    }

    /// One that gathers in a list.
    pub(crate) fn list() -> (Arc<Self>, Arc<Mutex<Vec<Event>>>) {
        let list = Arc::new(Mutex::new(Vec::new()));
        let end = Arc::clone(&list);
        let write = move |event| end.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        (Self::new(write), list)
    }

    pub(crate) fn note(&self, event: Event) {
        (self.write)(event);
        self.count.send_modify(|count| *count += 1);
    }

    fn asked(&self, name: &str, want: Want) {
        self.note(Event::Asked(name.to_owned(), want));
    }

    fn acknowledged(&self, name: &str, want: Want) {
        self.note(Event::Acknowledged(name.to_owned(), want));
    }

    /// Returns when so much has been noted.
    pub(crate) async fn reached(&self, count: usize) {
        let mut counted = self.count.subscribe();
        // It cannot fail while we hold the sender.
        let _reached = counted.wait_for(|now| *now >= count).await;
    }
}

/// One caller.
pub(crate) struct Caller {
    channel: Channel,
    diary: Arc<Diary>,
    chance: Numbers,
    /// What its things are called: different for each caller of each life.
    name: String,
    made: usize,
    /// Entries that are its own.
    entries: Vec<String>,
}

/// Whether the server is there to go on with.
type Going = anyhow::Result<bool>;

impl Caller {
    pub(crate) fn new(channel: Channel, diary: Arc<Diary>, chance: Numbers, name: String) -> Self {
        Self {
            channel,
            diary,
            chance,
            name,
            made: 0,
            entries: Vec::new(),
        }
    }

    /// Gives it entries of an earlier life to change.
    pub(crate) fn own(&mut self, entries: Vec<String>) {
        self.entries.extend(entries);
    }

    /// Calls until the server is gone; an answer that should not be is an error.
    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        loop {
            let going = match self.chance.below(10) {
                0..=2 => self.create().await,
                3..=4 => self.update().await,
                5 => self.delete().await,
                6 => self.join().await,
                7 => self.mint().await,
                8 => self.mint_jwt().await,
                _ => self.turn().await,
            };
            if !going? {
                return Ok(());
            }
        }
    }

    fn new_name(&mut self) -> String {
        self.made += 1;
        format!("{}-{}", self.name, self.made)
    }

    async fn create(&mut self) -> Going {
        let count = 1 + self.chance.below(6);
        let names: Vec<_> = (0..count).map(|_| self.new_name()).collect();
        let entries = names.iter().map(|name| entry(name, "v0")).collect();
        for name in &names {
            self.diary
                .asked(&format!("entry/{name}"), Want::Is("v0".to_owned()));
        }
        let asked = BatchCreateEntryRequest {
            entries,
            output_mask: None,
        };
        let answer = EntryClient::new(self.channel.clone())
            .batch_create_entry(asked)
            .await;
        let Some(answer) = answered(answer)? else {
            return Ok(false);
        };
        let outcomes = answer.results.into_iter().map(|result| result.status);
        self.settle(&names, outcomes, &Want::Is("v0".to_owned()))?;
        self.entries.extend(names);
        Ok(true)
    }

    /// Up to four of its entries.
    fn some(&mut self) -> Vec<String> {
        let mut chosen = Vec::new();
        for _ in 0..=self.chance.below(4) {
            if !self.entries.is_empty() {
                let place = self.chance.below(self.entries.len());
                chosen.push(self.entries.swap_remove(place));
            }
        }
        chosen
    }

    async fn update(&mut self) -> Going {
        let names = self.some();
        if names.is_empty() {
            return Ok(true);
        }
        let hint = format!("v{}", self.chance.below(1 << 20));
        for name in &names {
            self.diary.asked(&format!("entry/{name}"), Want::Is(hint.clone()));
        }
        let asked = BatchUpdateEntryRequest {
            entries: names.iter().map(|name| entry(name, &hint)).collect(),
            ..BatchUpdateEntryRequest::default()
        };
        let answer = EntryClient::new(self.channel.clone())
            .batch_update_entry(asked)
            .await;
        let Some(answer) = answered(answer)? else {
            return Ok(false);
        };
        let outcomes = answer.results.into_iter().map(|result| result.status);
        self.settle(&names, outcomes, &Want::Is(hint))?;
        self.entries.extend(names);
        Ok(true)
    }

    async fn delete(&mut self) -> Going {
        let names = self.some();
        if names.is_empty() {
            return Ok(true);
        }
        for name in &names {
            self.diary.asked(&format!("entry/{name}"), Want::Gone);
        }
        let asked = BatchDeleteEntryRequest { ids: names.clone() };
        let answer = EntryClient::new(self.channel.clone())
            .batch_delete_entry(asked)
            .await;
        let Some(answer) = answered(answer)? else {
            return Ok(false);
        };
        let outcomes = answer.results.into_iter().map(|result| result.status);
        self.settle(&names, outcomes, &Want::Gone)?;
        Ok(true)
    }

    fn settle(
        &self,
        names: &[String],
        outcomes: impl ExactSizeIterator<Item = Option<types::Status>>,
        want: &Want,
    ) -> anyhow::Result<()> {
        ensure!(
            outcomes.len() == names.len(),
            "{} answers for {}",
            outcomes.len(),
            names.len()
        );
        for (name, outcome) in names.iter().zip(outcomes) {
            let outcome = outcome.context("a status")?;
            ensure!(outcome.code == 0, "`{name}`: {outcome:?}");
            self.diary.acknowledged(&format!("entry/{name}"), want.clone());
        }
        Ok(())
    }

    /// A token is made, and a node joins with it.
    async fn join(&mut self) -> Going {
        let text = self.new_name();
        let token = format!("token/{}", hex::encode(digest(&SHA256, text.as_bytes())));
        let node = format!("node//spire/agent/join_token/{text}");
        let there = Want::Is("made".to_owned());
        self.diary.asked(&token, there.clone());
        let asked = CreateJoinTokenRequest {
            // Longer than the longest run: a token that has ended is removed.
            ttl: 86_400,
            token: text.clone(),
            agent_id: None,
        };
        let mut client = AgentClient::new(self.channel.clone());
        if answered(client.create_join_token(asked).await)?.is_none() {
            return Ok(false);
        }
        self.diary.acknowledged(&token, there);
        self.diary.asked(&token, Want::Gone);
        self.diary.asked(&node, Want::Made);
        let asked = attest_request(&text)?;
        let Some(mut answers) = answered(client.attest_agent(tokio_stream::once(asked)).await)? else {
            return Ok(false);
        };
        let answer = match answers.message().await {
            Ok(answer) => answer.and_then(|answer| answer.step),
            Err(status) => return gone(&status).map(|()| false),
        };
        let Some(Answer::Result(result)) = answer else {
            return Ok(false);
        };
        let chain = result.svid.context("an SVID")?.cert_chain;
        let serial = parse_leaf(chain.first().context("a leaf")?)?.serial;
        self.diary.acknowledged(&token, Want::Gone);
        self.diary.acknowledged(&node, Want::Is(serial.clone()));
        self.diary.note(Event::Serial(serial));
        Ok(true)
    }

    async fn mint(&mut self) -> Going {
        let key = LocalKey::generate("load", KeyAlgorithm::EcP256)?;
        let id = SpiffeId::new(&format!("spiffe://{TRUST_DOMAIN}/minted/{}", self.new_name()))?;
        let asked = MintX509svidRequest {
            csr: csr::create(&key, Some(&id), &[])?,
            ttl: 0,
        };
        let Some(minted) = answered(SvidClient::new(self.channel.clone()).mint_x509svid(asked).await)? else {
            return Ok(false);
        };
        let chain = minted.svid.context("an SVID")?.cert_chain;
        let leaf = parse_leaf(chain.first().context("a leaf")?)?;
        self.diary.note(Event::Serial(leaf.serial));
        Ok(true)
    }

    async fn mint_jwt(&mut self) -> Going {
        let asked = MintJwtsvidRequest {
            id: Some(id("/minted/jwt")),
            audience: vec!["load".to_owned()],
            ttl: 0,
        };
        let minted = answered(SvidClient::new(self.channel.clone()).mint_jwtsvid(asked).await)?;
        Ok(minted.is_some())
    }

    /// An authority is prepared and made the active one by hand, where the server knows how.
    async fn turn(&mut self) -> Going {
        let mut client = LocalAuthorityClient::new(self.channel.clone());
        if self.chance.below(2) == 0 {
            let prepared = client
                .prepare_x509_authority(PrepareX509AuthorityRequest {})
                .await;
            let Some(prepared) = turned(prepared)? else {
                return Ok(true);
            };
            let authority_id = prepared.prepared_authority.context("an authority")?.authority_id;
            let activate = ActivateX509AuthorityRequest { authority_id };
            let _raced = turned(client.activate_x509_authority(activate).await)?;
            return Ok(true);
        }
        let prepared = client.prepare_jwt_authority(PrepareJwtAuthorityRequest {}).await;
        let Some(prepared) = turned(prepared)? else {
            return Ok(true);
        };
        let authority_id = prepared.prepared_authority.context("an authority")?.authority_id;
        let published = Want::Is("published".to_owned());
        self.diary
            .acknowledged(&format!("authority/{authority_id}"), published);
        let activate = ActivateJwtAuthorityRequest { authority_id };
        let _raced = turned(client.activate_jwt_authority(activate).await)?;
        Ok(true)
    }
}

/// The answer; nothing when the server is gone.
fn answered<T>(answer: Result<tonic::Response<T>, Status>) -> anyhow::Result<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer.into_inner())),
        Err(status) => gone(&status).map(|()| None),
    }
}

/// As [`answered`]; callers race for the slots, so refusals are no fault, and the next call sees that the server is gone.
fn turned<T>(answer: Result<tonic::Response<T>, Status>) -> anyhow::Result<Option<T>> {
    match answer {
        Err(status)
            if matches!(
                status.code(),
                Code::Unimplemented
                    | Code::FailedPrecondition
                    | Code::NotFound
                    | Code::InvalidArgument
                    | Code::Internal
            ) =>
        {
            Ok(None)
        }
        other => answered(other),
    }
}

/// A server that is being killed answers nothing, or that it is not there; anything else is a fault.
fn gone(status: &Status) -> anyhow::Result<()> {
    match status.code() {
        Code::Unavailable | Code::Unknown | Code::Cancelled => Ok(()),
        _ => bail!("{status:?}"),
    }
}

pub(crate) fn id(path: &str) -> types::Spiffeid {
    types::Spiffeid {
        trust_domain: TRUST_DOMAIN.to_owned(),
        path: path.to_owned(),
    }
}

pub(crate) fn entry(name: &str, hint: &str) -> types::Entry {
    types::Entry {
        id: name.to_owned(),
        spiffe_id: Some(id(&format!("/load/{name}"))),
        parent_id: Some(id("/node/test")),
        selectors: vec![types::Selector {
            r#type: "unix".to_owned(),
            value: format!("user:{name}"),
        }],
        hint: hint.to_owned(),
        ..types::Entry::default()
    }
}

fn attest_request(token: &str) -> anyhow::Result<AttestAgentRequest> {
    let key = LocalKey::generate("node", KeyAlgorithm::EcP256)?;
    let params = attest_agent_request::Params {
        data: Some(types::AttestationData {
            r#type: "join_token".to_owned(),
            payload: token.as_bytes().to_vec(),
        }),
        params: Some(AgentX509svidParams {
            csr: csr::create(&key, None, &[])?,
        }),
    };
    Ok(AttestAgentRequest {
        step: Some(attest_agent_request::Step::Params(params)),
    })
}
