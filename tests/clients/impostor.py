"""Asks for X.509-SVIDs in raw HTTP/2, as itself or in the guise of another process.

usage: impostor.py MODE SOCKET [ARGUMENT]
Prints what came of it, one word a line: `svid` (an answer with SVIDs), `refused` (a status), `cut` (the connection
ended), `silent` (nothing within the deadline). Modes that hold a stream print `svid` first.
"""

import os
import socket
import struct
import sys

DEADLINE_SECONDS = 20
NOBODY = 65534
DATA, HEADERS, SETTINGS = 0, 1, 4
END_STREAM = 1


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def text(value):
    return bytes([len(value)]) + value


OPENING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0)


def field(name, value):
    return b"\x00" + text(name) + text(value)


CALL = frame(
    HEADERS,
    4,
    1,
    b"\x83\x86\x04"
    + text(b"/SpiffeWorkloadAPI/FetchX509SVID")
    + b"\x41"
    + text(b"localhost")
    + b"\x0f\x10"
    + text(b"application/grpc")
    + field(b"te", b"trailers")
    + field(b"workload.spiffe.io", b"true"),
) + frame(DATA, END_STREAM, 1, b"\0\0\0\0\0")


def timed(connection):
    connection.settimeout(DEADLINE_SECONDS)
    return connection


def connect(path):
    connection = timed(socket.socket(socket.AF_UNIX))
    connection.connect(path)
    return connection


def exactly(connection, count):
    received = b""
    while len(received) < count:
        more = connection.recv(count - len(received))
        if not more:
            raise ConnectionResetError
        received += more
    return received


def next_frame(connection):
    head = exactly(connection, 9)
    return head[3], head[4], exactly(connection, int.from_bytes(head[:3], "big"))


def outcome(connection):
    try:
        while True:
            kind, flags, payload = next_frame(connection)
            if kind == DATA and len(payload) > 100:
                return "svid"
            if kind == HEADERS and flags & END_STREAM:
                return "refused"
    except TimeoutError:
        return "silent"
    except OSError:
        return "cut"


def tell(word):
    try:
        print(word, flush=True)
    except BrokenPipeError:
        pass  # the test has seen enough


def ask(connection, data=CALL):
    try:
        connection.sendall(data)
    except OSError:
        pass
    tell(outcome(connection))


def begin(connection):
    """Waits until the agent has begun to serve the connection: it has sent its SETTINGS."""
    connection.sendall(OPENING)
    next_frame(connection)
    return connection


def become(mode, connection):
    """Executes this script anew, with the connection."""
    os.set_inheritable(connection.fileno(), True)
    os.execv(sys.executable, [sys.executable, os.path.abspath(__file__), mode, str(connection.fileno())])


def in_child(action):
    child = os.fork()
    if child == 0:
        action()
        os._exit(0)
    os.waitpid(child, 0)


def own(path):
    ask(connect(path), OPENING + CALL)


def child(path):
    connection = begin(connect(path))
    in_child(lambda: ask(connection))


def passed(path):
    connection = begin(connect(path))
    here, there = socket.socketpair()

    def another_user():
        connection.close()
        here.close()
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        _, descriptors, _, _ = socket.recv_fds(there, 1, 1)
        ask(timed(socket.socket(fileno=descriptors[0])))

    socket.send_fds(here, [b"x"], [connection.fileno()])
    in_child(another_user)


def gone(path):
    connection = connect(path)
    alive, _held = os.pipe()
    if os.fork() == 0:
        os.close(_held)
        os.read(alive, 1)  # ends when the connector has ended
        ask(connection, OPENING + CALL)
    os._exit(0)


def exec_then_ask(path):
    become("asks", begin(connect(path)))


def asks(descriptor):
    ask(timed(socket.socket(fileno=int(descriptor))))


def ask_then_exec(path, program):
    """A child connects, asks, and becomes `program`; the answer would reach this process, which shares the socket."""
    connection = timed(socket.socket(socket.AF_UNIX))
    shared_by_both = os.fork()
    if shared_by_both == 0:
        connection.connect(path)
        begin(connection)
        connection.sendall(CALL)
        os.execv(program, [program, str(DEADLINE_SECONDS)])
    while True:
        try:
            connection.getpeername()
            break
        except OSError:
            if os.waitpid(shared_by_both, os.WNOHANG)[0]:
                raise
    # SETTINGS may have been read by the child or by this process: frames are whole either way only if one reads,
    # so the child reads its own, and this process begins when the child has become the program.
    while os.readlink(f"/proc/{shared_by_both}/exe") != os.path.realpath(program):
        pass
    tell(outcome(connection))
    os.kill(shared_by_both, 9)
    os.waitpid(shared_by_both, 0)


def drop_then_ask(path):
    """Changes its user between connecting and asking."""
    connection = begin(connect(path))
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    ask(connection)


def hold_then_end(path):
    connection = begin(connect(path))
    ask(connection)
    _alive, held = os.pipe()
    if os.fork() == 0:
        os.close(held)
        os.read(_alive, 1)  # ends when the caller has ended
        tell(outcome(connection))
    os._exit(0)


def hold_then_exec(path):
    connection = begin(connect(path))
    ask(connection)
    become("listens", connection)


def listens(descriptor):
    tell(outcome(timed(socket.socket(fileno=int(descriptor)))))


def hold(path):
    connection = begin(connect(path))
    ask(connection)
    while True:
        word = outcome(connection)
        tell(word)
        if word != "svid":
            return


globals()[sys.argv[1]](*sys.argv[2:])
