//! One stream: tells the agent what it has to hold, and from then on each change, until it may not go on.

use std::pin::pin;
use std::time::Duration;

use prost::Message as _;
use time::OffsetDateTime;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Status, Streaming};
use vouchsafe_identity::SpiffeId;
use vouchsafe_proto::vouchsafe::sync::v1::follow_request::Message as Asked;
use vouchsafe_proto::vouchsafe::sync::v1::{FollowRequest, FollowResponse, FullReason, Page};
use vouchsafe_runtime::tls::PeerSvid;
use vouchsafe_store::{Revision, SharedStore};

use super::super::{Api, refuse};
use super::hello::{self, Hello};
use super::messages::{self, MAX_BYTES, MAX_ITEMS};
use crate::authorize::Refusal;
use crate::errors::{chain, try_again};
use crate::index::{Following, IndexedBundle, View};
use crate::layers::Call;
use crate::random::between;
use crate::usecases::following::{self, Audience, Item, MAX_CHANGES, Opening, Told, WholeReason};
use crate::usecases::nodes::{AgentRefusal, check_standing};

/// How long an agent may take to say hello.
const HELLO_WAIT: Duration = Duration::from_secs(10);
/// How often an agent to which nothing was told gets a newer resume point, at least and at most.
const RESUME_EVERY: [Duration; 2] = [Duration::from_secs(20), Duration::from_secs(40)];
/// How long revocations wait for more: they concern every agent, and come as often as runs end.
const GATHER: Duration = Duration::from_millis(250);
/// Time between two whole sets that an agent asks for on one stream.
const BETWEEN_RESYNCS: Duration = Duration::from_secs(1);
/// How long an agent waits for its turn to get the whole set.
const WHOLE_WAIT: Duration = Duration::from_secs(5);
/// After this the turn passes to the next one, even if the agent has not read all.
const WHOLE_TURN: Duration = Duration::from_secs(10);
/// When an agent that did not get its turn may come again, at least and at most.
const COME_AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(10)];
/// A stream ends so long after its connection got too old for new calls, at least and at most; the agent opens
/// another one on a new connection. Later the connection would be cut.
const AFTER_CONNECTION_AGE: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(40)];

/// By what the agent showed who it is.
pub(super) struct Holder {
    pub(super) agent: SpiffeId,
    pub(super) serial: String,
    pub(super) expires_at: OffsetDateTime,
    pub(super) svid: Option<PeerSvid>,
}

impl Holder {
    /// Whether the bundle still has the authority of the agent's SVID. Not asked under the index's lock: a bundle that is
    /// new costs a verification.
    fn is_vouched_for(&self, bundle: Option<&IndexedBundle>, now: OffsetDateTime) -> Result<(), Status> {
        match (&self.svid, bundle) {
            (Some(svid), Some(indexed)) if !svid.is_vouched_for(&indexed.bundle, now) => Err(
                Status::unauthenticated(Refusal::Revoked(self.agent.clone()).to_string()),
            ),
            _ => Ok(()),
        }
    }

    /// Whether the agent may go on.
    fn may_go_on(&self, view: &View<'_>, replaced: bool, now: OffsetDateTime) -> Result<(), Status> {
        let agent = &self.agent;
        if self.expires_at <= now {
            return Err(refuse(AgentRefusal::Expired(agent.clone())));
        }
        let node = view.node(agent).map(|node| &node.value);
        check_standing(node, agent, &self.serial).map_err(refuse)?;
        if replaced {
            return Err(Status::aborted("the agent follows by another stream now"));
        }
        Ok(())
    }
}

/// Where the responses go.
type Outgoing = mpsc::Sender<Result<FollowResponse, Status>>;

/// One stream.
pub(super) struct Session {
    api: Api,
    holder: Holder,
    to: Outgoing,
    log_id: String,
    following: Following,
    told: Told,
    /// The revision of the resume point that the agent has.
    point: Revision,
    looked_at: OffsetDateTime,
    next_resume: OffsetDateTime,
    too_old: OffsetDateTime,
    /// Before this the agent gets no further whole set.
    next_resync: OffsetDateTime,
    resync: bool,
    /// When the agent is told of what could wait.
    gather_until: Option<Instant>,
    /// Whether the agent hears of classes, runs and revocations.
    runs: bool,
}

