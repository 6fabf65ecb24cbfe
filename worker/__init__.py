"""Likeness: a Postgres-native GPU worker."""

__version__ = "0.1.0"
