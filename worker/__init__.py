"""Likeness: a Postgres-native GPU worker.

The dozen files and more at the top are the door, the settings, and what several wings use.
"""

__version__ = "0.1.0"
