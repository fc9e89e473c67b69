//! Callers that change between their measurement and their answer.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use super::*;
use crate::caller::connection::admit;
use crate::testing::{gate, listener};

/// Connects to the socket that it is given and says so; then becomes itself again when it reads a line, says so, and waits.
const AGAIN: &str = "import os, socket, sys
if sys.argv[1] != 'again':
    s = socket.socket(socket.AF_UNIX)
    s.connect(sys.argv[1])
    os.set_inheritable(s.fileno(), True)
print(1, flush=True)
sys.stdin.buffer.raw.read(2)
if sys.argv[1] != 'again':
    os.execv(sys.executable, [*sys.orig_argv[:-1], 'again'])";

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _already_dead = self.0.kill();
        let _already_reaped = self.0.wait();
    }
}

/// Its memory may say the same as before; and a moment ago it was measured.
#[tokio::test]
async fn a_caller_of_whom_the_kernel_tells_an_exec_is_not_answered() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let (listener, gate, execs) = (listener(&socket), gate(), ExecWatch::start());
    let _client = tokio::net::UnixStream::connect(&socket).await.unwrap();
    let accepted = listener.accept().await.unwrap();
    let (_stream, connection) = admit(accepted, &gate, &execs).await.unwrap();
    let mut caller = gate.measure(&connection, &Asked::default()).await.unwrap();
    execs.executed(connection.peer.credentials().pid);
    caller.seen = Instant::now();
    let refused = gate.check(&caller).await;
    assert!(matches!(refused, Err(CallerError::Changed)), "{refused:?}");
    let again = gate.measure(&connection, &Asked::default()).await;
    assert!(matches!(again, Err(CallerError::Changed)), "{again:?}");
}

/// Nobody watches the connection here, so that nothing but the look before the answer tells.
#[tokio::test]
async fn a_caller_that_executes_a_program_after_its_measurement_is_not_answered() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let (listener, gate, execs) = (listener(&socket), gate(), ExecWatch::start());
    let mut command = Command::new("python3");
    command.args(["-c", AGAIN]).arg(&socket);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = Running(child.unwrap());
    let mut says = BufReader::new(child.0.stdout.take().unwrap()).lines();
    assert_eq!(says.next().unwrap().unwrap(), "1");

    let accepted = listener.accept().await.unwrap();
    let (_stream, connection) = admit(accepted, &gate, &execs).await.unwrap();
    let caller = gate.measure(&connection, &Asked::default()).await.unwrap();
    assert!(gate.check(&caller).await.is_ok());

    writeln!(child.0.stdin.as_ref().unwrap(), "x").unwrap();
    assert_eq!(says.next().unwrap().unwrap(), "1");
    assert!(
        caller.seen.elapsed() > THIS_MOMENT,
        "to start Python takes longer"
    );
    let refused = gate.check(&caller).await;
    assert!(matches!(refused, Err(CallerError::Changed)), "{refused:?}");
    let again = gate.measure(&connection, &Asked::default()).await;
    assert!(matches!(again, Err(CallerError::Changed)), "{again:?}");
}
