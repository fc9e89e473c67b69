//! Who calls: what the connection proves, and what the caller may reach by it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use time::OffsetDateTime;
use vouchsafe_audit::Principal;
use vouchsafe_identity::SpiffeId;
use vouchsafe_store::{Node, Versioned};

/// Where bytes come from, as far as limits tell sources apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The admin socket.
    Socket,
    /// A network address; of IPv6 the /64, which one host can walk through.
    Network(IpAddr),
}

impl Source {
    /// The source of a network address.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            v4 @ IpAddr::V4(_) => Self::Network(v4),
            IpAddr::V6(v6) => Self::Network(IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64))),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket => f.write_str("admin socket"),
            Self::Network(address) => address.fmt(f),
        }
    }
}

/// What the connection proves about the one at its other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// A process that could open the admin socket.
    Local {
        /// Its user.
        uid: u32,
        /// Its number when it connected.
        pid: i32,
    },
    /// The holder of a verified SVID.
    Svid {
        /// The SVID's id.
        id: SpiffeId,
        /// The SVID's serial number, lower-case hex.
        serial: String,
        /// When the SVID expires; connections outlive it.
        expires_at: OffsetDateTime,
    },
    /// Nothing.
    None,
}

/// The other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Where it is.
    pub source: Source,
    /// What it proved.
    pub proof: Proof,
}

impl Peer {
    /// The peer as records name it.
    pub fn principal(&self) -> Principal {
        match &self.proof {
            Proof::Local { uid, pid } => Principal::Local { uid: *uid, pid: *pid },
            Proof::Svid { id, .. } => Principal::Spiffe { id: id.clone() },
            Proof::None => Principal::Anonymous {
                source: self.source.to_string(),
            },
        }
    }

    /// Whether nothing is known but the source.
    pub fn is_anonymous(&self) -> bool {
        self.proof == Proof::None
    }
}

/// By which right a call is let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// None: the method is open to all, or the call was refused.
    None,
    /// Through the admin socket.
    Local,
    /// As an admin, by config or by an entry.
    Admin,
    /// As a server below this one.
    Downstream,
    /// As an agent in good standing.
    Agent,
}

impl Scope {
    /// The name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Local => "local",
            Self::Admin => "admin",
            Self::Downstream => "downstream",
            Self::Agent => "agent",
        }
    }
}

/// A caller that was let through.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who.
    pub principal: Principal,
    /// By which right.
    pub scope: Scope,
    /// The agent's node, where the right is an agent's.
    pub agent: Option<Arc<Versioned<Node>>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_ipv6_network_is_one_source() {
        let of = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }
}
