//! The table of methods: who may call each, and which rate it counts against.

use std::collections::HashMap;
use std::sync::LazyLock;

/// Which of a caller's rates a call counts against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// Attestations of a source.
    Attestation,
    /// Signatures of a caller; a batch counts each item.
    Signature,
    /// All other calls.
    Call,
}

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Everybody, also without an SVID.
    pub any: bool,
    /// Who comes through the admin socket.
    pub local: bool,
    /// Holders of admin SVIDs.
    pub admin: bool,
    /// Servers below this one.
    pub downstream: bool,
    /// Agents in good standing.
    pub agent: bool,
    /// Also those whose authority was revoked since they connected: so an agent that was not quick enough hears of it
    /// and renews over the connection that it still has, and need not join again.
    pub revoked: bool,
    /// What a call counts against.
    pub rate: Rate,
    /// Whether it stays open for as long as the caller is there: such calls have places of their own, and a
    /// record each when they open and when they end.
    pub stays: bool,
}

const NOBODY: Rule = Rule {
    any: false,
    local: false,
    admin: false,
    downstream: false,
    agent: false,
    revoked: false,
    rate: Rate::Call,
    stays: false,
};
const ANY: Rule = Rule { any: true, ..NOBODY };
const LOCAL: Rule = Rule {
    local: true,
    ..NOBODY
};
const OPERATOR: Rule = Rule { admin: true, ..LOCAL };
const DOWNSTREAM: Rule = Rule {
    downstream: true,
    ..NOBODY
};
const AGENT: Rule = Rule {
    agent: true,
    ..NOBODY
};
const RENEWING: Rule = Rule {
    revoked: true,
    ..AGENT
};
const FOLLOW: Rule = Rule { stays: true, ..AGENT };
const OPERATOR_OR_AGENT: Rule = Rule {
    agent: true,
    ..OPERATOR
};

const fn signing(rule: Rule) -> Rule {
    Rule {
        rate: Rate::Signature,
        ..rule
    }
}

const ATTEST: Rule = Rule {
    rate: Rate::Attestation,
    ..ANY
};

