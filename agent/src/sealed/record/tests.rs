//! What is sealed comes back as it was.

use super::*;
use crate::testing::{at, authority, entry, svid};

fn read(batches: &[Batch]) -> Result<Contents, BadSeal> {
    let mut reader = Reader::default();
    for batch in batches {
        reader.take(&batch.to_bytes())?;
    }
    reader.finish()
}

fn last(changes: Vec<Change>) -> Batch {
    Batch { changes, last: true }
}

fn rich_entry() -> Entry {
    Entry {
        federates_with: vec![TrustDomain::new("far.example").unwrap()],
        hint: "internal".to_owned(),
        store_svid: true,
        prefetch: false,
        single_jwt: true,
        ..Entry::clone(&entry("a", &["unix:uid:1", "process:script:/a:b"]))
    }
}

fn rich_bundle() -> Bundle {
    let mut bundle = authority().bundle();
    bundle.x509_authorities.push(X509Authority {
        certificate: vec![1, 2, 3],
        tainted: true,
    });
    for expires_at in [None, Some(at(7))] {
        bundle.jwt_authorities.push(JwtAuthority {
            key_id: "k".to_owned(),
            public_key: vec![4],
            expires_at,
            tainted: expires_at.is_some(),
        });
    }
    bundle.refresh_hint = Some(Duration::from_secs(9));
    bundle
}

#[test]
fn everything_comes_back_taints_and_keys_too() {
    let (entry, bundle) = (rich_entry(), rich_bundle());
    let svid = svid(&entry, at(0), at(60));
    let contents = read(&[last(vec![
        Change::entry(&entry),
        Change::bundle(&bundle),
        Change::svid(&entry.id, &svid),
        Kind::Heard(at(3).unix_timestamp()).into(),
    ])])
    .unwrap();
    assert_eq!(*contents.entries[0], entry);
    assert_eq!(contents.bundles, [bundle]);
    let (id, read) = &contents.svids[0];
    assert_eq!(*id, entry.id);
    assert_eq!(read.key.expose(), svid.key.expose());
    assert_eq!(read.certificates, svid.certificates);
    assert_eq!((read.lifetime, read.version), (svid.lifetime, svid.version));
    assert_eq!((&read.spiffe_id, &read.serial), (&svid.spiffe_id, &svid.serial));
    assert_eq!(contents.heard_at, Some(at(3)));
}

#[test]
fn a_place_in_the_servers_log_comes_back_with_the_digest_of_what_is_there() {
    let (entry, bundle) = (rich_entry(), rich_bundle());
    let odd = EntryVersion {
        revision: 5,
        created_at: 6,
    };
    let digest = [
        ItemDigest::of_entry("a", entry.version.revision, entry.version.created_at),
        ItemDigest::of_entry("odd", 5, 6),
        ItemDigest::of_bundle(&bundle),
    ];
    let resume = Resume {
        log_id: "log".into(),
        revision: 7,
        digest: digest.into_iter().collect(),
        unusable: Arc::new(BTreeMap::from([("odd".into(), odd)])),
    };
    let with = |changes| last([vec![Change::entry(&entry), Change::bundle(&bundle)], changes].concat());
    let contents = read(&[with(vec![Change::resume(Some(&resume))])]).unwrap();
    assert_eq!(contents.resume, Some(resume.clone()));
    let none = with(vec![Change::resume(Some(&resume)), Change::resume(None)]);
    assert_eq!(read(&[none]).unwrap().resume, None);
}

#[test]
fn later_changes_count_and_what_is_gone_is_gone() {
    let (a, b) = (entry("a", &["unix:uid:1"]), entry("b", &["unix:uid:1"]));
    let mut newer = Entry::clone(&a);
    newer.version.revision = 2;
    let contents = read(&[
        last(vec![
            Change::entry(&a),
            Change::entry(&b),
            Change::svid(&b.id, &svid(&b, at(0), at(1))),
        ]),
        last(vec![Change::bundle(&rich_bundle())]),
        last(vec![
            Change::entry(&newer),
            Kind::EntryGone("b".to_owned()).into(),
            Kind::SvidGone("b".to_owned()).into(),
            Kind::BundleGone("example.org".to_owned()).into(),
        ]),
    ])
    .unwrap();
    assert_eq!(contents.entries, [Arc::new(newer)]);
    assert!(contents.bundles.is_empty() && contents.svids.is_empty());
}

