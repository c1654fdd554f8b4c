"""The connector's `scatter` span, in the engine's trace: under its span, with the load's time, blocks and bytes, and its failure."""

from __future__ import annotations

import pytest

from stemcache.vllm import tracing

pytest.importorskip("opentelemetry.sdk.trace", reason="OpenTelemetry's SDK is not installed here")

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def exporter():
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


def test_nests_under_the_engines_span(exporter) -> None:
    exporter.clear()
    tracing.scatter(TRACEPARENT, 0.25, {"blocks": 8, "bytes": 65536})
    span, = exporter.get_finished_spans()
    assert (span.name, f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == ("scatter", TRACEPARENT[3:35], TRACEPARENT[36:52])
    assert span.end_time - span.start_time == 250_000_000
    assert dict(span.attributes) == {"stemcache.blocks": 8, "stemcache.bytes": 65536}
    assert span.status.is_unset


def test_says_why_a_load_failed(exporter) -> None:
    exporter.clear()
    tracing.scatter(TRACEPARENT, 0, {"blocks": 0}, ValueError("gone"))
    span, = exporter.get_finished_spans()
    assert not span.status.is_ok and span.status.description == "gone"


def test_no_trace_no_span(exporter) -> None:
    exporter.clear()
    tracing.scatter("", 1, {"blocks": 8})
    assert not exporter.get_finished_spans()
