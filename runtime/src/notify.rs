//! Tells the service manager how far the process is (sd_notify's datagrams).
//!
//! Where `NOTIFY_SOCKET` was not given, nothing is sent. A manager that does not listen never holds the process up.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::config::environment;
use crate::tasks::TaskGroup;

/// The variable by which systemd hands over the socket's path.
pub const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// Shorter intervals are no watchdog but a mistake in the unit.
const SHORTEST_WATCHDOG: Duration = Duration::from_millis(100);

/// Sends the process's state to the service manager, if there is one.
#[derive(Debug, Clone)]
pub struct Notifier {
    socket: Option<String>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// `socket` is the value of [`NOTIFY_SOCKET`]: a path, or a name in the abstract namespace after `@`.
    pub fn new(socket: Option<String>) -> Self {
        Self {
            socket,
            watchdog: None,
        }
    }

    /// The one that the process environment names.
    pub fn from_environment() -> Self {
        let watchdog = watchdog_interval(
            environment("WATCHDOG_USEC").as_deref(),
            environment("WATCHDOG_PID").as_deref(),
        );
        Self {
            watchdog,
            ..Self::new(environment(NOTIFY_SOCKET))
        }
    }

    /// Says that every part is up.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// Says in a few words how the process is, for `systemctl status`.
    pub fn status(&self, text: &str) {
        self.send(&format!("STATUS={}", text.replace('\n', " ")));
    }

    /// Says that the process is ending by order.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// Tells the manager's watchdog, if it wants that, twice in each of its intervals that the process goes on. It is
    /// sent from the tasks' own threads: when no task gets its turn any more, it stays away.
    pub fn watchdog(&self, group: &TaskGroup) {
        let Some(interval) = self.watchdog else { return };
        let (notifier, stopping) = (self.clone(), group.stopping());
        group.essential("watchdog", async move {
            let mut ticks = tokio::time::interval(interval / 2);
            loop {
                tokio::select! {
                    () = stopping.cancelled() => return Ok::<(), std::convert::Infallible>(()),
                    _ = ticks.tick() => notifier.send("WATCHDOG=1"),
                }
            }
        });
    }

    fn send(&self, state: &str) {
        let Some(socket) = &self.socket else {
            return;
        };
        if let Err(error) = send_to(socket, state) {
            tracing::warn!(%error, socket, state, "cannot tell the service manager");
        }
    }
}

/// How often the manager wants to hear of this process (sd_watchdog_enabled(3)).
fn watchdog_interval(microseconds: Option<&str>, pid: Option<&str>) -> Option<Duration> {
    let ours = pid.is_none_or(|pid| pid == std::process::id().to_string());
    let interval = microseconds?.parse().ok().map(Duration::from_micros)?;
    (ours && interval >= SHORTEST_WATCHDOG).then_some(interval)
}

fn send_to(socket: &str, state: &str) -> io::Result<()> {
    let address = match socket.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    sender.send_to_addr(state.as_bytes(), &address).map(|_sent| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0_u8; 64];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn ready_and_stopping_reach_a_socket_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::new(Some(path.to_str().unwrap().to_owned()));
        notifier.ready();
        assert_eq!(received(&manager), "READY=1");
        notifier.status("well\nREADY=1");
        assert_eq!(received(&manager), "STATUS=well READY=1");
        notifier.stopping();
        assert_eq!(received(&manager), "STOPPING=1");
    }

    #[test]
    fn ready_reaches_an_abstract_socket() {
        let name = format!("vouchsafe-notify-test-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Notifier::new(Some(format!("@{name}"))).ready();
        assert_eq!(received(&manager), "READY=1");
    }

    #[tokio::test]
    async fn the_watchdog_hears_of_a_process_that_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = tokio::net::UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier {
            watchdog: Some(Duration::from_millis(100)),
            ..Notifier::new(Some(path.to_str().unwrap().to_owned()))
        };
        let (group, _failures) = TaskGroup::new();
        notifier.watchdog(&group);
        for _ in 0..2 {
            let mut buffer = [0_u8; 64];
            let read = tokio::time::timeout(Duration::from_secs(10), manager.recv(&mut buffer));
            let length = read.await.unwrap().unwrap();
            assert_eq!(&buffer[..length], b"WATCHDOG=1");
        }
        group.stop();
        notifier.status("ready: 3 entries\nX=1");
        let mut buffer = [0_u8; 64];
        let length = manager.recv(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..length], b"STATUS=ready: 3 entries X=1");
    }

    #[test]
    fn the_watchdog_is_for_the_process_that_is_named() {
        let own = std::process::id().to_string();
        let second = Some(Duration::from_secs(1));
        assert_eq!(watchdog_interval(Some("1000000"), None), second);
        assert_eq!(watchdog_interval(Some("1000000"), Some(&own)), second);
        assert_eq!(watchdog_interval(Some("1000000"), Some("1")), None);
        assert_eq!(watchdog_interval(Some("soon"), None), None);
        assert_eq!(watchdog_interval(Some("0"), None), None);
        assert_eq!(watchdog_interval(None, None), None);
    }

    #[test]
    fn a_manager_that_is_gone_or_absent_is_no_error() {
        Notifier::new(Some("/nonexistent/notify".to_owned())).ready();
        Notifier::new(None).stopping();
    }
}
