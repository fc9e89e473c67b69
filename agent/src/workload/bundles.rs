//! FetchX509Bundles and FetchJWTBundles: the roots by which the caller checks others, for its own trust domain and those
//! that its entries federate with.

use std::collections::BTreeMap;
use std::sync::Arc;

use tonic::Status;
use vouchsafe_identity::Bundle;
use vouchsafe_proto::workload::{JwtBundlesResponse, X509BundlesResponse};

use super::feed::{Frame, Topic};
use super::{Parts, identities};
use crate::cache::slots::Watcher;
use crate::caller::Caller;
use crate::entry::Entry;
use crate::knowledge::Knowledge;

/// X.509 roots.
#[derive(Debug)]
pub struct X509Bundles;

/// JWT keys.
#[derive(Debug)]
pub struct JwtBundles;

impl Topic for X509Bundles {
    type Message = X509BundlesResponse;

    fn frame(
        &mut self,
        _: &Parts,
        known: &Knowledge,
        caller: &Caller,
        _watcher: &Watcher,
        _late: bool,
    ) -> Frame<X509BundlesResponse> {
        frame(
            known,
            caller,
            |bundle| Ok(bundle.x509_der_concat()),
            |bundles| X509BundlesResponse {
                crl: Vec::new(),
                bundles,
            },
        )
    }
}

impl Topic for JwtBundles {
    type Message = JwtBundlesResponse;

    fn frame(
        &mut self,
        _: &Parts,
        known: &Knowledge,
        caller: &Caller,
        _watcher: &Watcher,
        _late: bool,
    ) -> Frame<JwtBundlesResponse> {
        let encode = |bundle: &Bundle| bundle.jwt_jwks().map_err(|e| Status::internal(e.to_string()));
        frame(known, caller, encode, |bundles| JwtBundlesResponse { bundles })
    }
}

/// The caller's bundles by trust domain id, as a message.
fn frame<M>(
    known: &Knowledge,
    caller: &Caller,
    encode: impl Fn(&Bundle) -> Result<Vec<u8>, Status>,
    message: impl Fn(BTreeMap<String, Vec<u8>>) -> M,
) -> Frame<M> {
    let entries = match identities(known, caller) {
        Ok(entries) => entries,
        Err(status) => return Frame::Unmatched(status),
    };
    match bundles(known, &entries, encode) {
        Ok(bundles) => Frame::Settled(message(bundles)),
        Err(status) => Frame::Over(status),
    }
}

fn bundles(
    known: &Knowledge,
    entries: &[Arc<Entry>],
    encode: impl Fn(&Bundle) -> Result<Vec<u8>, Status>,
) -> Result<BTreeMap<String, Vec<u8>>, Status> {
    let own = known
        .own_bundle()
        .ok_or_else(|| Status::unavailable("the agent has no bundle of its trust domain"))?;
    let mut bundles = BTreeMap::new();
    bundles.insert(known.trust_domain.id().to_string(), encode(own)?);
    for (trust_domain, bundle) in known.federated(entries) {
        bundles.insert(trust_domain.id().to_string(), encode(bundle)?);
    }
    Ok(bundles)
}
