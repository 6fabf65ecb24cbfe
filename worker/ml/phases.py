"""The one event that training and generation share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Phase:
    """What the work does now, in words a person reads."""

    name: str
