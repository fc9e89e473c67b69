//! `vouchsafe bundle`: the authorities that verify SVIDs.

use clap::{Subcommand, ValueEnum};
use time::OffsetDateTime;
use vouchsafe_identity::{Bundle, JwtAuthority, TrustDomain, X509Authority};
use vouchsafe_proto::spire::api::server::bundle::v1::GetBundleRequest;
use vouchsafe_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use vouchsafe_proto::spire::api::types;

use crate::args::Global;
use crate::client::Connection;
use crate::error::CliError;
use crate::output::{self, Output};

/// The group's commands.
#[derive(Debug, Subcommand)]
pub(crate) enum BundleCommand {
    /// Show the bundle of the server's trust domain
    Show {
        /// PEM certificates, or the SPIFFE bundle document with the JWT keys too
        #[arg(long, value_enum, default_value_t = BundleFormat::Pem)]
        format: BundleFormat,
    },
}

/// How a bundle is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BundleFormat {
    /// X.509 roots as PEM.
    Pem,
    /// JWK Set with all authorities (SPIFFE Trust Domain and Bundle §4).
    Spiffe,
}

/// Runs a command of the group.
pub(crate) async fn run(command: BundleCommand, global: &Global, output: &Output) -> Result<(), CliError> {
    let BundleCommand::Show { format } = command;
    let server = Connection::server(global).await?;
    let bundle = fetch(&server).await?;
    let unreadable = |reason: String| CliError::Answer {
        what: "server",
        reason,
    };
    let document = String::from_utf8(bundle.to_jwks().map_err(|e| unreadable(e.to_string()))?)
        .map_err(|e| unreadable(e.to_string()))?;
    if output.is_json() {
        let value =
            serde_json::from_str::<serde_json::Value>(&document).map_err(|e| unreadable(e.to_string()))?;
        let value = serde_json::json!({
            "trust_domain": bundle.trust_domain.name(), "pem": bundle.to_pem(), "bundle": value
        });
        output.show(&value, String::new);
    } else {
        match format {
            BundleFormat::Pem => output::line(bundle.to_pem().trim_end()),
            BundleFormat::Spiffe => output::line(&document),
        }
    }
    Ok(())
}

/// The bundle of the server's trust domain.
pub(crate) async fn fetch(server: &Connection) -> Result<Bundle, CliError> {
    let request = GetBundleRequest { output_mask: None };
    let mut client = BundleClient::new(server.channel.clone());
    from_wire(server.call(client.get_bundle(request)).await?)
}

fn from_wire(bundle: types::Bundle) -> Result<Bundle, CliError> {
    let unreadable = |reason: String| CliError::Answer {
        what: "server",
        reason,
    };
    let expiry = |seconds: i64| {
        OffsetDateTime::from_unix_timestamp(seconds)
            .map(Some)
            .map_err(|e| unreadable(e.to_string()))
    };
    let jwt_authorities = bundle
        .jwt_authorities
        .into_iter()
        .map(|key| {
            Ok(JwtAuthority {
                key_id: key.key_id,
                public_key: key.public_key,
                expires_at: if key.expires_at == 0 {
                    None
                } else {
                    expiry(key.expires_at)?
                },
                tainted: key.tainted,
            })
        })
        .collect::<Result<Vec<_>, CliError>>()?;
    Ok(Bundle {
        trust_domain: TrustDomain::new(&bundle.trust_domain).map_err(|e| unreadable(e.to_string()))?,
        x509_authorities: bundle
            .x509_authorities
            .into_iter()
            .map(|ca| X509Authority {
                certificate: ca.asn1,
                tainted: ca.tainted,
            })
            .collect(),
        jwt_authorities,
        refresh_hint: u64::try_from(bundle.refresh_hint)
            .ok()
            .map(std::time::Duration::from_secs),
        sequence: bundle.sequence_number,
    })
}
