"""The pytest plugin that measures: options, builds, fixtures, baseline, summary. `benchmarks/` holds its cases."""
