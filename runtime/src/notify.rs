//! Tells the service manager how far the process is (sd_notify's datagrams).
//!
//! Where `NOTIFY_SOCKET` was not given, nothing is sent. A manager that does not listen never holds the process up.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The variable by which systemd hands over the socket's path.
pub const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// Sends the process's state to the service manager, if there is one.
#[derive(Debug, Clone)]
pub struct Notifier {
    socket: Option<String>,
}

impl Notifier {
    /// `socket` is the value of [`NOTIFY_SOCKET`]: a path, or a name in the abstract namespace after `@`.
    pub fn new(socket: Option<String>) -> Self {
        Self { socket }
    }

    /// The one that the process environment names.
    pub fn from_environment() -> Self {
        Self::new(crate::config::environment(NOTIFY_SOCKET))
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

    fn send(&self, state: &str) {
        let Some(socket) = &self.socket else {
            return;
        };
        if let Err(error) = send_to(socket, state) {
            tracing::warn!(%error, socket, state, "cannot tell the service manager");
        }
    }
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

    #[test]
    fn a_manager_that_is_gone_or_absent_is_no_error() {
        Notifier::new(Some("/nonexistent/notify".to_owned())).ready();
        Notifier::new(None).stopping();
    }
}
