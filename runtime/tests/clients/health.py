"""One gRPC health check in raw HTTP/2, by a process that should or should not be heard.

usage: health.py MODE SOCKET AUTHORITY
Prints one word: answered, reset, cut (the connection ended), silent (nothing within the deadline).
AUTHORITY is sent as it is; with a leading "huffman:" the rest is hex of its HPACK Huffman code.
"""

import os
import socket
import struct
import sys

DEADLINE_SECONDS = 20
NOBODY = 65534


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def text(value):
    return bytes([len(value)]) + value


def opening():
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0)


def call(authority):
    if authority.startswith("huffman:"):
        coded = bytes.fromhex(authority.removeprefix("huffman:"))
        field = b"\x41" + bytes([0x80 | len(coded)]) + coded
    else:
        field = b"\x41" + text(authority.encode())
    block = b"\x83\x86" + b"\x04" + text(b"/grpc.health.v1.Health/Check") + field
    block += b"\x0f\x10" + text(b"application/grpc") + b"\x00" + text(b"te") + text(b"trailers")
    return frame(1, 4, 1, block) + frame(0, 1, 1, b"\0\0\0\0\0")


def connect(path):
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(DEADLINE_SECONDS)
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
    return head[3], exactly(connection, int.from_bytes(head[:3], "big"))


def outcome(connection):
    try:
        while True:
            kind, payload = next_frame(connection)
            if kind == 0 and payload == b"\0\0\0\0\2\x08\x01":
                return "answered"
            if kind == 3:
                return "reset"
    except TimeoutError:
        return "silent"
    except OSError:
        return "cut"


def ask(connection, data):
    try:
        connection.sendall(data)
    except OSError:
        pass
    try:
        print(outcome(connection), flush=True)
    except BrokenPipeError:
        pass  # the test has seen enough


def served(path):
    """A connection that the server has begun to serve: it has sent its SETTINGS."""
    connection = connect(path)
    connection.sendall(opening())
    next_frame(connection)
    return connection


def in_child(action):
    child = os.fork()
    if child == 0:
        action()
        os._exit(0)
    os.waitpid(child, 0)


def own(path, authority):
    ask(connect(path), opening() + call(authority))


def drip(path, authority):
    connection = connect(path)
    data = opening() + call(authority)
    for at in range(len(data) - 1):
        connection.sendall(data[at : at + 1])
    ask(connection, data[-1:])


def child(path, authority):
    connection = served(path)
    in_child(lambda: ask(connection, call(authority)))


def passed(path, authority):
    connection = served(path)
    here, there = socket.socketpair()

    def other_process():
        connection.close()
        here.close()
        if os.geteuid() == 0:
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        _, descriptors, _, _ = socket.recv_fds(there, 1, 1)
        received = socket.socket(fileno=descriptors[0])
        received.settimeout(DEADLINE_SECONDS)
        ask(received, call(authority))

    socket.send_fds(here, [b"x"], [connection.fileno()])
    in_child(other_process)


def gone(path, authority):
    connection = connect(path)
    alive, parent = os.pipe()
    if os.fork() == 0:
        os.close(parent)
        os.read(alive, 1)  # ends when the connector has ended
        ask(connection, opening() + call(authority))
    os._exit(0)


def hold(path, _authority):
    connection = served(path)
    print("held", flush=True)
    sys.stdin.read()
    connection.close()


mode, path, authority = sys.argv[1:]
{"own": own, "drip": drip, "child": child, "passed": passed, "gone": gone, "hold": hold}[mode](path, authority)
