//! Against the running kernel, with real processes.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::proc_events::{ProcEvent, ProcEvents, ProcEventsError};
use super::*;
use std::os::fd::AsFd;

/// A process that runs until its standard input closes.
fn waiting_child() -> Child {
    Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn pid_of(child: &Child) -> i32 {
    i32::try_from(child.id()).unwrap()
}

fn pair_with_senders() -> (UnixStream, UnixStream, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    pass_credentials(&listener).unwrap();
    pass_pidfd(&listener).unwrap();
    let client = UnixStream::connect(&path).unwrap();
    let (server, _) = listener.accept().unwrap();
    (client, server, dir)
}

#[test]
fn a_number_that_no_process_has_is_gone() {
    assert!(matches!(PidFd::open(i32::MAX), Err(SysError::Gone)));
    assert!(matches!(PidFd::open(0), Err(SysError::Gone)));
    assert!(matches!(PidFd::open(-5), Err(SysError::Gone)));
    assert!(matches!(start_time(i32::MAX), Err(SysError::Gone)));
    assert!(matches!(AuxiliaryVector::of(i32::MAX), Err(SysError::Gone)));
}

#[test]
fn an_ended_process_is_not_alive_and_once_reaped_is_gone() {
    let mut child = waiting_child();
    let pidfd = PidFd::open(pid_of(&child)).unwrap();
    assert!(pidfd.is_alive());
    assert_eq!(pidfd.pid().unwrap(), pid_of(&child));
    let identity = pidfd.identity().unwrap();

    drop(child.stdin.take());
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(10_000_u16)).unwrap();
    assert!(!pidfd.is_alive(), "a zombie counts as ended");

    child.wait().unwrap();
    assert!(matches!(pidfd.pid(), Err(SysError::Gone)));
    assert!(matches!(pidfd.info(), Err(SysError::Gone)));
    if let Ok(after) = pidfd.identity() {
        assert_eq!(after, identity, "the identity outlives the process");
    }
}

