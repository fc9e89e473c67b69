//! What `entry create` and `entry update` are told, as the wire wants it.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use time::OffsetDateTime;
use vouchsafe_attestors::{Trust, trust_of};
use vouchsafe_identity::{Selector, SpiffeId, TrustDomain};
use vouchsafe_proto::spire::api::types::{Entry, EntryMask, entry::AdditionalAttributes};

use super::view::{wire_id, wire_selector};
use super::{data, no_fields, wire_ttl};
use crate::error::CliError;

/// Flags that `create` and `update` share.
#[derive(Debug, Args)]
pub(crate) struct Fields {
    /// What a process must have, all of it (repeat)
    #[arg(long = "selector", value_name = "TYPE:VALUE")]
    selectors: Vec<Selector>,
    /// Life of X.509-SVIDs; the server's default where it is not given
    #[arg(long, value_parser = crate::values::duration, value_name = "SPAN")]
    x509_svid_ttl: Option<Duration>,
    /// Life of JWT-SVIDs; the server's default where it is not given
    #[arg(long, value_parser = crate::values::duration, value_name = "SPAN")]
    jwt_svid_ttl: Option<Duration>,
    /// A trust domain whose bundle the process gets too (repeat)
    #[arg(long = "federates-with", value_name = "TRUST_DOMAIN")]
    federates_with: Vec<TrustDomain>,
    /// A DNS name in the X.509-SVID (repeat)
    #[arg(long = "dns", value_name = "NAME")]
    dns_names: Vec<String>,
    /// Tells several SVIDs of one process apart
    #[arg(long)]
    hint: Option<String>,
    /// When the entry ends by itself: RFC 3339, or seconds since 1970
    #[arg(long, value_parser = crate::values::moment, value_name = "TIME")]
    expires_at: Option<OffsetDateTime>,
    /// Its holder may call the server's admin methods
    #[arg(long)]
    admin: bool,
    /// Its holder may ask for an intermediate CA
    #[arg(long)]
    downstream: bool,
    /// The SVID is for a store of the agent's, not for the Workload API
    #[arg(long)]
    store_svid: bool,
    /// JWT-SVIDs carry a `jti`
    #[arg(long)]
    jwt_svid_include_jti: bool,
    /// The agent waits with the X.509-SVID until it is asked for
    #[arg(long)]
    disable_x509_svid_prefetch: bool,
    /// Accept an entry that rests on asserted selectors alone
    #[arg(long)]
    allow_asserted: bool,
}

/// Flags of `entry create`.
#[derive(Debug, Args)]
pub(crate) struct EntrySpec {
    /// The identity that the process gets
    #[arg(long, required_unless_present = "data", value_name = "ID")]
    spiffe_id: Option<SpiffeId>,
    /// The agent, or the alias of agents, that may serve it
    #[arg(long, required_unless_present_any = ["data", "node"], conflicts_with = "node", value_name = "ID")]
    parent_id: Option<SpiffeId>,
    /// The entry is an alias for nodes: its parent is the server
    #[arg(long)]
    node: bool,
    /// The entry's id; made by the server where it is not given
    #[arg(long, value_name = "ID")]
    entry_id: Option<String>,
    #[command(flatten)]
    fields: Fields,
    /// A JSON file with many entries; `-` for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["spiffe_id", "parent_id", "node", "entry_id"])]
    data: Option<PathBuf>,
}

/// Flags of `entry update`.
#[derive(Debug, Args)]
pub(crate) struct UpdateSpec {
    /// The entry's id
    #[arg(long, value_name = "ID")]
    entry_id: String,
    /// The identity that the process gets
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<SpiffeId>,
    /// The agent, or the alias of agents, that may serve it
    #[arg(long, value_name = "ID")]
    parent_id: Option<SpiffeId>,
    #[command(flatten)]
    fields: Fields,
}

