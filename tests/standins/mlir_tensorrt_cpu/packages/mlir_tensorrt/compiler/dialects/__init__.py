"""Builders of operations, one module a dialect."""
