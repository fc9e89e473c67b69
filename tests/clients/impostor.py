"""Asks for X.509-SVIDs in raw HTTP/2, as itself or in the guise of another process.

usage: impostor.py MODE SOCKET [ARGUMENT]
Prints what came of it, one word a line: `svid` (an answer with SVIDs), `refused` (a status), `cut` (the connection
ended), `silent` (nothing within the deadline). Modes that hold a stream print `svid` first.
"""

import os
import signal
import socket
import sys

from raw import CALL, DEADLINE_SECONDS, OPENING, begin, connect, drop_user, outcome, timed


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


def deaf(path):
    """Asks for itself, and answers no PING."""
    connection = connect(path)
    connection.sendall(OPENING + CALL)
    tell(outcome(connection, answers=False))


def queued(path, program, rounds):
    """A child connects, asks, and becomes `program`, all before its connection is accepted; this process, which shares
    the socket, reads the answer, and every second time answers what the agent asks. Tells when the agent may go on."""
    for number in range(int(rounds)):
        connection = timed(socket.socket(socket.AF_UNIX))
        right_one = os.fork()
        if right_one == 0:
            connection.connect(path)
            connection.sendall(OPENING + CALL)
            os.execv(program, [program, str(DEADLINE_SECONDS)])
        while os.readlink(f"/proc/{right_one}/exe") != os.path.realpath(program):
            pass
        tell("queued")
        tell(outcome(connection, answers=number % 2 == 0))
        os.kill(right_one, signal.SIGKILL)
        os.waitpid(right_one, 0)


def child(path):
    connection = begin(connect(path))
    in_child(lambda: ask(connection))


def passed(path):
    connection = begin(connect(path))
    here, there = socket.socketpair()

    def another_user():
        connection.close()
        here.close()
        drop_user()
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
    drop_user()
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
