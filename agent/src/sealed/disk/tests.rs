//! Files that were cut, mixed or put back, and how much is written.

use std::os::unix::fs::MetadataExt;

use vouchsafe_identity::secret::Secret;

use super::*;
use crate::sealed::record::Kind;
use crate::testing::{at, entry, svid};

const AGENT: &str = "spiffe://example.org/spire/agent/join_token/one";

fn files(dir: &Path) -> Files {
    Files::open(
        dir,
        Arc::new(SealKeys::derive(&Secret::new(vec![1; 32])).unwrap()),
    )
    .unwrap()
}

fn put(id: &str) -> Vec<Change> {
    vec![Change::entry(&entry(id, &["unix:uid:1"]))]
}

fn known(files: &Files) -> Vec<String> {
    let contents = files.load(AGENT).unwrap().unwrap().contents;
    contents
        .entries
        .iter()
        .map(|entry| entry.id.to_string())
        .collect()
}

fn logs(dir: &Path) -> Vec<PathBuf> {
    let found = fs::read_dir(dir.join(FOLDER)).unwrap().flatten();
    let logs = found.map(|entry| entry.path());
    logs.filter(|path| path.extension().is_some_and(|end| end == "log"))
        .collect()
}

#[test]
fn what_is_added_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = files(dir.path());
    assert!(first.load(AGENT).unwrap().is_none());
    assert!(!first.can_append(AGENT));
    first.rewrite(AGENT, put("a"), 1).unwrap();
    assert!(first.can_append(AGENT) && !first.can_append("another"));
    first.append(put("b"), 2).unwrap();
    first
        .append(vec![Kind::EntryGone("a".to_owned()).into()], 3)
        .unwrap();
    let mut second = files(dir.path());
    assert_eq!(known(&second), ["b"]);
    assert_eq!(second.load(AGENT).unwrap().unwrap().sealed_at, 3);
    // What an earlier process wrote is not gone on with: a new log takes its place.
    assert!(!second.can_append(AGENT));
    second.rewrite(AGENT, put("c"), 4).unwrap();
    assert_eq!(known(&second), ["c"]);
    assert_eq!(logs(dir.path()).len(), 1);
    for path in logs(dir.path()) {
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o600);
    }
}

#[test]
fn a_kill_between_log_and_head_leaves_the_old_state_or_the_new() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = files(dir.path());
    files.rewrite(AGENT, put("a"), 1).unwrap();
    let head = fs::read(files.head()).unwrap();
    files.append(put("b"), 2).unwrap();
    let log = logs(dir.path()).remove(0);
    let whole = fs::read(&log).unwrap();
    // The frame is there, the head does not know of it yet.
    fs::write(files.head(), &head).unwrap();
    assert_eq!(known(&files), ["a", "b"]);
    // The frame is not whole.
    fs::write(&log, &whole[..whole.len() - 1]).unwrap();
    assert_eq!(known(&files), ["a"]);
    assert!(files.load(AGENT).unwrap().unwrap().torn);
    // A new log that no head names yet is no matter, and goes with the next one.
    fs::write(log.with_file_name("00.log"), b"half").unwrap();
    assert_eq!(known(&files), ["a"]);
    files.rewrite(AGENT, put("c"), 3).unwrap();
    assert_eq!(logs(dir.path()).len(), 1);
}

#[test]
fn an_older_log_or_head_that_is_put_back_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = files(dir.path());
    files.rewrite(AGENT, put("a"), 1).unwrap();
    let log = logs(dir.path()).remove(0);
    let (old_log, old_head) = (fs::read(&log).unwrap(), fs::read(files.head()).unwrap());
    files
        .append(vec![Kind::EntryGone("a".to_owned()).into()], 2)
        .unwrap();
    let new_log = fs::read(&log).unwrap();
    fs::write(&log, &old_log).unwrap();
    let refused = files.load(AGENT).unwrap_err();
    assert!(
        matches!(
            &refused,
            LoadError::Refused {
                reason: BadSeal::CutOff,
                ..
            }
        ),
        "{refused}"
    );
    fs::write(&log, &new_log).unwrap();
    files.rewrite(AGENT, put("b"), 3).unwrap();
    fs::write(files.head(), &old_head).unwrap();
    assert!(
        files.load(AGENT).is_err(),
        "the log that the old head names is gone"
    );
    fs::remove_file(files.head()).unwrap();
    assert!(
        files.load(AGENT).unwrap().is_none(),
        "without a head nothing counts"
    );
}

#[test]
fn what_is_too_long_is_refused_before_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = files(dir.path());
    files.rewrite(AGENT, put("a"), 1).unwrap();
    let log = logs(dir.path()).remove(0);
    File::options()
        .write(true)
        .open(&log)
        .unwrap()
        .set_len(MAX_LOG_BYTES + 1)
        .unwrap();
    assert!(matches!(
        files.load(AGENT),
        Err(LoadError::Refused {
            reason: BadSeal::TooLong { limit: MAX_LOG_BYTES },
            ..
        })
    ));
    fs::write(files.head(), vec![0; 5000]).unwrap();
    assert!(matches!(
        files.load(AGENT),
        Err(LoadError::Refused {
            reason: BadSeal::TooLong {
                limit: MAX_HEAD_BYTES
            },
            ..
        })
    ));
}

#[test]
fn one_renewal_among_ten_thousand_writes_little() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = files(dir.path());
    let one = |n: usize, serial: u8| {
        let entry = entry(&format!("e{n}"), &["unix:uid:1"]);
        let mut svid = svid(&entry, at(0), at(60));
        svid.certificates = vec![serial; 900];
        Change::svid(&entry.id, &svid)
    };
    files
        .rewrite(AGENT, (0..10_000).map(|n| one(n, 1)).collect(), 1)
        .unwrap();
    let length = || fs::metadata(logs(dir.path()).remove(0)).unwrap().len();
    let before = length();
    assert!(files.can_append(AGENT));
    files.append(vec![one(5, 2)], 2).unwrap();
    assert!(length() - before < 2048, "{} bytes for one", length() - before);
    let contents = files.load(AGENT).unwrap().unwrap().contents;
    assert_eq!(contents.svids.len(), 10_000);
    assert!(
        contents
            .svids
            .iter()
            .any(|(id, svid)| id.as_str() == "e5" && svid.certificates[0] == 2)
    );
    // The log does not grow for ever.
    let mut rounds = 0;
    while files.can_append(AGENT) {
        files.append((0..1000).map(|n| one(n, 3)).collect(), 3).unwrap();
        rounds += 1;
        assert!(rounds < 100);
    }
    files
        .rewrite(AGENT, (0..10_000).map(|n| one(n, 4)).collect(), 4)
        .unwrap();
    assert!(length() <= before);
}

#[test]
fn after_a_wipe_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = files(dir.path());
    files.rewrite(AGENT, put("a"), 1).unwrap();
    fs::write(dir.path().join(FOLDER).join("head.tmp"), b"half").unwrap();
    files.wipe().unwrap();
    assert_eq!(fs::read_dir(dir.path().join(FOLDER)).unwrap().count(), 0);
    assert!(files.load(AGENT).unwrap().is_none());
    files.wipe().unwrap();
}
