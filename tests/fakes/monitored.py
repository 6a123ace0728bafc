"""The workers' application with Sentry and OpenTelemetry, as their documentation for Celery says.

What they would send over the network goes into files of the directory MONITORED.
"""

import os
from pathlib import Path

import sentry_sdk
from celery.signals import celeryd_init, worker_process_init
from opentelemetry import trace
from opentelemetry.instrumentation.botocore import BotocoreInstrumentor
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from sentry_sdk.transport import Transport

from worker.celery import app

__all__ = ["app"]
DIRECTORY = Path(os.environ["MONITORED"])


class Files(Transport):
    """Writes each envelope into the file of its process."""

    def capture_envelope(self, envelope):
        with (DIRECTORY / f"sentry-{os.getpid()}").open("ab") as file:
            file.write(envelope.serialize() + b"\n")


@celeryd_init.connect
def init_sentry(**_):
    sentry_sdk.init(
        dsn="https://key@sentry.invalid/1",
        transport=Files,
        send_default_pii=True,
        traces_sample_rate=1.0,
        attach_stacktrace=True,
        max_value_length=10**6,
    )


@worker_process_init.connect(weak=False)
def init_tracing(**_):
    spans = (DIRECTORY / f"spans-{os.getpid()}").open("a")
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=spans)))
    trace.set_tracer_provider(provider)
    CeleryInstrumentor().instrument()
    BotocoreInstrumentor().instrument()
