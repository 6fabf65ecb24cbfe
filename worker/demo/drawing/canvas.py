"""Drawing with smooth shapes, soft shadows and clipping, on top of Pillow.

Shapes are float arrays (n, 2) in the units of a `Frame`: x to the right, y down. Everything is drawn several times
larger and without antialiasing; `Canvas.finished` scales it down, which smooths the edges.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFilter

Points = NDArray[np.float64]
Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]

WHITE: Colour = (255, 255, 255)
BLACK: Colour = (0, 0, 0)

_AROUND = np.linspace(0, 2 * math.pi, 40, endpoint=False)
CIRCLE: Points = np.stack([np.cos(_AROUND), np.sin(_AROUND)], axis=1)

_T = np.linspace(0, 1, 10, endpoint=False)[:, None]
# (10, 4): the weights of four consecutive points at ten places between the two in the middle.
CATMULL_ROM: Points = 0.5 * np.concatenate(
    [-_T + 2 * _T**2 - _T**3, 2 - 5 * _T**2 + 3 * _T**3, _T + 4 * _T**2 - 3 * _T**3, _T**3 - _T**2], axis=1
)


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """Return the colour `share` of the way from `a` to `b`."""
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


def oval(x: float, y: float, rx: float, ry: float) -> Points:
    """Return an ellipse around (x, y), as 40 points."""
    ellipse: Points = CIRCLE * (rx, ry) + (x, y)
    return ellipse


def moved(points: Points, x: float, y: float) -> Points:
    """Return the shape, moved."""
    by: Points = np.array([x, y])
    return np.add(points, by)


def curve(points: ArrayLike, *, closed: bool = False) -> Points:
    """Return a Catmull-Rom spline through the points, ten steps between two of them."""
    through = np.asarray(points, dtype=np.float64)
    if closed:
        before, after = through[-1:], through[:2]
    else:
        before, after = 2 * through[:1] - through[1:2], 2 * through[-1:] - through[-2:-1]
    p = np.concatenate([before, through, after])
    fours = np.concatenate([p[:-3], p[1:-2], p[2:-1], p[3:]], axis=1).reshape(-1, 4, 2)
    path: Points = (CATMULL_ROM @ fours).reshape(-1, 2)
    return path if closed else np.concatenate([path, through[-1:]])


def ribbon(path: Points, half_width: ArrayLike) -> Points:
    """Return a line as a shape: `half_width` to both sides, one for all points or (n, 1)."""
    along = np.empty_like(path)
    along[1:-1], along[0], along[-1] = path[2:] - path[:-2], path[1] - path[0], path[-1] - path[-2]
    length = np.maximum(np.hypot(along[:, :1], along[:, 1:]), 1e-9)
    across = along[:, ::-1] * (-1, 1) * (np.asarray(half_width, dtype=np.float64) / length)
    return np.concatenate([path + across, (path - across)[::-1]])


@cache
def _pointed(count: int) -> Points:
    """Return (count, 1): the width of a brush stroke along its path, 1 in the middle and 0 at the ends."""
    width: Points = np.maximum(np.sin(np.linspace(0, math.pi, count)), 0)[:, None] ** 0.6
    return width


def mirrored(right_half: ArrayLike) -> Points:
    """Return the closed outline of this right half (top to bottom). Points on the axis are not doubled."""
    right = np.asarray(right_half, dtype=np.float64)
    left = right[::-1] * (-1, 1)
    return np.concatenate([right, left[np.abs(left[:, 0]) > 1e-9]])


@dataclass(frozen=True)
class Frame:
    """The position of a drawing's units on the canvas, in pixels of the finished picture.

    Attributes:
        x, y: the position of the origin.
        unit: the length of one unit.
        tilt: rotation around (0, pivot), radians, clockwise.
        pivot: the y of the centre of rotation, in units.
    """

    x: float
    y: float
    unit: float
    tilt: float = 0.0
    pivot: float = 0.0

    def on_canvas(self, points: Points) -> Points:
        turn, shift = self._affine
        return points @ turn + shift

    @cached_property
    def _affine(self) -> tuple[Points, Points]:
        cos, sin = math.cos(self.tilt), math.sin(self.tilt)
        turn = self.unit * np.array([(cos, sin), (-sin, cos)])
        return turn, np.array([self.x, self.y + self.unit * self.pivot]) - (0, self.pivot) @ turn


class Canvas:
    """A picture being drawn; `frame` defines the units of the next shapes.

    Args:
        backdrop: the background, stretched to `size`.
        size: width and height of the finished picture.
        supersampling: how many times larger it is drawn.
    """

    def __init__(self, backdrop: Image.Image, size: tuple[int, int], supersampling: int) -> None:
        self._scale = supersampling
        self._image = backdrop.resize((size[0] * supersampling, size[1] * supersampling), Image.Resampling.BILINEAR)
        self._corner = np.zeros(2)  # of the part being drawn on, in supersampled pixels
        self.frame = Frame(0, 0, 1)

    def finished(self) -> Image.Image:
        return self._image.reduce(self._scale)

    def fill(self, shape: Points, colour: Colour) -> None:
        ImageDraw.Draw(self._image).polygon(self._pixels(shape).ravel().tolist(), fill=colour)

    def line(self, path: Points, colour: Colour, width: float) -> None:
        """Draw a line of constant width (units) with round ends."""
        draw = ImageDraw.Draw(self._image)
        pixels = self._pixels(path)
        across = max(1.0, width * self.frame.unit * self._scale)
        draw.line(pixels.ravel().tolist(), fill=colour, width=round(across), joint="curve")
        if across > 3:
            for x, y in (pixels[0], pixels[-1]):
                r = across / 2
                draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def brush(self, path: Points, colour: Colour, width: float) -> None:
        """Draw a line that is `width` wide in its middle and tapers at both ends."""
        self.fill(ribbon(path, width / 2 * _pointed(len(path))), colour)

    def soft(self, shape: Points, colour: Colour, opacity: float, blur: float) -> None:
        """Draw a shape with a blurred edge: a shadow, a blush, a gleam.

        It is drawn and blurred small and then enlarged, because blurring at full size is slow.

        Args:
            opacity: 0…1.
            blur: the standard deviation of the blur, units.
        """
        pixels = self._pixels(shape)
        sigma = blur * self.frame.unit * self._scale
        box = self._box(pixels, margin=2.6 * sigma)
        if box is None:
            return
        shrink = max(1.0, sigma / 4)
        left, top, right, bottom = box
        small = Image.new("L", (math.ceil((right - left) / shrink), math.ceil((bottom - top) / shrink)))
        ImageDraw.Draw(small).polygon(((pixels - (left, top)) / shrink).ravel().tolist(), fill=round(255 * opacity))
        small = small.filter(ImageFilter.GaussianBlur(sigma / shrink))
        self._image.paste(colour, box, small.resize((right - left, bottom - top), Image.Resampling.BILINEAR))

    @contextmanager
    def inside(self, *shapes: Points) -> Iterator[None]:
        """Clip drawing in this block to the union of the shapes."""
        outlines = [self._pixels(shape) for shape in shapes]
        box = self._box(np.concatenate(outlines)) or (0, 0, 1, 1)
        whole, corner = self._image, self._corner
        self._image, self._corner = whole.crop(box), corner + box[:2]
        yield
        mask = Image.new("L", self._image.size)
        for outline in outlines:
            ImageDraw.Draw(mask).polygon((outline - box[:2]).ravel().tolist(), fill=255)
        whole.paste(self._image, box, mask)
        self._image, self._corner = whole, corner

    def _pixels(self, points: Points) -> Points:
        return self.frame.on_canvas(points) * self._scale - self._corner

    def _box(self, pixels: Points, margin: float = 0.0) -> Box | None:
        """Return the part of the canvas that the points cover, None if they are outside."""
        width, height = self._image.size
        left, top = np.floor(pixels.min(axis=0) - margin)
        right, bottom = np.ceil(pixels.max(axis=0) + margin)
        box = (max(0, int(left)), max(0, int(top)), min(width, int(right) + 1), min(height, int(bottom) + 1))
        return box if box[0] < box[2] and box[1] < box[3] else None


def gradient(size: tuple[int, int], colours: Sequence[Colour]) -> Image.Image:
    """Return a picture that fades from the first colour at the top through the others to the last at the bottom."""
    width, height = size
    column = np.linspace(0, len(colours) - 1, height)
    stops = np.array(colours, dtype=np.float64)
    rows = np.stack([np.interp(column, range(len(colours)), stops[:, i]) for i in range(3)], axis=1)
    return Image.fromarray(np.repeat(rows.round().astype(np.uint8)[:, None], width, axis=1))
