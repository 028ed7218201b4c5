"""Measuring: one clock rule for all backends, the machine and its state, and the statistics of a sample."""
