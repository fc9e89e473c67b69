//! `vouchsafe backup`: everything that a running server keeps, in one file; private keys only where it is sealed.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use clap::Args;
use serde::Serialize;
use tokio_stream::StreamExt;
use vouchsafe_proto::vouchsafe::server::v1::server_admin_client::ServerAdminClient;
use vouchsafe_proto::vouchsafe::server::v1::{BackupEnd, BackupRequest, backup_response};
use vouchsafe_runtime::seal::file::read_secret;

use crate::args::Global;
use crate::client::Connection;
use crate::error::CliError;
use crate::output::Output;

/// How many bytes apart progress is told.
const TELL_BYTES: u64 = 64 << 20;

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// The file to make; it must not be there yet
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Seal the file, with the private keys in it, by the key in this file (mode 0600, 32 random bytes or more)
    #[arg(long, value_name = "FILE", required_unless_present = "no_keys")]
    seal_key: Option<PathBuf>,
    /// Leave the private keys out, and seal nothing
    #[arg(long, conflicts_with = "seal_key")]
    no_keys: bool,
}

#[derive(Debug, Serialize)]
struct View {
    file: PathBuf,
    revision: u64,
    audit_records: u64,
    bytes: u64,
    sha256: String,
    keys: u32,
}

/// Runs the command.
pub(crate) async fn run(args: BackupArgs, global: &Global, output: &Output) -> Result<(), CliError> {
    let file = args.file;
    if file.exists() {
        return Err(is_there(&file));
    }
    let secret = args.seal_key.as_deref().map(read_secret).transpose()?;
    let secret = secret.map(|secret| secret.expose().clone()).unwrap_or_default();
    let server = Connection::server(global).await?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    // Under a name of its own, which goes with it unless it is whole: two that make the same backup are not in each
    // other's way, and neither replaces what is there by then.
    let part = tempfile::Builder::new()
        .prefix(".vouchsafe-backup-")
        .tempfile_in(folder);
    let mut part = part.map_err(|source| failed("write", &file, source))?;
    let (end, bytes) = write(&server, (part.as_file_mut(), &file), secret, output).await?;
    part.persist_noclobber(&file)
        .map_err(|kept| match kept.error.kind() {
            // Another was made meanwhile.
            ErrorKind::AlreadyExists => is_there(&file),
            _ => failed("write", &file, kept.error),
        })?;
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|source| failed("sync", folder, source))?;
    let view = View {
        file,
        revision: end.revision,
        audit_records: end.audit_seq,
        bytes,
        sha256: hex::encode(&end.sha256),
        keys: end.keys,
    };
    output.show(&view, || {
        let keys = match view.keys {
            0 => "no private keys: keep a sealed copy of `keys` in the server's data_dir".to_owned(),
            keys => format!("{keys} private keys, sealed: keep the sealing key elsewhere"),
        };
        format!(
            "{}: revision {}, {} audit records, {} bytes, {keys}",
            view.file.display(),
            view.revision,
            view.audit_records,
            view.bytes
        )
    });
    Ok(())
}

fn is_there(file: &Path) -> CliError {
    CliError::Invalid(format!("`{}` is there already: name a new file", file.display()))
}

fn failed(action: &'static str, path: &Path, source: std::io::Error) -> CliError {
    CliError::File {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Writes the stream, and checks that it is whole; its end, and how many bytes there are.
async fn write(
    server: &Connection,
    (file, path): (&mut File, &Path),
    seal_secret: Vec<u8>,
    output: &Output,
) -> Result<(BackupEnd, u64), CliError> {
    let mut client = ServerAdminClient::new(server.channel.clone());
    let mut parts = server.call(client.backup(BackupRequest { seal_secret })).await?;
    let unwritable = |source| failed("write", path, source);
    let mut digest = Context::new(&SHA256);
    let mut bytes = 0_u64;
    let mut told = 0;
    while let Some(answer) = parts.next().await {
        let answer = answer.map_err(|status| server.refused(status))?;
        match answer.part {
            Some(backup_response::Part::Chunk(chunk)) => {
                file.write_all(&chunk).map_err(unwritable)?;
                bytes += chunk.len() as u64;
                digest.update(&chunk);
                if bytes - told >= TELL_BYTES {
                    told = bytes;
                    output.note(&format!("{} MiB", bytes >> 20));
                }
            }
            Some(backup_response::Part::End(end)) => {
                if digest.finish().as_ref() != end.sha256 {
                    return Err(cut("its digest does not fit"));
                }
                file.sync_all().map_err(unwritable)?;
                return Ok((end, bytes));
            }
            None => return Err(cut("a part is of an unknown kind")),
        }
    }
    Err(cut("it broke off"))
}

fn cut(reason: &str) -> CliError {
    CliError::Answer {
        what: "server",
        reason: format!("the backup is not whole: {reason}"),
    }
}
