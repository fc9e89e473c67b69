//! The two daemons, the network between them, and what the simulation knows must be so.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;
use time::OffsetDateTime;
use tonic::transport::Channel;
use vouchsafe_agent::AppError;
use vouchsafe_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use vouchsafe_proto::spire::api::server::agent::v1::{
    BanAgentRequest, CreateJoinTokenRequest, ListAgentsRequest,
};
use vouchsafe_proto::spire::api::server::bundle::v1::GetBundleRequest;
use vouchsafe_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use vouchsafe_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use vouchsafe_proto::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest, BatchUpdateEntryRequest,
};
use vouchsafe_proto::spire::api::types;
use vouchsafe_runtime::notify::Notifier;
use vouchsafe_runtime::{Clock, TaskFailed, config};
use vouchsafe_tests::daemons::TRUST_DOMAIN;
use vouchsafe_tests::node::channel;
use vouchsafe_tests::running::Running;
use vouchsafe_tests::wait::until;

use crate::checks::{Seen, Served};
use crate::steps::{ENTRIES, Kind, Step};
use vouchsafe_tests::link::{Link, Mode};

/// When every simulation begins.
const START: i64 = 1_900_000_000;
/// Longest that the agent is left without its server: well below half of the life of its SVID.
const LONGEST_CUT: Duration = Duration::from_secs(3600);
/// How far the clock is put forward.
const JUMP: time::Duration = time::Duration::minutes(20);
/// The parent of all entries.
const NODE_PATH: &str = "/node/simulated";

/// An entry as it has been registered.
#[derive(Debug, Clone)]
struct Registered {
    id: String,
    mine: bool,
}

/// Everything.
pub(crate) struct World {
    folder: TempDir,
    clock: Clock,
    link: Link,
    server: Option<Running<TaskFailed>>,
    agent: Option<Running<AppError>>,
    token: String,
    entries: BTreeMap<u8, Registered>,
    /// Identities that the caller may be served: those it has now, and those it had when the agent last heard.
    lately: BTreeSet<String>,
    /// Without the server since.
    alone_since: Option<OffsetDateTime>,
    /// The clock was put forward; back by then nothing is sure before this moment.
    ahead_until: Option<OffsetDateTime>,
    is_ahead: bool,
    seen: Seen,
}

impl World {
    /// A server, and an agent that has joined it. The seed gives what both spread by chance.
    pub(crate) async fn start(seed: u64) -> anyhow::Result<Self> {
        // In memory: what a disk does to the store is tried elsewhere, and thousands of seeds would wear one out.
        let folder = tempfile::Builder::new()
            .prefix("vouchsafe-simulation-")
            .tempdir_in("/dev/shm")?;
        let clock = Clock::manual_seeded(OffsetDateTime::from_unix_timestamp(START)?, seed);
        let mut world = Self {
            folder,
            clock,
            link: Link::start().await?,
            server: None,
            agent: None,
            token: String::new(),
            entries: BTreeMap::new(),
            lately: BTreeSet::new(),
            alone_since: None,
            ahead_until: None,
            is_ahead: false,
            seen: Seen::default(),
        };
        world.start_server().await?;
        world.join().await?;
        world.settle().await?;
        Ok(world)
    }

    /// Lets one thing happen, then looks whether all that must hold holds.
    pub(crate) async fn take(&mut self, step: Step) -> anyhow::Result<()> {
        match step {
            Step::Create { entry, mine } => self.create(entry, mine).await?,
            Step::Retarget { entry, mine } => self.retarget(entry, mine).await?,
            Step::Delete { entry } => self.delete(entry).await?,
            Step::Rotate(kind) => self.rotate(kind).await?,
            Step::Taint(kind) => self.taint(kind).await?,
            Step::Revoke(kind) => self.revoke(kind).await?,
            Step::Network(mode) => self.network(mode),
            Step::Server { up: true } if self.server.is_none() => self.start_server().await?,
            Step::Server { up: false } => self.stop_server().await?,
            Step::Server { up: true } => {}
            Step::RestartAgent => self.restart_agent().await?,
            Step::Ban => self.ban().await?,
            Step::Pass { seconds } => self.pass(Duration::from_secs(seconds.into())).await?,
            Step::Jump => self.jump(),
            Step::Fetch => drop(self.fetch().await?),
            Step::FetchJwt => self.fetch_jwt().await?,
            Step::Settle => self.settle().await?,
        }
        self.check_agent()
    }