#[test]
fn changes_that_belong_together_count_together() {
    let a = entry("a", &["unix:uid:1"]);
    let first = Batch {
        changes: vec![Change::entry(&a)],
        last: false,
    };
    assert!(read(std::slice::from_ref(&first)).unwrap().entries.is_empty());
    assert_eq!(read(&[first, last(Vec::new())]).unwrap().entries.len(), 1);
}

#[test]
fn what_cannot_be_condemns_the_whole() {
    let good = Change::entry(&entry("a", &["unix:uid:1"]));
    let broken = |change: fn(&mut EntryRecord)| {
        let mut record = EntryRecord::from(&*entry("b", &["unix:uid:1"]));
        change(&mut record);
        last(vec![good.clone(), Kind::Entry(record).into()])
    };
    for batch in [
        broken(|record| record.spiffe_id.clear()),
        broken(|record| record.selectors.push("nonsense".to_owned())),
        broken(|record| record.federates_with.push("Not A Domain".to_owned())),
        last(vec![good.clone(), Change { kind: None }]),
    ] {
        assert!(matches!(read(&[batch]), Err(BadSeal::Nonsense(_))));
    }
    let mut reader = Reader::default();
    assert!(matches!(reader.take(&[0xff]), Err(BadSeal::Nonsense(_))));
}

#[test]
fn a_record_shows_no_key() {
    let entry = entry("a", &["unix:uid:1"]);
    let mut svid = svid(&entry, at(0), at(1));
    svid.key = Secret::new(vec![42; 3]);
    let shown = format!("{:?}", Change::svid(&entry.id, &svid));
    assert!(!shown.contains("42"), "{shown}");
}

#[test]
fn classes_runs_and_revocations_come_back_and_count_in_the_resume_point() {
    let class = Class {
        name: "researcher".to_owned(),
        version: 3,
        ..Class::default()
    };
    let run = LiveRun {
        run_id: "01K9Z3V7Q8R4S5T6V7W8X9YZAB".to_owned(),
        class: "researcher".to_owned(),
        ..LiveRun::default()
    };
    let revocation = Revocation {
        run_id: run.run_id.clone(),
        until: 9,
        ..Revocation::default()
    };
    let place = || -> Change {
        Kind::Resume(ResumeRecord {
            log_id: "log".to_owned(),
            revision: 7,
            unusable: Vec::new(),
        })
        .into()
    };
    let put: [Change; 3] = [
        Kind::Class(Box::new(class.clone())).into(),
        Kind::Run(run.clone()).into(),
        Kind::Revocation(revocation.clone()).into(),
    ];
    let with = read(&[last([put.to_vec(), vec![place()]].concat())]).unwrap();
    assert!(with.classes.values().all(|held| **held == class) && with.classes.len() == 1);
    assert!(with.runs.values().all(|held| **held == run) && with.runs.len() == 1);
    assert!(with.revoked.values().all(|held| **held == revocation) && with.revoked.len() == 1);
    let gone: [Change; 3] = [
        Kind::ClassGone(class.name.clone()).into(),
        Kind::RunGone(run.run_id.clone()).into(),
        Kind::RevocationGone(run.run_id.clone()).into(),
    ];
    // What a release sealed that knew of no classes and runs reads as none.
    let without = read(&[last(vec![place()])]).unwrap();
    let over = read(&[last([put.to_vec(), gone.to_vec(), vec![place()]].concat())]).unwrap();
    assert!(over.classes.is_empty() && over.runs.is_empty() && over.revoked.is_empty());
    assert_eq!(over.resume, without.resume);
    assert_ne!(with.resume, without.resume);
    let nameless: Change = Kind::Class(Box::default()).into();
    assert!(matches!(read(&[last(vec![nameless])]), Err(BadSeal::Nonsense(_))));
}
