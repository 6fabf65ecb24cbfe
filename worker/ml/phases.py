"""The one event that training and generation share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Phase:
    """What is being done now, in words for a person."""

    name: str