    /// Mends everything; all must be well then, and the logs without a gap.
    pub(crate) async fn finish(mut self) -> anyhow::Result<()> {
        self.mend().await?;
        self.settle().await?;
        self.check_registry().await?;
        if let Some(agent) = self.agent.take() {
            agent.stop().await.context("stopping the agent")?;
        }
        self.stop_server().await?;
        crate::checks::logs(&self.folder.path().join("server/store")).await
    }

    // What happens to the registry.

    async fn create(&mut self, entry: u8, mine: bool) -> anyhow::Result<()> {
        if self.server.is_none() || self.entries.contains_key(&entry) {
            return Ok(());
        }
        let asked = BatchCreateEntryRequest {
            entries: vec![wanted(entry, mine, "")],
            output_mask: None,
        };
        let made = EntryClient::new(self.operator().await?)
            .batch_create_entry(asked)
            .await?;
        let result = made.into_inner().results.pop().context("one result")?;
        let id = result.entry.context("an entry was made")?.id;
        self.register(entry, Registered { id, mine });
        Ok(())
    }

    async fn retarget(&mut self, entry: u8, mine: bool) -> anyhow::Result<()> {
        let Some(id) = self.entries.get(&entry).map(|registered| registered.id.clone()) else {
            return Ok(());
        };
        if self.server.is_none() {
            return Ok(());
        }
        let asked = BatchUpdateEntryRequest {
            entries: vec![wanted(entry, mine, &id)],
            input_mask: None,
            output_mask: None,
        };
        let made = EntryClient::new(self.operator().await?)
            .batch_update_entry(asked)
            .await?;
        let status = made.into_inner().results.pop().and_then(|result| result.status);
        ensure!(
            status.is_some_and(|status| status.code == 0),
            "the update was refused"
        );
        self.register(entry, Registered { id, mine });
        Ok(())
    }

    async fn delete(&mut self, entry: u8) -> anyhow::Result<()> {
        if self.server.is_none() {
            return Ok(());
        }
        let Some(Registered { id, .. }) = self.entries.remove(&entry) else {
            return Ok(());
        };
        let asked = BatchDeleteEntryRequest { ids: vec![id] };
        let made = EntryClient::new(self.operator().await?)
            .batch_delete_entry(asked)
            .await?;
        let status = made.into_inner().results.pop().and_then(|result| result.status);
        ensure!(
            status.is_some_and(|status| status.code == 0),
            "the deletion was refused"
        );
        Ok(())
    }

    fn register(&mut self, entry: u8, registered: Registered) {
        if registered.mine {
            self.lately.insert(path(entry));
        }
        self.entries.insert(entry, registered);
    }

    /// The identities that the caller has by the registry.
    fn mine(&self) -> BTreeSet<String> {
        let mine = self.entries.iter().filter(|(_, registered)| registered.mine);
        mine.map(|(entry, _)| path(*entry)).collect()
    }

    // What happens to the authorities.

