//! Facts of the wire as SPIRE's and SPIFFE's published APIs have them, written down a second time, so that a slip
//! of the pen in a .proto file is caught.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use prost_reflect::DescriptorPool;
use tonic::server::NamedService;
use vouchsafe_proto::spire::api::server;
use vouchsafe_proto::{vouchsafe, workload};

fn pool() -> DescriptorPool {
    DescriptorPool::decode(vouchsafe_proto::FILE_DESCRIPTOR_SET).unwrap()
}

/// Message, and for each of its fields number, name, type. The list of fields is whole.
type Fields = (&'static str, &'static [(u32, &'static str, &'static str)]);

const FIELDS: &[Fields] = &[
    (
        "spire.api.types.SPIFFEID",
        &[(1, "trust_domain", "string"), (2, "path", "string")],
    ),
    (
        "spire.api.types.Selector",
        &[(1, "type", "string"), (2, "value", "string")],
    ),
    (
        "spire.api.types.Status",
        &[(1, "code", "int32"), (2, "message", "string")],
    ),
    (
        "spire.api.types.Entry",
        &[
            (1, "id", "string"),
            (2, "spiffe_id", "spire.api.types.SPIFFEID"),
            (3, "parent_id", "spire.api.types.SPIFFEID"),
            (4, "selectors", "[spire.api.types.Selector]"),
            (5, "x509_svid_ttl", "int32"),
            (6, "federates_with", "[string]"),
            (7, "admin", "bool"),
            (8, "downstream", "bool"),
            (9, "expires_at", "int64"),
            (10, "dns_names", "[string]"),
            (11, "revision_number", "int64"),
            (12, "store_svid", "bool"),
            (13, "jwt_svid_ttl", "int32"),
            (14, "hint", "string"),
            (15, "created_at", "int64"),
            (
                16,
                "additional_attributes",
                "spire.api.types.Entry.AdditionalAttributes",
            ),
        ],
    ),
    (
        "spire.api.types.Entry.AdditionalAttributes",
        &[
            (1, "disable_x509_svid_prefetch", "bool"),
            (2, "jwt_svid_include_jti", "bool"),
        ],
    ),
    (
        "spire.api.types.EntryMask",
        &[
            (2, "spiffe_id", "bool"),
            (3, "parent_id", "bool"),
            (4, "selectors", "bool"),
            (5, "x509_svid_ttl", "bool"),
            (6, "federates_with", "bool"),
            (7, "admin", "bool"),
            (8, "downstream", "bool"),
            (9, "expires_at", "bool"),
            (10, "dns_names", "bool"),
            (11, "revision_number", "bool"),
            (12, "store_svid", "bool"),
            (13, "jwt_svid_ttl", "bool"),
            (14, "hint", "bool"),
            (15, "created_at", "bool"),
            (16, "additional_attributes", "bool"),
        ],
    ),
    (
        "spire.api.types.Agent",
        &[
            (1, "id", "spire.api.types.SPIFFEID"),
            (2, "attestation_type", "string"),
            (3, "x509svid_serial_number", "string"),
            (4, "x509svid_expires_at", "int64"),
            (5, "selectors", "[spire.api.types.Selector]"),
            (6, "banned", "bool"),
            (7, "can_reattest", "bool"),
            (8, "agent_version", "string"),
        ],
    ),
    (
        "spire.api.types.Bundle",
        &[
            (1, "trust_domain", "string"),
            (2, "x509_authorities", "[spire.api.types.X509Certificate]"),
            (3, "jwt_authorities", "[spire.api.types.JWTKey]"),
            (4, "refresh_hint", "int64"),
            (5, "sequence_number", "uint64"),
            (6, "wit_authorities", "[spire.api.types.WITKey]"),
        ],
    ),
    (
        "spire.api.types.JWTKey",
        &[
            (1, "public_key", "bytes"),
            (2, "key_id", "string"),
            (3, "expires_at", "int64"),
            (4, "tainted", "bool"),
        ],
    ),
    (
        "spire.api.types.X509Certificate",
        &[(1, "asn1", "bytes"), (2, "tainted", "bool")],
    ),
    (
        "spire.api.types.X509SVID",
        &[
            (1, "cert_chain", "[bytes]"),
            (2, "id", "spire.api.types.SPIFFEID"),
            (3, "expires_at", "int64"),
            (4, "hint", "string"),
        ],
    ),
    (
        "spire.api.types.JWTSVID",
        &[
            (1, "token", "string"),
            (2, "id", "spire.api.types.SPIFFEID"),
            (3, "expires_at", "int64"),
            (4, "issued_at", "int64"),
            (5, "hint", "string"),
        ],
    ),
    (
        "spire.api.types.JoinToken",
        &[(1, "value", "string"), (2, "expires_at", "int64")],
    ),
    (
        "spire.api.types.AttestationData",
        &[(1, "type", "string"), (2, "payload", "bytes")],
    ),
    (
        "spire.api.types.PermissionDeniedDetails",
        &[(1, "reason", "spire.api.types.PermissionDeniedDetails.Reason")],
    ),
    (
        "spire.api.server.agent.v1.AttestAgentRequest",
        &[
            (1, "params", "spire.api.server.agent.v1.AttestAgentRequest.Params"),
            (2, "challenge_response", "bytes"),
        ],
    ),
    (
        "spire.api.server.agent.v1.AttestAgentRequest.Params",
        &[
            (1, "data", "spire.api.types.AttestationData"),
            (2, "params", "spire.api.server.agent.v1.AgentX509SVIDParams"),
        ],
    ),
    (
        "spire.api.server.agent.v1.AttestAgentResponse",
        &[
            (
                1,
                "result",
                "spire.api.server.agent.v1.AttestAgentResponse.Result",
            ),
            (2, "challenge", "bytes"),
        ],
    ),
    (
        "spire.api.server.agent.v1.AttestAgentResponse.Result",
        &[
            (1, "svid", "spire.api.types.X509SVID"),
            (2, "reattestable", "bool"),
        ],
    ),
    (
        "spire.api.server.agent.v1.CreateJoinTokenRequest",
        &[
            (1, "ttl", "int32"),
            (2, "token", "string"),
            (3, "agent_id", "spire.api.types.SPIFFEID"),
        ],
    ),
    (
        "spire.api.server.agent.v1.PostStatusRequest",
        &[
            (1, "current_bundle_serial", "uint64"),
            (2, "agent_version", "string"),
        ],
    ),
    (
        "spire.api.server.entry.v1.SyncAuthorizedEntriesRequest",
        &[
            (1, "output_mask", "spire.api.types.EntryMask"),
            (2, "ids", "[string]"),
        ],
    ),
    (
        "spire.api.server.entry.v1.SyncAuthorizedEntriesResponse",
        &[
            (1, "entry_revisions", "[spire.api.server.entry.v1.EntryRevision]"),
            (2, "entries", "[spire.api.types.Entry]"),
            (3, "more", "bool"),
        ],
    ),
    (
        "spire.api.server.entry.v1.EntryRevision",
        &[
            (1, "id", "string"),
            (2, "revision_number", "int64"),
            (3, "created_at", "int64"),
        ],
    ),
    (
        "spire.api.server.entry.v1.ListEntriesRequest.Filter",
        &[
            (1, "by_spiffe_id", "spire.api.types.SPIFFEID"),
            (2, "by_parent_id", "spire.api.types.SPIFFEID"),
            (3, "by_selectors", "spire.api.types.SelectorMatch"),
            (4, "by_federates_with", "spire.api.types.FederatesWithMatch"),
            (5, "by_hint", "google.protobuf.StringValue"),
            (6, "by_downstream", "google.protobuf.BoolValue"),
        ],
    ),
    (
        "spire.api.server.svid.v1.BatchNewX509SVIDResponse.Result",
        &[
            (1, "status", "spire.api.types.Status"),
            (2, "svid", "spire.api.types.X509SVID"),
        ],
    ),
    (
        "spire.api.server.svid.v1.NewX509SVIDParams",
        &[(1, "entry_id", "string"), (2, "csr", "bytes")],
    ),
    (
        "spire.api.server.svid.v1.NewJWTSVIDRequest",
        &[(1, "entry_id", "string"), (2, "audience", "[string]")],
    ),
    (
        "spire.api.server.svid.v1.MintX509SVIDRequest",
        &[(1, "csr", "bytes"), (2, "ttl", "int32")],
    ),
    (
        "X509SVIDResponse",
        &[
            (1, "svids", "[X509SVID]"),
            (2, "crl", "[bytes]"),
            (3, "federated_bundles", "{string: bytes}"),
        ],
    ),
    (
        "X509SVID",
        &[
            (1, "spiffe_id", "string"),
            (2, "x509_svid", "bytes"),
            (3, "x509_svid_key", "bytes"),
            (4, "bundle", "bytes"),
            (5, "hint", "string"),
        ],
    ),
    (
        "X509BundlesResponse",
        &[(1, "crl", "[bytes]"), (2, "bundles", "{string: bytes}")],
    ),
    (
        "JWTSVIDRequest",
        &[(1, "audience", "[string]"), (2, "spiffe_id", "string")],
    ),
    (
        "JWTSVID",
        &[
            (1, "spiffe_id", "string"),
            (2, "svid", "string"),
            (3, "hint", "string"),
        ],
    ),
    ("JWTBundlesResponse", &[(1, "bundles", "{string: bytes}")]),
    (
        "ValidateJWTSVIDRequest",
        &[(1, "audience", "string"), (2, "svid", "string")],
    ),
    (
        "ValidateJWTSVIDResponse",
        &[
            (1, "spiffe_id", "string"),
            (2, "claims", "google.protobuf.Struct"),
        ],
    ),
    ("WITBundlesResponse", &[(1, "bundles", "{string: string}")]),
];

