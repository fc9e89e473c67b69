//! Agents and their masks.

use vouchsafe_proto::spire::api::types::{Agent, AgentMask};
use vouchsafe_store::Node;

use super::{selector_messages, spiffe_id_message};

/// The mask that stands for all fields.
const ALL: AgentMask = AgentMask {
    attestation_type: true,
    x509svid_serial_number: true,
    x509svid_expires_at: true,
    selectors: true,
    banned: true,
    can_reattest: true,
    agent_version: true,
};

/// The node as a message, with the fields that the mask picks.
pub fn message(node: &Node, mask: Option<&AgentMask>) -> Agent {
    let mask = mask.unwrap_or(&ALL);
    let mut message = Agent {
        id: Some(spiffe_id_message(&node.id)),
        ..Agent::default()
    };
    if mask.attestation_type {
        message.attestation_type.clone_from(&node.attestation_type);
    }
    if mask.x509svid_serial_number {
        message.x509svid_serial_number = decimal(&node.serial);
    }
    if mask.x509svid_expires_at {
        message.x509svid_expires_at = node.expires_at.unix_timestamp();
    }
    if mask.selectors {
        message.selectors = selector_messages(&node.selectors);
    }
    message.banned = mask.banned && node.banned;
    message.can_reattest = mask.can_reattest && node.can_reattest;
    if mask.agent_version {
        message.agent_version.clone_from(&node.agent_version);
    }
    message
}

/// A serial number as SPIRE writes it. Ours have at most 128 bits; a banned agent has none.
fn decimal(hex: &str) -> String {
    u128::from_str_radix(hex, 16).map_or_else(|_none| String::new(), |serial| serial.to_string())
}
