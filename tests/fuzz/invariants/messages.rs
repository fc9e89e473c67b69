//! What holds for any bytes that a peer may send as one of the messages that become entries and bundles: they are refused, or
//! what they became has the forms that we ask for ourselves.

use prost::Message;
use vouchsafe_agent::upstream::convert as agent;
use vouchsafe_proto::spire::api::types;
use vouchsafe_server::convert as server;

/// Reads any bytes as each of the messages, the server's way and the agent's.
pub(crate) fn check(data: &[u8]) {
    if let Ok(entry) = types::Entry::decode(data) {
        let _refused = server::entry::patch(&entry, None).map_err(|error| error.to_string());
        if let Ok(entry) = agent::entry(entry) {
            assert!(!entry.id.as_str().is_empty());
            assert_eq!(entry.spiffe_id.to_string().parse(), Ok(entry.spiffe_id.clone()));
        }
    }
    if let Ok(bundle) = types::Bundle::decode(data)
        && let Ok(bundle) = agent::bundle(bundle)
    {
        assert!(bundle.jwt_authorities.iter().all(|one| !one.key_id.is_empty()));
    }
    if let Ok(id) = types::Spiffeid::decode(data) {
        let (here, there) = (server::spiffe_id("id", Some(&id)), agent::spiffe_id(&id));
        if let Ok(id) = here {
            assert_eq!(there, Ok(id), "both sides read the same id");
        }
    }
    if let Ok(selector) = types::Selector::decode(data)
        && let Ok(set) = server::selectors(std::slice::from_ref(&selector))
    {
        assert_eq!(set.len(), 1, "{selector:?}");
    }
}
