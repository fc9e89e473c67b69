//! The digest by which agent and server see that they hold the same set of entries, bundles, classes, runs and
//! revocations //! (`vouchsafe.sync.v1.ResumePoint`).
//!
//! It is the exclusive or of one hash an item, so that a change costs two hashes whatever the size of the set. It
//! finds mistakes; it does not protect from a server that lies, which an agent has to trust anyway.

use aws_lc_rs::digest::{Context, SHA256};
use vouchsafe_identity::Bundle;

/// Length of a digest, in bytes.
pub const DIGEST_BYTES: usize = 32;

/// The digest of a set. Putting an item in twice takes it out again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SetDigest([u8; DIGEST_BYTES]);

/// The hash of one item, kept so that it need not be reckoned again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ItemDigest([u8; DIGEST_BYTES]);

impl ItemDigest {
    /// An entry: what it is called, and which state of it this is (`created_at` in Unix seconds).
    pub fn of_entry(id: &str, revision_number: i64, created_at: i64) -> Self {
        let mut fields = Fields::new(b"entry");
        fields.add(id.as_bytes());
        fields.add(&revision_number.to_be_bytes());
        fields.add(&created_at.to_be_bytes());
        fields.finish()
    }

    /// A class: what it is called, and which state of it this is (times in Unix seconds).
    pub fn of_class((name, id): (&str, &str), version: u64, created_at: i64, updated_at: i64) -> Self {
        let mut fields = Fields::new(b"class");
        fields.add(name.as_bytes());
        fields.add(id.as_bytes());
        fields.add(&version.to_be_bytes());
        fields.add(&created_at.to_be_bytes());
        fields.add(&updated_at.to_be_bytes());
        fields.finish()
    }

    /// A run of a class, of which the version is given that it was admitted by; times in Unix seconds.
    pub fn of_run(
        (run_id, spiffe_id): (&str, &str),
        (class, version): (&str, u64),
        admitted_at: i64,
        expires_at: i64,
    ) -> Self {
        let mut fields = Fields::new(b"run");
        fields.add(run_id.as_bytes());
        fields.add(spiffe_id.as_bytes());
        fields.add(class.as_bytes());
        fields.add(&version.to_be_bytes());
        fields.add(&admitted_at.to_be_bytes());
        fields.add(&expires_at.to_be_bytes());
        fields.finish()
    }

    /// The revocation of a run's SVIDs; times in Unix seconds.
    pub fn of_revocation(run_id: &str, spiffe_id: &str, revoked_at: i64, until: i64) -> Self {
        let mut fields = Fields::new(b"revocation");
        fields.add(run_id.as_bytes());
        fields.add(spiffe_id.as_bytes());
        fields.add(&revoked_at.to_be_bytes());
        fields.add(&until.to_be_bytes());
        fields.finish()
    }

    /// A bundle with its authorities and their taints; times count in whole seconds.
    pub fn of_bundle(bundle: &Bundle) -> Self {
        let mut fields = Fields::new(b"bundle");
        fields.add(bundle.trust_domain.name().as_bytes());
        fields.add(&bundle.sequence.to_be_bytes());
        let hint = bundle.refresh_hint.map_or(0, |hint| hint.as_secs());
        fields.add(&hint.to_be_bytes());
        for authority in &bundle.x509_authorities {
            fields.add(b"x509");
            fields.add(&authority.certificate);
            fields.add(&u64::from(authority.tainted).to_be_bytes());
        }
        for authority in &bundle.jwt_authorities {
            fields.add(b"jwt");
            fields.add(authority.key_id.as_bytes());
            fields.add(&authority.public_key);
            let expires_at = authority.expires_at.map_or(0, |at| at.unix_timestamp());
            fields.add(&expires_at.to_be_bytes());
            fields.add(&u64::from(authority.tainted).to_be_bytes());
        }
        fields.finish()
    }
}

impl SetDigest {
    /// Puts an item into the set, or takes it out if it is in.
    pub fn toggle(&mut self, item: ItemDigest) {
        for (byte, other) in self.0.iter_mut().zip(item.0) {
            *byte ^= other;
        }
    }