#[test]
fn messages_have_the_fields_of_the_published_apis() {
    let pool = pool();
    for (name, expected) in FIELDS {
        let message = pool
            .get_message_by_name(name)
            .unwrap_or_else(|| panic!("no message `{name}`"));
        let fields: Vec<_> = message
            .fields()
            .map(|field| {
                let kind = field.kind();
                let kind = match kind.as_message().filter(|_| field.is_map()) {
                    Some(entry) => {
                        let (key, value) = (entry.map_entry_key_field(), entry.map_entry_value_field());
                        format!("{{{:?}: {:?}}}", key.kind(), value.kind())
                    }
                    None if field.is_list() => format!("[{kind:?}]"),
                    None => format!("{kind:?}"),
                };
                (field.number(), field.name().to_owned(), kind)
            })
            .collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|&(number, field, kind)| (number, field.to_owned(), kind.to_owned()))
            .collect();
        assert_eq!(fields, expected, "fields of {name}");
    }
}

#[test]
fn enums_have_the_values_of_the_published_apis() {
    let pool = pool();
    let matches = ["MATCH_EXACT", "MATCH_SUBSET", "MATCH_SUPERSET", "MATCH_ANY"];
    let expected: [(&str, &[&str]); 5] = [
        (
            "spire.api.types.PermissionDeniedDetails.Reason",
            &[
                "UNKNOWN",
                "AGENT_EXPIRED",
                "AGENT_NOT_ATTESTED",
                "AGENT_NOT_ACTIVE",
                "AGENT_BANNED",
                "AGENT_MUST_REATTEST",
            ],
        ),
        ("spire.api.types.SelectorMatch.MatchBehavior", &matches),
        ("spire.api.types.FederatesWithMatch.MatchBehavior", &matches),
        (
            "spire.api.server.bundle.v1.BatchDeleteFederatedBundleRequest.Mode",
            &["RESTRICT", "DELETE", "DISSOCIATE"],
        ),
        (
            "spire.api.types.LogLevel",
            &[
                "UNSPECIFIED",
                "PANIC",
                "FATAL",
                "ERROR",
                "WARN",
                "INFO",
                "DEBUG",
                "TRACE",
            ],
        ),
    ];
    for (name, expected) in expected {
        let enumeration = pool
            .get_enum_by_name(name)
            .unwrap_or_else(|| panic!("no enum `{name}`"));
        let values: Vec<_> = enumeration
            .values()
            .map(|value| (value.number(), value.name().to_owned()))
            .collect();
        let expected: Vec<_> = (0..)
            .zip(expected.iter().map(|&value| value.to_owned()))
            .collect();
        assert_eq!(values, expected, "values of {name}");
    }
}