/// Every method that the server answers.
const TABLE: &[(&str, Rule)] = &[
    ("/spire.api.server.agent.v1.Agent/CountAgents", OPERATOR),
    ("/spire.api.server.agent.v1.Agent/ListAgents", OPERATOR),
    ("/spire.api.server.agent.v1.Agent/GetAgent", OPERATOR),
    ("/spire.api.server.agent.v1.Agent/DeleteAgent", OPERATOR),
    ("/spire.api.server.agent.v1.Agent/BanAgent", OPERATOR),
    ("/spire.api.server.agent.v1.Agent/CreateJoinToken", OPERATOR),
    ("/spire.api.server.agent.v1.Agent/AttestAgent", ATTEST),
    ("/spire.api.server.agent.v1.Agent/RenewAgent", signing(RENEWING)),
    ("/spire.api.server.agent.v1.Agent/PostStatus", AGENT),
    ("/spire.api.server.entry.v1.Entry/CountEntries", OPERATOR),
    ("/spire.api.server.entry.v1.Entry/ListEntries", OPERATOR),
    ("/spire.api.server.entry.v1.Entry/GetEntry", OPERATOR),
    ("/spire.api.server.entry.v1.Entry/BatchCreateEntry", OPERATOR),
    ("/spire.api.server.entry.v1.Entry/BatchUpdateEntry", OPERATOR),
    ("/spire.api.server.entry.v1.Entry/BatchDeleteEntry", OPERATOR),
    ("/spire.api.server.entry.v1.Entry/GetAuthorizedEntries", RENEWING),
    ("/spire.api.server.entry.v1.Entry/SyncAuthorizedEntries", RENEWING),
    ("/spire.api.server.svid.v1.SVID/MintX509SVID", signing(OPERATOR)),
    ("/spire.api.server.svid.v1.SVID/MintJWTSVID", signing(OPERATOR)),
    ("/spire.api.server.svid.v1.SVID/MintWITSVID", signing(OPERATOR)),
    ("/spire.api.server.svid.v1.SVID/BatchNewX509SVID", signing(AGENT)),
    ("/spire.api.server.svid.v1.SVID/NewJWTSVID", signing(AGENT)),
    ("/spire.api.server.svid.v1.SVID/BatchNewWITSVID", signing(AGENT)),
    (
        "/spire.api.server.svid.v1.SVID/NewDownstreamX509CA",
        signing(DOWNSTREAM),
    ),
    ("/spire.api.server.bundle.v1.Bundle/CountBundles", OPERATOR),
    ("/spire.api.server.bundle.v1.Bundle/GetBundle", ANY),
    ("/spire.api.server.bundle.v1.Bundle/AppendBundle", OPERATOR),
    (
        "/spire.api.server.bundle.v1.Bundle/PublishJWTAuthority",
        DOWNSTREAM,
    ),
    (
        "/spire.api.server.bundle.v1.Bundle/PublishWITAuthority",
        DOWNSTREAM,
    ),
    (
        "/spire.api.server.bundle.v1.Bundle/ListFederatedBundles",
        OPERATOR,
    ),
    (
        "/spire.api.server.bundle.v1.Bundle/GetFederatedBundle",
        OPERATOR_OR_AGENT,
    ),
    (
        "/spire.api.server.bundle.v1.Bundle/BatchCreateFederatedBundle",
        OPERATOR,
    ),
    (
        "/spire.api.server.bundle.v1.Bundle/BatchUpdateFederatedBundle",
        OPERATOR,
    ),
    (
        "/spire.api.server.bundle.v1.Bundle/BatchSetFederatedBundle",
        OPERATOR,
    ),
    (
        "/spire.api.server.bundle.v1.Bundle/BatchDeleteFederatedBundle",
        OPERATOR,
    ),
    (
        "/spire.api.server.trustdomain.v1.TrustDomain/ListFederationRelationships",
        OPERATOR,
    ),
    (
        "/spire.api.server.trustdomain.v1.TrustDomain/GetFederationRelationship",
        OPERATOR,
    ),
    (
        "/spire.api.server.trustdomain.v1.TrustDomain/BatchCreateFederationRelationship",
        OPERATOR,
    ),
    (
        "/spire.api.server.trustdomain.v1.TrustDomain/BatchUpdateFederationRelationship",
        OPERATOR,
    ),
    (
        "/spire.api.server.trustdomain.v1.TrustDomain/BatchDeleteFederationRelationship",
        OPERATOR,
    ),
    (
        "/spire.api.server.trustdomain.v1.TrustDomain/RefreshBundle",
        OPERATOR,
    ),
    (
        "/spire.api.server.localauthority.v1.LocalAuthority/GetJWTAuthorityState",
        OPERATOR,
    ),
    (
        "/spire.api.server.localauthority.v1.LocalAuthority/PrepareJWTAuthority",
        OPERATOR,
    ),
    (
        "/spire.api.server.localauthority.v1.LocalAuthority/ActivateJWTAuthority",
        OPERATOR,
    ),
    (
        "/spire.api.server.localauthority.v1.LocalAuthority/TaintJWTAuthority",
        OPERATOR,
    ),
    (
        "/spire.api.server.localauthority.v1.LocalAuthority/RevokeJWTAuthority",
        OPERATOR,
    ),
    (
        "/spire.api.server.localauthority.v1.LocalAuthority/GetX509AuthorityState",
        OPERATOR,
    ),
    (
        "/spire.api.server.localauthority.v1.LocalAuthority/PrepareX509Authority",
        OPERATOR,
    ),
    (
        "/spire.api.server.localauthority.v1.LocalAuthority/ActivateX509Authority",
        OPERATOR,
    ),
    (
        "/spire.api.server.localauthority.v1.LocalAuthority/TaintX509Authority",
        OPERATOR,
    ),
    (
        "/spire.api.server.localauthority.v1.LocalAuthority/TaintX509UpstreamAuthority",
        OPERATOR,
    ),
    (
        "/spire.api.server.localauthority.v1.LocalAuthority/RevokeX509Authority",
        OPERATOR,
    ),
    (
        "/spire.api.server.localauthority.v1.LocalAuthority/RevokeX509UpstreamAuthority",
        OPERATOR,
    ),
    (
        "/spire.api.server.localauthority.v1.LocalAuthority/GetWITAuthorityState",
        OPERATOR,
    ),
    (
        "/spire.api.server.localauthority.v1.LocalAuthority/PrepareWITAuthority",
        OPERATOR,
    ),
    (
        "/spire.api.server.localauthority.v1.LocalAuthority/ActivateWITAuthority",
        OPERATOR,
    ),
    (
        "/spire.api.server.localauthority.v1.LocalAuthority/TaintWITAuthority",
        OPERATOR,
    ),
    (
        "/spire.api.server.localauthority.v1.LocalAuthority/RevokeWITAuthority",
        OPERATOR,
    ),
    ("/spire.api.server.logger.v1.Logger/GetLogger", LOCAL),
    ("/spire.api.server.logger.v1.Logger/SetLogLevel", LOCAL),
    ("/spire.api.server.logger.v1.Logger/ResetLogLevel", LOCAL),
    ("/spire.api.server.debug.v1.Debug/GetInfo", LOCAL),
    ("/vouchsafe.server.v1.ServerAdmin/Health", LOCAL),
    ("/vouchsafe.server.v1.ServerAdmin/TailAudit", LOCAL),
    ("/vouchsafe.server.v1.ServerAdmin/Backup", LOCAL),
    ("/vouchsafe.sync.v1.Sync/Follow", FOLLOW),
    ("/vouchsafe.run.v1.Classes/CreateClass", OPERATOR),
    ("/vouchsafe.run.v1.Classes/UpdateClass", OPERATOR),
    ("/vouchsafe.run.v1.Classes/GetClass", OPERATOR),
    ("/vouchsafe.run.v1.Classes/ListClasses", OPERATOR),
    ("/vouchsafe.run.v1.Classes/DeleteClass", OPERATOR),
    ("/vouchsafe.run.v1.Runs/ListRuns", OPERATOR),
    ("/vouchsafe.run.v1.Runs/GetRun", OPERATOR),
    ("/vouchsafe.run.v1.Runs/KillRun", OPERATOR),
    ("/vouchsafe.run.v1.Runs/ListRevocations", OPERATOR),
    ("/vouchsafe.run.v1.Admission/DescribeClass", AGENT),
    ("/vouchsafe.run.v1.Admission/AdmitRun", AGENT),
    ("/vouchsafe.run.v1.Admission/LeaseRuns", AGENT),
    ("/vouchsafe.run.v1.Admission/StartRun", AGENT),
    ("/vouchsafe.run.v1.Admission/EndRun", AGENT),
    ("/vouchsafe.run.v1.Admission/ReportRuns", AGENT),
    ("/vouchsafe.run.v1.Admission/NewRunX509SVIDs", signing(AGENT)),
    ("/vouchsafe.run.v1.Admission/NewRunJWTSVID", signing(AGENT)),
    ("/grpc.health.v1.Health/Check", LOCAL),
    ("/grpc.health.v1.Health/Watch", LOCAL),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", LOCAL),
    (
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        LOCAL,
    ),
];

static RULES: LazyLock<HashMap<&'static str, (&'static str, Rule)>> =
    LazyLock::new(|| TABLE.iter().map(|(name, rule)| (*name, (*name, *rule))).collect());

/// The rule of a method, with the table's own spelling of its name.
pub fn rule(method: &str) -> Option<(&'static str, Rule)> {
    RULES.get(method).copied()
}

/// All methods with their rules.
pub fn methods() -> impl Iterator<Item = (&'static str, Rule)> {
    TABLE.iter().copied()
}
