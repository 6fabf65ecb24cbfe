"""Draws hair behind the head and over the forehead. Units as in `head.py`."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np

from worker.demo.drawing.canvas import BLACK, WHITE, Canvas, Colour, Points, curve, mirrored, mix, moved, oval
from worker.demo.drawing.head import Head

SKULL = [(0, -1.56), (0.5, -1.5), (0.92, -1.2), (1.12, -0.7), (1.1, -0.2)]


class Hair:
    """One person's hair in one scene."""

    def __init__(self, canvas: Canvas, head: Head) -> None:
        self.canvas = canvas
        self.head = head
        self.style = head.person.hair_style
        self.colour = head.person.hair
        self.dark = mix(self.colour, BLACK, 0.34)
        self.light = mix(self.colour, mix(WHITE, self.colour, 0.45), 0.5)

    def draw_behind(self) -> None:
        """Draw the hair behind the head, before neck and shoulders."""
        sway = -0.16 * math.sin(self.head.yaw)
        if self.style == "long":
            right = [*SKULL, (1.24, 0.4), (1.34, 1.2), (1.4, 2.1), (1.1, 2.75), (0.5, 2.9), (0, 2.9)]
        elif self.style == "bob":
            right = [*SKULL, (1.25, 0.3), (1.3, 0.85), (1.08, 1.22), (0.5, 1.2), (0, 1.2)]
        elif self.style == "curly":
            self.canvas.fill(oval(sway, -0.3, 1.3, 1.36), self.dark)
            self._draw_curls(lambda x, y: y > -0.4, 90, self.dark)
            return
        elif self.style == "bun":
            self._draw_bun()
            return
        else:
            return
        shape = moved(curve(mirrored(right), closed=True), sway, 0)
        self.canvas.fill(shape, self.dark)
        with self.canvas.inside(shape):
            for x in np.linspace(-1.3, 1.3, 30):
                strand = curve([(x * 0.8 + sway, -0.4), (x + sway, 0.6), (x * 1.05 + sway, 1.8), (x + sway, 2.9)])
                self.canvas.brush(strand, mix(self.dark, self.colour, 0.55 + 0.3 * math.sin(9 * x)), 0.07)

    def draw_over(self) -> None:
        """Draw the hair over the forehead, after the face."""
        draw = {
            "curly": self._draw_curly_top, "long": self._draw_parted, "bob": self._draw_fringe,
            "bun": self._draw_pulled_back, "short": self._draw_short, "spiky": self._draw_spiky,
            "cropped": self._draw_cropped, "bald": self._draw_bald,
        }  # fmt: skip
        draw[self.style]()

    # ---- styles

    def _draw_curly_top(self) -> None:
        window = oval(0.2 * math.sin(self.head.yaw), 0.24, 0.96 * self.head.person.face_width, 1.08)
        self._draw_curls(lambda x, y: y < 0.9 - 0.25 * abs(x) and _radius(window, x, y) > 1.0, 190, self.colour)

    def _draw_parted(self) -> None:
        """Draw long hair, parted off the middle and falling over both shoulders."""
        part = self.head.spot(0.22, -1.0)[0]
        crown = (part * 0.8, -1.58)
        for side in (-1, 1):
            outer = [crown, (0.55 * side, -1.5), (0.96 * side, -1.2), (1.16 * side, -0.6), (1.24 * side, 0.3),
                     (1.32 * side, 1.2), (1.36 * side, 2.0), (1.16 * side, 2.5)]  # fmt: skip
            inner = [(0.96 * side, 2.1), (0.98 * side, 1.2), (0.99 * side, 0.3), (0.9 * side, -0.34),
                     (0.62 * side + 0.3 * part, -0.78), (part, -1.12)]  # fmt: skip
            self._draw_lock(outer, inner, 15)

    def _draw_fringe(self) -> None:
        """Draw a bob with a fringe."""
        for side in (-1, 1):
            outer = [(0, -1.57), (0.55 * side, -1.5), (0.96 * side, -1.2), (1.18 * side, -0.6),
                     (1.26 * side, 0.3),
                     (1.28 * side, 0.9), (1.02 * side, 1.2)]  # fmt: skip
            inner = [(0.86 * side, 1.0), (0.96 * side, 0.5), (0.98 * side, 0.0), (0.92 * side, -0.4),
                     (0.6 * side, -0.62), (0, -0.7)]  # fmt: skip
            self._draw_lock(outer, inner, 12)
        fringe = [
            (0, -1.4),
            (0.5, -1.3),
            (0.9, -0.9),
            (1.0, -0.42),
            (0.8, -0.46),
            (0.5, -0.43),
            (0.2, -0.46),
            (0, -0.44),
        ]
        shape = curve(mirrored(fringe), closed=True)
        self._draw_strands(shape, [(x * 0.75, -1.45, x, -0.4) for x in np.linspace(-1, 1, 22)])

    def _draw_pulled_back(self) -> None:
        cap = [(0, -1.5), (0.5, -1.44), (0.9, -1.16), (1.08, -0.7), (1.06, -0.12), (0.97, -0.1),
               (0.92, -0.5), (0.6, -0.92),
               (0, -1.02)]  # fmt: skip
        shape = curve(self.head.swayed(mirrored(cap)), closed=True)
        self._draw_strands(
            shape, [(x, -0.1 - 0.85 * math.cos(1.4 * x), x * 0.15, -1.6) for x in np.linspace(-1.1, 1.1, 26)]
        )

    def _draw_bun(self) -> None:
        x = -0.25 * math.sin(self.head.yaw)
        bun = oval(x, -1.82, 0.5, 0.44)
        self.canvas.fill(bun, self.colour)
        with self.canvas.inside(bun):
            self.canvas.soft(oval(x, -1.42, 0.6, 0.24), self.dark, 0.9, 0.1)
            self.canvas.soft(oval(x - 0.16, -2.0, 0.2, 0.1), self.light, 0.8, 0.08)
            for turn in np.linspace(0.2, 1.0, 5):
                self.canvas.brush(curve(oval(x, -1.82, 0.46 * turn, 0.4 * turn)[2:30]), self.dark, 0.03)

    def _draw_short(self) -> None:
        """Draw hair that is short at the sides and swept to one side on top."""
        sway = self.head.spot(-0.5, -0.9)[0] + 0.5
        shape = curve([(-1.07, -0.02), (-1.14, -0.5), (-1.06, -1.06), (-0.66, -1.52), (0.0, -1.72),
                       (0.7, -1.6), (1.1, -1.16),
                       (1.15, -0.5), (1.06, -0.02), (0.97, -0.06), (0.95, -0.42), (0.84 + sway, -0.72),
                       (0.4 + sway, -0.82),
                       (-0.1 + sway, -0.86), (-0.5 + sway, -0.98), (-0.84 + 0.5 * sway, -0.74),
                       (-0.95, -0.42),
                       (-0.97, -0.06)], closed=True)  # fmt: skip
        shape = self.head.swayed(shape)
        top = [(-0.75 + 0.3 * t, -0.95 - 0.1 * t, 0.2 + 0.85 * t, -1.75 + 1.0 * t) for t in np.linspace(-0.3, 1, 20)]
        self._draw_strands(shape, top)

    def _draw_spiky(self) -> None:
        shift = 0.2 * math.sin(self.head.yaw)
        tips: list[tuple[float, float]] = []
        angles = np.linspace(math.pi + 0.12, 2 * math.pi - 0.12, 14)
        for i, angle in enumerate(angles):
            reach = 1.86 if i % 2 else 1.38
            tips.append((reach * 0.78 * math.cos(angle), -0.12 + reach * math.sin(angle)))
        low = [(1.05, 0.0), (0.96, -0.1), (0.95, -0.5), (0.72 + shift, -0.7), (0.52 + shift, -0.9),
               (0.3 + shift, -0.68),
               (0.06 + shift, -0.9), (-0.2 + shift, -0.68), (-0.45 + shift, -0.92), (-0.72 + shift, -0.7),
               (-0.95, -0.5),
               (-0.96, -0.1), (-1.05, 0.0)]  # fmt: skip
        shape = self.head.swayed(np.array(tips + low))
        self._draw_strands(shape, [(x * 0.6, -0.6, x * 1.3, -2.0 + 0.5 * abs(x)) for x in np.linspace(-1, 1, 24)])

    def _draw_cropped(self) -> None:
        """Draw hair close to the skull, with the grain of very short curls."""
        cap = [(0, -1.48), (0.5, -1.42), (0.9, -1.14), (1.08, -0.66), (1.05, -0.02), (0.97, 0.0),
               (0.94, -0.46), (0.78, -0.84),
               (0.4, -0.94), (0, -0.92)]  # fmt: skip
        shape = curve(self.head.swayed(mirrored(cap)), closed=True)
        self.canvas.fill(shape, self.colour)
        chance = random.Random(5)  # noqa: S311 - the same hair in every picture
        with self.canvas.inside(shape):
            self._shade()
            for _ in range(520):
                x, y = chance.uniform(-1.1, 1.1), chance.uniform(-1.5, 0)
                tone = mix(self.colour, chance.choice([WHITE, BLACK]), 0.17)
                self.canvas.fill(oval(x, y, 0.022, 0.018), tone)

    def _draw_bald(self) -> None:
        self.canvas.soft(self.head.turned(oval(-0.2, -1.02, 0.32, 0.11)), self.head.gleam, 0.75, 0.08)

    # ---- how hair looks

    def _draw_lock(self, outer: list[tuple[float, float]], inner: list[tuple[float, float]], strands: int) -> None:
        """Draw hair between two lines from the crown down, with strands between them."""
        out, back = curve(outer), curve(inner)[::-1]
        along = np.linspace(0, 1, 40)
        a, b = _resampled(out, along), _resampled(back, along)
        shape = np.concatenate([out, back[::-1]])
        self.canvas.fill(shape, self.colour)
        with self.canvas.inside(shape):
            for t in np.linspace(0.04, 0.96, strands):
                tone = (self.dark, self.colour, self.light)[int(t * strands * 1.7) % 3]
                self.canvas.brush(a + (b - a) * t, mix(self.colour, tone, 0.6), 0.075)
            self._shade()

    def _draw_strands(self, shape: Points, strands: list[tuple[float, float, float, float]]) -> None:
        """Draw a shape filled with hair. Each strand is a bowed line (from x, y to x, y)."""
        self.canvas.fill(shape, self.colour)
        with self.canvas.inside(shape):
            for i, (x0, y0, x1, y1) in enumerate(strands):
                bow = 0.08 if x0 + x1 > 0 else -0.08
                tone = (self.dark, self.colour, self.light)[i % 3]
                path = curve([(x0, y0), ((x0 + x1) / 2 + bow, (y0 + y1) / 2), (x1, y1)])
                self.canvas.brush(path, mix(self.colour, tone, 0.55), 0.07)
            self._shade()

    def _draw_curls(self, grows: Callable[[float, float], bool], count: int, colour: Colour) -> None:
        """Draw curls on a round head of hair, where `grows` is true, from its rim inwards."""
        chance = random.Random(3)  # noqa: S311 - the same curls in every picture
        places: list[tuple[float, float, float]] = []
        while len(places) < count:
            x, y = chance.uniform(-1.5, 1.5), chance.uniform(-1.8, 1.3)
            away = math.hypot(x / 1.36, (y + 0.22) / 1.48)
            if away < 1 and grows(x, y):
                places.append((away, x, y))
        for away, x, y in sorted(places, reverse=True):
            r, start = chance.uniform(0.13, 0.2), chance.uniform(0, 2 * math.pi)
            lit = 0.45 - 0.3 * (y + 0.3) + 0.2 * x * self.head.light_from - 0.3 * away
            tone = mix(mix(colour, BLACK, 0.22), self.light, min(1.0, max(0.0, lit + chance.uniform(-0.15, 0.15))))
            self.canvas.fill(oval(x, y, r, r), mix(colour, BLACK, 0.3))
            angle = start + np.linspace(0, 4.6, 24)
            reach = r * np.linspace(1.05, 0.3, 24)
            spiral = np.stack([x + reach * np.cos(angle), y + reach * np.sin(angle)], axis=1)
            self.canvas.brush(spiral, tone, 0.105)
            self.canvas.brush(spiral[4:14], mix(tone, self.light, 0.6), 0.03)

    def _shade(self) -> None:
        """Add a gleam on the side of the light and a shadow on the other, inside the current clip."""
        self.canvas.soft(oval(1.2 * self.head.dark_side, -0.3, 0.4, 1.4), BLACK, 0.28, 0.25)
        self.canvas.soft(oval(0.35 * self.head.light_from, -1.22, 0.5, 0.1), mix(self.light, WHITE, 0.35), 0.5, 0.1)


def _radius(window: Points, x: float, y: float) -> float:
    """Return how far out (x, y) is in an upright ellipse: 1 on its rim."""
    centre, half = (
        (window.max(axis=0) + window.min(axis=0)) / 2,
        (window.max(axis=0) - window.min(axis=0)) / 2,
    )
    return math.hypot((x - centre[0]) / half[0], (y - centre[1]) / half[1])


def _resampled(path: Points, along: Points) -> Points:
    """Return the points at the given shares (0…1) of a path's length."""
    steps = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    at = along * steps[-1]
    return np.stack([np.interp(at, steps, path[:, 0]), np.interp(at, steps, path[:, 1])], axis=1)
