//! Agents of a server that was restored. Since the backup they got SVIDs that it does not remember; without those no agent
//! that renewed since could go on.

use std::time::Duration;

use time::OffsetDateTime;
use vouchsafe_store::{HandedOut, Node, SharedStore};

/// Whether an SVID that no record names, of an agent on record, was issued by the lost server after the backup.
///
/// It ends later than all that the record names: what the agent replaced before the backup does not come back, and of
/// several issued since, the newest counts once it is shown. And it ends no later than what was issued before the store
/// was restored: from then on there is a record of everything.
pub(super) fn after_backup(
    store: &SharedStore,
    node: &Node,
    expires_at: OffsetDateTime,
    svid_ttl: Duration,
) -> bool {
    let Some(mark) = store.restored() else {
        return false;
    };
    let handed_out = node
        .handed_out_before
        .iter()
        .map(|handed_out| handed_out.expires_at);
    let mut recorded = handed_out.chain(node.next_expires_at).chain([node.expires_at]);
    !node.banned && recorded.all(|known| known < expires_at) && expires_at <= mark.at + svid_ttl
}

/// What the agent shows, as if it had been handed out.
pub(super) fn shown(serial: &str, expires_at: OffsetDateTime) -> HandedOut {
    HandedOut {
        serial: serial.to_owned(),
        expires_at,
    }
}
