//! The real binaries, run as a user would: a server, an agent that joined it, and the command line, in a
//! folder of their own that is gone at the end. Dropping a [`Deployment`] kills its daemons.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};

use anyhow::{Context, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::network::{Host, Network};
use crate::wait::{DEADLINE, until};

/// The trust domain of every deployment.
pub const TRUST_DOMAIN: &str = "example.org";
/// The SPIFFE ID that the entries of a deployment have as their parent.
pub const NODE: &str = "spiffe://example.org/node/test";

/// One of the binaries of this workspace, as cargo built it for this profile.
///
/// # Errors
/// When it is not there: `cargo build --workspace --bins` builds it, which `make test` does first.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    // A binary stands beside the others, a test one folder below.
    let mut places = own.ancestors().skip(1).take(2).map(|folder| folder.join(name));
    let path = places.find(|path| path.is_file());
    path.with_context(|| format!("`{name}` is not built: run `cargo build --workspace --bins`"))
}

/// The program as a service manager starts it, with listening sockets from descriptor 3 on.
fn handing_over(program: &Path, handed: &[OwnedFd]) -> Command {
    if handed.is_empty() {
        return Command::new(program);
    }
    let places: Vec<String> = (3..)
        .zip(handed)
        .map(|(place, fd)| format!("{place}<&{}", fd.as_raw_fd()))
        .collect();
    let mut command = Command::new("bash");
    command
        .arg("-c")
        .arg(format!(
            "exec {}; export LISTEN_FDS={} LISTEN_PID=$$; exec \"$0\" \"$@\"",
            places.join(" "),
            handed.len()
        ))
        .arg(program);
    command
}

/// A descriptor that a child inherits, far from those that it is given.
///
/// # Errors
/// When it cannot be copied.
pub fn inheritable(socket: impl AsFd) -> anyhow::Result<OwnedFd> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    let mut copy = socket.as_fd().try_clone_to_owned()?;
    // Above those that the shell gives the program, so that none is replaced before it is copied.
    let mut low = Vec::new();
    while copy.as_raw_fd() < 10 {
        low.push(copy);
        copy = socket.as_fd().try_clone_to_owned()?;
    }
    fcntl(&copy, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(copy)
}

/// A daemon that runs. It is killed when this is dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    name: &'static str,
    log: PathBuf,
}

impl Daemon {
    fn start(
        name: &'static str,
        mut command: Command,
        config: &Path,
        arguments: &[&str],
        log: PathBuf,
    ) -> anyhow::Result<Self> {
        let output = std::fs::OpenOptions::new().create(true).append(true).open(&log)?;
        command.arg("run").arg("--config").arg(config).args(arguments);
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("cannot run {name}"))?;
        Ok(Self { child, name, log })
    }

    /// The daemon's process id.
    ///
    /// # Errors
    /// When it has ended.
    pub fn pid(&self) -> anyhow::Result<i32> {
        let pid = self
            .child
            .id()
            .with_context(|| format!("{} has ended", self.name))?;
        Ok(i32::try_from(pid)?)
    }

    /// Kills it as a power cut would: SIGKILL, with nothing to prepare.
    ///
    /// # Errors
    /// When it had ended before.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Asks it to end, and waits for that.
    ///
    /// # Errors
    /// When it does not end within the deadline.
    pub async fn terminate(&mut self) -> anyhow::Result<ExitStatus> {
        let pid = nix::unistd::Pid::from_raw(self.pid()?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        self.ended().await
    }

    /// Waits for it to end by itself.
    ///
    /// # Errors
    /// When it does not within the deadline.
    pub async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        let ended = timeout(DEADLINE, self.child.wait()).await;
        Ok(ended.with_context(|| format!("{} does not end:\n{}", self.name, self.log()))??)
    }

    /// Waits for it to end by itself, with this exit code and these words in its log.
    ///
    /// # Errors
    /// When it ends otherwise, or not within the deadline.
    pub async fn ends_with(&mut self, code: i32, why: &str) -> anyhow::Result<()> {
        let status = self.ended().await?;
        let log = self.log();
        ensure!(status.code() == Some(code), "{status}: {log}");
        ensure!(log.contains(why), "not `{why}`: {log}");
        Ok(())
    }

    /// What it has logged so far, over all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_else(|error| error.to_string())
    }

    fn check_alive(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            anyhow::bail!("{} ended with {status}:\n{}", self.name, self.log());
        }
        Ok(())
    }
}

