"""What the three agents share. None of them holds a secret: each asks the Workload API who it is (the socket's
path is in SPIFFE_ENDPOINT_SOCKET), and speaks mTLS to the SPIFFE IDs that it knows, and to nobody else.

Events go to stdout and orders come from stdin, as JSON lines; the demo reads and writes them.
"""

import json
import sys
import threading
import warnings

import grpc
from cryptography import x509
from OpenSSL import SSL
from spiffe import SpiffeId, WorkloadApiClient, X509Source
from spiffe.workloadapi.errors import WorkloadApiError
from spiffetls import ListenOptions, ServerTlsMode, dial, listen
from spiffetls.errors import TLSConnectionError
from spiffetls.tlsconfig.authorize import authorize_id

# The packages deprecate names that they use themselves.
warnings.simplefilter("ignore", DeprecationWarning)

PATIENCE_SECONDS = 60
_output = threading.Lock()


def tell(event, **fields):
    with _output:
        print(json.dumps({"event": event, **fields}), flush=True)


def orders():
    """The orders on stdin, one a line, until it closes."""
    for line in sys.stdin:
        yield json.loads(line)


def identity():
    """Who this process is: an X.509-SVID that the source keeps fresh. A refusal is told at once; the source
    goes on asking, because an entry may be on its way."""
    try:
        with WorkloadApiClient(default_timeout=PATIENCE_SECONDS) as client:
            client.fetch_x509_svid()
    except WorkloadApiError as error:
        cause = error.__cause__
        code = cause.code().name if isinstance(cause, grpc.Call) else None
        tell("denied", code=code, message=cause.details() if code else str(error))
    source = X509Source(timeout_in_seconds=PATIENCE_SECONDS)
    svid = source.get_x509_context().default_svid
    tell("identity", spiffe_id=str(svid.spiffe_id), until=svid.leaf.not_valid_after_utc.timestamp())
    return source


def name_in(certificate):
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)[0]


def only(peer):
    """Let in one SPIFFE ID, or the one that a function gives. Whoever else comes with a good SVID is told of by name."""

    def authorized(certificate):
        good = authorize_id(SpiffeId(peer() if callable(peer) else peer))(certificate)
        if not good:
            tell("turned_away", peer=name_in(certificate.to_cryptography()))
        return good

    return authorized


def why(error):
    """What OpenSSL says, without its codes."""
    (first, *rest) = error.args or ("the connection ended",)
    if isinstance(first, list):
        return "; ".join(reason for _, _, reason in first)
    return str(rest[0] if rest else first)


def read_message(connection):
    message = b""
    while not message.endswith(b"\n"):
        message += connection.recv(16384)
    return json.loads(message)


def write_message(connection, message):
    connection.sendall(json.dumps(message).encode() + b"\n")


def serve(source, peer, take):
    """Take work from one peer over mTLS, in a thread of its own; tells the address and returns it."""
    listener = listen("127.0.0.1:0", source, ListenOptions(ServerTlsMode.MTLS, only(peer)))
    address = "%s:%d" % listener.getsockname()
    tell("listening", address=address)

    def loop():
        while True:
            connection, _ = listener.accept()
            try:
                connection.do_handshake()
                work = read_message(connection)
                sender = name_in(connection.get_peer_certificate().to_cryptography())
                write_message(connection, {"taken": True})
                connection.shutdown()
            except SSL.Error as error:
                tell("hung_up", reason=why(error))
                continue
            finally:
                connection.close()
            tell("received", sender=sender, work=work)
            take(work)

    threading.Thread(target=loop, daemon=True).start()
    return address


def hand_over(source, address, peer, work):
    """Give work to a peer over mTLS, if it is who it should be and takes it."""
    try:
        connection = dial(address, source, authorize_fn=only(peer))
        write_message(connection, work)
        answer = read_message(connection)
        connection.close()
    except (SSL.Error, TLSConnectionError, OSError) as error:
        # With TLS 1.3 a client learns at its first read that the server did not want it.
        tell("not_taken", receiver=peer, reason=why(error))
        return
    tell("handed_over", receiver=peer, taken=answer["taken"])
