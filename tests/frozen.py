"""Imported last by the process that `tests.preloaded` forks: no process collects the garbage of what is imported."""

import gc
import os

gc.collect()
gc.freeze()

VARIABLES = dict(os.environ)
"""What the imports left of them."""
