"""The events that training and generation share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Phase:
    """What is being done now, in words for a person."""

    name: str
    stepwise: bool = False
    """Events come within it too, between which it can be stopped."""


@dataclass(frozen=True)
class Underway:
    """The phase of this name goes on, after a part of it that is not counted."""

    phase: str