impl Session {
    /// Serves one stream to its end. `Ok` means that the agent left.
    pub(super) async fn run(
        api: Api,
        call: &Call,
        holder: Holder,
        mut incoming: Streaming<FollowRequest>,
        to: Outgoing,
    ) -> Result<(), Status> {
        let late = |_| Status::deadline_exceeded("the agent took too long to say hello");
        let first = timeout(HELLO_WAIT, incoming.message()).await.map_err(late)??;
        let hello = hello::read(first)?;
        call.fact("version", hello.agent_version.as_str());
        note_version(&api, call, &holder.agent, &hello).await;
        let log_id = log_id(&api.store);
        let now = api.clock.now();
        let runs = hello.runs;
        let (following, opened) = api.index.join(&holder.agent, |view| {
            holder.may_go_on(view, false, now)?;
            let audience = Audience {
                agent: &holder.agent,
                own: &api.trust_domain,
                runs,
            };
            let resume = hello.resume.as_ref();
            Ok::<_, Status>(following::open(view, audience, &log_id, resume, now))
        });
        let (told, opening) = opened?;
        let life = api.limits.max_connection_age.get() + between(&api.clock, AFTER_CONNECTION_AGE);
        let session = Self {
            holder,
            to,
            log_id,
            following,
            point: told.point().revision,
            told,
            looked_at: now,
            next_resume: now + between(&api.clock, RESUME_EVERY),
            too_old: now + life,
            next_resync: now,
            resync: false,
            gather_until: None,
            runs,
            api,
        };
        session.serve(hello, opening, incoming).await
    }

    async fn serve(
        mut self,
        hello: Hello,
        opening: Opening,
        mut incoming: Streaming<FollowRequest>,
    ) -> Result<(), Status> {
        let (agent, entries) = (&self.holder.agent, self.told.entries().len());
        match opening {
            Opening::Whole(reason) => {
                tracing::debug!(spiffe_id = %agent, entries, reason = reason.name(), "an agent follows");
                let turn = self.turn().await?;
                self.send(messages::welcome(&hello, Some(reason), &self.log_id))
                    .await?;
                self.tell_whole(turn, FullReason::Unspecified).await?;
            }
            Opening::Changes(items) => {
                tracing::debug!(spiffe_id = %agent, entries, count = items.len(), "an agent follows on");
                self.send(messages::welcome(&hello, None, &self.log_id)).await?;
                self.tell(&items).await?;
            }
        }
        let mut asks = true;
        loop {
            let due = self.due();
            let gathered = self.gather_until;
            tokio::select! {
                () = self.to.closed() => return Ok(()),
                () = self.following.news() => match self.following.may_gather() {
                    true => self.gather(),
                    false => self.look().await?,
                },
                () = self.api.clock.sleep_until(due) => self.on_time().await?,
                () = sleep_until(gathered.unwrap_or_else(Instant::now)), if gathered.is_some() => self.look().await?,
                message = incoming.message(), if asks && !self.resync => match message? {
                    Some(message) => self.hear(message).await?,
                    None => asks = false,
                },
            }
        }
    }

    /// When something has to be done without news.
    fn due(&self) -> OffsetDateTime {
        let resync = self.resync.then_some(self.next_resync);
        let others = [self.told.next_end(), resync].into_iter().flatten();
        let ends = self.holder.expires_at.min(self.too_old).min(self.next_resume);
        others.fold(ends, OffsetDateTime::min)
    }

    async fn on_time(&mut self) -> Result<(), Status> {
        let now = self.api.clock.now();
        if self.too_old <= now {
            let text = "the stream is as old as connections get: open another one";
            return Err(try_again(Status::unavailable(text), Duration::ZERO));
        }
        if self.resync && self.next_resync <= now {
            return self.start_anew(FullReason::Digest).await;
        }
        self.look().await?;
        if self.next_resume <= now {
            let changed = self.following.peek(|view, _| view.changed());
            if changed > self.point {
                self.tell(&[]).await?;
            }
            self.next_resume = now + between(&self.api.clock, RESUME_EVERY);
        }
        Ok(())
    }

    /// Lets more come of what can wait.
    fn gather(&mut self) {
        self.gather_until.get_or_insert_with(|| Instant::now() + GATHER);
    }

