"""Builders of the tiny, untrained bases that the tests use: the real architectures with random weights."""