#[test]
fn services_have_as_many_methods_as_the_published_apis_and_stream_where_they_do() {
    let pool = pool();
    let expected = [
        ("SpiffeWorkloadAPI", 7),
        ("spire.api.server.agent.v1.Agent", 9),
        ("spire.api.server.bundle.v1.Bundle", 11),
        ("spire.api.server.debug.v1.Debug", 1),
        ("spire.api.server.entry.v1.Entry", 8),
        ("spire.api.server.localauthority.v1.LocalAuthority", 17),
        ("spire.api.server.logger.v1.Logger", 3),
        ("spire.api.server.svid.v1.SVID", 7),
        ("spire.api.server.trustdomain.v1.TrustDomain", 6),
    ];
    for (name, count) in expected {
        let service = pool
            .get_service_by_name(name)
            .unwrap_or_else(|| panic!("no service `{name}`"));
        assert_eq!(service.methods().count(), count, "methods of {name}");
    }

    let streaming: BTreeSet<_> = pool
        .services()
        .filter(|service| !service.full_name().starts_with("vouchsafe."))
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .filter(|method| method.is_client_streaming() || method.is_server_streaming())
        .map(|method| {
            (
                method.name().to_owned(),
                method.is_client_streaming(),
                method.is_server_streaming(),
            )
        })
        .collect();
    let expected = [
        ("AttestAgent", true, true),
        ("FetchJWTBundles", false, true),
        ("FetchWITBundles", false, true),
        ("FetchWITSVID", false, true),
        ("FetchX509Bundles", false, true),
        ("FetchX509SVID", false, true),
        ("SyncAuthorizedEntries", true, true),
    ];
    let expected = expected
        .into_iter()
        .map(|(method, client, server)| (method.to_owned(), client, server));
    assert_eq!(streaming, expected.collect());
}

