//! Tests of keys on disk: who may read them, and what a kill or damage leaves.

use std::os::unix::fs::{PermissionsExt, symlink};

use tempfile::TempDir;

use super::*;
use crate::keys::contract;

const ID: &str = "x509-a";

struct Kept {
    keys: DiskKeys,
    root: TempDir,
}

impl Kept {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let keys = DiskKeys::open(&root.path().join("keys")).unwrap();
        Self { keys, root }
    }

    fn folder(&self) -> PathBuf {
        self.root.path().join("keys")
    }

    fn file(&self) -> PathBuf {
        self.folder().join("x509-a.key")
    }

    fn reopen(&self) -> Result<DiskKeys, KeyError> {
        DiskKeys::open(&self.folder())
    }

    async fn with_key() -> Self {
        let kept = Self::new();
        kept.keys.generate(ID, KeyAlgorithm::EcP256).await.unwrap();
        kept
    }
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn seal(fill: u8) -> Arc<SealKeys> {
    let secret = vouchsafe_identity::secret::Secret::new(vec![fill; 32]);
    Arc::new(SealKeys::derive(&secret).unwrap())
}

#[tokio::test]
async fn keeps_the_contract_when_sealed() {
    let root = tempfile::tempdir().unwrap();
    let count = std::sync::atomic::AtomicU32::new(0);
    contract::keeps(|| async {
        let n = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        DiskKeys::open_sealed(&root.path().join(n.to_string()), Some(seal(1))).unwrap()
    })
    .await;
}

#[tokio::test]
async fn a_sealed_key_is_read_with_its_seal_alone_and_under_its_own_name() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("keys");
    let sealed = DiskKeys::open_sealed(&folder, Some(seal(1))).unwrap();
    let made = sealed.generate(ID, KeyAlgorithm::EcP256).await.unwrap();
    let file = folder.join("x509-a.sealed");
    assert_eq!(mode(&file), 0o600);
    assert!(LocalKey::from_pkcs8(ID, &fs::read(&file).unwrap()).is_err());
    let read = sealed.get(ID).await.unwrap().unwrap();
    assert_eq!(read.public_key_spki(), made.public_key_spki());
    for other in [
        DiskKeys::open(&folder),
        DiskKeys::open_sealed(&folder, Some(seal(2))),
    ] {
        let refused = other.unwrap().get(ID).await.err().unwrap();
        assert!(matches!(refused, KeyError::Damaged { .. }), "{refused}");
    }
    fs::rename(&file, folder.join("x509-b.sealed")).unwrap();
    assert!(matches!(
        sealed.get("x509-b").await,
        Err(KeyError::Damaged { .. })
    ));
}

#[tokio::test]
async fn a_plain_key_is_used_until_its_place_gets_a_sealed_one() {
    let kept = Kept::with_key().await;
    let plain = kept.keys.get(ID).await.unwrap().unwrap();
    let sealed = DiskKeys::open_sealed(&kept.folder(), Some(seal(1))).unwrap();
    let read = sealed.get(ID).await.unwrap().unwrap();
    assert_eq!(read.public_key_spki(), plain.public_key_spki());
    sealed.generate(ID, KeyAlgorithm::EcP256).await.unwrap();
    assert!(!kept.file().exists(), "the plain key is gone");
    assert_eq!(sealed.list().await.unwrap(), [ID]);
}

#[tokio::test]
async fn keeps_the_contract() {
    let root = tempfile::tempdir().unwrap();
    let count = std::sync::atomic::AtomicU32::new(0);
    contract::keeps(|| async {
        let n = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        DiskKeys::open(&root.path().join(n.to_string())).unwrap()
    })
    .await;
}

#[tokio::test]
async fn keys_outlive_the_process_and_are_ours_alone() {
    let kept = Kept::with_key().await;
    assert_eq!(mode(&kept.file()), 0o600);
    assert_eq!(mode(&kept.folder()), 0o700);
    let before = kept.keys.get(ID).await.unwrap().unwrap();
    let after = kept.reopen().unwrap().get(ID).await.unwrap().unwrap();
    assert_eq!(before.public_key_spki(), after.public_key_spki());
}

#[tokio::test]
async fn a_key_that_others_can_read_is_refused_by_name() {
    let kept = Kept::with_key().await;
    for exposed in [0o640, 0o604, 0o620, 0o601, 0o644] {
        chmod(&kept.file(), exposed);
        let refused = kept.keys.get(ID).await.unwrap_err();
        assert!(matches!(&refused, KeyError::Exposed { mode, needed: 0o600, .. } if *mode == exposed));
        assert!(refused.to_string().contains("x509-a.key"), "{refused}");
    }
    chmod(&kept.file(), 0o400);
    assert!(kept.keys.get(ID).await.unwrap().is_some());
}

#[tokio::test]
async fn a_folder_that_others_can_enter_is_refused() {
    let kept = Kept::with_key().await;
    chmod(&kept.folder(), 0o750);
    let refused = kept.reopen().unwrap_err();
    assert!(
        matches!(
            &refused,
            KeyError::Exposed {
                mode: 0o750,
                needed: 0o700,
                ..
            }
        ),
        "{refused}"
    );
    assert!(refused.to_string().contains("chmod 700"), "{refused}");
}

