"""The launch API, called by a run's main process: gRPC on the socket that the environment names. The modules below
`vouchsafe` are generated from this repository's proto/ when the demo starts."""

import os
import signal

import grpc
from vouchsafe.launch.v1 import launch_pb2 as api
from vouchsafe.launch.v1.launch_pb2_grpc import LaunchStub

METADATA = [("workload.spiffe.io", "true")]


class Launched:
    """A run, and the events of its life."""

    def __init__(self, stub, request):
        self._stub = stub
        self._events = stub.Launch(request, metadata=METADATA)
        self.admitted = next(self._events).admitted
        self.spiffe_id = self.admitted.spiffe_id

    def started(self):
        return next(self._events).started

    def output(self):
        """What it says, line by line, until it ends."""
        request = api.ReadOutputRequest(run_id=self.admitted.run_id, follow=True)
        rest = b""
        for chunk in self._stub.ReadOutput(request, metadata=METADATA):
            *lines, rest = (rest + chunk.output).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)

    def end(self):
        """Ask it to end; how it did."""
        request = api.SignalRequest(run_id=self.admitted.run_id, signal=signal.SIGTERM)
        self._stub.Signal(request, metadata=METADATA)
        return next(self._events).ended


class Launcher:
    def __init__(self):
        self._stub = LaunchStub(grpc.insecure_channel(f"unix:{os.environ['VOUCHSAFE_LAUNCH_SOCKET']}"))

    def launch(self, cls, task, *command):
        """Start a run of a class. Raises `grpc.RpcError` with the reason if it is refused."""
        return Launched(self._stub, api.LaunchRequest(
            **{"class": cls}, task=task, arguments=[part.encode() for part in command], working_directory=b"/",
            environment=[f"{name}={value}".encode() for name, value in os.environ.items()]))
