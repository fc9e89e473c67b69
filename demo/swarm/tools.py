"""The tool server: MCP over streamable HTTP over mTLS. Each call is made by a run, and the server knows which.

Built on the MCP Python SDK and uvicorn. No token, no header: who calls stands in the certificate of the connection.
"""

import asyncio
import re
import socket
import sys

import uvicorn
from mcp.server.fastmcp import Context, FastMCP
from mcp.server.fastmcp.exceptions import ToolError
from uvicorn.protocols.http.h11_impl import H11Protocol

from mtls import Mtls, peer_of
from swarm import identity, tell

RUN = re.compile(r"spiffe://example\.org/agent/(?P<cls>[a-z]+)/run/(?P<run>[0-9A-Z]{26})")
# Which classes may call which tool.
MAY_CALL = {"search": {"researcher", "coder"}, "write_note": {"researcher"}, "read_note": {"coder"}}
LIBRARY = {"median": "the median is the middle of the sorted list, or the mean of its two middles"}

mcp = FastMCP("tools", stateless_http=True, json_response=True)
notes = []


class Known(H11Protocol):
    """Tells the application who is at the other end of the connection."""

    def connection_made(self, transport):
        super().connection_made(transport)
        peer, app = peer_of(transport.get_extra_info("ssl_object")), self.app
        self.app = lambda scope, receive, send: app({**scope, "peer": peer}, receive, send)


def caller(context, tool):
    """The SPIFFE ID of the run that calls, if its class may."""
    peer = context.request_context.request.scope["peer"]
    run = RUN.fullmatch(peer)
    allowed = run["cls"] in MAY_CALL[tool]
    tell("call", tool=tool, allowed=allowed, **run.groupdict())
    if not allowed:
        raise ToolError(f"a run of class {run['cls']} may not call {tool}")
    return peer


@mcp.tool()
def search(question: str, context: Context) -> str:
    """Look something up."""
    caller(context, "search")
    return next((text for word, text in LIBRARY.items() if word in question), "nothing found")


@mcp.tool()
def write_note(text: str, context: Context) -> str:
    """Leave a note for the others."""
    notes.append({"by": caller(context, "write_note"), "text": text})
    return f"note {len(notes)}"


@mcp.tool()
def read_note(context: Context) -> dict:
    """The last note, and which run left it."""
    caller(context, "read_note")
    if not notes:
        raise ToolError("there is no note")
    return notes[-1]


async def main():
    mtls = Mtls(identity())
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(mcp.streamable_http_app(), http=Known, log_level="warning", lifespan="on",
                            ssl_context_factory=lambda *_: mtls.server(RUN.fullmatch))
    tell("listening", address="%s:%d" % listener.getsockname())
    await uvicorn.Server(config).serve(sockets=[listener])


sys.exit(asyncio.run(main()))
