"""Imported last by the process that `tests.preloaded` forks: no process collects the garbage of what is imported."""

import gc

gc.collect()
gc.freeze()
