//! A server and an agent that launches, with a class of Python programs on them.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::Value;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use vouchsafe_launch::Digest;
use vouchsafe_proto::vouchsafe::launch::v1::launch_client::LaunchClient;
use vouchsafe_proto::vouchsafe::launch::v1::{
    Admitted, Ended, LaunchEvent, LaunchRequest, ReadOutputRequest, Started, launch_event::Event,
};
use vouchsafe_tests::clients::interpreter;
use vouchsafe_tests::daemons::Deployment;
use vouchsafe_tests::repository;
use vouchsafe_tests::workload::{Header, channel, next};

/// The class of the runs.
pub(crate) const CLASS: &str = "spiffe://example.org/agent/researcher";
/// Uids that nobody has.
pub(crate) const POOL: (u32, u32) = (61_100, 61_163);

/// A client that behaves.
pub(crate) type LaunchApi = LaunchClient<InterceptedService<Channel, Header>>;

/// The deployment, with the script of its class.
pub(crate) struct Stage {
    pub(crate) at: Deployment,
    pub(crate) script: PathBuf,
}

impl Stage {
    /// Up, without a class.
    pub(crate) async fn empty() -> anyhow::Result<Self> {
        let mut at = Deployment::server_alone("").await?;
        let launch = format!(
            "[launch]\nsocket = {:?}\nprograms_dir = {:?}\n",
            at.path("launch.sock"),
            at.path("programs")
        );
        at.configure_agent(&launch);
        at.join().await?;
        let mut script = PathBuf::new();
        for name in ["thief.py", "story.py"] {
            script = at.path(name);
            client(&format!("runs/{name}"), &script)?;
        }
        Ok(Self { at, script })
    }

    /// Up, with a class whose spec `change` may change.
    pub(crate) async fn with(change: impl FnOnce(&mut String)) -> anyhow::Result<Self> {
        let stage = Self::empty().await?;
        let mut spec = stage.spec()?;
        change(&mut spec);
        stage.class("researcher", CLASS, &spec).await?;
        Ok(stage)
    }

    /// Up, with the class of another script than the story, which finds these beside it.
    pub(crate) async fn of(
        script: &str,
        beside: &[&str],
        change: impl FnOnce(&mut String),
    ) -> anyhow::Result<Self> {
        let mut stage = Self::empty().await?;
        for file in beside.iter().chain([&script]) {
            let name = file.rsplit('/').next().unwrap_or(file);
            stage.script = stage.at.path(name);
            client(file, &stage.script)?;
        }
        let mut spec = stage.spec()?;
        change(&mut spec);
        stage.class("researcher", CLASS, &spec).await?;
        Ok(stage)
    }

    pub(crate) async fn start() -> anyhow::Result<Self> {
        Self::with(|_| {}).await
    }

    /// What the class is, as its file has it.
    pub(crate) fn spec(&self) -> anyhow::Result<String> {
        Ok(format!(
            "any_node = true\nlaunchers = [\"uid:0\"]\nmax_runs = 300\nuser = {{ first_uid = {}, last_uid = {} }}\n\
             isolation = \"process\"\ninherit = \"none\"\n\n[program]\nexecutable = {}\nscript = {}\nextra_args = true\n",
            POOL.0,
            POOL.1,
            measured(&interpreter())?,
            measured(&self.script)?,
        ))
    }

    /// Creates a class.
    pub(crate) async fn class(&self, name: &str, id: &str, spec: &str) -> anyhow::Result<Value> {
        let file = self.at.path(&format!("{name}.toml"));
        fs::write(&file, spec)?;
        let file = file.to_str().context("no text")?;
        self.at
            .json(&["class", "create", name, "--id", id, "--file", file])
            .await
    }

    /// On a connection of its own.
    pub(crate) async fn api(&self) -> anyhow::Result<LaunchApi> {
        let channel = channel(&self.at.path("launch.sock")).await?;
        Ok(LaunchClient::with_interceptor(channel, Header))
    }

    /// A run of the class with these arguments.
    pub(crate) fn request(&self, arguments: &[&str]) -> LaunchRequest {
        let interpreter = interpreter().display().to_string();
        let script = self.script.display().to_string();
        let command = [interpreter.as_str(), script.as_str()];
        LaunchRequest {
            class: "researcher".to_owned(),
            task: "task-1".to_owned(),
            arguments: command
                .iter()
                .chain(arguments)
                .map(|text| text.as_bytes().to_vec())
                .collect(),
            environment: vec![b"PATH=/usr/bin:/bin".to_vec()],
            working_directory: b"/".to_vec(),
            ..LaunchRequest::default()
        }
    }

