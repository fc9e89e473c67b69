//! What an agent that still runs has sealed on disk so far: what it would serve if it were killed now.

use anyhow::Context;
use vouchsafe_agent::node::state::StateDir;
use vouchsafe_agent::node::stored_id;
use vouchsafe_agent::sealed::{Restored, Seal, SealKeySource};
use vouchsafe_identity::{SpiffeId, TrustDomain};
use vouchsafe_runtime::Clock;

use crate::daemons::{Deployment, TRUST_DOMAIN};
use crate::wait::until;

/// Waits until `enough` of what is sealed.
///
/// # Errors
/// When the agent has not joined, or not so much is sealed within the deadline.
pub async fn until_sealed(
    at: &Deployment,
    what: &str,
    enough: impl Fn(&Restored) -> bool,
) -> anyhow::Result<()> {
    let domain = TrustDomain::new(TRUST_DOMAIN)?;
    let agent = agent_id(at)?;
    until(&format!("{what} is sealed"), async || {
        let seal = Seal::open(&SealKeySource::File, &at.path("agent"), None).ok()??;
        let restored = seal.restore(agent.as_str(), &domain, Clock::system().now())?;
        enough(&restored).then_some(())
    })
    .await
}

/// Who the agent is, by what it stored.
///
/// # Errors
/// When it has not joined.
pub fn agent_id(at: &Deployment) -> anyhow::Result<SpiffeId> {
    // A folder of its own, since the agent holds its own.
    let copy = tempfile::tempdir()?;
    std::fs::copy(
        at.path("agent/agent-svid.json"),
        copy.path().join("agent-svid.json"),
    )?;
    let state = StateDir::open(copy.path())?;
    stored_id(&state, &TrustDomain::new(TRUST_DOMAIN)?)?.context("the agent has joined")
}
