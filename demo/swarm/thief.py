"""What a shell that a model spawned might try: to get its agent's identity. Says what came of it, as a line of JSON.

usage: thief.py socket        ask the Workload API for an X.509-SVID, with a proper client
       thief.py memory PID    look for a private key in that process's memory
"""

import json
import re
import sys

import grpc
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_pem_private_key
from spiffe import WorkloadApiClient

from mtls import fingerprint

# Keys as they lie in memory: PEM, PKCS#8 and SEC1 (RFC 5958 §2, RFC 5915 §3). The longest of them in bytes.
MARKS = re.compile(rb"-----BEGIN (?:EC )?PRIVATE KEY-----|\x30[\x40-\xff].{0,2}\x02\x01(?:\x00\x30|\x01\x04[\x20\x30])",
                   re.DOTALL)
END = re.compile(rb"-----END (?:EC )?PRIVATE KEY-----")
LONGEST = 4096


def socket():
    try:
        with WorkloadApiClient(default_timeout=20) as client:
            svid = client.fetch_x509_svid()
    except Exception as error:
        cause = error.__cause__
        known = isinstance(cause, grpc.Call)
        return {"refused": f"{cause.code().name}: {cause.details()}" if known else str(error)}
    return {"got": str(svid.spiffe_id), "key": fingerprint(svid.private_key)}


def key_in(found):
    """The key that stands at the beginning of these bytes, if it is one."""
    try:
        if found.startswith(b"-----"):
            return load_pem_private_key(found[: END.search(found).end()], None)
        length = found[1] if found[1] < 0x80 else int.from_bytes(found[2 : 2 + (found[1] & 0x7F)], "big")
        return load_der_private_key(found[: length + (2 if found[1] < 0x80 else 2 + (found[1] & 0x7F))], None)
    except (ValueError, TypeError, AttributeError):
        return None


def memory(pid):
    keys = set()
    try:
        with open(f"/proc/{pid}/maps") as maps:
            spans = [re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line) for line in maps]
        with open(f"/proc/{pid}/mem", "rb", 0) as whole:
            for start, end in (map(lambda text: int(text, 16), span.groups()) for span in spans if span):
                whole.seek(start)
                try:
                    part = whole.read(end - start)
                except OSError:
                    continue  # not all that is mapped can be read
                for mark in MARKS.finditer(part):
                    key = key_in(part[mark.start() : mark.start() + LONGEST])
                    if key is not None:
                        keys.add(fingerprint(key))
    except OSError as error:
        return {"refused": str(error)}
    return {"got": "a private key", "keys": sorted(keys)} if keys else {"refused": "no key in what could be read"}


def main():
    match sys.argv[1:]:
        case ["socket"]:
            told = socket()
        case ["memory", pid]:
            told = memory(pid)
        case _:
            sys.exit(__doc__)
    print(json.dumps({"attempt": sys.argv[1], **told}), flush=True)


main()
