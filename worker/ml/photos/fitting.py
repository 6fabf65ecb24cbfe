"""Photos turned upright, converted to sRGB and fitted to aspect buckets, or refused with the reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from diffusers.training_utils import generate_aspect_ratio_buckets
from PIL import Image, ImageOps

from worker.ml.photos.colours import colours_of, to_srgb
from worker.ml.photos.files import turn_upright
from worker.ml.photos.opening import UnusablePhoto, load, open_photo
from worker.ml.photos.whole import check_pixels, convertible, on_white
from worker.ml.protocol import Framing

_MIN_SIDE_PX = 64  # a person cannot be recognised on less
_MAX_ENLARGEMENT = 2  # beyond that, three of four pixels are interpolated
_MAX_RATIO = 4  # of the long side to the short: of a longer photo, over half is cut away


def truncate_list(photos: Sequence[object]) -> str:
    """Return the first five of these in words, and how many more there are."""
    named = [str(photo) for photo in photos[:5]]
    more = [f"{len(photos) - len(named)} more"] if len(photos) > len(named) else []
    return ", ".join([*named, *more])


Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class FittedPhoto:
    """A photo at the sizes that it is trained at."""

    pixels: tuple[npt.NDArray[np.uint8], ...]  # (H, W, 3) each, from the lowest rung up
    framings: tuple[Framing, ...]  # of each
    enlarged: bool  # it does not reach the lowest rung


def read_fitted(path: Path, ladder: Sequence[Sequence[Size]]) -> FittedPhoto:
    """Read a photo at every rung that it reaches, or enlarge it to the lowest.

    `ladder` has the sizes of each rung, from the lowest up. Of a rung, the photo takes the size of the nearest shape,
    so that at most a thin margin is cut. It reaches the rung if it is at least as high and as wide as that size:
    nothing but the lowest rung enlarges a photo, and that at most twofold.

    Of an animation the first frame is read; transparent parts become white. A JPEG is decoded no larger than needed,
    and colours are converted last: four times faster for a phone's 12 megapixels. Raises UnusablePhoto.
    """
    with open_photo(path) as file:
        _check_size(path, file)
        full = file.size
        enough = 2 * max(side for sizes in ladder for size in sizes for side in size)
        opened = load(path, file, (enough, enough))  # no side becomes smaller than that: it still reaches every rung
        colours = colours_of(path, opened)
        turn_upright(opened)
        photo = convertible(path, opened)
        reached = _reached(path, photo, ladder)
        fitted = [ImageOps.fit(photo, (width, height), Image.Resampling.LANCZOS) for height, width in reached]
        pixels = tuple(np.asarray(to_srgb(on_white(one), colours), dtype=np.uint8) for one in fitted)
        turned = (full[0] < full[1]) != (photo.width < photo.height)
        original = (full[0], full[1]) if turned else (full[1], full[0])
        framings = tuple(_framing(original, size) for size in reached)
        return FittedPhoto(pixels, framings, enlarged=not _reaches(photo, reached[0]))


def _framing(original: Size, size: Size) -> Framing:
    """Return how `ImageOps.fit` cuts a photo: resized so that it covers the size, then cut in the middle."""
    factor = max(wanted / side for wanted, side in zip(size, original, strict=True))
    above, left = (round((side * factor - wanted) / 2) for side, wanted in zip(original, size, strict=True))
    return Framing(original, (above, left), size)


def _reached(path: Path, photo: Image.Image, ladder: Sequence[Sequence[Size]]) -> list[Size]:
    """Return the photo's sizes at the rungs that it reaches, or at the lowest. Raises UnusablePhoto."""
    ratio = photo.height / photo.width
    wanted = [min(sizes, key=lambda size: abs(math.log(size[0] / size[1] / ratio))) for sizes in ladder]
    height, width = (math.ceil(side / _MAX_ENLARGEMENT) for side in wanted[0])
    if not _reaches(photo, (height, width)):
        raise UnusablePhoto(path, f"too small ({photo.width} x {photo.height}, at least {width} x {height} pixels)")
    return list(takewhile(lambda size: _reaches(photo, size), wanted)) or wanted[:1]


def _reaches(photo: Image.Image, size: Size) -> bool:
    return photo.height >= size[0] and photo.width >= size[1]


def buckets(resolution: int, step: int) -> list[Size]:
    """Return sizes of about resolution² pixels, each side a multiple of `step`, from 1:2 to 2:1."""
    return [(int(h), int(w)) for h, w in generate_aspect_ratio_buckets(resolution, divisibility=step)]


def _check_size(path: Path, file: Image.Image) -> None:
    """Check the size in the header, before anything is decoded. Raises UnusablePhoto."""
    check_pixels(path, file)
    if min(file.size) < _MIN_SIDE_PX:
        raise UnusablePhoto(path, f"too small ({file.width} x {file.height}, at least {_MIN_SIDE_PX} pixels a side)")
    if max(file.size) > _MAX_RATIO * min(file.size):
        raise UnusablePhoto(
            path,
            f"too long ({file.width} x {file.height}): one side is at most {_MAX_RATIO} times the other; "
            "crop it to the person",
        )
