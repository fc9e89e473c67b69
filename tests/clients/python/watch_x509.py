"""Hold an `X509Source` of PyPI's `spiffe` open: one `x509` event for each SVID it gets, until stdin closes."""

import queue
import sys
import threading

from common import TIMEOUT_SECONDS, authorities, describe, emit, run
from spiffe import X509Source


def main():
    updates = queue.Queue()
    with X509Source(timeout_in_seconds=TIMEOUT_SECONDS) as source:
        source.subscribe_for_updates(lambda: updates.put("update"))
        threading.Thread(target=lambda: (sys.stdin.read(), updates.put("end")), daemon=True).start()
        last = None
        while True:
            context = source.get_x509_context()
            told = describe(context.default_svid)
            if told != last:
                emit("x509", svids=[told], bundles=authorities(context.x509_bundle_set.bundles))
                last = told
            if updates.get() == "end":
                return


run(main)
