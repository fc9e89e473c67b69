"""Fetch a JWT-SVID with PyPI's `spiffe`, or check one: `fetch AUDIENCE…` (one `jwt` event),
`validate AUDIENCE TOKEN` by the Workload API, or `verify AUDIENCE TOKEN` offline with the JWT bundles
(one `validated` event)."""

import sys

from common import TIMEOUT_SECONDS, emit, run
from spiffe import JwtSource, JwtSvid, WorkloadApiClient


def told(svid):
    return {"spiffe_id": str(svid.spiffe_id), "audience": sorted(svid.audience), "expires_at": svid.expiry}


def main():
    verb, audience, *rest = sys.argv[1:]
    if verb == "fetch":
        with JwtSource(timeout_in_seconds=TIMEOUT_SECONDS) as source:
            svid = source.fetch_svid({audience, *rest})
        emit("jwt", token=svid.token, **told(svid))
    elif verb == "validate":
        with WorkloadApiClient(default_timeout=TIMEOUT_SECONDS) as client:
            emit("validated", **told(client.validate_jwt_svid(rest[0], audience)))
    elif verb == "verify":
        with JwtSource(timeout_in_seconds=TIMEOUT_SECONDS) as source:
            unverified = JwtSvid.parse_insecure(rest[0], {audience})
            bundle = source.get_bundle_for_trust_domain(unverified.spiffe_id.trust_domain)
            emit("validated", **told(JwtSvid.parse_and_validate(rest[0], bundle, {audience})))
    else:
        raise SystemExit(f"no such verb: {verb}")


run(main)
