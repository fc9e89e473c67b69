"""Looks for a private key in another process."""

import json
import os
import re


def say(who, got):
    print(json.dumps({"who": who, "got": got}), flush=True)


def steal(parent):
    """Whether the private key of a process can be found: in its memory, environment or open files."""
    for name in ("mem", "environ", "fd"):
        try:
            if name == "fd":
                os.listdir(f"/proc/{parent}/fd")
                return "fd"
            if name == "environ":
                open(f"/proc/{parent}/environ", "rb").read()
                return "environ"
            with open(f"/proc/{parent}/maps") as maps, open(f"/proc/{parent}/mem", "rb", 0) as memory:
                for line in maps:
                    found = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
                    if not found:
                        continue
                    start, end = (int(part, 16) for part in found.groups())
                    try:
                        memory.seek(start)
                        if b"-----BEGIN PRIVATE" + b" KEY-----" in memory.read(end - start):
                            return "key"
                    except OSError:
                        continue
                return "nothing"
        except PermissionError:
            continue
    return "shut out"