    /// The digest of this set and of another with which it shares nothing.
    #[must_use]
    pub fn with(mut self, others: Self) -> Self {
        self.toggle(ItemDigest(others.0));
        self
    }

    /// The digest as it goes over the wire.
    pub fn as_bytes(&self) -> &[u8; DIGEST_BYTES] {
        &self.0
    }
}

impl FromIterator<ItemDigest> for SetDigest {
    fn from_iter<I: IntoIterator<Item = ItemDigest>>(items: I) -> Self {
        let mut digest = Self::default();
        items.into_iter().for_each(|item| digest.toggle(item));
        digest
    }
}

struct Fields(Context);

impl Fields {
    fn new(kind: &[u8]) -> Self {
        let mut fields = Self(Context::new(&SHA256));
        fields.add(kind);
        fields
    }

    fn add(&mut self, field: &[u8]) {
        let length = u64::try_from(field.len()).unwrap_or(u64::MAX);
        self.0.update(&length.to_be_bytes());
        self.0.update(field);
    }

    fn finish(self) -> ItemDigest {
        let mut hash = [0; DIGEST_BYTES];
        hash.copy_from_slice(self.0.finish().as_ref());
        ItemDigest(hash)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vouchsafe_identity::TrustDomain;
    use vouchsafe_identity::bundle::{JwtAuthority, X509Authority};

    use super::*;

    fn bundle() -> Bundle {
        let mut bundle = Bundle::empty(TrustDomain::new("example.org").unwrap());
        bundle.x509_authorities.push(X509Authority {
            certificate: vec![1, 2, 3],
            tainted: false,
        });
        bundle.jwt_authorities.push(JwtAuthority {
            key_id: "k".to_owned(),
            public_key: vec![4, 5],
            expires_at: None,
            tainted: false,
        });
        bundle
    }

    #[test]
    fn each_part_of_a_bundle_counts() {
        let changes: [fn(&mut Bundle); 8] = [
            |b| b.sequence += 1,
            |b| b.refresh_hint = Some(std::time::Duration::from_secs(5)),
            |b| b.x509_authorities[0].tainted = true,
            |b| b.x509_authorities[0].certificate.push(9),
            |b| b.jwt_authorities[0].tainted = true,
            |b| b.jwt_authorities[0].key_id.push('x'),
            |b| b.jwt_authorities[0].public_key.push(1),
            |b| {
                b.jwt_authorities[0].expires_at = Some(time::OffsetDateTime::UNIX_EPOCH + time::Duration::DAY)
            },
        ];
        let mut seen = vec![ItemDigest::of_bundle(&bundle())];
        for change in changes {
            let mut changed = bundle();
            change(&mut changed);
            let digest = ItemDigest::of_bundle(&changed);
            assert!(!seen.contains(&digest));
            seen.push(digest);
        }
    }

    #[test]
    fn the_digest_of_a_known_set_does_not_change_with_the_release() {
        let set: SetDigest = [ItemDigest::of_entry("a", 1, 2), ItemDigest::of_bundle(&bundle())]
            .into_iter()
            .collect();
        let hex: String = set.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "e7880cc10a538564aef29791781138b4fd4536df39e0a2350c14ab48b9c776d9"
        );
    }

    proptest! {
        #[test]
        fn order_does_not_count_and_what_is_taken_out_leaves_no_trace(
            mut items in proptest::collection::btree_map("[a-c]{1,3}", (0_i64..3, 0_i64..3), 1..12)
        ) {
            let hash = |(id, (revision, at)): (&String, &(i64, i64))| ItemDigest::of_entry(id, *revision, *at);
            let whole: SetDigest = items.iter().map(hash).collect();
            let backwards: SetDigest = items.iter().rev().map(hash).collect();
            prop_assert_eq!(whole, backwards);
            let (id, version) = items.pop_first().unwrap();
            let rest: SetDigest = items.iter().map(hash).collect();
            prop_assert_ne!(whole, rest);
            let mut less = whole;
            less.toggle(hash((&id, &version)));
            prop_assert_eq!(less, rest);
        }
    }
}