/// A server and, unless it was started without, an agent that joined it.
#[derive(Debug)]
pub struct Deployment {
    folder: TempDir,
    /// The server's `data_dir`.
    data_dir: PathBuf,
    port: u16,
    /// Where the agent finds the server, if not at its listener.
    through: Option<SocketAddr>,
    /// The hosts that the daemons run on. `None`: both on this one.
    network: Option<Network>,
    /// Lines that every start adds to the server's configuration.
    server_config: String,
    /// Lines that every start adds to the agent's configuration.
    agent_config: String,
    /// Listening sockets that each start hands over to the server, as `inheritable` makes them.
    pub handed_to_server: Vec<OwnedFd>,
    /// The same for the agent.
    pub handed_to_agent: Vec<OwnedFd>,
    /// The server. `None` while it is down.
    pub server: Option<Daemon>,
    /// The agent. `None` before it joined and while it is down.
    pub agent: Option<Daemon>,
}

impl Deployment {
    /// A server and an agent.
    ///
    /// # Errors
    /// When one of them does not come up within the deadline.
    pub async fn start() -> anyhow::Result<Self> {
        Self::configured("", "sync_interval = \"1s\"\n").await
    }

    /// A server and an agent with further lines in their configuration.
    ///
    /// # Errors
    /// When one of them does not come up within the deadline.
    pub async fn configured(server_config: &str, agent_config: &str) -> anyhow::Result<Self> {
        let mut deployment = Self::server_alone(server_config).await?;
        deployment.agent_config = agent_config.to_owned();
        deployment.join().await?;
        Ok(deployment)
    }

    /// A server without an agent.
    ///
    /// # Errors
    /// When it does not come up within the deadline.
    pub async fn server_alone(server_config: &str) -> anyhow::Result<Self> {
        Self::server_somewhere(server_config, None, None).await
    }

    /// A server without an agent, on a host of its own.
    ///
    /// # Errors
    /// When it does not come up within the deadline.
    pub async fn server_apart(network: Network, server_config: &str) -> anyhow::Result<Self> {
        Self::server_somewhere(server_config, None, Some(network)).await
    }

    /// A server without an agent, whose data is in a folder elsewhere.
    ///
    /// # Errors
    /// When it does not come up within the deadline.
    pub async fn server_in(server_config: &str, data_dir: &Path) -> anyhow::Result<Self> {
        Self::server_somewhere(server_config, Some(data_dir), None).await
    }

    async fn server_somewhere(
        server_config: &str,
        data_dir: Option<&Path>,
        network: Option<Network>,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("vouchsafe-test-").tempdir()?;
        // Workloads under other uids must reach the socket; each daemon makes its own folder private.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let server_config = server_config.to_owned();
        let mut deployment = Self {
            data_dir: data_dir.map_or_else(|| folder.path().join("server"), Path::to_owned),
            folder,
            port,
            through: None,
            network,
            server_config,
            agent_config: String::new(),
            handed_to_server: Vec::new(),
            handed_to_agent: Vec::new(),
            server: None,
            agent: None,
        };
        deployment.start_server().await?;
        Ok(deployment)
    }

    /// Sets the further lines of the agent's configuration, for its next start.
    pub fn configure_agent(&mut self, agent_config: &str) {
        agent_config.clone_into(&mut self.agent_config);
    }

    /// Has the agent find the server there, from its next start on.
    pub fn reach_server_at(&mut self, address: SocketAddr) {
        self.through = Some(address);
    }

    /// Gives the server another `data_dir`, for its next start.
    pub fn move_server(&mut self, data_dir: &Path) {
        data_dir.clone_into(&mut self.data_dir);
    }

