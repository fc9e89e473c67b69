"""A Workload API client in raw HTTP/2, so that each byte is written when and by whom an attack wants it."""

import os
import socket
import struct

DEADLINE_SECONDS = 20
NOBODY = 65534
DATA, HEADERS, SETTINGS, PING = 0, 1, 4, 6
END_STREAM = ACK = 1


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def text(value):
    return bytes([len(value)]) + value


OPENING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0)


def field(name, value):
    return b"\x00" + text(name) + text(value)


def call(stream):
    """FetchX509SVID as a stream of its own."""
    headers = (
        b"\x83\x86\x04"
        + text(b"/SpiffeWorkloadAPI/FetchX509SVID")
        + b"\x41"
        + text(b"localhost")
        + b"\x0f\x10"
        + text(b"application/grpc")
        + field(b"te", b"trailers")
        + field(b"workload.spiffe.io", b"true")
    )
    return frame(HEADERS, 4, stream, headers) + frame(DATA, END_STREAM, stream, b"\0\0\0\0\0")


CALL = call(1)


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


def outcome(connection, answers=True):
    """What comes of a call. Whoever reads answers PINGs as well, as a library would (the agent sees who it was), or in
    the way that `answers` gives, or not at all."""
    answer = answers if callable(answers) else connection.sendall
    try:
        while True:
            kind, flags, payload = next_frame(connection)
            if kind == DATA and len(payload) > 100:
                return "svid"
            if kind == PING and not flags & ACK and answers:
                answer(frame(PING, ACK, 0, payload))
            if kind == HEADERS and flags & END_STREAM:
                return "refused"
    except TimeoutError:
        return "silent"
    except OSError:
        return "cut"


def begin(connection):
    """Waits until the agent has begun to serve the connection: it has sent its SETTINGS."""
    connection.sendall(OPENING)
    next_frame(connection)
    return connection


def drop_user():
    """Becomes nobody, for good."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
