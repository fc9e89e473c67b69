//! FetchX509SVID: the caller's X.509-SVIDs with their keys, oldest entry first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tonic::Status;
use vouchsafe_proto::workload::{X509svid, X509svidResponse};

use super::feed::{Frame, Topic};
use super::{Parts, identities};
use crate::cache::slots::{Held, Watcher, X509Svid};
use crate::cache::x509::Pins;
use crate::caller::Caller;
use crate::entry::{Entry, EntryId};
use crate::knowledge::Knowledge;

/// One caller's X.509-SVIDs.
#[derive(Debug, Default)]
pub struct Svids {
    pins: Option<Pins>,
    sent: BTreeSet<EntryId>,
}

impl Topic for Svids {
    type Message = X509svidResponse;

    fn frame(
        &mut self,
        parts: &Parts,
        known: &Knowledge,
        caller: &Caller,
        watcher: &Watcher,
        late: bool,
    ) -> Frame<X509svidResponse> {
        let entries = match identities(known, caller) {
            Ok(entries) => entries,
            Err(status) => return Frame::Unmatched(status),
        };
        let x509 = &parts.shelf(caller).x509;
        if !self.pins.as_ref().is_some_and(|pins| pins.hold(&entries)) {
            self.pins = Some(x509.pin(&entries, watcher));
        }
        let held = x509.look(&entries, parts.clock.now());
        // While the server is away, what is there does not wait for what may not come.
        let may_come = parts.status.sync().reachable;
        let awaited = held.iter().any(|held| matches!(held, Held::Awaited));
        let ready: Vec<(&Arc<Entry>, &Arc<X509Svid>)> = entries
            .iter()
            .zip(&held)
            .filter_map(|(entry, held)| match held {
                Held::Ready(svid) => Some((entry, svid)),
                _ => None,
            })
            .collect();
        if ready.is_empty() {
            return match awaited && !late {
                true => Frame::Pending,
                false => Frame::Over(none_to_be_had(may_come)),
            };
        }
        let Some(bundle) = known.own_bundle() else {
            return Frame::Over(Status::unavailable("the agent has no bundle of its trust domain"));
        };
        let ids: BTreeSet<EntryId> = ready.iter().map(|(entry, _)| entry.id.clone()).collect();
        let withdrawn = self.sent.difference(&ids).next().is_some();
        if awaited && !late && !withdrawn && may_come {
            return Frame::Pending;
        }
        self.sent = ids;
        let message = message(&ready, &bundle.x509_der_concat(), known, &entries);
        match awaited && !late {
            true => Frame::Passing(message),
            false => Frame::Settled(message),
        }
    }
}

fn none_to_be_had(reachable: bool) -> Status {
    Status::unavailable(match reachable {
        true => {
            "an entry matches this process, but the agent could not get an X.509-SVID from its server: try again, and \
             see the agent's log"
        }
        false => {
            "server unreachable: an entry matches this process, but the agent holds no X.509-SVID of it that is valid \
             now: try again when the server is back, and see `vouchsafe health`"
        }
    })
}

fn message(
    ready: &[(&Arc<Entry>, &Arc<X509Svid>)],
    bundle: &[u8],
    known: &Knowledge,
    entries: &[Arc<Entry>],
) -> X509svidResponse {
    let svids = ready
        .iter()
        .map(|(entry, svid)| X509svid {
            spiffe_id: svid.spiffe_id.to_string(),
            x509_svid: svid.certificates.clone(),
            x509_svid_key: svid.key.expose().clone(),
            bundle: bundle.to_vec(),
            hint: entry.hint.clone(),
        })
        .collect();
    let federated_bundles: BTreeMap<String, Vec<u8>> = known
        .federated(entries)
        .into_iter()
        .map(|(trust_domain, bundle)| (trust_domain.id().to_string(), bundle.x509_der_concat()))
        .collect();
    X509svidResponse {
        svids,
        crl: Vec::new(),
        federated_bundles,
    }
}
