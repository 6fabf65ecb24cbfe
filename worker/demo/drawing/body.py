"""Draws neck, shoulders and clothes. Units as in `head.py`; the body does not turn with the head."""

from __future__ import annotations

import numpy as np

from worker.demo.drawing.canvas import BLACK, WHITE, Canvas, Colour, Points, curve, mirrored, mix, moved, oval
from worker.demo.drawing.person import CLOTHES_COLOURS, Person, Scene


class Body:
    """One person's body in one scene."""

    def __init__(self, canvas: Canvas, person: Person, scene: Scene, light_from: float) -> None:
        self.canvas = canvas
        self.person = person
        self.light_from = light_from  # -1 from the left … 1 from the right
        self.dark_side = -1 if light_from > 0 else 1
        self.clothes = scene.clothes
        self.colour = CLOTHES_COLOURS[scene.colour]
        self.dark = mix(self.colour, BLACK, 0.3)
        self.light = mix(self.colour, WHITE, 0.22)

    def draw_behind(self) -> None:
        """Draw the part of the clothes behind the head."""
        if self.clothes == "hoodie":
            hood = curve(mirrored([(0, 0.7), (0.7, 0.85), (1.12, 1.3), (1.2, 1.9), (0.6, 2.2), (0, 2.2)]), closed=True)
            self.canvas.fill(hood, self.dark)

    def draw(self) -> None:
        self._draw_neck()
        {
            "t-shirt": self._draw_t_shirt, "striped jumper": self._draw_jumper, "shirt": self._draw_shirt,
            "hoodie": self._draw_hoodie, "blazer": self._draw_blazer, "turtleneck": self._draw_turtleneck,
        }[self.clothes]()  # fmt: skip

    def _draw_neck(self) -> None:
        canvas, skin = self.canvas, self.person.skin
        n = 0.46 + 0.1 * (self.person.shoulders - 0.9)
        shadow = mix(skin, (70, 20, 30), 0.5)
        neck = curve(
            mirrored([(0, 0.6), (n, 0.6), (n * 1.02, 1.3), (n * 1.2, 1.7), (0.82, 2.0), (0.7, 2.6), (0, 2.8)]),
            closed=True,
        )
        canvas.fill(neck, skin)
        with canvas.inside(neck):
            canvas.soft(oval(0.12 * self.light_from, 1.2, 0.62, 0.32), shadow, 0.85, 0.14)
            canvas.soft(oval(0.5 * self.dark_side, 1.4, 0.16, 0.6), shadow, 0.5, 0.1)
            for side in (-1, 1):
                canvas.soft(curve([(0.12 * side, 2.02), (0.5 * side, 1.9), (0.9 * side, 1.86),
                                   (0.5 * side, 1.95)], closed=True),
                            shadow, 0.5, 0.04)  # fmt: skip

    def _torso(self, neckline: list[tuple[float, float]]) -> Points:
        """Return the outline of the clothes. The right half of the neckline is given from its middle outwards."""
        s = self.person.shoulders
        shoulder = [(1.1 * s, 1.8), (1.8 * s, 1.98), (2.24 * s, 2.4), (2.46 * s, 3.3), (2.6 * s, 5.5)]
        right = np.concatenate([curve([*neckline, *shoulder]), [(0, 5.5)]])
        return mirrored(right)

    def _draw_cloth(self, shape: Points, colour: Colour) -> None:
        canvas = self.canvas
        dark, light = mix(colour, BLACK, 0.38), mix(colour, WHITE, 0.3)
        canvas.fill(shape, colour)
        with canvas.inside(shape):
            canvas.soft(oval(1.9 * self.dark_side, 3.4, 0.6, 1.6), dark, 0.6, 0.35)
            canvas.soft(oval(-1.3 * self.dark_side, 2.2, 0.5, 0.2), light, 0.5, 0.2)
            for x in (-1, 1):
                arm = curve(
                    [(1.42 * x, 5.0), (1.5 * x, 3.9), (1.62 * x, 3.2), (1.56 * x, 3.9), (1.52 * x, 5.0)],
                    closed=True,
                )
                canvas.soft(arm, mix(colour, BLACK, 0.55), 0.8, 0.06)
                canvas.soft(
                    curve([(1.5 * x, 3.3), (1.1 * x, 3.12), (0.7 * x, 3.16), (1.1 * x, 3.2)], closed=True),
                    dark,
                    0.5,
                    0.06,
                )
                canvas.soft(
                    curve([(1.3 * x, 2.5), (0.8 * x, 2.8), (0.3 * x, 2.86), (0.8 * x, 2.72)], closed=True),
                    dark,
                    0.3,
                    0.08,
                )

    def _draw_rim(self, neckline: list[tuple[float, float]], colour: Colour, width: float) -> None:
        right = curve(neckline)
        whole = np.concatenate([right[::-1] * (-1, 1), right[1:]])
        self.canvas.line(moved(whole, 0, 0.035), mix(colour, BLACK, 0.35), width)
        self.canvas.line(whole, colour, width)

    def _draw_t_shirt(self) -> None:
        neckline = [(0, 2.12), (0.34, 2.04), (0.6, 1.8), (0.68, 1.66)]
        self._draw_cloth(self._torso(neckline), self.colour)
        self._draw_rim(neckline, self.light, 0.1)

    def _draw_jumper(self) -> None:
        neckline = [(0, 1.98), (0.34, 1.92), (0.58, 1.74), (0.66, 1.6)]
        shape = self._torso(neckline)
        stripe = (246, 242, 234) if sum(self.colour) < 560 else (52, 66, 104)
        self._draw_cloth(shape, self.colour)
        with self.canvas.inside(shape):
            for y in np.arange(2.35, 5.5, 0.48):
                path = curve([(-2.8, y + 0.55), (-1.6, y + 0.08), (0, y + 0.14), (1.6, y + 0.08), (2.8, y + 0.55)])
                self.canvas.line(path, stripe, 0.19)
            self.canvas.soft(oval(2.0 * self.dark_side, 3.4, 0.6, 1.6), (40, 30, 40), 0.45, 0.3)
        self._draw_rim(neckline, self.dark, 0.17)

    def _draw_shirt(self) -> None:
        shape = self._torso([(0, 2.55), (0.3, 2.0), (0.56, 1.64)])
        self._draw_cloth(shape, self.colour)
        self.canvas.line(np.array([(0.0, 2.5), (0.03, 5.5)]), self.dark, 0.035)
        for y in np.arange(2.85, 5.5, 0.6):
            self.canvas.fill(oval(0.1, y, 0.055, 0.055), mix(self.light, WHITE, 0.5))
        for x in (-1, 1):
            collar = np.array(
                [
                    (0.46 * x, 1.42),
                    (0.7 * x, 1.62),
                    (0.86 * x, 2.1),
                    (0.5 * x, 2.4),
                    (0.02 * x, 2.56),
                    (0.3 * x, 2.0),
                ]
            )
            self.canvas.soft(moved(collar, 0, 0.08), BLACK, 0.4, 0.06)
            self.canvas.fill(collar, self.light)
            self.canvas.line(np.concatenate([collar[1:5]]), mix(self.colour, BLACK, 0.15), 0.02)

    def _draw_hoodie(self) -> None:
        neckline = [(0, 2.1), (0.34, 2.02), (0.6, 1.76), (0.7, 1.5)]
        self._draw_cloth(self._torso(neckline), self.colour)
        for x in (-1, 1):
            fold = curve([(0.62 * x, 1.25), (0.98 * x, 1.5), (1.05 * x, 1.95), (0.6 * x, 2.35),
                          (0.03 * x, 2.52), (0.0, 2.1),
                          (0.36 * x, 2.0), (0.6 * x, 1.7)], closed=True)  # fmt: skip
            self.canvas.soft(moved(fold, 0, 0.07), BLACK, 0.4, 0.07)
            self.canvas.fill(fold, self.light)
            self.canvas.line(curve([(0.24 * x, 2.34), (0.28 * x, 2.8), (0.25 * x, 3.25)]), (244, 240, 232), 0.055)

    def _draw_blazer(self) -> None:
        inner = [(0, 2.06), (0.34, 1.98), (0.58, 1.78), (0.66, 1.62)]
        under = (244, 242, 238) if self.colour != CLOTHES_COLOURS["white"] else (70, 84, 112)
        self._draw_cloth(self._torso(inner), under)
        self._draw_rim(inner, mix(under, WHITE, 0.3), 0.08)
        whole = self._torso([(0, 4.4), (0.3, 3.4), (0.62, 2.3), (0.66, 1.58)])
        self.canvas.soft(moved(whole, 0, 0.05), BLACK, 0.35, 0.07)
        self._draw_cloth(whole, self.colour)
        for x in (-1, 1):
            lapel = np.array([(0.62 * x, 1.54), (0.98 * x, 1.78), (1.2 * x, 2.44), (0.92 * x, 2.5),
                              (1.0 * x, 2.74), (0.04 * x, 4.4),
                              (0.34 * x, 3.2), (0.58 * x, 2.3)])  # fmt: skip
            self.canvas.soft(moved(lapel, 0.03 * x, 0.05), BLACK, 0.4, 0.05)
            self.canvas.fill(lapel, mix(self.colour, WHITE, 0.1))
            self.canvas.line(lapel[1:6], self.dark, 0.025)

    def _draw_turtleneck(self) -> None:
        self._draw_cloth(self._torso([(0, 1.66), (0.4, 1.64), (0.66, 1.6)]), self.colour)
        collar = curve(
            mirrored([(0, 1.22), (0.48, 1.14), (0.56, 1.3), (0.66, 1.72), (0.36, 1.84), (0, 1.86)]),
            closed=True,
        )
        self.canvas.soft(moved(collar, 0, 0.08), BLACK, 0.4, 0.08)
        self.canvas.fill(collar, self.light)
        with self.canvas.inside(collar):
            for x in np.linspace(-0.66, 0.66, 17):
                self.canvas.line(np.array([(x * 0.85, 1.1), (x, 1.95)]), self.colour, 0.03)
            self.canvas.soft(oval(0, 1.18, 0.6, 0.16), BLACK, 0.45, 0.09)
