//! Paths of groups, by text alone. tests/suites/process.rs has real groups.

use proptest::prelude::*;

use super::*;

fn unit(group: &str) -> Option<(String, usize)> {
    let unit = unit_of(OsStr::new(group)).ok()?;
    Some((unit.name, unit.below))
}

#[test]
fn the_unit_is_the_first_part_after_slices() {
    for (group, name, below) in [
        ("/system.slice/a.service", "a.service", 1),
        ("/system.slice/a.service/inner/b.service", "a.service", 3),
        ("/system.slice/system-x.slice/x@1.service", "x@1.service", 1),
        (
            "/user.slice/user-1.slice/user@1.service/app.slice/b.service",
            "user@1.service",
            3,
        ),
        ("/user.slice/user-1.slice/session-2.scope", "session-2.scope", 1),
        ("/init.scope", "init.scope", 1),
        ("/a.slice/_cgroup.service", "cgroup.service", 1),
    ] {
        assert_eq!(unit(group), Some((name.to_owned(), below)), "{group}");
    }
}

#[test]
fn what_only_looks_like_a_unit_is_none() {
    for group in [
        "/",
        "/system.slice",
        "/docker/0123",
        "/system.slice/a.service x",
        "/system.slice/a service.service",
        "/system.slice/.service",
        "/system.slice/@a.service",
        "/system.slice/ä.service",
        "/system.slice/a\u{1b}[2J.service",
        "/.slice/a.service",
        "/kubepods/a.service",
        "/system.slice/a.timer",
    ] {
        assert_eq!(unit(group), None, "{group}");
    }
    let long = format!("/{}.service", "a".repeat(MAX_UNIT_BYTES));
    assert_eq!(unit(&long), None);
}

#[test]
fn the_unified_hierarchy_is_found_among_others_whatever_its_groups_are_called() {
    let hybrid = b"9:name=systemd:/x\n4:memory:/y\n0::/a:b/0::/c d\xff\x1b\n";
    assert_eq!(unified(hybrid).unwrap().as_bytes(), b"/a:b/0::/c d\xff\x1b");
    for (bytes, said) in [
        (&b"9:name=systemd:/x\n"[..], "no cgroup v2"),
        (b"", "no cgroup v2"),
        (b"0::\n", "outside"),
        (b"0::/../x\n", "outside"),
        (b"0::/a/../../x\n", "outside"),
        (b"0::/a (deleted)\n", "removed"),
    ] {
        let error = unified(bytes).unwrap_err();
        assert!(error.contains(said), "{error}");
    }
    let long = [b"0::/".as_slice(), &vec![b'a'; 100_000]].concat();
    assert!(unified(&long).unwrap_err().contains("limit"));
}

#[test]
fn the_mount_of_a_hybrid_host_and_of_a_container_are_read() {
    let hybrid = b"31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n37 31 0:37 / /sys/fs/cgroup/systemd rw shared:9 - \
                   cgroup cgroup rw,name=systemd\n41 31 0:38 / /sys/fs/cgroup/un\\040ified rw,relatime - cgroup2 cgroup2 rw\n";
    let expected = Mount {
        folder: PathBuf::from("/sys/fs/cgroup/un ified"),
        root: PathBuf::from("/"),
    };
    assert_eq!(mount(hybrid), Some(expected));
    let inner = b"41 31 0:38 /docker/x /sys/fs/cgroup ro shared:1 master:2 - cgroup2 cgroup ro\n";
    assert_eq!(mount(inner).unwrap().root, Path::new("/docker/x"));
    assert_eq!(mount(b"1 2 3:4 / /x rw - cgroup2fs x rw\n"), None);
    assert_eq!(mount(b""), None);
}

proptest! {
    #[test]
    fn any_bytes_give_a_unit_of_its_form_or_none(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let _no_panic = (unified(&bytes), mount(&bytes), unescaped(&bytes));
        if let Ok(unit) = unit_of(OsStr::from_bytes(&bytes)) {
            prop_assert!(is_unit(&unit.name, &TYPES) && unit.below >= 1);
        }
    }

    #[test]
    fn groups_near_to_units(parts in prop::collection::vec("[_a-c.@ ]{0,3}(\\.slice|\\.service|\\.scope)?", 0..5)) {
        let group = format!("/{}", parts.join("/"));
        if let Ok(unit) = unit_of(OsStr::new(&group)) {
            prop_assert!(group.contains(&unit.name));
            prop_assert!(unit.below <= parts.len());
        }
    }
}
