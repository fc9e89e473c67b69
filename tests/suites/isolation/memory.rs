//! What a child of the same uid reaches of its parent: memory, environment, descriptors, ptrace, node's inspector.

use std::io::{BufRead, BufReader, Read};

use nix::sys::signal::Signal;
use vouchsafe_launch::{Isolation, Outcome};
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::require;

use crate::rig::{PYTHON, Rig, plan, virtual_environment};

/// Tries every way to what its parent knows.
const THIEF: &str = r#"
import os, ctypes
pp = os.getppid()
want = b"VOUCHSAFE" + b"-KEY"
def memory():
    for line in open(f"/proc/{pp}/maps"):
        span, mode = line.split()[:2]
        if "r" not in mode or "[v" in line:
            continue
        start, end = [int(x, 16) for x in span.split("-")]
        with open(f"/proc/{pp}/mem", "rb", 0) as mem:
            try:
                mem.seek(start)
                if want in mem.read(end - start):
                    return "found"
            except OSError:
                pass
    return "absent"
def tried(name, way):
    try:
        print(name, way(), flush=True)
    except OSError as error:
        print(name, error.strerror, flush=True)
tried("memory", memory)
tried("environ", lambda: "found" if b"ENVIRONMENT" in open(f"/proc/{pp}/environ", "rb").read() else "absent")
tried("fd", lambda: "found" if os.listdir(f"/proc/{pp}/fd") else "absent")
tried("exe", lambda: "found" if os.open(f"/proc/{pp}/exe", os.O_RDONLY) else "absent")
libc = ctypes.CDLL(None, use_errno=True)
print("ptrace", "found" if libc.ptrace(0x4206, pp, 0, 0) == 0 else os.strerror(ctypes.get_errno()), flush=True)
"#;

/// Has a secret in memory, and starts the thief in a shell.
fn holder(thief: &std::path::Path) -> String {
    format!(
        "import subprocess, sys\nsecret = 'VOUCHSAFE' + '-' + 'KEY' * int(sys.argv[1])\nsecret = secret.encode()\n\
         sys.exit(subprocess.run(['/bin/sh', '-c', 'exec /usr/bin/python3 {}']).returncode)",
        thief.display()
    )
}

fn stolen(isolation: Isolation, program: &str) -> String {
    let rig = Rig::new();
    let program = if program.is_empty() {
        virtual_environment(&rig)
    } else {
        program.to_owned()
    };
    let thief = rig.file("thief.py", THIEF);
    let script = holder(&thief);
    let argv = [program.as_str(), "-c", script.as_str(), "1"];
    let with = |plan: &mut vouchsafe_launch::Plan| {
        plan.isolation = isolation;
        plan.env.push(("ENVIRONMENT".into(), "secret".into()));
    };
    let (outcome, text) = rig.output(with, &program, &argv);
    assert_eq!(outcome, Outcome::Exited(0), "{text}");
    text
}

const NOTHING: &str = "memory Permission denied\nenviron Permission denied\nfd Permission denied\n\
    exe Permission denied\nptrace Operation not permitted\n";

#[test]
fn a_child_finds_no_key_in_its_parents_memory() {
    require!(Need::Root);
    assert_eq!(stolen(Isolation::Process, PYTHON), NOTHING);
}

#[test]
fn a_child_of_a_virtual_environments_python_finds_none_either() {
    require!(Need::Root);
    assert_eq!(stolen(Isolation::Process, ""), NOTHING);
}

#[test]
fn without_isolation_the_same_child_finds_the_key() {
    require!(Need::Root);
    let text = stolen(Isolation::None, PYTHON);
    for way in ["memory found", "environ found", "fd found"] {
        assert!(text.contains(way), "{text}");
    }
}

#[test]
fn what_an_isolated_python_starts_and_uses_works() {
    require!(Need::Root);
    let rig = Rig::new();
    let script = rig.file(
        "works.py",
        "import faulthandler, multiprocessing, subprocess, sys, ssl, ctypes\n\
         def double(x): return 2 * x\n\
         if __name__ == '__main__':\n\
        \x20   faulthandler.enable()\n\
        \x20   with multiprocessing.get_context('spawn').Pool(1) as pool: print(pool.map(double, [21]))\n\
        \x20   with multiprocessing.get_context('fork').Pool(1) as pool: print(pool.map(double, [4]))\n\
        \x20   print(subprocess.check_output(['/bin/echo', 'from a child'], text=True), end='')\n\
        \x20   print(sys.prefix, sys.executable)\n",
    );
    let venv = virtual_environment(&rig);
    let (outcome, text) = rig.output(|_| {}, &venv, &[&venv, script.to_str().unwrap()]);
    assert_eq!(outcome, Outcome::Exited(0), "{text}");
    let prefix = venv.trim_end_matches("/bin/python3");
    assert_eq!(text, format!("[42]\n[8]\nfrom a child\n{prefix} {venv}\n"));
}

#[test]
fn faulthandler_tells_of_a_crash_and_the_signal_is_the_outcome() {
    require!(Need::Root);
    let script =
        "import faulthandler, os, signal\nfaulthandler.enable()\nos.kill(os.getpid(), signal.SIGSEGV)";
    let (outcome, text) = Rig::new().python(script);
    assert_eq!(outcome, Outcome::Signalled(Signal::SIGSEGV as i32));
    assert!(text.contains("Segmentation fault"), "{text}");
}

