//! `vouchsafe entry`: registration entries.

mod data;
mod spec;
mod view;

use clap::Subcommand;
use vouchsafe_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use vouchsafe_proto::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest, BatchUpdateEntryRequest, CountEntriesRequest,
    GetEntryRequest, ListEntriesRequest, count_entries_request, list_entries_request,
};
use vouchsafe_proto::spire::api::types::{
    Entry, EntryMask, FederatesWithMatch, SelectorMatch, Status, federates_with_match, selector_match,
};

use self::spec::{EntrySpec, UpdateSpec};
use self::view::EntryView;
pub(crate) use self::view::{show_id, wire_id, wire_selector};
use crate::args::{EntryFilter, Global, Match};
use crate::client::{Connection, MAX_ANSWER_BYTES};
use crate::error::CliError;
use crate::output::Output;
use crate::values;

const PAGE: i32 = 500;
/// gRPC's code for "already exists", as it stands in an item's status.
const ALREADY_EXISTS: i32 = 6;

/// The group's commands.
#[derive(Debug, Subcommand)]
pub(crate) enum EntryCommand {
    /// Create an entry, or many from a file
    Create(Box<EntrySpec>),
    /// Show entries, all or those that match
    Show {
        /// Only the entry with this id
        #[arg(long, value_name = "ID")]
        entry_id: Option<String>,
        #[command(flatten)]
        filter: EntryFilter,
    },
    /// Change an entry; what is not given stays as it is
    Update(Box<UpdateSpec>),
    /// Delete entries
    Delete {
        /// The entry's id (repeat)
        #[arg(long = "entry-id", value_name = "ID", required_unless_present = "file")]
        entry_ids: Vec<String>,
        /// A file with one id a line; `-` for standard input
        #[arg(long, value_name = "FILE")]
        file: Option<std::path::PathBuf>,
    },
    /// Count entries, all or those that match
    Count {
        #[command(flatten)]
        filter: EntryFilter,
    },
}

/// Runs a command of the group.
pub(crate) async fn run(command: EntryCommand, global: &Global, output: &Output) -> Result<(), CliError> {
    match command {
        EntryCommand::Create(spec) => create(*spec, global, output).await,
        EntryCommand::Show { entry_id, filter } => show(entry_id, filter, global, output).await,
        EntryCommand::Update(spec) => update(*spec, global, output).await,
        EntryCommand::Delete { entry_ids, file } => delete(entry_ids, file, global, output).await,
        EntryCommand::Count { filter } => count(filter, global, output).await,
    }
}

fn client(connection: &Connection) -> EntryClient<tonic::transport::Channel> {
    EntryClient::new(connection.channel.clone())
        .max_decoding_message_size(MAX_ANSWER_BYTES)
        .max_encoding_message_size(MAX_ANSWER_BYTES)
}

async fn create(spec: EntrySpec, global: &Global, output: &Output) -> Result<(), CliError> {
    let entries = spec.into_entries()?;
    let server = Connection::server(global).await?;
    let request = BatchCreateEntryRequest {
        entries,
        output_mask: None,
    };
    let results = server
        .call(client(&server).batch_create_entry(request))
        .await?
        .results;
    let items = results
        .into_iter()
        .map(|result| (result.status, result.entry))
        .collect();
    report("created", items, output)
}

async fn update(spec: UpdateSpec, global: &Global, output: &Output) -> Result<(), CliError> {
    let (entry, mask) = spec.into_parts()?;
    let server = Connection::server(global).await?;
    let request = BatchUpdateEntryRequest {
        entries: vec![entry],
        input_mask: Some(mask),
        output_mask: None,
    };
    let results = server
        .call(client(&server).batch_update_entry(request))
        .await?
        .results;
    let items = results
        .into_iter()
        .map(|result| (result.status, result.entry))
        .collect();
    report("updated", items, output)
}

