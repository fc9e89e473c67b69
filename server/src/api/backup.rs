//! `vouchsafe.server.v1.ServerAdmin/Backup`: the store as a stream while the server works, and sealed the keys too.

use std::collections::BTreeSet;

use aws_lc_rs::digest::{Context, SHA256};
use tokio::sync::mpsc;
use tonic::Status;
use vouchsafe_identity::secret::Secret;
use vouchsafe_proto::vouchsafe::server::v1::{BackupEnd, BackupRequest, BackupResponse, backup_response};
use vouchsafe_runtime::seal::{MIN_SECRET_BYTES, NotOpened, SealKeys};
use vouchsafe_store::{BackupEnd as StoreEnd, BackupPart};

use super::conversation::Outgoing;
use super::{Api, refuse};
use crate::caller::Proof;
use crate::layers::Call;
use crate::sealed_backup::Sealer;

/// Most bytes in one message, well below what clients take.
const CHUNK_BYTES: usize = 1 << 20;
/// Parts that wait for the caller to read.
const WAITING_PARTS: usize = 4;

/// With what the backup is to be sealed, if with anything. Keys go to those alone who can read them on the disk: others
/// whom the admin socket is open to could take them along under a key of their own.
pub(super) fn seal_keys(call: &Call, request: BackupRequest) -> Result<Option<SealKeys>, Status> {
    let secret = Secret::new(request.seal_secret);
    if secret.expose().is_empty() {
        return Ok(None);
    }
    let own = nix::unistd::geteuid().as_raw();
    if !reads_keys(&call.peer.proof, own) {
        return Err(Status::permission_denied(format!(
            "private keys are backed up for root and for uid {own}, as which the server runs: ask as one of them, or \
             leave the keys out (--no-keys)"
        )));
    }
    let derived = SealKeys::derive(&secret).map_err(|_short| {
        Status::invalid_argument(format!("a sealing key has at least {MIN_SECRET_BYTES} bytes"))
    })?;
    Ok(Some(derived))
}

fn reads_keys(proof: &Proof, own: u32) -> bool {
    matches!(proof, Proof::Local { uid, .. } if *uid == 0 || *uid == own)
}

impl Api {
    /// Sends a copy of the store; its reading and the caller's are joined, so that either end ends the other.
    pub(super) async fn copy(
        &self,
        seal: Option<SealKeys>,
        to: Outgoing<BackupResponse>,
    ) -> Result<(), Status> {
        let (parts, mut taken) = mpsc::channel(WAITING_PARTS);
        let send = async move {
            let mut file = BackupFile::begin(seal, to).await?;
            // Before and after: a key that the copied journal names was there at one of the two.
            file.keys(self).await?;
            while let Some(part) = taken.recv().await {
                match part {
                    BackupPart::Bytes(bytes) => file.store(&bytes).await?,
                    BackupPart::End { end, .. } => {
                        file.keys(self).await?;
                        return file.end(end).await;
                    }
                }
            }
            Ok::<_, Status>(())
        };
        let (copied, sent) = tokio::join!(self.store.backup(parts), send);
        sent?;
        copied.map_err(refuse)
    }
}

/// The file on its way to the caller.
struct BackupFile {
    to: Outgoing<BackupResponse>,
    sealer: Option<Sealer>,
    keys: BTreeSet<String>,
    digest: Context,
}

impl BackupFile {
    async fn begin(seal: Option<SealKeys>, to: Outgoing<BackupResponse>) -> Result<Self, Status> {
        let begun = seal.map(Sealer::begin).transpose().map_err(unsealed)?;
        let (sealer, head) = begun.unzip();
        let mut file = Self {
            to,
            sealer,
            keys: BTreeSet::new(),
            digest: Context::new(&SHA256),
        };
        file.send(&head.unwrap_or_default()).await?;
        Ok(file)
    }

    /// The keys that are there now and were not sent before.
    async fn keys(&mut self, api: &Api) -> Result<(), Status> {
        let Some(sealer) = &mut self.sealer else {
            return Ok(());
        };
        let mut sealed = Vec::new();
        for (id, key) in api.ca.export_keys().await.map_err(refuse)? {
            if !self.keys.contains(&id) {
                sealed.extend(sealer.key(&id, &key).map_err(unsealed)?);
                self.keys.insert(id);
            }
        }
        self.send(&sealed).await
    }

    async fn store(&mut self, bytes: &[u8]) -> Result<(), Status> {
        match &mut self.sealer {
            None => self.send(bytes).await,
            Some(sealer) => {
                let sealed = sealer.store(bytes).map_err(unsealed)?;
                self.send(&sealed).await
            }
        }
    }

    async fn end(mut self, end: StoreEnd) -> Result<(), Status> {
        if let Some(sealer) = self.sealer.take() {
            let last = sealer.end().map_err(unsealed)?;
            self.send(&last).await?;
        }
        let end = BackupEnd {
            revision: end.revision.0,
            audit_seq: end.audit_seq,
            sha256: self.digest.finish().as_ref().to_vec(),
            keys: u32::try_from(self.keys.len()).unwrap_or(u32::MAX),
        };
        self.to.send(response(backup_response::Part::End(end))).await
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), Status> {
        self.digest.update(bytes);
        for chunk in bytes.chunks(CHUNK_BYTES) {
            self.to
                .send(response(backup_response::Part::Chunk(chunk.to_vec())))
                .await?;
        }
        Ok(())
    }
}

fn unsealed(_: NotOpened) -> Status {
    Status::internal("the backup could not be sealed: the system has no random numbers")
}

fn response(part: backup_response::Part) -> BackupResponse {
    BackupResponse { part: Some(part) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_can_read_the_keys_on_the_disk_gets_them() {
        let local = |uid| Proof::Local { uid, pid: 1 };
        for (proof, gets) in [
            (local(0), true),
            (local(990), true),
            (local(1000), false),
            (Proof::None, false),
        ] {
            assert_eq!(reads_keys(&proof, 990), gets, "{proof:?}");
        }
    }
}