/// Whether SIGUSR1 opens the inspector of a node; told by what node prints, or by the second signal's answer.
fn inspector(isolation: Isolation) -> String {
    let rig = Rig::new();
    let program = crate::rig::node().unwrap();
    let script = "process.on('SIGUSR2', () => { console.log(require('inspector').url() || 'shut'); \
         process.exit(0) }); setInterval(() => {}, 1000); console.log('up')";
    let (mut plan, reader) = plan(&program, &["node", "-e", script]);
    plan.isolation = isolation;
    let mut launched = rig.run(plan).unwrap();
    let mut reader = BufReader::new(reader);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    launched.signal(Signal::SIGUSR1).unwrap();
    // Node says on its standard error whether it listens.
    reader.read_line(&mut line).unwrap();
    launched.signal(Signal::SIGUSR2).unwrap();
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    launched.wait().unwrap();
    line + &rest
}

#[test]
fn a_signal_opens_no_inspector_of_node() {
    require!(Need::Root, Need::Node);
    let told = inspector(Isolation::Process);
    assert!(told.ends_with("failed: address not available\nshut\n"), "{told}");
}

/// Whether a process has said what a signal is to do.
fn handles(pid: i32, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = u64::from_str_radix(caught.unwrap().trim(), 16).unwrap();
    caught & (1 << (signal as u32 - 1)) != 0
}

#[test]
fn a_signal_that_comes_before_its_script_opens_no_inspector_of_node() {
    require!(Need::Root, Need::Node);
    let rig = Rig::new();
    let program = crate::rig::node().unwrap();
    let (plan, mut reader) = plan(&program, &["node", "-e", "setTimeout(() => {}, 500)"]);
    let mut launched = rig.run(plan).unwrap();
    let pid = launched.main().pid().unwrap();
    let end = tokio::time::Instant::now() + vouchsafe_tests::wait::DEADLINE;
    while !handles(pid, Signal::SIGUSR1) {
        assert!(tokio::time::Instant::now() < end, "node handles no SIGUSR1");
        std::thread::yield_now();
    }
    launched.signal(Signal::SIGUSR1).unwrap();
    launched.wait().unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert!(!text.contains("ws://"), "{text}");
}

#[test]
fn without_isolation_the_signal_opens_it() {
    require!(Need::Root, Need::Node);
    assert!(inspector(Isolation::None).contains("ws://"));
}

const WAITS: &str = "class Waits { public static void main(String[] a) throws Exception { \
    System.out.println(\"up\"); Thread.sleep(600_000); } }";

/// Asks a JVM for its attach mechanism as any process of its uid can, without a look into its `/proc`: by a file and a
/// signal. Says whether it listens.
const ATTACH: &str = "import os, signal, sys, time\npid = int(sys.argv[1])\n\
    open(f'/tmp/.attach_pid{pid}', 'w').close()\nos.kill(pid, signal.SIGQUIT)\nend = time.monotonic() + 30\n\
    while not os.path.exists(f'/tmp/.java_pid{pid}'):\n    \
    if os.path.exists(sys.argv[2]) or time.monotonic() > end: sys.exit(1)\n    time.sleep(0.01)\n";

/// Whether a process of its uid gets a JVM to take agents.
fn takes_agents(isolation: Isolation) -> bool {
    let rig = Rig::new();
    let source = rig.file("Waits.java", WAITS);
    let java = std::fs::canonicalize("/usr/bin/java").unwrap();
    let argv = ["java", source.to_str().unwrap()];
    let (mut plan, reader) = plan(java.to_str().unwrap(), &argv);
    plan.isolation = isolation;
    let mut launched = rig.run(plan).unwrap();
    let mut lines = BufReader::new(reader).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "up");
    let pid = launched.main().pid().unwrap().to_string();
    let answered = rig.path().join("answered");
    let uid = format!("--reuid={}", crate::rig::UID);
    let gid = format!("--regid={}", crate::rig::UID);
    let mut attacher = std::process::Command::new("setpriv")
        .args([&uid, &gid, "--clear-groups", PYTHON, "-c", ATTACH, &pid])
        .arg(&answered)
        .spawn()
        .unwrap();
    let main = launched.main().try_clone().unwrap();
    let dump = std::thread::spawn(move || {
        // One that takes no agents takes the signal for a question about its threads.
        let dumped = lines
            .map_while(Result::ok)
            .any(|line| line.contains("Full thread dump"));
        if dumped {
            std::fs::write(&answered, "").unwrap();
        }
        dumped
    });
    let taken = attacher.wait().unwrap().success();
    main.signal(Signal::SIGKILL).unwrap();
    launched.wait().unwrap();
    assert_eq!(dump.join().unwrap(), !taken);
    for name in ["attach", "java"] {
        let _one_of_them_is_there = std::fs::remove_file(format!("/tmp/.{name}_pid{pid}"));
    }
    taken
}

#[test]
fn java_takes_no_agent_from_its_own_uid() {
    require!(Need::Root, Need::Java);
    assert!(!takes_agents(Isolation::Process));
}

#[test]
fn without_isolation_java_takes_agents() {
    require!(Need::Root, Need::Java);
    assert!(takes_agents(Isolation::None));
}