    /// A message of the agent's; each counts as a call.
    async fn hear(&mut self, message: FollowRequest) -> Result<(), Status> {
        let taken = self.api.rates.calls.take(&self.holder.agent, 1).await;
        taken.map_err(|e| Status::resource_exhausted(e.to_string()))?;
        match message.message {
            Some(Asked::Hello(_)) => Err(Status::invalid_argument(
                "`hello` is the first message, and only the first",
            )),
            Some(Asked::Resync(_)) => {
                tracing::info!(spiffe_id = %self.holder.agent, "an agent asks for its whole set, because its own differs");
                self.resync = true;
                Ok(())
            }
            // What a newer agent may ask for.
            None => Ok(()),
        }
    }

    /// Looks at what is new, and tells it.
    async fn look(&mut self) -> Result<(), Status> {
        let now = self.api.clock.now();
        let (holder, told, own) = (&self.holder, &mut self.told, &self.api.trust_domain);
        let ended = told.next_end().is_some_and(|end| end <= now);
        let set_back = now < self.looked_at;
        let looked = self.following.look(|view, mut pending| {
            holder.may_go_on(view, pending.replaced, now)?;
            pending.everything |= ended || set_back;
            let bundle = view.bundle(own).cloned();
            Ok::<_, Status>((told.catch_up(view, &pending, now), pending.overflowed, bundle))
        });
        let (items, overflowed, bundle) = looked?;
        if let Err(revoked) = self.holder.is_vouched_for(bundle.as_deref(), now) {
            self.part_with(&items);
            return Err(revoked);
        }
        (self.looked_at, self.gather_until) = (now, None);
        if items.is_empty() {
            return Ok(());
        }
        if items.len() <= MAX_CHANGES || items.len() < self.told.len() {
            return self.tell(&items).await;
        }
        let reason = match overflowed {
            true => WholeReason::Slow,
            false => WholeReason::TooMany,
        };
        tracing::info!(spiffe_id = %self.holder.agent, count = items.len(), reason = reason.name(), "an agent gets its whole set instead of many changes");
        self.start_anew(messages::full_reason(reason)).await
    }

    /// An agent whose authority was revoked may still hear which, as anybody may, so that its workloads do.
    fn part_with(&self, items: &[Item]) {
        if items.iter().all(|item| matches!(item, Item::Bundle(_))) {
            let point = messages::resume_point(&self.log_id, self.told.point());
            let changes = items.iter().map(messages::change).collect();
            // One that does not read is not waited for.
            let _full = self.to.try_send(Ok(messages::delta(changes, Some(point))));
        }
    }

    /// Tells everything once more.
    async fn start_anew(&mut self, reason: FullReason) -> Result<(), Status> {
        let turn = self.turn().await?;
        let now = self.api.clock.now();
        let holder = &self.holder;
        let audience = Audience {
            agent: &holder.agent,
            own: &self.api.trust_domain,
            runs: self.runs,
        };
        let told = self.following.look(|view, pending| {
            holder.may_go_on(view, pending.replaced, now)?;
            Ok::<_, Status>(Told::everything(view, audience, now))
        });
        self.told = told?;
        (self.looked_at, self.gather_until) = (now, None);
        if reason == FullReason::Digest {
            (self.resync, self.next_resync) = (false, now + BETWEEN_RESYNCS);
        }
        self.tell_whole(turn, reason).await
    }

    /// Waits for a turn to be told the whole set.
    async fn turn(&self) -> Result<OwnedSemaphorePermit, Status> {
        let waiting = self.api.whole_sets.clone().acquire_owned();
        if let Ok(Ok(turn)) = timeout(WHOLE_WAIT, waiting).await {
            return Ok(turn);
        }
        let delay = between(&self.api.clock, COME_AGAIN);
        tracing::warn!(
            spiffe_id = %self.holder.agent,
            retry_in_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
            "an agent has to come again: too many get their whole set at a time"
        );
        let text = "too many agents get their whole set at a time: try again";
        Err(try_again(Status::resource_exhausted(text), delay))
    }

    /// Tells the whole set in pages, all of which hold at one point.
    async fn tell_whole(&mut self, turn: OwnedSemaphorePermit, reason: FullReason) -> Result<(), Status> {
        {
            let mut pages = pin!(self.pages(reason));
            let told = timeout(WHOLE_TURN, &mut pages).await;
            drop(turn);
            match told {
                Ok(told) => told?,
                Err(_slow) => pages.await?,
            }
        }
        self.has_told();
        Ok(())
    }

