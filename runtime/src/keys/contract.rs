//! What every key manager keeps, whatever it keeps keys in. Each implementation's tests run it.

use std::future::Future;
use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use vouchsafe_identity::{KeyAlgorithm, LocalKey, Signer};

use super::{KeyError, KeyManager};

const ALGORITHM: KeyAlgorithm = KeyAlgorithm::EcP256;

/// Runs the whole contract; `fresh` makes an empty key manager.
pub(crate) async fn keeps<K, F>(fresh: impl Fn() -> F)
where
    K: KeyManager + 'static,
    F: Future<Output = K>,
{
    ids_that_could_leave_the_folder_are_refused(&fresh().await).await;
    what_was_never_made_is_not_there(&fresh().await).await;
    a_key_signs_for_its_public_half(&fresh().await).await;
    a_key_that_is_made_again_takes_the_place_of_the_first(&fresh().await).await;
    an_exported_key_is_the_key(&fresh().await).await;
    removed_keys_are_gone_and_others_stay(&fresh().await).await;
    keys_made_at_once_are_all_there(Arc::new(fresh().await)).await;
}

fn verifies(key: &dyn Signer, by: &dyn Signer) -> bool {
    let signature = key.sign(b"message").unwrap();
    let public = ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, by.public_key_spki()).unwrap();
    public.verify_sig(b"message", &signature).is_ok()
}

async fn ids_that_could_leave_the_folder_are_refused(keys: &impl KeyManager) {
    let long = "k".repeat(129);
    for id in [
        "",
        "a/b",
        "../a",
        "/etc/a",
        "a b",
        "é",
        "a\0",
        "a\n",
        long.as_str(),
    ] {
        assert!(
            matches!(keys.generate(id, ALGORITHM).await, Err(KeyError::BadId(_))),
            "{id:?}"
        );
        assert!(matches!(keys.get(id).await, Err(KeyError::BadId(_))), "{id:?}");
        assert!(matches!(keys.remove(id).await, Err(KeyError::BadId(_))), "{id:?}");
    }
    assert!(keys.list().await.unwrap().is_empty());
}

async fn an_exported_key_is_the_key(keys: &impl KeyManager) {
    let key = keys.generate("x509-a", ALGORITHM).await.unwrap();
    let exported = keys.export("x509-a").await.unwrap().unwrap();
    let again = LocalKey::from_pkcs8("x509-a", exported.expose()).unwrap();
    assert!(verifies(&again, key.as_ref()));
    assert!(keys.export("x509-b").await.unwrap().is_none());
    assert!(matches!(keys.export("../x").await, Err(KeyError::BadId(_))));
}

async fn what_was_never_made_is_not_there(keys: &impl KeyManager) {
    assert!(keys.get("x509-a").await.unwrap().is_none());
    keys.remove("x509-a").await.unwrap();
    assert!(keys.list().await.unwrap().is_empty());
}

async fn a_key_signs_for_its_public_half(keys: &impl KeyManager) {
    let longest = "k".repeat(128);
    for id in ["x509-a", ".", "..", "a.key", "a.tmp", longest.as_str()] {
        let made = keys.generate(id, ALGORITHM).await.unwrap();
        let kept = keys.get(id).await.unwrap().unwrap();
        assert_eq!(kept.key_id(), id);
        assert_eq!(kept.algorithm(), ALGORITHM);
        assert_eq!(made.public_key_spki(), kept.public_key_spki());
        assert!(verifies(&*kept, &*made) && verifies(&*made, &*kept));
    }
    let mut expected = vec![".", "..", "a.key", "a.tmp", "x509-a", longest.as_str()];
    expected.sort_unstable();
    assert_eq!(keys.list().await.unwrap(), expected);
}

async fn a_key_that_is_made_again_takes_the_place_of_the_first(keys: &impl KeyManager) {
    let first = keys.generate("x509-a", ALGORITHM).await.unwrap();
    let second = keys.generate("x509-a", ALGORITHM).await.unwrap();
    assert_ne!(first.public_key_spki(), second.public_key_spki());
    let kept = keys.get("x509-a").await.unwrap().unwrap();
    assert_eq!(kept.public_key_spki(), second.public_key_spki());
    assert!(
        verifies(&*first, &*first),
        "who holds the first may finish with it"
    );
    assert!(!verifies(&*first, &*second));
    assert_eq!(keys.list().await.unwrap(), ["x509-a"]);
}

async fn removed_keys_are_gone_and_others_stay(keys: &impl KeyManager) {
    keys.generate("a", ALGORITHM).await.unwrap();
    keys.generate("b", ALGORITHM).await.unwrap();
    keys.remove("a").await.unwrap();
    assert!(keys.get("a").await.unwrap().is_none());
    assert!(keys.get("b").await.unwrap().is_some());
    assert_eq!(keys.list().await.unwrap(), ["b"]);
}

async fn keys_made_at_once_are_all_there(keys: Arc<impl KeyManager + 'static>) {
    let made = (0..16).map(|n| {
        let keys = keys.clone();
        async move {
            keys.generate(&format!("k{:02}", n % 8), ALGORITHM)
                .await
                .map(|_made| ())
        }
    });
    futures_util::future::try_join_all(made).await.unwrap();
    let expected: Vec<String> = (0..8).map(|n| format!("k{n:02}")).collect();
    assert_eq!(keys.list().await.unwrap(), expected);
    for id in expected {
        assert!(keys.get(&id).await.unwrap().is_some());
    }
}
