"""Asks for X.509-SVIDs in raw HTTP/2 and, while the call is held, does as a line on its standard input says.

usage: held.py SOCKET
Lines: `stay`, `exit` (a child keeps the socket and listens on), `exec` (becomes this script anew, and listens on).
Prints what came of the call: `svid`, `refused`, `cut`, or `silent` (nothing within the deadline).
"""

import os
import selectors
import socket
import struct
import sys

DEADLINE_SECONDS = 20
DATA, HEADERS, SETTINGS, PING = 0, 1, 4, 6
ACK = END_STREAM = 1


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def text(value):
    return bytes([len(value)]) + value


def field(name, value):
    return b"\x00" + text(name) + text(value)


HEADER_BLOCK = b"".join(
    [
        b"\x83\x86\x04" + text(b"/SpiffeWorkloadAPI/FetchX509SVID"),
        b"\x41" + text(b"localhost"),
        b"\x0f\x10" + text(b"application/grpc"),
        field(b"te", b"trailers"),
        field(b"workload.spiffe.io", b"true"),
    ]
)
OPENING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0)
CALL = frame(HEADERS, 4, 1, HEADER_BLOCK) + frame(DATA, END_STREAM, 1, b"\0\0\0\0\0")


class Listener:
    """Reads frames, answers PINGs, and notes what came of the call."""

    def __init__(self, connection):
        self.connection = connection
        self.received = b""
        self.outcome = None

    def read(self):
        try:
            more = self.connection.recv(65536)
        except OSError:
            more = b""
        if not more:
            self.outcome = self.outcome or "cut"
            return
        self.received += more
        while len(self.received) >= 9:
            length = 9 + int.from_bytes(self.received[:3], "big")
            if len(self.received) < length:
                return
            kind, flags = self.received[3], self.received[4]
            payload, self.received = self.received[9:length], self.received[length:]
            if kind == PING and not flags & ACK:
                self.connection.sendall(frame(PING, ACK, 0, payload))
            if kind == DATA and len(payload) > 100:
                self.outcome = "svid"
            if kind == HEADERS and flags & END_STREAM:
                self.outcome = self.outcome or "refused"

    def listen(self):
        self.connection.settimeout(DEADLINE_SECONDS)
        while self.outcome is None:
            self.read()
        print(self.outcome, flush=True)


def ask(path):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    connection.sendall(OPENING + CALL)
    listener = Listener(connection)
    both = selectors.DefaultSelector()
    both.register(connection, selectors.EVENT_READ)
    both.register(sys.stdin, selectors.EVENT_READ)
    while True:
        ready = [key.fileobj for key, _ in both.select(DEADLINE_SECONDS)]
        if connection in ready:
            listener.read()
        if sys.stdin in ready or not ready or listener.outcome:
            break
    if listener.outcome:
        print(listener.outcome, flush=True)
        return
    word = sys.stdin.readline().strip()
    if word == "exec":
        os.set_inheritable(connection.fileno(), True)
        script = os.path.abspath(__file__)
        os.execv(sys.executable, [sys.executable, script, "--listen", str(connection.fileno())])
    if word == "exit" and os.fork() > 0:
        os._exit(0)
    listener.listen()


if sys.argv[1] == "--listen":
    Listener(socket.socket(fileno=int(sys.argv[2]))).listen()
else:
    ask(sys.argv[1])