impl EntrySpec {
    /// The entries to create.
    pub(crate) fn into_entries(self) -> Result<Vec<Entry>, CliError> {
        let entries = match &self.data {
            Some(path) => data::parse(&data::read(path)?)?,
            None => vec![self.to_entry()?],
        };
        for entry in &entries {
            if !self.fields.allow_asserted {
                refuse_asserted(entry)?;
            }
        }
        Ok(entries)
    }

    fn to_entry(&self) -> Result<Entry, CliError> {
        let Some(spiffe_id) = &self.spiffe_id else {
            return Err(CliError::Invalid("--spiffe-id is missing".to_owned()));
        };
        let parent_id = match &self.parent_id {
            Some(id) => id.clone(),
            None => spiffe_id
                .trust_domain()
                .with_path("/spire/server")
                .map_err(|error| CliError::Invalid(error.to_string()))?,
        };
        if self.fields.selectors.is_empty() {
            return Err(CliError::Invalid(
                "--selector is missing: name at least one, such as `--selector unix:uid:1000`".to_owned(),
            ));
        }
        let mut entry = self.fields.to_wire()?;
        entry.id = self.entry_id.clone().unwrap_or_default();
        entry.spiffe_id = Some(wire_id(spiffe_id));
        entry.parent_id = Some(wire_id(&parent_id));
        Ok(entry)
    }
}

impl UpdateSpec {
    /// The entry with its new values, and which of them are new.
    pub(crate) fn into_parts(self) -> Result<(Entry, EntryMask), CliError> {
        let fields = &self.fields;
        let mut entry = fields.to_wire()?;
        entry.id = self.entry_id.clone();
        entry.spiffe_id = self.spiffe_id.as_ref().map(wire_id);
        entry.parent_id = self.parent_id.as_ref().map(wire_id);
        let mask = EntryMask {
            spiffe_id: self.spiffe_id.is_some(),
            parent_id: self.parent_id.is_some(),
            selectors: !fields.selectors.is_empty(),
            x509_svid_ttl: fields.x509_svid_ttl.is_some(),
            jwt_svid_ttl: fields.jwt_svid_ttl.is_some(),
            federates_with: !fields.federates_with.is_empty(),
            dns_names: !fields.dns_names.is_empty(),
            hint: fields.hint.is_some(),
            expires_at: fields.expires_at.is_some(),
            admin: fields.admin,
            downstream: fields.downstream,
            store_svid: fields.store_svid,
            additional_attributes: fields.jwt_svid_include_jti || fields.disable_x509_svid_prefetch,
            ..no_fields()
        };
        if mask == no_fields() {
            return Err(CliError::Invalid(
                "nothing to update: give at least one flag beside --entry-id".to_owned(),
            ));
        }
        if mask.selectors && !fields.allow_asserted {
            refuse_asserted(&entry)?;
        }
        Ok((entry, mask))
    }
}

impl Fields {
    fn to_wire(&self) -> Result<Entry, CliError> {
        Ok(Entry {
            selectors: self.selectors.iter().map(wire_selector).collect(),
            x509_svid_ttl: self
                .x509_svid_ttl
                .map_or(Ok(0), |ttl| wire_ttl("--x509-svid-ttl", ttl))?,
            jwt_svid_ttl: self
                .jwt_svid_ttl
                .map_or(Ok(0), |ttl| wire_ttl("--jwt-svid-ttl", ttl))?,
            federates_with: self.federates_with.iter().map(ToString::to_string).collect(),
            admin: self.admin,
            downstream: self.downstream,
            expires_at: self.expires_at.map_or(0, OffsetDateTime::unix_timestamp),
            dns_names: self.dns_names.clone(),
            store_svid: self.store_svid,
            hint: self.hint.clone().unwrap_or_default(),
            additional_attributes: Some(AdditionalAttributes {
                disable_x509_svid_prefetch: self.disable_x509_svid_prefetch,
                jwt_svid_include_jti: self.jwt_svid_include_jti,
            }),
            ..Entry::default()
        })
    }
}

