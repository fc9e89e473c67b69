"""Tries to reach a run that somebody else launched: prints the status of each call of the launch API.

usage: intruder.py SOCKET RUN
"""

import sys

import grpc

SECONDS = 20
METADATA = [("workload.spiffe.io", "true")]


def main():
    socket, run = sys.argv[1], sys.argv[2].encode()
    named = b"\x0a" + bytes([len(run)]) + run
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        for method, message in {"Signal": named + b"\x10\x0f", "Follow": named, "ReadOutput": named}.items():
            call = channel.unary_stream if method != "Signal" else channel.unary_unary
            try:
                answer = call(f"/vouchsafe.launch.v1.Launch/{method}")(message, SECONDS, METADATA)
                if method != "Signal":
                    answer = next(iter(answer))
                print(method, "OK")
            except grpc.RpcError as error:
                print(method, error.code().name)


main()
