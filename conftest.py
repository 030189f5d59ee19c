"""Settings that the tests of every package share."""

import os

from hypothesis import settings

# Examples are drawn anew at every run on a desk, and are the same at every run of continuous integration.
settings.register_profile("desk", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "desk")
