"""Measurements of `worker.ml`."""