    /// Starts the server, again after it was killed, and waits until it is healthy.
    ///
    /// # Errors
    /// When it does not come up within the deadline.
    pub async fn start_server(&mut self) -> anyhow::Result<()> {
        self.begin_server()?;
        let socket = self.server_socket();
        self.healthy(
            "the server is healthy",
            &["health", "server", "--server-socket", &text(&socket)],
        )
        .await
    }

    /// Starts the server and does not wait for it.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn begin_server(&mut self) -> anyhow::Result<()> {
        let config = format!(
            "trust_domain = \"{TRUST_DOMAIN}\"\ndata_dir = {:?}\nlisten = \"{}\"\nadmin_socket = {:?}\n{}",
            self.data_dir,
            self.server_address(),
            self.server_socket(),
            self.server_config
        );
        let file = self.path("server.toml");
        std::fs::write(&file, config)?;
        let command = self.program("vouchsafe-server", Host::Server, &self.handed_to_server)?;
        let daemon = Daemon::start("vouchsafe-server", command, &file, &[], self.path("server.log"))?;
        self.server = Some(daemon);
        Ok(())
    }

    /// Starts the agent with a fresh join token, and waits until it is healthy.
    ///
    /// # Errors
    /// When it does not come up within the deadline.
    pub async fn join(&mut self) -> anyhow::Result<()> {
        self.begin_join().await?;
        self.agent_is_healthy().await
    }

    /// Starts the agent with a fresh join token and does not wait for it.
    ///
    /// # Errors
    /// When there is no token to be had, or the program cannot be run.
    pub async fn begin_join(&mut self) -> anyhow::Result<()> {
        let token = self.json(&["token", "generate", "--spiffe-id", NODE]).await?;
        let token = token
            .get("value")
            .and_then(Value::as_str)
            .context("a token has a value")?;
        let bundle = self.vouchsafe(&["bundle", "show", "--format", "pem"]).await?;
        ensure!(
            bundle.status.success(),
            "{}",
            String::from_utf8_lossy(&bundle.stderr)
        );
        std::fs::write(self.path("bundle.pem"), bundle.stdout)?;
        self.launch_agent(&["--join-token", token])
    }

    /// Starts the agent, again after it was killed, and waits until it is healthy.
    ///
    /// # Errors
    /// When it does not come up within the deadline.
    pub async fn start_agent(&mut self, arguments: &[&str]) -> anyhow::Result<()> {
        self.launch_agent(arguments)?;
        self.agent_is_healthy().await
    }

    /// Starts the agent and waits for nothing.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn launch_agent(&mut self, arguments: &[&str]) -> anyhow::Result<()> {
        let config = format!(
            "trust_domain = \"{TRUST_DOMAIN}\"\ndata_dir = {:?}\nserver_address = \"{}\"\n\
             workload_socket = {:?}\nadmin_socket = {:?}\ntrust_bundle = {:?}\n{}",
            self.path("agent"),
            self.through
                .map_or_else(|| self.server_address(), |address| address.to_string()),
            self.workload_socket(),
            self.agent_socket(),
            self.path("bundle.pem"),
            self.agent_config
        );
        let file = self.path("agent.toml");
        std::fs::write(&file, config)?;
        let command = self.program("vouchsafe-agent", Host::Agent, &self.handed_to_agent)?;
        let daemon = Daemon::start(
            "vouchsafe-agent",
            command,
            &file,
            arguments,
            self.path("agent.log"),
        )?;
        self.agent = Some(daemon);
        Ok(())
    }

    /// Waits until the agent is healthy.
    ///
    /// # Errors
    /// When it is not within the deadline.
    pub async fn agent_is_healthy(&mut self) -> anyhow::Result<()> {
        let socket = self.agent_socket();
        self.healthy(
            "the agent is healthy",
            &["health", "agent", "--agent-admin-socket", &text(&socket)],
        )
        .await
    }

    async fn healthy(&mut self, what: &str, arguments: &[&str]) -> anyhow::Result<()> {
        let program = binary("vouchsafe")?;
        until(what, async || {
            let daemons = [self.server.as_mut(), self.agent.as_mut()];
            if let Some(ended) = daemons
                .into_iter()
                .flatten()
                .find_map(|daemon| daemon.check_alive().err())
            {
                return Some(Err(ended));
            }
            let mut command = Command::new(&program);
            let output = command.args(arguments).stdin(Stdio::null()).output().await;
            output
                .is_ok_and(|output| output.status.success())
                .then_some(Ok(()))
        })
        .await?
    }

    /// Runs the command line against this deployment.
    ///
    /// # Errors
    /// When the program cannot be run, or does not end within the deadline.
    pub async fn vouchsafe(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(binary("vouchsafe")?);
        command.arg("--server-socket").arg(self.server_socket());
        command.arg("--agent-admin-socket").arg(self.agent_socket());
        command.arg("--workload-socket").arg(self.workload_socket());
        command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        timeout(DEADLINE, command.output())
            .await?
            .context("cannot run vouchsafe")
    }

    /// Runs the command line, which must succeed, and reads what it prints for programs.
    ///
    /// # Errors
    /// When it fails, or prints what is not JSON.
    pub async fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let arguments = [arguments, &["--output", "json"]].concat();
        let output = self.vouchsafe(&arguments).await?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "`vouchsafe {}`: {complaint}",
            arguments.join(" ")
        );
        let printed = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&printed).with_context(|| format!("not JSON: {printed}"))
    }

    /// Registers an entry below this deployment's node, with further flags of `entry create`.
    ///
    /// # Errors
    /// When the server refuses it.
    pub async fn entry(&self, spiffe_id: &str, selectors: &[&str], flags: &[&str]) -> anyhow::Result<Value> {
        let mut arguments = vec!["entry", "create", "--parent-id", NODE, "--spiffe-id", spiffe_id];
        arguments.extend(selectors.iter().flat_map(|selector| ["--selector", selector]));
        arguments.extend(flags);
        self.json(&arguments).await
    }

    /// The hosts of daemons that run apart.
    ///
    /// # Errors
    /// When they do not.
    pub fn network(&self) -> anyhow::Result<&Network> {
        self.network.as_ref().context("both daemons run on this host")
    }

    /// A daemon's program, on its host.
    fn program(&self, name: &str, host: Host, handed: &[OwnedFd]) -> anyhow::Result<Command> {
        let program = binary(name)?;
        let Some(network) = &self.network else {
            return Ok(handing_over(&program, handed));
        };
        let [nsenter, namespace] = network.inside(host);
        let mut command = Command::new(nsenter);
        command.arg(namespace).arg(program);
        Ok(command)
    }

    /// Host and port of the server's TLS listener.
    #[must_use]
    pub fn server_address(&self) -> String {
        let host = self
            .network
            .as_ref()
            .map_or("127.0.0.1", |_| Host::Server.address());
        format!("{host}:{}", self.port)
    }

    /// The port of the server's TLS listener.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's admin socket.
    #[must_use]
    pub fn server_socket(&self) -> PathBuf {
        self.path("server.sock")
    }

    /// The agent's admin socket.
    #[must_use]
    pub fn agent_socket(&self) -> PathBuf {
        self.path("admin.sock")
    }

    /// The Workload API socket.
    #[must_use]
    pub fn workload_socket(&self) -> PathBuf {
        self.path("workload.sock")
    }

    /// A path in this deployment's folder, which every user can reach.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What both daemons logged, for the message of a failed test.
    #[must_use]
    pub fn logs(&self) -> String {
        let daemons = [self.server.as_ref(), self.agent.as_ref()];
        daemons
            .into_iter()
            .flatten()
            .map(|daemon| format!("--- {}\n{}", daemon.name, daemon.log()))
            .collect()
    }
}

/// The selector of whoever runs this test.
#[must_use]
pub fn own_uid() -> String {
    format!("unix:uid:{}", nix::unistd::geteuid())
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