    /// As operators are told to: the next authority signs only once those who verify have heard of it.
    async fn rotate(&mut self, kind: Kind) -> anyhow::Result<()> {
        if self.alone_since.is_some() || self.is_strange() || self.mine().is_empty() {
            return Ok(());
        }
        let Some(prepared) = crate::authorities::prepare(self.operator().await?, kind).await? else {
            return Ok(());
        };
        let published = crate::authorities::published(self.operator().await?).await?;
        let socket = self.workload_socket();
        let heard = until(
            "the caller has the bundle with the prepared authority",
            async || match kind {
                Kind::X509 => {
                    let served = crate::checks::fetch(&socket).await.ok()?;
                    served.trusts(&published).then_some(())
                }
                Kind::Jwt => {
                    let bundles = crate::checks::jwt_bundles(&socket).await.ok()?;
                    bundles.contains(&format!("\"{prepared}\"")).then_some(())
                }
            },
        );
        heard.await?;
        crate::authorities::activate(self.operator().await?, kind, prepared).await
    }

    async fn taint(&mut self, kind: Kind) -> anyhow::Result<()> {
        match self.server {
            Some(_) => crate::authorities::taint(self.operator().await?, kind).await,
            None => Ok(()),
        }
    }

    async fn revoke(&mut self, kind: Kind) -> anyhow::Result<()> {
        // What still hangs on an authority that is revoked is worth nothing; operators wait until nothing does.
        self.settle().await?;
        match (&self.server, self.link.mode()) {
            (Some(_), Mode::Open) => crate::authorities::revoke(self.operator().await?, kind).await,
            _ => Ok(()),
        }
    }

    // What happens to the parts.

    fn network(&mut self, mode: Mode) {
        self.link.set(mode);
        self.note_whether_alone();
    }

    fn note_whether_alone(&mut self) {
        let alone = self.link.mode() != Mode::Open || self.server.is_none();
        match (alone, self.alone_since) {
            (true, None) => self.alone_since = Some(self.clock.now()),
            (false, Some(_)) => self.alone_since = None,
            _ => {}
        }
    }

    async fn start_server(&mut self) -> anyhow::Result<()> {
        let text = format!(
            "trust_domain = \"{TRUST_DOMAIN}\"\ndata_dir = {:?}\nlisten = \"127.0.0.1:0\"\nadmin_socket = {:?}\n\
             ca_ttl = \"24h\"\ndefault_x509_svid_ttl = \"20m\"\nagent_ttl = \"6h\"\n",
            self.folder.path().join("server"),
            self.folder.path().join("server.sock"),
        );
        let config = config::parse(&text, "the simulation's server.toml")?;
        let host = vouchsafe_server::app::Host {
            clock: self.clock.clone(),
            ..vouchsafe_server::app::Host::default()
        };
        let app = vouchsafe_server::app::App::build(config, host)
            .await
            .context("the server does not start")?;
        self.link.aim(app.addresses().listen);
        self.server = Some(Running::start("server", |signal| app.run(signal)));
        self.note_whether_alone();
        Ok(())
    }

    async fn stop_server(&mut self) -> anyhow::Result<()> {
        if let Some(server) = self.server.take() {
            server.stop().await.context("stopping the server")?;
            // What the end of the process would do: no connection, and so no task, outlives it.
            self.link.hang_up();
            let store = self.folder.path().join("server/store");
            until("the server lets go of its store", async || {
                crate::checks::is_free(&store).then_some(())
            })
            .await?;
        }
        self.note_whether_alone();
        Ok(())
    }

    /// With the token of its last joining, as a service that always starts the same way.
    async fn start_agent(&mut self) -> anyhow::Result<()> {
        let text = format!(
            "trust_domain = \"{TRUST_DOMAIN}\"\ndata_dir = {:?}\nserver_address = \"{}\"\nworkload_socket = {:?}\n\
             admin_socket = {:?}\ntrust_bundle = {:?}\n",
            self.folder.path().join("agent"),
            self.link.address(),
            self.workload_socket(),
            self.folder.path().join("agent.sock"),
            self.folder.path().join("bundle.pem"),
        );
        let config = config::parse(&text, "the simulation's agent.toml")?;
        let host = vouchsafe_agent::Host {
            clock: self.clock.clone(),
            notifier: Notifier::new(None),
            credentials: None,
            ..vouchsafe_agent::Host::default()
        };
        let token = vouchsafe_node_attestors::join_token::Token::new(&self.token)?;
        let app = vouchsafe_agent::App::build(config, host, Some(token))
            .await
            .context("the agent does not start")?;
        self.agent = Some(Running::start("agent", |signal| app.run(signal)));
        Ok(())
    }

