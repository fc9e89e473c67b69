//! Real sockets in a folder of their own.

use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};

use tempfile::TempDir;

use super::*;

fn folder() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    (dir, path)
}

fn config(path: &Path) -> SocketConfig {
    SocketConfig {
        path: path.to_path_buf(),
        mode: 0o660,
        group: None,
        handed: Handed::default(),
    }
}

fn mode_of(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[tokio::test]
async fn a_listener_that_lives_is_not_replaced() {
    let (_dir, path) = folder();
    let _first = bind(&config(&path)).unwrap();
    let error = bind(&config(&path)).unwrap_err();
    assert!(matches!(error, BindError::Taken { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains(path.to_str().unwrap()) && text.contains("choose another"),
        "{text}"
    );
    assert!(StdStream::connect(&path).is_ok(), "the first one still listens");
}

#[tokio::test]
async fn a_listener_whose_queue_is_full_counts_as_living() {
    let (_dir, path) = folder();
    let fd = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap();
    nix::sys::socket::bind(fd.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    listen(&fd, Backlog::new(0).unwrap()).unwrap();
    let _waiting = StdStream::connect(&path).unwrap();
    assert!(matches!(bind(&config(&path)), Err(BindError::Taken { .. })));
}

#[tokio::test]
async fn a_socket_that_nobody_listens_on_is_replaced_and_nothing_is_left_beside_it() {
    let (dir, path) = folder();
    drop(StdListener::bind(&path).unwrap());
    let listener = bind(&config(&path)).unwrap();
    assert!(StdStream::connect(&path).is_ok());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    drop(listener);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn what_is_no_socket_is_left_alone() {
    let (dir, path) = folder();
    fs::write(&path, "precious").unwrap();
    assert!(matches!(bind(&config(&path)), Err(BindError::NotASocket { .. })));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    let link = dir.path().join("link.sock");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(bind(&config(&link)), Err(BindError::NotASocket { .. })));
    let nowhere = dir.path().join("dangling.sock");
    std::os::unix::fs::symlink(dir.path().join("none"), &nowhere).unwrap();
    assert!(matches!(
        bind(&config(&nowhere)),
        Err(BindError::NotASocket { .. })
    ));
}

#[tokio::test]
async fn paths_modes_and_groups_that_cannot_be_are_named() {
    let (dir, path) = folder();
    let long = dir.path().join("x".repeat(MAX_PATH_BYTES));
    let error = bind(&config(&long)).unwrap_err();
    assert!(
        matches!(error, BindError::TooLong { .. }) && error.to_string().contains("107"),
        "{error}"
    );

    let exact = dir
        .path()
        .join("x".repeat(MAX_PATH_BYTES - dir.path().as_os_str().len() - 1));
    assert_eq!(exact.as_os_str().len(), MAX_PATH_BYTES);
    assert!(bind(&config(&exact)).is_ok());

    let missing = bind(&config(&dir.path().join("none/agent.sock"))).unwrap_err();
    assert!(matches!(missing, BindError::NoFolder { .. }), "{missing}");

    let mode = SocketConfig {
        mode: 0o1777,
        ..config(&path)
    };
    assert!(matches!(bind(&mode), Err(BindError::Mode { mode: 0o1777 })));

    let group = SocketConfig {
        group: Some("no such group".to_owned()),
        ..config(&path)
    };
    let error = bind(&group).unwrap_err();
    assert!(error.to_string().contains("`no such group`"), "{error}");
    assert!(!path.exists(), "nothing is left of a socket that was not bound");
}

/// The file takes the socket's own mode. Without the `fchmod` before it, it would come as 0755 (the usual
/// umask), and be so until it is settled.
#[test]
fn the_socket_is_private_from_the_moment_it_is_made() {
    let (_dir, path) = folder();
    let site = Site { path: &path };
    let socket = site.socket(SockFlag::empty()).unwrap();
    site.make(&socket).unwrap();
    assert_eq!(mode_of(&path), 0o600);
}

#[tokio::test]
async fn mode_and_group_are_as_configured() {
    let (_dir, path) = folder();
    let gid = nix::unistd::getegid().as_raw();
    let every_uid = SocketConfig {
        mode: 0o777,
        group: Some(gid.to_string()),
        ..config(&path)
    };
    let _listener = bind(&every_uid).unwrap();
    assert_eq!(mode_of(&path), 0o777);
    assert_eq!(fs::symlink_metadata(&path).unwrap().gid(), gid);
}

#[tokio::test]
async fn only_the_own_file_is_removed() {
    let (_dir, path) = folder();
    let first = bind(&config(&path)).unwrap();
    fs::remove_file(&path).unwrap();
    let second = bind(&config(&path)).unwrap();
    drop(first);
    assert!(path.exists(), "the second one's file stays");
    drop(second);
    assert!(!path.exists());
}

#[tokio::test]
async fn of_two_that_find_a_stale_socket_one_does_not_remove_the_others_new_one() {
    let (_dir, path) = folder();
    drop(StdListener::bind(&path).unwrap());
    let stale = Pinned::at(&path).unwrap();
    // The other one was quicker.
    let _winner = bind(&config(&path)).unwrap();
    let late = Site { path: &path };
    assert!(matches!(late.remove(&stale), Err(BindError::Taken { .. })));
    assert!(
        StdStream::connect(&path).is_ok(),
        "the winner can still be reached"
    );
}
