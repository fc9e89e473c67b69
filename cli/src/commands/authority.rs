//! `vouchsafe authority`: the server's signing keys by hand. What to do after a key leak is told in docs/authorities.md.

use clap::{Subcommand, ValueEnum};
use serde::Serialize;
use vouchsafe_identity::Bundle;
use vouchsafe_proto::spire::api::server::localauthority::v1::local_authority_client::LocalAuthorityClient;
use vouchsafe_proto::spire::api::server::localauthority::v1::{
    ActivateJwtAuthorityRequest, ActivateX509AuthorityRequest, AuthorityState, GetJwtAuthorityStateRequest,
    GetX509AuthorityStateRequest, PrepareJwtAuthorityRequest, PrepareX509AuthorityRequest,
    RevokeJwtAuthorityRequest, RevokeX509AuthorityRequest, TaintJwtAuthorityRequest,
    TaintX509AuthorityRequest,
};

use super::bundle;
use crate::args::Global;
use crate::client::Connection;
use crate::error::CliError;
use crate::output::{self, Output};
use crate::values;

type Client = LocalAuthorityClient<tonic::transport::Channel>;

/// The group's commands.
#[derive(Debug, Subcommand)]
pub(crate) enum AuthorityCommand {
    /// Show the authorities of the trust domain: which one signs, which one is next, which ones have signed
    Show {
        /// What they sign
        #[arg(value_enum)]
        kind: Kind,
    },
    /// Make a new key and publish it in the bundle; it does not sign yet
    Prepare {
        /// What it will sign
        #[arg(value_enum)]
        kind: Kind,
    },
    /// Let the prepared authority sign from now on
    Activate {
        /// What it signs
        #[arg(value_enum)]
        kind: Kind,
        /// The prepared authority, as `prepare` and `show` name it
        id: String,
    },
    /// Distrust an old authority: agents have all that hangs on it issued anew at once
    Taint {
        /// What it signed
        #[arg(value_enum)]
        kind: Kind,
        /// The old authority, as `show` names it
        id: String,
    },
    /// Take a tainted authority out of the bundle and delete its key: what it signed is worth nothing then
    Revoke {
        /// What it signed
        #[arg(value_enum)]
        kind: Kind,
        /// The tainted authority, as `show` names it
        id: String,
    },
}

/// What an authority signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// X.509-SVIDs.
    X509,
    /// JWT-SVIDs.
    Jwt,
}

impl Kind {
    const fn word(self) -> &'static str {
        match self {
            Self::X509 => "x509",
            Self::Jwt => "jwt",
        }
    }

    /// The name in sentences.
    const fn name(self) -> &'static str {
        match self {
            Self::X509 => "X.509",
            Self::Jwt => "JWT",
        }
    }
}

/// One authority of the bundle.
#[derive(Debug, Serialize)]
struct AuthorityView {
    authority_id: String,
    /// `active`, `prepared`, `old`, or `other`: older ones, and those of other servers of the trust domain.
    state: &'static str,
    tainted: bool,
    expires_at: String,
}

/// Runs a command of the group.
pub(crate) async fn run(command: AuthorityCommand, global: &Global, output: &Output) -> Result<(), CliError> {
    let server = Connection::server(global).await?;
    let client = LocalAuthorityClient::new(server.channel.clone());
    match command {
        AuthorityCommand::Show { kind } => return show(kind, &server, client, output).await,
        AuthorityCommand::Prepare { kind } => {
            let made = prepare(kind, &server, client).await?;
            tell(kind, "prepared", made, output);
            output.note(&format!(
                "next: give agents and peers a moment to learn of it, then `vouchsafe authority activate {} ID`",
                kind.word()
            ));
        }
        AuthorityCommand::Activate { kind, id } => {
            let made = activate(kind, id, &server, client).await?;
            tell(kind, "activated", made, output);
        }
        AuthorityCommand::Taint { kind, id } => {
            let made = taint(kind, id, &server, client).await?;
            tell(kind, "tainted", made, output);
            output.note(&format!(
                "next: when agents have had everything issued anew, `vouchsafe authority revoke {} ID`",
                kind.word()
            ));
        }
        AuthorityCommand::Revoke { kind, id } => {
            let made = revoke(kind, id, &server, client).await?;
            tell(kind, "revoked", made, output);
        }
    }
    Ok(())
}

fn tell(kind: Kind, done: &'static str, authority: Option<AuthorityState>, output: &Output) {
    let authority = authority.unwrap_or_default();
    let expires_at = values::show_time(authority.expires_at);
    let value = serde_json::json!({
        "kind": kind.word(), "done": done, "authority_id": authority.authority_id, "expires_at": expires_at
    });
    output.show(&value, || {
        let mut head = done.to_owned();
        head.get_mut(..1).map(str::make_ascii_uppercase);
        format!(
            "{head} {} authority:\n{}",
            kind.name(),
            output::pairs(&[
                ("  Authority ID", authority.authority_id.clone()),
                ("  Expires at", expires_at.clone()),
            ])
        )
    });
}