/// Refuses an entry whose selectors could all have been arranged by the process itself.
fn refuse_asserted(entry: &Entry) -> Result<(), CliError> {
    // What is no selector the server refuses.
    let asserted = |kind: &str, value: &str| {
        Selector::new(kind, value).is_ok_and(|selector| trust_of(&selector) == Trust::Asserted)
    };
    if entry.selectors.is_empty() || !entry.selectors.iter().all(|s| asserted(&s.r#type, &s.value)) {
        return Ok(());
    }
    let list: Vec<String> = entry
        .selectors
        .iter()
        .map(|s| format!("`{}:{}`", s.r#type, s.value))
        .collect();
    Err(CliError::Invalid(format!(
        "the entry rests on asserted selectors alone ({}): any process of any user can arrange these; \
         add a measured one such as `--selector unix:uid:1000`, or accept the risk with --allow-asserted",
        list.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Create {
        #[command(flatten)]
        spec: EntrySpec,
    }

    #[derive(Debug, Parser)]
    struct Update {
        #[command(flatten)]
        spec: UpdateSpec,
    }

    fn create(flags: &[&str]) -> Result<Vec<Entry>, String> {
        let all = [
            "create",
            "--spiffe-id",
            "spiffe://example.org/a",
            "--parent-id",
            "spiffe://example.org/n",
        ];
        let parsed = Create::try_parse_from(all.iter().chain(flags)).map_err(|e| e.to_string())?;
        parsed.spec.into_entries().map_err(|e| e.to_string())
    }

    #[test]
    fn an_entry_without_selectors_is_refused_with_an_example() {
        assert!(create(&[]).unwrap_err().contains("unix:uid:1000"));
    }

    #[test]
    fn an_entry_on_asserted_selectors_alone_needs_a_flag() {
        let refused = create(&["--selector", "process:script:/srv/a.py"]).unwrap_err();
        assert!(
            refused.contains("--allow-asserted") && refused.contains("/srv/a.py"),
            "{refused}"
        );
        assert!(create(&["--selector", "process:script:/srv/a.py", "--allow-asserted"]).is_ok());
        let unit = [
            "--selector",
            "process:cwd:/srv",
            "--selector",
            "process:systemd_unit:a.service",
        ];
        assert!(create(&unit).is_ok());
        assert!(create(&unit[..2]).is_err());
        assert!(
            create(&[
                "--selector",
                "process:script:/srv/a.py",
                "--selector",
                "unix:uid:1"
            ])
            .is_ok()
        );
    }

    #[test]
    fn bad_values_are_named() {
        assert!(
            create(&["--selector", "nocolon"])
                .unwrap_err()
                .contains("`nocolon`")
        );
        assert!(
            create(&["--selector", "a:b", "--x509-svid-ttl", "soon"])
                .unwrap_err()
                .contains("soon")
        );
        assert!(
            create(&["--selector", "a:b", "--x509-svid-ttl", "99999999999"])
                .unwrap_err()
                .contains("too long")
        );
        assert!(create(&["--selector", "a:b", "--federates-with", "Bad_TD"]).is_err());
    }

    #[test]
    fn node_means_that_the_server_is_the_parent() {
        let flags = [
            "create",
            "--node",
            "--spiffe-id",
            "spiffe://example.org/n",
            "--selector",
            "a:b",
        ];
        let entries = Create::try_parse_from(flags)
            .unwrap()
            .spec
            .into_entries()
            .unwrap();
        assert_eq!(entries[0].parent_id.as_ref().unwrap().path, "/spire/server");
    }

    #[test]
    fn an_update_touches_only_what_is_given() {
        let spec = Update::try_parse_from(["update", "--entry-id", "e", "--hint", "h"])
            .unwrap()
            .spec;
        let (entry, mask) = spec.into_parts().unwrap();
        assert_eq!((entry.id.as_str(), entry.hint.as_str()), ("e", "h"));
        assert_eq!(
            mask,
            EntryMask {
                hint: true,
                ..no_fields()
            }
        );
        let nothing = Update::try_parse_from(["update", "--entry-id", "e"])
            .unwrap()
            .spec;
        assert!(
            nothing
                .into_parts()
                .unwrap_err()
                .to_string()
                .contains("nothing to update")
        );
    }
}