#[tokio::test]
async fn links_are_refused_and_never_written_through() {
    let kept = Kept::with_key().await;
    let elsewhere = kept.root.path().join("elsewhere");
    fs::rename(kept.file(), &elsewhere).unwrap();
    symlink(&elsewhere, kept.file()).unwrap();
    assert!(matches!(kept.keys.get(ID).await, Err(KeyError::Foreign { .. })));
    let before = fs::read(&elsewhere).unwrap();
    kept.keys.generate(ID, KeyAlgorithm::EcP256).await.unwrap();
    assert_eq!(fs::read(&elsewhere).unwrap(), before);
    assert!(kept.keys.get(ID).await.unwrap().is_some());

    symlink(&elsewhere, kept.folder().join("x509-a.tmp")).unwrap();
    kept.keys.generate(ID, KeyAlgorithm::EcP256).await.unwrap();
    assert_eq!(fs::read(&elsewhere).unwrap(), before);

    let link = kept.root.path().join("link");
    symlink(kept.folder(), &link).unwrap();
    assert!(matches!(DiskKeys::open(&link), Err(KeyError::Foreign { .. })));
}

#[tokio::test]
async fn what_is_no_plain_file_is_refused_without_waiting_for_it() {
    let kept = Kept::new();
    nix::unistd::mkfifo(&kept.file(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(kept.keys.get(ID).await, Err(KeyError::Foreign { .. })));
    fs::remove_file(kept.file()).unwrap();
    fs::create_dir(kept.file()).unwrap();
    assert!(matches!(kept.keys.get(ID).await, Err(KeyError::Foreign { .. })));
    assert!(matches!(
        DiskKeys::open(&kept.root.path().join("missing/keys")),
        Err(KeyError::Io { .. })
    ));
}

#[tokio::test]
async fn keys_of_another_user_are_refused() {
    let kept = Kept::with_key().await;
    if !nix::unistd::geteuid().is_root() {
        // Only root can give a file away; what it would show is the same check of the folder's owner:
        // the root directory belongs to root.
        assert!(matches!(
            DiskKeys::open(Path::new("/")),
            Err(KeyError::Foreign { .. })
        ));
        return;
    }
    let nobody = Some(nix::unistd::Uid::from_raw(65_534));
    nix::unistd::chown(&kept.file(), nobody, None).unwrap();
    let refused = kept.keys.get(ID).await.unwrap_err();
    assert!(refused.to_string().contains("owned by uid 65534"), "{refused}");
    nix::unistd::chown(&kept.folder(), nobody, None).unwrap();
    assert!(matches!(kept.reopen(), Err(KeyError::Foreign { .. })));
}

#[tokio::test]
async fn a_damaged_key_is_named_and_the_others_serve() {
    let kept = Kept::with_key().await;
    kept.keys.generate("jwt-a", KeyAlgorithm::EcP256).await.unwrap();
    let whole = fs::read(kept.file()).unwrap();
    let mut extra = whole.clone();
    extra.push(0);
    let damages: [&[u8]; 5] = [
        b"",
        &whole[..whole.len() - 1],
        &extra,
        b"not a key",
        &[0x30; 20_000],
    ];
    for bytes in damages {
        fs::write(kept.file(), bytes).unwrap();
        let refused = kept.keys.get(ID).await.unwrap_err();
        assert!(matches!(refused, KeyError::Damaged { .. }), "{refused}");
        assert!(refused.to_string().contains("x509-a.key"), "{refused}");
    }
    assert!(kept.keys.get("jwt-a").await.unwrap().is_some());
}

/// A kill between writing and renaming leaves the old key in its place and the new one unfinished.
#[tokio::test]
async fn what_a_kill_left_unfinished_is_ignored_and_cleaned() {
    let kept = Kept::with_key().await;
    let old = kept.keys.get(ID).await.unwrap().unwrap();
    for name in ["x509-a.tmp", "jwt-a.tmp"] {
        fs::write(kept.folder().join(name), b"half a k").unwrap();
    }
    assert_eq!(kept.keys.list().await.unwrap(), [ID]);
    let reopened = kept.reopen().unwrap();
    assert_eq!(reopened.list().await.unwrap(), [ID]);
    assert_eq!(
        reopened.get(ID).await.unwrap().unwrap().public_key_spki(),
        old.public_key_spki()
    );
    assert!(reopened.get("jwt-a").await.unwrap().is_none());
    assert_eq!(fs::read_dir(kept.folder()).unwrap().count(), 1);
}

#[tokio::test]
async fn an_unfinished_file_in_the_way_does_not_stop_a_new_key() {
    let kept = Kept::new();
    fs::write(kept.folder().join("x509-a.tmp"), b"half a k").unwrap();
    kept.keys.generate(ID, KeyAlgorithm::EcP256).await.unwrap();
    assert!(kept.keys.get(ID).await.unwrap().is_some());
    assert_eq!(mode(&kept.file()), 0o600);
}

#[tokio::test]
async fn a_key_that_cannot_be_written_leaves_nothing_behind() {
    let kept = Kept::new();
    fs::create_dir(kept.file()).unwrap();
    let refused = kept.keys.generate(ID, KeyAlgorithm::EcP256).await;
    assert!(matches!(refused, Err(KeyError::Io { .. })));
    assert!(!kept.folder().join("x509-a.tmp").exists());
}

#[tokio::test]
async fn other_files_in_the_folder_are_no_keys() {
    let kept = Kept::with_key().await;
    for name in ["README", "a b.key", ".key"] {
        fs::write(kept.folder().join(name), b"").unwrap();
    }
    assert_eq!(kept.reopen().unwrap().list().await.unwrap(), [ID]);
}