    /// Starts the agent with a new token; the server and the network are up then.
    async fn join(&mut self) -> anyhow::Result<()> {
        self.link.set(Mode::Open);
        if self.server.is_none() {
            self.start_server().await?;
        }
        self.note_whether_alone();
        let operator = self.operator().await?;
        let bundle = BundleClient::new(operator.clone())
            .get_bundle(GetBundleRequest::default())
            .await?;
        std::fs::write(
            self.folder.path().join("bundle.pem"),
            crate::checks::pem(&bundle.into_inner())?,
        )?;
        let asked = CreateJoinTokenRequest {
            ttl: 24 * 3600,
            agent_id: Some(spiffe_id(NODE_PATH)),
            ..CreateJoinTokenRequest::default()
        };
        let token = AgentClient::new(operator)
            .create_join_token(asked)
            .await?
            .into_inner();
        self.token = token.value;
        self.start_agent().await
    }

    async fn restart_agent(&mut self) -> anyhow::Result<()> {
        let agent = self.agent.take().context("the agent runs")?;
        agent.stop().await.context("stopping the agent")?;
        self.start_agent().await
    }

    async fn ban(&mut self) -> anyhow::Result<()> {
        if self.server.is_none() || self.link.mode() != Mode::Open || self.is_strange() {
            return Ok(());
        }
        self.settle().await?;
        let mut client = AgentClient::new(self.operator().await?);
        let agents = client
            .list_agents(ListAgentsRequest::default())
            .await?
            .into_inner()
            .agents;
        let present = agents
            .into_iter()
            .find(|agent| !agent.banned)
            .context("an agent joined")?;
        client.ban_agent(BanAgentRequest { id: present.id }).await?;
        let agent = self.agent.take().context("the agent runs")?;
        let error = agent.failure().await.context("the agent was banned")?;
        ensure!(
            error.to_string().contains("new join token"),
            "a banned agent ended with: {error}"
        );
        self.join().await?;
        self.settle().await
    }

    async fn pass(&mut self, span: Duration) -> anyhow::Result<()> {
        if let Some(since) = self.alone_since
            && self.clock.now() + span > since + LONGEST_CUT
        {
            self.mend().await?;
            self.settle().await?;
        }
        self.clock.sleep_until(self.clock.now() + span).await;
        Ok(())
    }

    /// Forward at one time, back at the next.
    fn jump(&mut self) {
        let now = self.clock.now();
        match self.is_ahead {
            false => {
                // Without its server the agent could not renew what it loses by this.
                if self.alone_since.is_some() {
                    return;
                }
                self.clock.jump(JUMP);
            }
            true => {
                self.clock.jump(-JUMP);
                self.ahead_until = Some(now);
            }
        }
        self.is_ahead = !self.is_ahead;
    }

    /// The clock went back: what was issued before is not valid yet.
    fn is_strange(&self) -> bool {
        self.ahead_until.is_some_and(|until| self.clock.now() <= until)
    }

    async fn mend(&mut self) -> anyhow::Result<()> {
        self.link.set(Mode::Open);
        if self.server.is_none() {
            self.start_server().await?;
        }
        self.note_whether_alone();
        if let (Some(until), true) = (self.ahead_until, self.is_strange()) {
            self.clock.sleep_until(until + time::Duration::seconds(1)).await;
        }
        Ok(())
    }

    // What must hold.

    /// An agent that was not banned goes on.
    fn check_agent(&mut self) -> anyhow::Result<()> {
        match self.agent.as_mut().and_then(Running::has_ended) {
            Some(Err(error)) => bail!("the agent ended: {error}"),
            Some(Ok(())) => bail!("the agent ended by itself"),
            None => Ok(()),
        }
    }