/// Prints what became of each entry; an error when one was refused.
fn report(verb: &str, items: Vec<(Option<Status>, Option<Entry>)>, output: &Output) -> Result<(), CliError> {
    let all = items.len();
    let mut good = Vec::new();
    let mut bad = Vec::new();
    for (status, entry) in items {
        let status = status.unwrap_or_default();
        let view = entry.map(EntryView::from);
        if status.code == 0 {
            good.extend(view);
        } else {
            bad.push((status, view));
        }
    }
    if let ([(status, view)], 1) = (bad.as_slice(), all) {
        let existing = view
            .as_ref()
            .map(|v| format!(" (it is entry `{}`)", v.id))
            .unwrap_or_default();
        let step = if status.code == ALREADY_EXISTS {
            existing
        } else {
            String::new()
        };
        let text = format!("the entry was not {verb}: {}{step}", status.message);
        return Err(CliError::item("server", status.code, text));
    }
    let refused: Vec<_> = bad
        .iter()
        .map(|(status, view)| serde_json::json!({ "code": status.code, "message": status.message, "entry": view }))
        .collect();
    let value = serde_json::json!({ "entries": good, "refused": refused });
    output.show(&value, || {
        let mut text: String = good.iter().map(EntryView::block).collect::<Vec<_>>().join("\n");
        for (status, view) in &bad {
            let id = view.as_ref().map(|v| v.spiffe_id.clone()).unwrap_or_default();
            text.push_str(&format!("\nnot {verb}: {id}: {}", status.message));
        }
        text
    });
    if bad.is_empty() {
        Ok(())
    } else {
        Err(CliError::Partly {
            failed: bad.len(),
            all,
        })
    }
}