async fn prepare(
    kind: Kind,
    server: &Connection,
    mut client: Client,
) -> Result<Option<AuthorityState>, CliError> {
    Ok(match kind {
        Kind::X509 => {
            let asked = PrepareX509AuthorityRequest {};
            let answer = server.call(client.prepare_x509_authority(asked)).await?;
            answer.prepared_authority
        }
        Kind::Jwt => {
            let asked = PrepareJwtAuthorityRequest {};
            let answer = server.call(client.prepare_jwt_authority(asked)).await?;
            answer.prepared_authority
        }
    })
}

async fn activate(
    kind: Kind,
    authority_id: String,
    server: &Connection,
    mut client: Client,
) -> Result<Option<AuthorityState>, CliError> {
    Ok(match kind {
        Kind::X509 => {
            let asked = ActivateX509AuthorityRequest { authority_id };
            let answer = server.call(client.activate_x509_authority(asked)).await?;
            answer.activated_authority
        }
        Kind::Jwt => {
            let asked = ActivateJwtAuthorityRequest { authority_id };
            let answer = server.call(client.activate_jwt_authority(asked)).await?;
            answer.activated_authority
        }
    })
}

async fn taint(
    kind: Kind,
    authority_id: String,
    server: &Connection,
    mut client: Client,
) -> Result<Option<AuthorityState>, CliError> {
    Ok(match kind {
        Kind::X509 => {
            let asked = TaintX509AuthorityRequest { authority_id };
            let answer = server.call(client.taint_x509_authority(asked)).await?;
            answer.tainted_authority
        }
        Kind::Jwt => {
            let asked = TaintJwtAuthorityRequest { authority_id };
            let answer = server.call(client.taint_jwt_authority(asked)).await?;
            answer.tainted_authority
        }
    })
}

async fn revoke(
    kind: Kind,
    authority_id: String,
    server: &Connection,
    mut client: Client,
) -> Result<Option<AuthorityState>, CliError> {
    Ok(match kind {
        Kind::X509 => {
            let asked = RevokeX509AuthorityRequest { authority_id };
            let answer = server.call(client.revoke_x509_authority(asked)).await?;
            answer.revoked_authority
        }
        Kind::Jwt => {
            let asked = RevokeJwtAuthorityRequest { authority_id };
            let answer = server.call(client.revoke_jwt_authority(asked)).await?;
            answer.revoked_authority
        }
    })
}

/// Shows what the bundle has, with what the server says of its own authorities.
async fn show(kind: Kind, server: &Connection, mut client: Client, output: &Output) -> Result<(), CliError> {
    let states = match kind {
        Kind::X509 => {
            let asked = GetX509AuthorityStateRequest {};
            let found = server.call(client.get_x509_authority_state(asked)).await?;
            [found.active, found.prepared, found.old]
        }
        Kind::Jwt => {
            let asked = GetJwtAuthorityStateRequest {};
            let found = server.call(client.get_jwt_authority_state(asked)).await?;
            [found.active, found.prepared, found.old]
        }
    };
    let published = published(kind, &bundle::fetch(server).await?);
    let mut views: Vec<AuthorityView> = states
        .into_iter()
        .zip(["active", "prepared", "old"])
        .filter_map(|(authority, state)| authority.map(|authority| (authority, state)))
        .map(|(authority, state)| AuthorityView {
            tainted: published
                .iter()
                .any(|(id, tainted, _)| *tainted && *id == authority.authority_id),
            authority_id: authority.authority_id,
            state,
            expires_at: values::show_time(authority.expires_at),
        })
        .collect();
    for (authority_id, tainted, expires_at) in published {
        if views.iter().all(|view| view.authority_id != authority_id) {
            views.push(AuthorityView {
                authority_id,
                state: "other",
                tainted,
                expires_at: values::show_time(expires_at),
            });
        }
    }
    output.show(&views, || {
        let rows = views.iter().map(|view| {
            let trust = if view.tainted { "tainted" } else { "" };
            vec![
                view.authority_id.clone(),
                view.state.to_owned(),
                trust.to_owned(),
                view.expires_at.clone(),
            ]
        });
        output::table(&["AUTHORITY ID", "STATE", "TRUST", "EXPIRES"], rows.collect())
    });
    Ok(())
}

/// The authorities of the bundle: id, whether it is tainted, when it ends (0 where nobody says).
fn published(kind: Kind, bundle: &Bundle) -> Vec<(String, bool, i64)> {
    let seconds = |at: Option<time::OffsetDateTime>| at.map_or(0, |at| at.unix_timestamp());
    match kind {
        Kind::X509 => bundle
            .x509_authorities
            .iter()
            .filter_map(|ca| Some((ca.key_id()?, ca.tainted, seconds(ca.expires_at()))))
            .collect(),
        Kind::Jwt => bundle
            .jwt_authorities
            .iter()
            .map(|key| (key.key_id.clone(), key.tainted, seconds(key.expires_at)))
            .collect(),
    }
}
