//! Programs and scripts that are not what was measured: changed, exchanged, writable, damaged.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};

use vouchsafe_launch::copies::CopyError;
use vouchsafe_launch::measure::{By, MeasureError};
use vouchsafe_launch::{Digest, Expected, LaunchError, Outcome, User};
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::require;

use crate::rig::{PYTHON, Rig, UID, plan};

fn expected(path: &std::path::Path, sha256: Option<Digest>) -> Expected {
    Expected {
        path: path.to_owned(),
        sha256,
    }
}

#[test]
fn a_script_with_another_hash_is_not_run() {
    require!(Need::Root);
    let rig = Rig::new();
    let script = rig.file("agent.py", "print('ran')");
    let (mut plan, _reader) = plan(PYTHON, &["python3", script.to_str().unwrap()]);
    plan.files = vec![expected(&script, Some(Digest::of(b"print('other')")))];
    let error = rig.launcher.prepare(plan).unwrap_err();
    assert!(
        matches!(error, LaunchError::Measure(MeasureError::WrongHash { .. })),
        "{error}"
    );
    assert_eq!(rig.left(), (0, 0));
}

#[test]
fn a_script_that_is_changed_or_exchanged_at_the_gate_is_not_run() {
    require!(Need::Root);
    let rig = Rig::new();
    for exchange in [false, true] {
        let script = rig.file("agent.py", "print('ran')");
        let (mut plan, mut reader) = plan(PYTHON, &["python3", script.to_str().unwrap()]);
        plan.files = vec![expected(&script, Some(Digest::of(b"print('ran')")))];
        let prepared = rig.launcher.prepare(plan).unwrap();
        if exchange {
            fs::rename(rig.file("other.py", "print('ran')"), &script).unwrap();
        } else {
            fs::write(&script, "print('RAN')").unwrap();
        }
        let error = prepared.release().unwrap_err();
        assert!(
            matches!(error, LaunchError::Measure(MeasureError::Changed { .. })),
            "{error}"
        );
        let mut text = String::new();
        std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
        assert_eq!((text.as_str(), rig.left()), ("", (0, 0)));
    }
}

#[test]
fn what_the_run_could_change_is_named() {
    require!(Need::Root);
    let rig = Rig::new();
    let folder = rig.path().join("project");
    fs::create_dir(&folder).unwrap();
    let script = folder.join("agent.py");
    fs::write(&script, "").unwrap();
    let writable = || {
        let (mut plan, _reader) = plan(PYTHON, &["python3", script.to_str().unwrap()]);
        plan.files = vec![expected(&script, None)];
        match rig.launcher.prepare(plan) {
            Err(LaunchError::Measure(MeasureError::Writable { writable, uid, .. })) => {
                assert_eq!(uid, UID);
                Some(writable)
            }
            other => {
                other.unwrap();
                None
            }
        }
    };
    fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
    assert_eq!(writable(), None);
    for (path, mode, uid, gid) in [
        (&folder, 0o757, 0, 0),
        (&folder, 0o775, 0, UID),
        (&folder, 0o555, UID, 0),
        (&script, 0o646, 0, 0),
        (&script, 0o444, UID, 0),
    ] {
        chown(path, Some(uid), Some(gid)).unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        assert_eq!(writable().as_ref(), Some(path), "{mode:o}");
        chown(path, Some(0), Some(0)).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }
    // Through a link, the folder that holds the link counts as well.
    let open = rig.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
    std::os::unix::fs::symlink(&folder, open.join("link")).unwrap();
    let (mut plan, _reader) = plan(PYTHON, &["python3"]);
    plan.files = vec![expected(&open.join("link/agent.py"), None)];
    let error = rig.launcher.prepare(plan).unwrap_err();
    assert!(
        matches!(&error, LaunchError::Measure(MeasureError::Writable { writable, .. }) if *writable == open),
        "{error}"
    );
}

/// Who launches in these tests: neither root nor the run.
const LAUNCHER: u32 = 61_250;