async fn show(
    entry_id: Option<String>,
    filter: EntryFilter,
    global: &Global,
    output: &Output,
) -> Result<(), CliError> {
    let server = Connection::server(global).await?;
    let mut entries = Vec::new();
    if let Some(id) = entry_id {
        let request = GetEntryRequest {
            id,
            output_mask: None,
        };
        entries.push(server.call(client(&server).get_entry(request)).await?);
    } else {
        let filter = Some(list_filter(filter));
        let mut page_token = String::new();
        loop {
            let request = ListEntriesRequest {
                filter: filter.clone(),
                output_mask: None,
                page_size: PAGE,
                page_token,
            };
            let page = server.call(client(&server).list_entries(request)).await?;
            entries.extend(page.entries);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
    }
    let views: Vec<EntryView> = entries.into_iter().map(EntryView::from).collect();
    output.show(&views, || {
        let noun = if views.len() == 1 { "entry" } else { "entries" };
        let blocks: Vec<String> = views.iter().map(EntryView::block).collect();
        format!("Found {} {noun}\n\n{}", views.len(), blocks.join("\n"))
    });
    Ok(())
}

async fn count(filter: EntryFilter, global: &Global, output: &Output) -> Result<(), CliError> {
    let server = Connection::server(global).await?;
    let filter = list_filter(filter);
    let filter = count_entries_request::Filter {
        by_spiffe_id: filter.by_spiffe_id,
        by_parent_id: filter.by_parent_id,
        by_selectors: filter.by_selectors,
        by_federates_with: filter.by_federates_with,
        by_hint: filter.by_hint,
        by_downstream: filter.by_downstream,
    };
    let request = CountEntriesRequest { filter: Some(filter) };
    let count = server.call(client(&server).count_entries(request)).await?.count;
    output.show(&serde_json::json!({ "count": count }), || count.to_string());
    Ok(())
}

async fn delete(
    mut ids: Vec<String>,
    file: Option<std::path::PathBuf>,
    global: &Global,
    output: &Output,
) -> Result<(), CliError> {
    if let Some(path) = file {
        let text = data::read(&path)?;
        ids.extend(
            text.lines()
                .map(str::trim)
                .filter(|line| !line.is_empty())
                .map(str::to_owned),
        );
    }
    let server = Connection::server(global).await?;
    let results = server
        .call(client(&server).batch_delete_entry(BatchDeleteEntryRequest { ids }))
        .await?
        .results;
    let all = results.len();
    let (good, bad): (Vec<_>, Vec<_>) = results
        .into_iter()
        .partition(|result| result.status.as_ref().is_none_or(|status| status.code == 0));
    if let ([refused], 1) = (bad.as_slice(), all) {
        let status = refused.status.clone().unwrap_or_default();
        let text = format!("entry `{}` was not deleted: {}", refused.id, status.message);
        return Err(CliError::item("server", status.code, text));
    }
    let deleted: Vec<&str> = good.iter().map(|result| result.id.as_str()).collect();
    let refused: Vec<_> = bad
        .iter()
        .map(|r| serde_json::json!({ "id": r.id, "message": r.status.clone().unwrap_or_default().message }))
        .collect();
    output.show(
        &serde_json::json!({ "deleted": deleted, "refused": refused }),
        || {
            let mut lines: Vec<String> = deleted
                .iter()
                .map(|id| format!("Deleted entry with ID: {id}"))
                .collect();
            lines.extend(bad.iter().map(|r| {
                format!(
                    "not deleted: {}: {}",
                    r.id,
                    r.status.clone().unwrap_or_default().message
                )
            }));
            lines.join("\n")
        },
    );
    if bad.is_empty() {
        Ok(())
    } else {
        Err(CliError::Partly {
            failed: bad.len(),
            all,
        })
    }
}

fn list_filter(filter: EntryFilter) -> list_entries_request::Filter {
    use federates_with_match::MatchBehavior as Domains;
    use selector_match::MatchBehavior as Selectors;
    let selectors = match filter.match_selectors_on.unwrap_or(Match::Superset) {
        Match::Exact => Selectors::MatchExact,
        Match::Subset => Selectors::MatchSubset,
        Match::Superset => Selectors::MatchSuperset,
        Match::Any => Selectors::MatchAny,
    };
    let domains = match filter.match_federates_with_on.unwrap_or(Match::Superset) {
        Match::Exact => Domains::MatchExact,
        Match::Subset => Domains::MatchSubset,
        Match::Superset => Domains::MatchSuperset,
        Match::Any => Domains::MatchAny,
    };
    list_entries_request::Filter {
        by_spiffe_id: filter.spiffe_id.as_ref().map(view::wire_id),
        by_parent_id: filter.parent_id.as_ref().map(view::wire_id),
        by_selectors: (!filter.selectors.is_empty()).then(|| SelectorMatch {
            selectors: filter.selectors.iter().map(view::wire_selector).collect(),
            r#match: selectors.into(),
        }),
        by_federates_with: (!filter.federates_with.is_empty()).then(|| FederatesWithMatch {
            trust_domains: filter.federates_with.iter().map(ToString::to_string).collect(),
            r#match: domains.into(),
        }),
        by_hint: filter.hint,
        by_downstream: filter.downstream.then_some(true),
    }
}

/// A mask with nothing set.
fn no_fields() -> EntryMask {
    EntryMask::default()
}

/// A TTL as the wire has it: seconds that fit.
fn wire_ttl(flag: &str, ttl: std::time::Duration) -> Result<i32, CliError> {
    i32::try_from(ttl.as_secs()).map_err(|_| {
        CliError::Invalid(format!(
            "{flag} of {} s is too long: at most {} s",
            ttl.as_secs(),
            i32::MAX
        ))
    })
}

/// A TTL for people.
fn show_ttl(seconds: i32) -> String {
    match u64::try_from(seconds) {
        Ok(0) | Err(_) => "default".to_owned(),
        Ok(seconds) => humantime::format_duration(std::time::Duration::from_secs(seconds)).to_string(),
    }
}

/// A time for people, `None` where there is none.
fn show_moment(seconds: i64) -> Option<String> {
    (seconds != 0).then(|| values::show_time(seconds))
}