    /// Launches; the run so far.
    pub(crate) async fn launch(&self, request: LaunchRequest) -> Result<Running, Status> {
        let mut api = self
            .api()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let mut events = api.launch(request).await?.into_inner();
        let admitted = match event(&mut events).await? {
            Event::Admitted(admitted) => admitted,
            other => return Err(Status::internal(format!("{other:?}"))),
        };
        match event(&mut events).await? {
            Event::Started(started) => Ok(Running {
                admitted,
                started,
                events,
            }),
            other => Err(Status::internal(format!("{other:?}"))),
        }
    }

    /// What a run said, once it has ended.
    pub(crate) async fn output(&self, run_id: &str) -> anyhow::Result<String> {
        self.read(run_id, true).await
    }

    /// What a run has said by now.
    pub(crate) async fn said_so_far(&self, run_id: &str) -> anyhow::Result<String> {
        self.read(run_id, false).await
    }

    async fn read(&self, run_id: &str, follow: bool) -> anyhow::Result<String> {
        let request = ReadOutputRequest {
            run_id: run_id.to_owned(),
            follow,
        };
        let mut chunks = self.api().await?.read_output(request).await?.into_inner();
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.message().await? {
            bytes.extend(chunk.output);
        }
        Ok(String::from_utf8(bytes)?)
    }

    /// Launches and waits for the end: each line that it said, by who said it.
    pub(crate) async fn told(&self, arguments: &[&str]) -> anyhow::Result<(Running, Vec<(String, Value)>)> {
        self.told_of(self.request(arguments)).await
    }

    /// The same of any request.
    pub(crate) async fn told_of(
        &self,
        request: LaunchRequest,
    ) -> anyhow::Result<(Running, Vec<(String, Value)>)> {
        let mut run = self.launch(request).await?;
        let ended = run.ended().await?;
        let output = self.output(&ended.run_id).await?;
        ensure!(
            ended.outcome == Some(vouchsafe_proto::vouchsafe::launch::v1::ended::Outcome::Exited(0)),
            "{ended:?}: {output}"
        );
        let lines = output.lines().map(|line| {
            let mut line: Value = serde_json::from_str(line).with_context(|| output.clone())?;
            let who = line["who"].as_str().context("who?")?.to_owned();
            Ok((who, line["got"].take()))
        });
        Ok((run, lines.collect::<anyhow::Result<_>>()?))
    }
}

/// Detached runs outlive their agent: what a test leaves, also where it fails, ends with it.
impl Drop for Stage {
    fn drop(&mut self) {
        let records = fs::read_dir(self.at.path("agent/runs/processes"));
        for record in records.into_iter().flatten().flatten() {
            let read = fs::read(record.path()).ok();
            let record: Option<Value> = read.and_then(|bytes| serde_json::from_slice(&bytes).ok());
            let group = record.as_ref().and_then(|record| record["cgroup"][0].as_str());
            if let Some(group) = group {
                let _gone = fs::write(Path::new(group).join("cgroup.kill"), "1");
            }
        }
    }
}

/// A run that was launched.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) admitted: Admitted,
    pub(crate) started: Started,
    pub(crate) events: Streaming<LaunchEvent>,
}

impl Running {
    pub(crate) async fn ended(&mut self) -> Result<Ended, Status> {
        match event(&mut self.events).await? {
            Event::Ended(ended) => Ok(ended),
            other => Err(Status::internal(format!("{other:?}"))),
        }
    }
}

pub(crate) async fn event(events: &mut Streaming<LaunchEvent>) -> Result<Event, Status> {
    next(events)
        .await?
        .event
        .ok_or_else(|| Status::internal("no event"))
}

/// Puts one of the scripts in `tests/clients` where every user can read it.
pub(crate) fn client(name: &str, place: &Path) -> anyhow::Result<()> {
    fs::copy(repository().join("tests/clients").join(name), place)?;
    Ok(fs::set_permissions(place, Permissions::from_mode(0o644))?)
}

/// A file as a class has it.
pub(crate) fn measured(path: &Path) -> anyhow::Result<String> {
    let hash = Digest::of(&fs::read(path)?);
    Ok(format!("{{ path = {path:?}, sha256 = \"{hash}\" }}"))
}
