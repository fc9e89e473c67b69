"""Speak mTLS with PyPI's `spiffe-tls`.

`listen PEER` takes connections from the SPIFFE ID PEER alone: a `listening` event with the address, then for
each connection `accepted` (with the line it read, which it sends back) or `refused`, until stdin closes.
`dial ADDRESS PEER LINE` connects to ADDRESS, where PEER must answer: one `reply` event.
"""

import os
import socket
import struct
import sys
import threading

from common import TIMEOUT_SECONDS, emit, run
from cryptography import x509
from OpenSSL import SSL
from spiffe import SpiffeId, X509Source
from spiffetls import ListenOptions, ServerTlsMode, dial, listen
from spiffetls.tlsconfig.authorize import authorize_id


def peer_of(connection):
    certificate = connection.get_peer_certificate().to_cryptography()
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)[0]


def read_line(connection):
    line = b""
    while not line.endswith(b"\n"):
        line += connection.recv(4096)
    return line


def serve_one(connection):
    # A peer that says nothing must not hold the listener: the deadline is the kernel's.
    deadline = struct.pack("ll", TIMEOUT_SECONDS, 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, deadline)
    try:
        connection.do_handshake()
        line = read_line(connection)
        connection.sendall(line)
        connection.shutdown()
        emit("accepted", peer=peer_of(connection), line=line.decode().rstrip("\n"))
    except SSL.Error as error:
        emit("refused", reason=repr(error))
    finally:
        connection.close()


def end_with_stdin():
    sys.stdin.read()
    os._exit(0)  # the accepting thread has no other way to be told


def main():
    verb, *rest = sys.argv[1:]
    with X509Source(timeout_in_seconds=TIMEOUT_SECONDS) as source:
        if verb == "listen":
            options = ListenOptions(ServerTlsMode.MTLS, authorize_id(SpiffeId(rest[0])))
            listener = listen("127.0.0.1:0", source, options)
            host, port = listener.getsockname()
            emit("listening", address=f"{host}:{port}")
            threading.Thread(target=end_with_stdin, daemon=True).start()
            while True:
                connection, _ = listener.accept()
                serve_one(connection)
        elif verb == "dial":
            address, peer, line = rest
            connection = dial(address, source, authorize_fn=authorize_id(SpiffeId(peer)))
            connection.sendall(line.encode() + b"\n")
            emit("reply", peer=peer_of(connection), line=read_line(connection).decode().rstrip("\n"))
            connection.close()
        else:
            raise SystemExit(f"no such verb: {verb}")


run(main)
