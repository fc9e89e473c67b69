//! `vouchsafe class`: agent programs that an operator approved.

mod harden;
mod measurement;
mod spec;
mod view;

use clap::Subcommand;
use vouchsafe_identity::{ClassId, ClassName};
use vouchsafe_proto::vouchsafe::run::v1::classes_client::ClassesClient;
use vouchsafe_proto::vouchsafe::run::v1::{
    Class, ClassSpec, CreateClassRequest, DeleteClassRequest, GetClassRequest, Isolation, ListClassesRequest,
    UpdateClassRequest,
};

pub(in crate::commands) use self::measurement::Measurement;
use self::spec::SpecArgs;
use self::view::ClassView;
pub(in crate::commands) use self::view::{MeasuredFile, ProgramFile};
use crate::args::Global;
use crate::client::{Connection, MAX_ANSWER_BYTES};
use crate::error::CliError;
use crate::output::{self, Output};

const PAGE: i32 = 500;

/// The group's commands.
#[derive(Debug, Subcommand)]
pub(crate) enum ClassCommand {
    /// Approve an agent program: from a file, by flags, or both
    Create {
        /// Its name, as in `researcher`
        #[arg(value_name = "NAME")]
        name: ClassName,
        /// Its SPIFFE ID, below which its runs have theirs
        #[arg(long, value_name = "ID")]
        id: ClassId,
        #[command(flatten)]
        spec: Box<SpecArgs>,
    },
    /// Change a class: a file replaces all of it, flags what they name. Runs that live go on as they are
    Update {
        /// Its name
        #[arg(value_name = "NAME")]
        name: ClassName,
        #[command(flatten)]
        spec: Box<SpecArgs>,
    },
    /// Show a class
    Show {
        /// Its name
        #[arg(value_name = "NAME")]
        name: ClassName,
    },
    /// List all classes
    List,
    /// Delete a class of which no runs live
    Delete {
        /// Its name
        #[arg(value_name = "NAME")]
        name: ClassName,
        /// Kill the runs that live
        #[arg(long)]
        force: bool,
    },
}

/// Runs a command of the group.
pub(crate) async fn run(command: ClassCommand, global: &Global, output: &Output) -> Result<(), CliError> {
    match command {
        ClassCommand::Create { name, id, spec } => {
            let spec = spec.onto(None)?;
            let server = Connection::server(global).await?;
            let request = CreateClassRequest {
                name: name.to_string(),
                id: id.to_string(),
                spec: Some(spec),
            };
            let made = server.call(client(&server).create_class(request)).await?;
            warn(&made, output);
            show(made, output)
        }
        ClassCommand::Update { name, spec } => {
            let server = Connection::server(global).await?;
            let old = get(&server, &name).await?;
            let request = UpdateClassRequest {
                name: name.to_string(),
                version: old.version,
                spec: Some(spec.onto(old.spec)?),
            };
            let updated = server.call(client(&server).update_class(request)).await?;
            warn(&updated, output);
            show(updated, output)
        }
        ClassCommand::Show { name } => {
            let server = Connection::server(global).await?;
            show(get(&server, &name).await?, output)
        }
        ClassCommand::List => list(&Connection::server(global).await?, output).await,
        ClassCommand::Delete { name, force } => {
            let server = Connection::server(global).await?;
            let request = DeleteClassRequest {
                name: name.to_string(),
                force,
            };
            let killed = server.call(client(&server).delete_class(request)).await?.killed;
            let value = serde_json::json!({ "deleted": name.as_str(), "killed_runs": killed });
            output.show(&value, || match killed {
                0 => format!("Class deleted: {name}"),
                killed => format!("Class deleted: {name}; runs killed: {killed}"),
            });
            Ok(())
        }
    }
}

fn client(connection: &Connection) -> ClassesClient<tonic::transport::Channel> {
    ClassesClient::new(connection.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
}

async fn get(server: &Connection, name: &ClassName) -> Result<Class, CliError> {
    let name = name.to_string();
    server
        .call(client(server).get_class(GetClassRequest { name }))
        .await
}

fn show(class: Class, output: &Output) -> Result<(), CliError> {
    let view = ClassView::of(class)?;
    output.show(&view, || view.block());
    Ok(())
}

/// Says what an operator may not have meant.
fn warn(class: &Class, output: &Output) {
    let empty = ClassSpec::default();
    let spec = class.spec.as_ref().unwrap_or(&empty);
    if spec.isolation() == Isolation::None {
        output
            .note("warning: isolation is `none`: a process that a run starts can read the run's private key");
    }
    if !spec.any_node && spec.nodes.is_empty() {
        output.note("note: no node may run it yet: name some with --may-run-on");
    }
    if spec.launchers.is_empty() {
        output.note("note: nobody may launch it yet: name somebody with --launcher");
    }
}

async fn list(server: &Connection, output: &Output) -> Result<(), CliError> {
    let mut views = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListClassesRequest {
            page_size: PAGE,
            page_token,
        };
        let page = server.call(client(server).list_classes(request)).await?;
        for class in page.classes {
            views.push(ClassView::of(class)?);
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    output.show(&views, || match views.as_slice() {
        [] => "No classes found".to_owned(),
        some => output::table(&view::HEAD, some.iter().map(ClassView::row).collect()),
    });
    Ok(())
}