#[test]
fn identities_differ_between_processes_and_agree_within_one() {
    let mut child = waiting_child();
    let of_child = PidFd::open(pid_of(&child)).unwrap();
    let again = PidFd::open(pid_of(&child)).unwrap();
    let own = PidFd::of_self().unwrap();
    assert_eq!(of_child.identity().unwrap(), again.identity().unwrap());
    assert_eq!(
        of_child.identity().unwrap(),
        of_child.try_clone().unwrap().identity().unwrap()
    );
    assert_ne!(of_child.identity().unwrap(), own.identity().unwrap());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn info_names_the_process_and_its_ids() {
    let info = PidFd::of_self().unwrap().info().unwrap();
    assert_eq!(info.tgid, nix::unistd::getpid().as_raw());
    assert_eq!(info.ppid, nix::unistd::getppid().as_raw());
    assert_eq!(info.euid, nix::unistd::geteuid().as_raw());
    assert_eq!(info.egid, nix::unistd::getegid().as_raw());
}

#[test]
fn at_random_changes_with_exec_and_start_time_does_not() {
    let mut shell = Command::new("sh")
        .args(["-c", "echo up; read line; exec cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = pid_of(&shell);
    let mut line = [0; 3];
    shell.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    let at_random = || *AuxiliaryVector::of(pid).unwrap().at_random().unwrap().expose();
    let before = at_random();
    let started = start_time(pid).unwrap();
    assert_eq!(at_random(), before, "constant within one image");

    // After exec, cat echoes: its answer tells that the new image runs.
    shell.stdin.as_mut().unwrap().write_all(b"go\nhi\n").unwrap();
    shell.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert_ne!(at_random(), before);
    assert_eq!(start_time(pid).unwrap(), started);
    shell.kill().unwrap();
    shell.wait().unwrap();
}

#[test]
fn each_chunk_names_its_sender_and_chunks_of_two_senders_do_not_merge() {
    let (mut client, server, _dir) = pair_with_senders();
    client.write_all(b"own").unwrap();
    let out = Stdio::from(std::os::fd::OwnedFd::from(client.try_clone().unwrap()));
    let mut other = Command::new("printf").arg("other").stdout(out).spawn().unwrap();
    let other_pid = pid_of(&other);
    let ended = other.wait().unwrap();
    assert!(ended.success(), "{ended}");

    let mut buf = [0; 64];
    let first = receive_with_sender(&server, &mut buf).unwrap();
    assert_eq!(&buf[..first.len], b"own");
    assert_eq!(first.sender.unwrap().pid, nix::unistd::getpid().as_raw());
    assert_eq!(
        first.pidfd.unwrap().identity().unwrap(),
        peer_pidfd(&server).unwrap().identity().unwrap()
    );
    let second = receive_with_sender(&server, &mut buf).unwrap();
    assert_eq!(&buf[..second.len], b"other");
    assert_eq!(second.sender.unwrap().pid, other_pid);
    if let Some(pidfd) = second.pidfd {
        assert!(!pidfd.is_alive());
        assert_ne!(
            pidfd.identity().unwrap(),
            peer_pidfd(&server).unwrap().identity().unwrap()
        );
    }
    let nothing = receive_with_sender(&server, &mut buf).unwrap_err();
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
    drop(client);
    // A child that another test forks holds a copy until it executes its program: only then does the stream end.
    assert_eq!((&server).read(&mut buf).unwrap(), 0);
    assert_eq!(receive_with_sender(&server, &mut buf).unwrap().len, 0);
}

#[test]
fn descriptors_that_come_along_are_handed_out_in_order_or_closed() {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    use std::os::fd::AsRawFd;
    let (client, server, _dir) = pair_with_senders();
    let (read_end, write_end) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    let passed = vec![write_end.as_raw_fd(); 253];
    sendmsg::<()>(
        client.as_raw_fd(),
        &[std::io::IoSlice::new(b"x")],
        &[ControlMessage::ScmRights(&passed)],
        MsgFlags::empty(),
        None,
    )
    .unwrap();
    drop(write_end);
    let mut buf = [0; 8];
    let received = receive_with_sender(&server, &mut buf).unwrap();
    assert_eq!(received.len, 1);
    assert!(received.sender.is_some() && received.pidfd.is_some());
    assert_eq!(received.descriptors.len(), passed.len());
    for descriptor in &received.descriptors {
        let flags = nix::fcntl::fcntl(descriptor, nix::fcntl::FcntlArg::F_GETFD).unwrap();
        assert_eq!(flags, nix::libc::FD_CLOEXEC);
    }
    drop(received);
    // The pipe ends only when no copy of its writing end is left.
    assert_eq!(nix::unistd::read(&read_end, &mut buf).unwrap(), 0);
}

#[test]
fn a_socket_of_another_family_has_no_peer_process() {
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    assert!(pass_pidfd(&tcp).is_err());
    assert!(peer_pidfd(&tcp).is_err());
}

#[test]
fn the_own_pid_namespace_belongs_to_the_own_user_namespace_chain() {
    let ns = std::fs::File::open("/proc/self/ns/pid").unwrap();
    match user_namespace_of(&ns) {
        Ok(first) => assert_eq!(user_namespace_of(&ns).unwrap(), first),
        // Inside a container of another user namespace the owner lies above us.
        Err(error) => assert!(matches!(error, SysError::NotPermitted { .. }), "{error}"),
    }
    let no_namespace = std::fs::File::open("/dev/null").unwrap();
    assert!(user_namespace_of(&no_namespace).is_err());
}

/// The kernel gives the initial PID namespace a fixed inode (`PROC_PID_INIT_INO`).
fn in_initial_pid_namespace() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self/ns/pid").unwrap().ino() == 0xEFFF_FFFC
}

/// Where the process connector answers (initial PID namespace, privileged), an exec is told of; elsewhere
/// `listen` must say why it cannot, and not pretend to listen.
#[test]
fn process_events_tell_of_exec_and_exit_or_say_why_not() {
    let events = match ProcEvents::listen() {
        Ok(events) => events,
        Err(ProcEventsError::NotAcknowledged) => {
            assert!(
                !in_initial_pid_namespace(),
                "the kernel answers in the initial PID namespace"
            );
            return;
        }
        Err(ProcEventsError::NotPermitted) => {
            assert!(!nix::unistd::geteuid().is_root(), "root may listen");
            return;
        }
        Err(other) => panic!("{other}"),
    };
    let mut child = Command::new("true").spawn().unwrap();
    let pid = pid_of(&child);
    child.wait().unwrap();
    let mut seen = Vec::new();
    while seen != [ProcEvent::Exec { pid }, ProcEvent::Exit { pid }] {
        match events.next() {
            Ok(Some(event)) if event == ProcEvent::Exec { pid } => seen.push(event),
            Ok(Some(event)) if event == ProcEvent::Exit { pid } => seen.push(event),
            Ok(Some(_)) => {}
            Ok(None) => {
                let mut fds = [PollFd::new(events.as_fd(), PollFlags::POLLIN)];
                let ready = poll(&mut fds, PollTimeout::from(10_000_u16)).unwrap();
                assert!(ready > 0, "no further event; seen: {seen:?}");
            }
            Err(error) => panic!("{error}; seen: {seen:?}"),
        }
    }
}
