//! The table names every method, and opens none by mistake.

use std::collections::BTreeSet;

use prost_reflect::DescriptorPool;

use super::*;

#[test]
fn every_method_of_the_descriptors_stands_in_the_table_and_nothing_else() {
    let pool = DescriptorPool::decode(vouchsafe_proto::FILE_DESCRIPTOR_SET).unwrap();
    let served = |name: &str| {
        let ours = [
            "spire.api.server.",
            "vouchsafe.run.",
            "vouchsafe.server.",
            "vouchsafe.sync.",
        ];
        ours.iter().any(|package| name.starts_with(package))
    };
    let described: BTreeSet<String> = pool
        .services()
        .filter(|service| served(service.full_name()))
        .flat_map(|service| {
            let of = |method: prost_reflect::MethodDescriptor| {
                format!("/{}/{}", service.full_name(), method.name())
            };
            service.methods().map(of).collect::<Vec<_>>()
        })
        .collect();
    let named: BTreeSet<String> = methods()
        .map(|(name, _)| name.to_owned())
        .filter(|name| !name.starts_with("/grpc."))
        .collect();
    assert_eq!(described, named);
    assert!(described.len() > 60, "the descriptors are there");
}

#[test]
fn a_method_that_is_not_in_the_table_has_no_rule() {
    assert!(rule("/spire.api.server.entry.v1.Entry/DropEverything").is_none());
    assert!(rule("").is_none());
    assert!(rule("/spire.api.server.entry.v1.Entry/ListEntries/").is_none());
}

#[test]
fn only_attestation_and_the_bundle_are_open_to_all() {
    let open: Vec<&str> = methods()
        .filter(|(_, rule)| rule.any)
        .map(|(name, _)| name)
        .collect();
    assert_eq!(
        open,
        [
            "/spire.api.server.agent.v1.Agent/AttestAgent",
            "/spire.api.server.bundle.v1.Bundle/GetBundle"
        ]
    );
}

#[test]
fn agents_write_nothing_but_their_own_state_and_the_runs_of_their_node() {
    let agents: BTreeSet<&str> = methods()
        .filter(|(_, rule)| rule.agent)
        .filter_map(|(name, _)| name.rsplit('/').next())
        .collect();
    let expected = BTreeSet::from([
        "RenewAgent",
        "PostStatus",
        "GetAuthorizedEntries",
        "SyncAuthorizedEntries",
        "BatchNewX509SVID",
        "NewJWTSVID",
        "BatchNewWITSVID",
        "GetFederatedBundle",
        "Follow",
        "DescribeClass",
        "AdmitRun",
        "LeaseRuns",
        "StartRun",
        "EndRun",
        "ReportRuns",
        "NewRunX509SVIDs",
        "NewRunJWTSVID",
    ]);
    assert_eq!(agents, expected);
}
