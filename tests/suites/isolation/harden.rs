//! What the kernel withholds from a run whose class says so: files, ports, further privileges.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use vouchsafe_launch::harden::{Files, Harden};
use vouchsafe_launch::{LaunchError, Outcome};
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::require;

use crate::rig::{PYTHON, Rig, plan};

/// What interpreters need of the system.
fn system() -> Vec<PathBuf> {
    let folders = ["/usr", "/lib", "/lib64", "/etc", "/proc", "/dev"];
    folders
        .iter()
        .map(PathBuf::from)
        .filter(|path| path.exists())
        .collect()
}

/// Runs a Python script under limits; what it printed.
fn limited(rig: &Rig, harden: Harden, script: &str) -> String {
    let change = |plan: &mut vouchsafe_launch::Plan| plan.harden = harden;
    let (outcome, text) = rig.output(change, PYTHON, &["python3", "-c", script]);
    assert_eq!(outcome, Outcome::Exited(0), "{text}");
    text
}

#[test]
fn a_file_that_is_not_named_is_neither_read_nor_written() {
    require!(Need::Root, Need::Landlock);
    let rig = Rig::new();
    for name in ["open", "shut"] {
        let folder = rig.path().join(name);
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
        fs::write(folder.join("file"), name).unwrap();
    }
    let script = format!(
        "import subprocess\n\
         def told(do):\n    try: return do()\n    except OSError as error: return error.strerror\n\
         for name in ('open', 'shut'):\n    \
         path = f'{}/{{name}}/'\n    \
         print(told(lambda: open(path + 'file').read()), told(lambda: open(path + 'new', 'w').write('x')))\n\
         print(subprocess.run(['cat', path + 'file'], capture_output=True).returncode)\n",
        rig.path().display()
    );
    assert_eq!(limited(&rig, Harden::default(), &script), "open 1\nshut 1\n0\n");
    for name in ["open", "shut"] {
        fs::remove_file(rig.path().join(name).join("new")).unwrap();
    }
    let files = |write: Vec<PathBuf>| Harden {
        files: Some(Files {
            read: [system(), vec![rig.path().join("open")]].concat(),
            write,
        }),
        ..Harden::default()
    };
    let denied = "Permission denied";
    assert_eq!(
        limited(&rig, files(Vec::new()), &script),
        format!("open {denied}\n{denied} {denied}\n1\n"),
        "what it starts is held too"
    );
    assert_eq!(
        limited(&rig, files(vec![rig.path().join("open")]), &script),
        format!("open 1\n{denied} {denied}\n1\n")
    );
}

#[test]
fn a_port_that_is_not_named_is_neither_reached_nor_taken() {
    require!(Need::Root, Need::Landlock);
    let rig = Rig::new();
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [named, other] = listeners
        .each_ref()
        .map(|listener| listener.local_addr().unwrap().port());
    let script = format!(
        "import socket\n\
         def told(do):\n    try:\n        do()\n        return 'done'\n    except OSError as error: return error.strerror.split(' (')[0]\n\
         for port in ({named}, {other}):\n    print(told(lambda: socket.create_connection(('127.0.0.1', port), 5)))\n\
         print(told(lambda: socket.create_server(('127.0.0.1', 0))))\n"
    );
    assert_eq!(limited(&rig, Harden::default(), &script), "done\ndone\ndone\n");
    let held = Harden {
        connect: Some(vec![named]),
        bind: Some(Vec::new()),
        ..Harden::default()
    };
    let denied = "Permission denied";
    assert_eq!(
        limited(&rig, held, &script),
        format!("done\n{denied}\n{denied}\n")
    );
}

#[test]
fn no_new_privileges_are_gained() {
    require!(Need::Root);
    let rig = Rig::new();
    let script =
        "print(next(line for line in open('/proc/self/status') if line.startswith('NoNewPrivs')), end='')";
    let held = Harden {
        no_new_privs: true,
        ..Harden::default()
    };
    assert_eq!(limited(&rig, held, script), "NoNewPrivs:\t1\n");
}

#[test]
fn a_script_of_node_starts_where_files_are_held() {
    require!(Need::Root, Need::Node, Need::Landlock);
    let rig = Rig::new();
    let script = rig.file(
        "agent.js",
        "console.log(require('fs').readdirSync('/usr').length > 0, process.argv.slice(2).join())",
    );
    let program = crate::rig::node().unwrap();
    let (mut plan, mut reader) = plan(&program, &["node", script.to_str().unwrap(), "--quiet"]);
    plan.harden.files = Some(Files {
        read: [system(), vec![script.clone()]].concat(),
        write: Vec::new(),
    });
    let mut launched = rig.run(plan).unwrap();
    let outcome = launched.wait().unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
    assert_eq!((outcome, text.as_str()), (Outcome::Exited(0), "true --quiet\n"));
}

#[test]
fn limits_to_what_is_not_there_are_refused() {
    require!(Need::Root);
    let rig = Rig::new();
    let (mut plan, _reader) = plan("/bin/true", &["true"]);
    plan.harden.files = Some(Files {
        read: vec!["/nonexistent".into()],
        write: Vec::new(),
    });
    let error = rig.launcher.prepare(plan).unwrap_err();
    assert!(
        matches!(&error, LaunchError::Stage { error, .. } if error.contains("/nonexistent")),
        "{error}"
    );
    assert_eq!(rig.left(), (0, 0));
}
