"""The coder: speaks to the tool server with the MCP Python SDK alone. It takes the note of one run, which it knows by
its SPIFFE ID, and writes a function to it."""

import asyncio
import json
import signal
import sys

from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

from swarm import hand_over, tell
from toolbox import Toolbox

MEDIAN = """
def median(numbers):
    # {note}
    ordered, middle = sorted(numbers), len(numbers) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
"""


async def write(toolbox, author):
    async with (
        toolbox.http() as http,
        streamable_http_client(toolbox.url, http_client=http) as (incoming, outgoing, _),
        ClientSession(incoming, outgoing) as session,
    ):
        await session.initialize()

        async def call(name, **arguments):
            answer = await session.call_tool(name, arguments)
            tell("tool", name=name, said=answer.content[0].text, refused=answer.isError)
            return answer

        note = json.loads((await call("read_note")).content[0].text)
        if note["by"] != author:
            raise SystemExit(f"the note is by {note['by']}, not by {author}")
        await call("write_note", text="written over")
        return MEDIAN.format(note=note["text"])


def main():
    work = json.loads(sys.argv[1])
    toolbox = Toolbox(work)
    code = asyncio.run(write(toolbox, work["author"]))
    hand_over(toolbox.source, work["planner_address"], work["planner"], {"result": code})
    signal.pause()  # the planner ends it


main()
