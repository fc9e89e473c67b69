//! Sockets that a service manager holds: the real daemons serve on them, a restart refuses nobody, and what does not fit
//! the configuration is refused.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use anyhow::{Context, ensure};
use vouchsafe_tests::daemons::{Deployment, inheritable, own_uid};
use vouchsafe_tests::wait::until;

type Outcome = anyhow::Result<()>;

fn listen(path: &Path, mode: u32) -> anyhow::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(listener)
}

/// Stops the server in the orderly way, so that it removes what it made.
async fn stop_server(at: &mut Deployment) -> Outcome {
    let mut server = at.server.take().context("the server runs")?;
    server.terminate().await?;
    Ok(())
}

#[tokio::test]
async fn a_restart_of_the_server_refuses_nobody() -> Outcome {
    let mut at = Deployment::server_alone("").await?;
    stop_server(&mut at).await?;
    let tcp = TcpListener::bind(("127.0.0.1", at.port()))?;
    let admin = listen(&at.server_socket(), 0o600)?;
    at.handed_to_server = vec![inheritable(&tcp)?, inheritable(&admin)?];
    at.start_server().await?;
    stop_server(&mut at).await?;
    ensure!(
        at.server_socket().exists(),
        "the socket's file is the service manager's"
    );
    // Nobody serves now, and yet who connects waits for the next start.
    let waiting = std::net::TcpStream::connect(("127.0.0.1", at.port()))?;
    let socket = at.server_socket().display().to_string();
    let mut early = tokio::process::Command::new(vouchsafe_tests::daemons::binary("vouchsafe")?)
        .args(["entry", "count", "--timeout", "1m", "--server-socket", &socket])
        .kill_on_drop(true)
        .spawn()?;
    at.start_server().await?;
    let ended = tokio::time::timeout(vouchsafe_tests::wait::DEADLINE, early.wait()).await??;
    ensure!(ended.success(), "{ended}");
    drop(waiting);
    Ok(())
}

#[tokio::test]
async fn workloads_get_their_svids_on_a_socket_that_was_handed_over() -> Outcome {
    let mut at = Deployment::server_alone("").await?;
    let workload = listen(&at.workload_socket(), 0o666)?;
    at.handed_to_agent = vec![inheritable(&workload)?];
    // This one connects before there is an agent.
    let socket = at.workload_socket().display().to_string();
    let mut early = tokio::process::Command::new(vouchsafe_tests::daemons::binary("vouchsafe")?)
        .args(["svid", "x509", "--timeout", "1m", "--workload-socket", &socket])
        .kill_on_drop(true)
        .spawn()?;
    at.configure_agent("sync_interval = \"100ms\"\n");
    at.entry("spiffe://example.org/w", &[&own_uid()], &[]).await?;
    at.join().await?;
    let ended = tokio::time::timeout(vouchsafe_tests::wait::DEADLINE, early.wait()).await??;
    until("a later caller has its SVID", async || {
        at.json(&["svid", "x509"]).await.ok()
    })
    .await?;
    println!("the caller that came before the agent: {ended}");
    let mut agent = at.agent.take().context("the agent runs")?;
    agent.terminate().await?;
    ensure!(
        at.workload_socket().exists(),
        "the socket's file is the service manager's"
    );
    ensure!(!at.agent_socket().exists(), "the other one is the agent's own");
    Ok(())
}

#[tokio::test]
async fn an_admin_socket_that_all_may_open_is_refused() -> Outcome {
    let mut at = Deployment::server_alone("").await?;
    stop_server(&mut at).await?;
    let admin = listen(&at.server_socket(), 0o666)?;
    at.handed_to_server = vec![inheritable(&admin)?];
    let refused = at
        .start_server()
        .await
        .err()
        .context("it must not start")?
        .to_string();
    ensure!(refused.contains("mode 666, more than 600"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn a_socket_that_the_configuration_does_not_name_is_refused() -> Outcome {
    let mut at = Deployment::server_alone("").await?;
    stop_server(&mut at).await?;
    let stray = at.path("stray.sock");
    at.handed_to_server = vec![inheritable(listen(&stray, 0o600)?)?];
    let refused = at
        .start_server()
        .await
        .err()
        .context("it must not start")?
        .to_string();
    ensure!(refused.contains("stray.sock"), "{refused}");
    Ok(())
}
