"""Receive traces as an OpenTelemetry collector does, with PyPI's `opentelemetry-proto`: `collect_traces.py ADDRESS`.

ADDRESS is what gRPC's Python listens on: `127.0.0.1:0`, or `unix:PATH`. Events: `listening` with the port, and a `span` for
each span. It ends when its stdin does.
"""

import sys
from concurrent import futures

import grpc
from common import emit, run
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status


def value(any_value):
    """What an attribute holds."""
    kind = any_value.WhichOneof("value")
    return getattr(any_value, kind) if kind else None


def attributes(pairs):
    return {pair.key: value(pair.value) for pair in pairs}


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def Export(self, request, context):  # the name is the protocol's
        for resource in request.resource_spans:
            of = attributes(resource.resource.attributes)
            for scope in resource.scope_spans:
                for span in scope.spans:
                    emit(
                        "span",
                        service=of.get("service.name"),
                        name=span.name,
                        kind=Span.SpanKind.Name(span.kind),
                        trace_id=span.trace_id.hex(),
                        span_id=span.span_id.hex(),
                        parent=span.parent_span_id.hex(),
                        trace_state=span.trace_state,
                        attributes=attributes(span.attributes),
                        events=len(span.events),
                        links=len(span.links),
                        status=Status.StatusCode.Name(span.status.code),
                        nanoseconds=span.end_time_unix_nano - span.start_time_unix_nano,
                    )
        return trace_service_pb2.ExportTraceServiceResponse()


def main():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Collector(), server)
    port = server.add_insecure_port(sys.argv[1])
    server.start()
    emit("listening", port=port)
    sys.stdin.read()
    server.stop(grace=None)


run(main)
