//! A launcher whose working directory hangs: it gets an error, and holds up nobody.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::require;
use vouchsafe_tests::wait::DEADLINE;

use crate::rig::{PYTHON, Rig, plan};

/// A file system of which nobody answers for anything.
struct Hung {
    folder: TempDir,
    _connection: File,
}

impl Hung {
    fn mount() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let connection = File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
            connection.as_raw_fd()
        );
        let (flags, options) = (MsFlags::MS_NODEV | MsFlags::MS_NOSUID, Some(options.as_str()));
        mount(Some("hung"), folder.path(), Some("fuse"), flags, options).unwrap();
        Self {
            folder,
            _connection: connection,
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        umount2(self.path(), MntFlags::MNT_DETACH | MntFlags::MNT_FORCE).unwrap();
    }
}

#[test]
fn a_working_directory_that_hangs_ends_the_launch_and_leaves_nothing() {
    require!(Need::Root, Need::Fuse);
    let rig = Rig::with_patience(Duration::from_secs(1));
    let hung = Hung::mount();
    let (mut plan, _reader) = plan(PYTHON, &["python3", "-c", "print('ran')"]);
    plan.cwd = hung.path().join("work");
    std::thread::scope(|scope| {
        let (tell, told) = mpsc::channel();
        let launcher = &rig.launcher;
        scope.spawn(move || tell.send(launcher.prepare(plan).err()).unwrap());
        let refused = told.recv_timeout(DEADLINE);
        // What still waits goes on.
        drop(hung);
        let refused = refused.expect("the launch ends").expect("nothing was prepared");
        assert!(refused.to_string().contains("in time"), "{refused}");
    });
    assert_eq!(rig.left(), (0, 0));
}
