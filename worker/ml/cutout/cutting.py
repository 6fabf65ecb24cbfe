"""Cuts the object out of a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from worker.ml.cutout.errors import BackgroundNotRemoved, NoForeground
from worker.ml.cutout.flat import object_on_flat_background
from worker.ml.cutout.foreground import centred, check
from worker.ml.cutout.network import BackgroundNetwork
from worker.ml.photos.whole import read_with_alpha
from worker.ml.protocol import Pixels

_LONGEST_PX = 2048
"""Pictures are read no larger: the network sees 512 pixels a side."""
_OPAQUE = 255

Means = Literal["alpha", "flat", "network"]
"""What the background was told from the object by."""


@dataclass(frozen=True)
class Cutout:
    """The object of a picture, for a network."""

    means: Means
    picture: Pixels
    """(S, S, 3): the object in the middle of a grey square."""


def object_of(path: Path, network: BackgroundNetwork | None) -> Cutout:
    """Return the object of a picture file. Raises UnusablePhoto for the file and UnusablePicture for what it shows."""
    means, picture = cut_out(read_with_alpha(path, _LONGEST_PX), network)
    return Cutout(means, centred(picture))


def cut_out(picture: Pixels, network: BackgroundNetwork | None) -> tuple[Means, Pixels]:
    """Return a picture (H, W, 4) without its background, and how that was found.

    A picture with transparent parts is taken as it is, and a flat background is removed without the network. Raises
    UnusablePicture.
    """
    means: Means = "alpha"
    if (picture[..., 3] == _OPAQUE).all():
        colours = picture[..., :3]
        mask = object_on_flat_background(colours)
        means = "flat"
        if mask is None:
            if network is None:
                raise BackgroundNotRemoved(
                    "the background is neither transparent nor of one colour, and no model that removes it is installed"
                )
            mask, means = network.mask(colours), "network"
        if not mask.any():
            raise NoForeground("nothing stands out from the background")
        picture = np.dstack([colours, mask])
    check(picture)
    return means, picture