#[test]
fn what_the_launcher_could_change_is_named() {
    require!(Need::Root);
    let rig = Rig::new();
    let script = rig.file("agent.py", "print('ran')");
    let refused = || {
        let (mut plan, _reader) = plan(PYTHON, &["python3", script.to_str().unwrap()]);
        plan.files = vec![expected(&script, None)];
        plan.launcher = Some(User {
            uid: LAUNCHER,
            gid: LAUNCHER,
            groups: vec![LAUNCHER + 1],
        });
        match rig.launcher.prepare(plan) {
            Err(LaunchError::Measure(MeasureError::Writable {
                writable, uid, by, ..
            })) => {
                assert_eq!((writable, uid, by), (script.clone(), LAUNCHER, By::Launcher));
                true
            }
            other => {
                other.unwrap();
                false
            }
        }
    };
    fs::set_permissions(&script, Permissions::from_mode(0o664)).unwrap();
    assert!(!refused());
    // By itself, and by a group of its.
    for (uid, gid) in [(LAUNCHER, 0), (0, LAUNCHER + 1)] {
        chown(&script, Some(uid), Some(gid)).unwrap();
        assert!(refused(), "{uid}:{gid}");
        chown(&script, Some(0), Some(0)).unwrap();
    }
    assert!(!refused());
}

#[test]
fn compiled_code_that_the_run_could_change_stands_for_its_module() {
    require!(Need::Root);
    let rig = Rig::new();
    let folder = rig.path().join("package");
    let cache = folder.join("__pycache__");
    fs::create_dir_all(&cache).unwrap();
    let module = folder.join("agent.py");
    let own = cache.join("agent.cpython-312.pyc");
    let others = cache.join("agents.cpython-312.pyc");
    for file in [&module, &own, &others] {
        fs::write(file, "").unwrap();
    }
    let writable = || {
        let (mut plan, _reader) = plan(PYTHON, &["python3"]);
        plan.files = vec![expected(&module, None)];
        match rig.launcher.prepare(plan) {
            Err(LaunchError::Measure(MeasureError::Writable {
                path, writable, by, ..
            })) => {
                assert_eq!((path, by), (module.clone(), By::Run));
                Some(writable)
            }
            other => {
                other.unwrap();
                None
            }
        }
    };
    for folder in [rig.path(), folder.as_path(), cache.as_path()] {
        fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
    }
    assert_eq!(writable(), None);
    for path in [&cache, &own] {
        chown(path, Some(UID), None).unwrap();
        assert_eq!(writable().as_ref(), Some(path));
        chown(path, Some(0), None).unwrap();
    }
    chown(&others, Some(UID), None).unwrap();
    assert_eq!(writable(), None, "it is another module's");
}

#[test]
fn a_damaged_copy_is_not_run() {
    require!(Need::Root);
    let rig = Rig::new();
    assert_eq!(rig.output(|_| {}, "/bin/true", &["true"]).0, Outcome::Exited(0));
    let copies = || {
        fs::read_dir(rig.path().join("copies"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
    };
    let home = copies().find(|path| path.is_dir()).unwrap();
    let copy = home.join("bin/true");
    let mut bytes = fs::read(&copy).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&copy, bytes).unwrap();
    let (plan, _reader) = plan("/bin/true", &["true"]);
    let error = rig.launcher.prepare(plan).unwrap_err();
    assert!(
        matches!(error, LaunchError::Copy(CopyError::Damaged { .. })),
        "{error}"
    );
}

#[test]
fn a_readable_copy_is_not_run() {
    require!(Need::Root);
    let rig = Rig::new();
    assert_eq!(rig.output(|_| {}, "/bin/true", &["true"]).0, Outcome::Exited(0));
    let mut copies = fs::read_dir(rig.path().join("copies")).unwrap();
    let home = copies.find_map(|entry| Some(entry.unwrap().path()).filter(|path| path.is_dir()));
    fs::set_permissions(home.unwrap().join("bin/true"), Permissions::from_mode(0o755)).unwrap();
    let (plan, _reader) = plan("/bin/true", &["true"]);
    let error = rig.launcher.prepare(plan).unwrap_err();
    assert!(
        matches!(error, LaunchError::Copy(CopyError::Damaged { .. })),
        "{error}"
    );
}

#[test]
fn a_script_is_no_program() {
    require!(Need::Root);
    let rig = Rig::new();
    let script = rig.file("run.sh", "#!/bin/sh\necho ran\n");
    let (plan, _reader) = plan(script.to_str().unwrap(), &["run.sh"]);
    let error = rig.launcher.prepare(plan).unwrap_err();
    assert!(
        matches!(error, LaunchError::Copy(CopyError::NotAProgram { .. })),
        "{error}"
    );
}
