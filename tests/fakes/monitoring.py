"""Where the environment has Sentry and OpenTelemetry: apart from what a worker imports by itself."""

import sys
from pathlib import Path

MONITORING = Path(sys.prefix) / "monitoring"
"""The directory that `make install` fills from `requirements/monitoring.txt`."""