/// A client sends `/<package>.<service>/<method>`, so the names of the generated servers are wire facts too; and a
/// package that is missing from the module tree is missing here.
#[test]
fn every_service_of_the_descriptors_has_generated_code_under_its_name() {
    fn name<S: NamedService>() -> String {
        S::NAME.to_owned()
    }
    let generated = BTreeSet::from([
        name::<server::agent::v1::agent_server::AgentServer<()>>(),
        name::<server::bundle::v1::bundle_server::BundleServer<()>>(),
        name::<server::debug::v1::debug_server::DebugServer<()>>(),
        name::<server::entry::v1::entry_server::EntryServer<()>>(),
        name::<server::localauthority::v1::local_authority_server::LocalAuthorityServer<()>>(),
        name::<server::logger::v1::logger_server::LoggerServer<()>>(),
        name::<server::svid::v1::svid_server::SvidServer<()>>(),
        name::<server::trustdomain::v1::trust_domain_server::TrustDomainServer<()>>(),
        name::<vouchsafe::agent::v1::agent_admin_server::AgentAdminServer<()>>(),
        name::<vouchsafe::launch::v1::launch_server::LaunchServer<()>>(),
        name::<vouchsafe::run::v1::admission_server::AdmissionServer<()>>(),
        name::<vouchsafe::run::v1::classes_server::ClassesServer<()>>(),
        name::<vouchsafe::run::v1::runs_server::RunsServer<()>>(),
        name::<vouchsafe::server::v1::server_admin_server::ServerAdminServer<()>>(),
        name::<vouchsafe::sync::v1::sync_server::SyncServer<()>>(),
        name::<vouchsafe::workload::v1::workload_info_server::WorkloadInfoServer<()>>(),
        name::<workload::spiffe_workload_api_server::SpiffeWorkloadApiServer<()>>(),
    ]);
    let described: BTreeSet<_> = pool()
        .services()
        .map(|service| service.full_name().to_owned())
        .collect();
    assert_eq!(described, generated);
}
