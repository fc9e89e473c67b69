//! Two hosts and a cable: network namespaces that a test makes for itself, and that are gone when it ends. What one
//! of them sends can be lost, without either of them being told.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, ensure};

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// Where the server runs.
    Server,
    /// Where the agent runs.
    Agent,
}

/// What is lost on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Nothing.
    Nothing,
    /// What the agent sends.
    Requests,
    /// What the server sends.
    Answers,
    /// Everything.
    Everything,
}

/// The hosts and their cable.
#[derive(Debug)]
pub struct Network {
    name: String,
}

impl Host {
    fn other(self) -> Self {
        match self {
            Self::Server => Self::Agent,
            Self::Agent => Self::Server,
        }
    }

    fn letter(self) -> char {
        match self {
            Self::Server => 's',
            Self::Agent => 'a',
        }
    }

    /// The address that the other one knows it by.
    #[must_use]
    pub fn address(self) -> &'static str {
        match self {
            Self::Server => "192.0.2.1",
            Self::Agent => "192.0.2.2",
        }
    }

    fn mac(self) -> &'static str {
        match self {
            Self::Server => "02:00:00:00:00:01",
            Self::Agent => "02:00:00:00:00:02",
        }
    }
}

/// Nobody has this one: what is sent to it is lost.
const NOBODY: &str = "02:00:00:00:00:ff";

impl Network {
    /// Two hosts that reach each other, and nobody else.
    ///
    /// # Errors
    /// When the system does not let us: it takes root, and `ip`.
    pub fn new() -> anyhow::Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let network = Self {
            name: format!("vs{}-{number}", std::process::id()),
        };
        for host in [Host::Server, Host::Agent] {
            ip(&["netns", "add", &network.namespace(host)])?;
        }
        let (server, agent) = (network.namespace(Host::Server), network.namespace(Host::Agent));
        ip(&[
            "-n",
            &server,
            "link",
            "add",
            "cable",
            "address",
            Host::Server.mac(),
            "type",
            "veth",
            "peer",
            "name",
            "cable",
            "address",
            Host::Agent.mac(),
            "netns",
            &agent,
        ])?;
        for host in [Host::Server, Host::Agent] {
            let (namespace, address) = (network.namespace(host), format!("{}/24", host.address()));
            ip(&["-n", &namespace, "address", "add", &address, "dev", "cable"])?;
            ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
            ip(&["-n", &namespace, "link", "set", "cable", "up"])?;
        }
        network.lose(Lost::Nothing)?;
        Ok(network)
    }

    /// Loses this from now on, and lets the rest pass.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn lose(&self, lost: Lost) -> anyhow::Result<()> {
        let of = |host: Host| match (host, lost) {
            (_, Lost::Everything) | (Host::Agent, Lost::Requests) | (Host::Server, Lost::Answers) => NOBODY,
            _ => host.other().mac(),
        };
        for host in [Host::Server, Host::Agent] {
            let (namespace, other) = (self.namespace(host), host.other().address());
            ip(&[
                "-n",
                &namespace,
                "neighbour",
                "replace",
                other,
                "lladdr",
                of(host),
                "dev",
                "cable",
                "nud",
                "permanent",
            ])?;
        }
        Ok(())
    }

    /// What a command line begins with to run on a host.
    #[must_use]
    pub fn inside(&self, host: Host) -> [String; 2] {
        [
            "nsenter".to_owned(),
            format!("--net=/run/netns/{}", self.namespace(host)),
        ]
    }

    fn namespace(&self, host: Host) -> String {
        format!("{}{}", self.name, host.letter())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in [Host::Server, Host::Agent] {
            let _gone_already = ip(&["netns", "delete", &self.namespace(host)]);
        }
    }
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("ip");
    let output = command.args(arguments).stdin(Stdio::null()).output();
    let output = output.context("cannot run `ip`: install iproute2")?;
    ensure!(
        output.status.success(),
        "`ip {}`: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
