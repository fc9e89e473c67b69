//! The disk records in order, fails as told, and a loss of power takes what was not flushed.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;

use super::*;
use crate::needs::Need;
use crate::require;

fn after(disk: &Disk<u32>, moment: usize, loss: Loss, seed: u64) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let recording = disk.recording();
    recording
        .after_power_loss(moment, loss, &mut Numbers::new(seed), &folder.path().join("disk"))
        .unwrap();
    folder
}

#[test]
fn what_was_not_flushed_is_lost() {
    require!(Need::Fuse);
    let disk = Disk::mount().unwrap();
    let mut file = File::create(disk.join("a")).unwrap();
    file.write_all(&[1; 2000]).unwrap();
    file.sync_data().unwrap();
    let unnamed = disk.recorded();
    File::open(disk.path()).unwrap().sync_all().unwrap();
    disk.mark(7);
    let named = disk.recorded();
    file.write_all(&[2; 2000]).unwrap();
    assert_eq!(fs::read(disk.join("a")).unwrap().len(), 4000);

    let lost = after(&disk, unnamed, Loss::Everything, 1);
    assert!(!lost.path().join("disk/a").exists(), "the folder was not flushed");
    let lost = after(&disk, disk.recorded(), Loss::Everything, 1);
    assert_eq!(fs::read(lost.path().join("disk/a")).unwrap(), [1; 2000]);
    let whole = after(&disk, disk.recorded(), Loss::Nothing, 1);
    assert_eq!(fs::read(whole.path().join("disk/a")).unwrap().len(), 4000);
    assert_eq!(disk.recording().marks(named), [7]);
    assert!(disk.recording().marks(unnamed).is_empty());
}

#[test]
fn unflushed_writes_are_there_torn_or_not_and_flushed_ones_stay() {
    require!(Need::Fuse);
    let disk = Disk::mount().unwrap();
    let file = File::create(disk.join("a")).unwrap();
    file.write_all_at(&[1; 4096], 0).unwrap();
    file.sync_all().unwrap();
    File::open(disk.path()).unwrap().sync_all().unwrap();
    file.write_all_at(&[2; 2048], 1024).unwrap();
    let mut seen = [false; 3];
    for seed in 0..64 {
        let left = after(&disk, disk.recorded(), Loss::Some, seed);
        let bytes = fs::read(left.path().join("disk/a")).unwrap();
        assert_eq!(bytes.len(), 4096);
        for sector in bytes.chunks(SECTOR) {
            assert!(sector.iter().all(|byte| byte == &sector[0]), "sectors are whole");
        }
        assert!(bytes[..1024].iter().chain(&bytes[3072..]).all(|byte| *byte == 1));
        let twos = bytes.iter().filter(|byte| **byte == 2).count();
        match twos {
            0 => seen[0] = true,
            2048 => seen[1] = true,
            _ => seen[2] = true,
        }
    }
    assert_eq!(seen, [true; 3], "absent, present and torn");
}

const SECTOR: usize = 512;

#[test]
fn a_rename_is_one_step() {
    require!(Need::Fuse);
    let disk = Disk::<u32>::mount().unwrap();
    for (name, text) in [("key", "old"), ("key.tmp", "new")] {
        let mut file = File::create(disk.join(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.sync_all().unwrap();
    }
    File::open(disk.path()).unwrap().sync_all().unwrap();
    fs::rename(disk.join("key.tmp"), disk.join("key")).unwrap();
    let mut texts = std::collections::BTreeSet::new();
    for seed in 0..32 {
        let left = after(&disk, disk.recorded(), Loss::Some, seed);
        let mut text = String::new();
        let mut file = File::open(left.path().join("disk/key")).unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text == "old", left.path().join("disk/key.tmp").exists());
        texts.insert(text);
    }
    assert_eq!(texts.len(), 2, "{texts:?}");
}

#[test]
fn it_fails_as_told_and_goes_on_after() {
    require!(Need::Fuse);
    let disk = Disk::<u32>::mount().unwrap();
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(disk.join("a"))
        .unwrap();
    disk.fail(Faults {
        full: true,
        ..Faults::default()
    });
    assert_eq!(
        file.write_all(b"x").unwrap_err().kind(),
        std::io::ErrorKind::StorageFull
    );
    disk.fail(Faults {
        flushes_fail: true,
        ..Faults::default()
    });
    file.write_all(b"x").unwrap();
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(5));
    disk.fail(Faults {
        largest_file: Some(3),
        ..Faults::default()
    });
    file.write_all(b"yz").unwrap();
    file.write_all(b"1").unwrap_err();
    disk.fail(Faults::default());
    file.write_all(b"1").unwrap();
    file.sync_data().unwrap();
    assert_eq!(fs::read(disk.join("a")).unwrap(), b"xyz1");
}
