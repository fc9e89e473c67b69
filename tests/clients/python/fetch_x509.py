"""Fetch every X.509-SVID and bundle once, with PyPI's `spiffe`: one `x509` event."""

from common import TIMEOUT_SECONDS, authorities, describe, emit, run
from spiffe import WorkloadApiClient


def main():
    with WorkloadApiClient(default_timeout=TIMEOUT_SECONDS) as client:
        context = client.fetch_x509_context()
        bundles = client.fetch_x509_bundles()
    emit(
        "x509",
        svids=[describe(svid) for svid in context.x509_svids],
        bundles=authorities(context.x509_bundle_set.bundles),
        bundles_alone=authorities(bundles.bundles),
    )


run(main)
