"""The pytest plugin that measures: options, builds, fixtures, baseline, summary. Its cases are in `benchmarks/`."""
