#!/usr/bin/env python3
"""Reads what nodes and a directory posted, with OpenTelemetry's own messages (opentelemetry-proto from PyPI), and checks that it is one trace.

otlp_bodies.py FOLDER: of bodies, as integration.trace_test leaves them. Exits 77 (a skip), saying why, without the package; see otlp_bodies.sh.
"""

import pathlib
import sys

try:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.trace.v1.trace_pb2 import Span
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

TRACE, ENGINE_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"  # of the engine's traceparent


def main(folder):
    spans, services, instances = {}, set(), set()
    bodies = sorted(pathlib.Path(folder).iterdir())
    assert bodies, f"{folder} is empty"
    for body in bodies:
        request = ExportTraceServiceRequest.FromString(body.read_bytes())
        for of_resource in request.resource_spans:
            resource = {each.key: each.value.string_value for each in of_resource.resource.attributes}
            assert resource["service.version"] and resource["host.name"], resource
            for of_scope in of_resource.scope_spans:
                assert of_scope.scope.name == "stemcache"
                for span in of_scope.spans:
                    if span.trace_id.hex() != TRACE:
                        continue
                    assert span.span_id not in spans, "a span id twice"
                    spans[span.span_id] = span
                    services.add(resource["service.name"])
                    instances.add(resource["service.instance.id"])
    assert services == {"stem-node", "stem-directory"}, services
    assert len(instances) == 3, instances
    roots = [span for span in spans.values() if span.parent_span_id not in spans]
    assert [span.name for span in roots] == ["acquire"], [span.name for span in roots]
    assert roots[0].parent_span_id.hex() == ENGINE_SPAN
    names = {span.name for span in spans.values()}
    assert names >= {"acquire", "match", "lease", "read", "promote", "prove"}, names
    for span in spans.values():
        assert len(span.trace_id) == 16 and len(span.span_id) == 8
        assert span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.kind in (Span.SPAN_KIND_INTERNAL, Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT)
    print(f"{len(spans)} spans of {len(instances)} processes, one trace")


if __name__ == "__main__":
    main(sys.argv[1])
