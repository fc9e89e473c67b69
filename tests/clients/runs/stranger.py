"""Takes one connection at PATH, and asks on the Workload API's connection that is passed there.

usage: stranger.py PATH
Prints `up`, then what came of the call.
"""

import os
import socket
import sys

from raw import CALL, outcome, timed

listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o777)
listener.listen()
print("up", flush=True)
with listener.accept()[0] as run:
    descriptors = socket.recv_fds(run, 1, 1)[1]
    connection = timed(socket.socket(fileno=descriptors[0]))
    try:
        connection.sendall(CALL)
        print(outcome(connection), flush=True)
    except OSError:
        print("cut", flush=True)
