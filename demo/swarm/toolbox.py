"""How agents reach the tool server: an HTTP client that has their SVID and talks to that one run alone."""

import httpx

from mtls import Mtls
from swarm import identity, tell


class Toolbox:
    """`work` has the server's `tools` (its SPIFFE ID) and `tools_address`."""

    def __init__(self, work):
        self.source = identity()
        self.url = f"https://{work['tools_address']}/mcp"
        self._server = work["tools"]
        self._mtls = Mtls(self.source)
        tell("key", fingerprint=self._mtls.fingerprint)

    def http(self, headers=None, timeout=None, auth=None):
        return httpx.AsyncClient(verify=self._mtls.client(self._server), headers=headers, timeout=timeout, auth=auth,
                                 trust_env=False)
