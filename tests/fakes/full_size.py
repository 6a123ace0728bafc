"""Whether stories and fuzz tests have their full size, as in `make chaos`."""

import os

FULL = os.environ.get("CHAOS") == "full"
