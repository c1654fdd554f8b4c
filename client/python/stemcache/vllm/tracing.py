"""The connector's own span of a request, `scatter`: a load from the first byte asked for to the last one in the engine's pages.

It is made with OpenTelemetry's API, so it goes where the engine's own spans go (`vllm serve --otlp-traces-endpoint`), under the same request.
Where the engine exports none, or the API is not installed, nothing happens.
"""

from __future__ import annotations

import time

try:
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    trace = None


def scatter(traceparent: str, took_s: float, attributes: dict[str, str | int], error: object = None) -> None:
    """Records a load that ended now and took so long. `attributes`: without their prefix."""
    if trace is None or not traceparent:
        return
    end_ns = time.time_ns()
    span = trace.get_tracer("stemcache").start_span(
        "scatter", context=TraceContextTextMapPropagator().extract({"traceparent": traceparent}),
        start_time=end_ns - int(took_s * 1e9), attributes={f"stemcache.{name}": value for name, value in attributes.items()})
    if error is not None:
        span.set_status(trace.StatusCode.ERROR, str(error))
    span.end(end_time=end_ns)