    async fn pages(&self, reason: FullReason) -> Result<(), Status> {
        let mut page = Page {
            full_reason: reason.into(),
            ..Page::default()
        };
        let mut size = 0;
        for bundle in self.told.bundles() {
            let message = crate::convert::bundle::message(&bundle.bundle, None);
            self.make_room(&mut page, &mut size, message.encoded_len())
                .await?;
            page.bundles.push(message);
        }
        for entry in self.told.entries() {
            let message = crate::convert::entry::message(entry, None);
            self.make_room(&mut page, &mut size, message.encoded_len())
                .await?;
            page.entries.push(message);
        }
        for class in self.told.classes() {
            let message = crate::convert::class::message(&class.value, 0);
            self.make_room(&mut page, &mut size, message.encoded_len())
                .await?;
            page.classes.push(message);
        }
        for live in self.told.runs() {
            let message = messages::live_run(&live.run);
            self.make_room(&mut page, &mut size, message.encoded_len())
                .await?;
            page.runs.push(message);
        }
        for revoked in self.told.revocations() {
            let message = crate::convert::run::revocation(revoked);
            self.make_room(&mut page, &mut size, message.encoded_len())
                .await?;
            page.revocations.push(message);
        }
        page.resume = Some(messages::resume_point(&self.log_id, self.told.point()));
        self.send(messages::page(page)).await
    }

    /// Sends a page to which no more can be added.
    async fn make_room(&self, page: &mut Page, size: &mut usize, more: usize) -> Result<(), Status> {
        let classes_and_runs = page.classes.len() + page.runs.len() + page.revocations.len();
        let items = page.entries.len() + page.bundles.len() + classes_and_runs;
        if items == MAX_ITEMS || (items > 0 && *size + more > MAX_BYTES) {
            self.send(messages::page(std::mem::take(page))).await?;
            *size = 0;
        }
        *size += more;
        Ok(())
    }

    /// Tells changes, and the point that is reached with them.
    async fn tell(&mut self, items: &[Item]) -> Result<(), Status> {
        let (mut changes, mut size) = (Vec::new(), 0);
        for item in items {
            let change = messages::change(item);
            let more = change.encoded_len();
            if changes.len() == MAX_ITEMS || (size > 0 && size + more > MAX_BYTES) {
                self.send(messages::delta(std::mem::take(&mut changes), None))
                    .await?;
                size = 0;
            }
            size += more;
            changes.push(change);
        }
        let point = messages::resume_point(&self.log_id, self.told.point());
        self.send(messages::delta(changes, Some(point))).await?;
        self.has_told();
        Ok(())
    }

    fn has_told(&mut self) {
        self.told.has_been_told();
        self.point = self.told.point().revision;
        self.next_resume = self.api.clock.now() + between(&self.api.clock, RESUME_EVERY);
    }

    /// Sends a message when the agent has read the one before, if it may still go on then.
    async fn send(&self, message: FollowResponse) -> Result<(), Status> {
        let place = self.to.reserve().await;
        let place = place.map_err(|_left| Status::cancelled("the agent left"))?;
        let now = self.api.clock.now();
        let bundle = self.following.peek(|view, replaced| {
            self.holder.may_go_on(view, replaced, now)?;
            Ok::<_, Status>(view.bundle(&self.api.trust_domain).cloned())
        })?;
        self.holder.is_vouched_for(bundle.as_deref(), now)?;
        place.send(Ok(message));
        Ok(())
    }
}

/// The log that the store's revisions count in: another one after each restoration, so that nobody goes on from what the
/// lost store said.
fn log_id(store: &SharedStore) -> String {
    let server_id = store.server_id();
    match store.restored() {
        None => format!("{server_id}.changes"),
        Some(mark) => format!("{server_id}.{}.changes", mark.id),
    }
}

/// Notes the release of an agent where it differs; that it could not be noted keeps nobody from following.
async fn note_version(api: &Api, call: &Call, agent: &SpiffeId, hello: &Hello) {
    let version = &hello.agent_version;
    let known = api.index.node(agent);
    if version.is_empty() || known.is_some_and(|node| node.value.agent_version == *version) {
        return;
    }
    if let Err(error) = api.nodes.post_status(&call.origin(), agent, version).await {
        tracing::warn!(spiffe_id = %agent, error = chain(&error), "the version of an agent could not be noted");
    }
}
