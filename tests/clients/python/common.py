"""What the clients share: events as JSON lines on stdout, and how an error of the Workload API is told.

Every client reads SPIFFE_ENDPOINT_SOCKET, as any SPIFFE program does. Exit code 0: it worked; 1: the last
line is an `error` event with the gRPC status code, where there was one.
"""

import json
import sys
import warnings

import grpc

# The packages deprecate names that they use themselves.
warnings.simplefilter("ignore", DeprecationWarning)

TIMEOUT_SECONDS = 30


def emit(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)


def status(error):
    """The gRPC status code somewhere along an error's causes."""
    while error is not None:
        if isinstance(error, grpc.Call):
            return error.code().name
        error = error.__cause__
    return None


def causes(error):
    """An error with what caused it, in one line."""
    texts = []
    while error is not None:
        texts.append(str(error) or repr(error))
        error = error.__cause__
    return ": ".join(texts)


def describe(svid):
    """An X.509-SVID, without its key."""
    return {
        "spiffe_id": str(svid.spiffe_id),
        "serial": format(svid.leaf.serial_number, "x"),
        "not_after": int(svid.leaf.not_valid_after_utc.timestamp()),
        "chain": len(svid.cert_chain),
    }


def authorities(bundles):
    """How many X.509 authorities each trust domain has."""
    return {bundle.trust_domain.name: len(bundle.x509_authorities) for bundle in bundles}


def run(main):
    try:
        main()
    except Exception as error:  # every failure is an event that the caller reads
        emit("error", code=status(error), message=causes(error))
        sys.exit(1)