    /// What the caller is given now: nothing that it never had, nothing that does not verify.
    async fn fetch(&mut self) -> anyhow::Result<Served> {
        let served = crate::checks::fetch(&self.workload_socket()).await?;
        let strange = self.is_strange();
        self.seen.look(&served, &self.clock, strange)?;
        let unknown: Vec<_> = served.ids().difference(&self.lately).cloned().collect();
        ensure!(
            unknown.is_empty(),
            "served {unknown:?}, which the caller never had"
        );
        Ok(served)
    }

    async fn fetch_jwt(&mut self) -> anyhow::Result<()> {
        let served =
            crate::checks::fetch_jwt(&self.workload_socket(), &self.clock, self.is_strange()).await?;
        let unknown: Vec<_> = served.difference(&self.lately).cloned().collect();
        ensure!(
            unknown.is_empty(),
            "served {unknown:?}, which the caller never had"
        );
        Ok(())
    }

    /// Where agent and server hear each other, the caller gets exactly what it must have, before long.
    async fn settle(&mut self) -> anyhow::Result<()> {
        if self.alone_since.is_some() || self.is_strange() {
            self.fetch().await?;
            return Ok(());
        }
        let wanted = self.mine();
        let tainted = crate::authorities::tainted(self.operator().await?).await?;
        let socket = self.workload_socket();
        let mut last = String::new();
        let settled = until("the caller has what it must have", async || {
            let served = match crate::checks::fetch(&socket).await {
                Ok(served) => served,
                Err(error) => return Some(Err(error)),
            };
            last = format!("{served}; wanted {wanted:?}");
            let current = served.is_all_of(&wanted) && !served.hangs_on(&tainted);
            current.then_some(Ok(()))
        });
        settled.await.with_context(|| last.clone())??;
        self.lately = wanted;
        Ok(())
    }

    /// The server lists what was acknowledged, and nothing else.
    async fn check_registry(&mut self) -> anyhow::Result<()> {
        let listed = EntryClient::new(self.operator().await?)
            .list_entries(vouchsafe_proto::spire::api::server::entry::v1::ListEntriesRequest::default())
            .await?
            .into_inner()
            .entries;
        let listed: BTreeSet<String> = listed
            .into_iter()
            .filter(|entry| entry.parent_id == Some(spiffe_id(NODE_PATH)))
            .map(|entry| entry.id)
            .collect();
        let acknowledged: BTreeSet<String> = self
            .entries
            .values()
            .map(|registered| registered.id.clone())
            .collect();
        ensure!(
            listed == acknowledged,
            "listed {listed:?}, acknowledged {acknowledged:?}"
        );
        Ok(())
    }

    async fn operator(&self) -> anyhow::Result<Channel> {
        channel(&self.folder.path().join("server.sock")).await
    }

    fn workload_socket(&self) -> std::path::PathBuf {
        self.folder.path().join("workload.sock")
    }
}

fn path(entry: u8) -> String {
    debug_assert!(entry < ENTRIES);
    format!("/task/{entry}")
}

fn spiffe_id(path: &str) -> types::Spiffeid {
    types::Spiffeid {
        trust_domain: TRUST_DOMAIN.to_owned(),
        path: path.to_owned(),
    }
}

/// An entry that this process matches, or one that no process does.
fn wanted(entry: u8, mine: bool, id: &str) -> types::Entry {
    let uid = match mine {
        true => nix::unistd::geteuid().as_raw(),
        false => u32::MAX - 1,
    };
    types::Entry {
        id: id.to_owned(),
        parent_id: Some(spiffe_id(NODE_PATH)),
        spiffe_id: Some(spiffe_id(&path(entry))),
        selectors: vec![types::Selector {
            r#type: "unix".to_owned(),
            value: format!("uid:{uid}"),
        }],
        ..types::Entry::default()
    }
}
