"""Draws the head: face, beard, glasses.

Units: half a face's width is 1. The origin is between the eyes, x to the right, y down; the chin is near y = 1.3.
"""

from __future__ import annotations

import math
import random

import numpy as np
from numpy.typing import ArrayLike

from worker.demo.drawing.canvas import BLACK, WHITE, Canvas, Colour, Points, curve, mirrored, mix, moved, oval, ribbon
from worker.demo.drawing.person import Person, Scene

BLOOD: Colour = (196, 70, 72)
SIDES = (-1, 1)


class Head:
    """One person's head in one scene; the methods draw its layers, from back to front."""

    def __init__(self, canvas: Canvas, person: Person, scene: Scene, light_from: float) -> None:
        self.canvas = canvas
        self.person = person
        self.scene = scene
        self.light_from = light_from  # -1 from the left … 1 from the right
        self.dark_side = -1 if light_from > 0 else 1
        self.yaw = 0.27 * scene.turn  # radians
        self.face = self._face_outline()
        self.shadow = mix(person.skin, (70, 20, 30), 0.42)
        self.gleam = mix(person.skin, (255, 250, 240), 0.6)

    def _face_outline(self) -> Points:
        person = self.person
        w, j = person.face_width, person.jaw
        right = [
            (0, -1.3), (0.52 * w, -1.2), (0.88 * w, -0.86), (1.0 * w, -0.3), (0.985 * w, 0.1),
            (0.92 * w, 0.46),
            ((0.74 + 0.12 * j) * w, 0.86), ((0.34 + 0.16 * j) * w, 1.19 + 0.03 * j), (0, 1.3),
        ]  # fmt: skip
        return curve(self.swayed(mirrored(right)), closed=True)

    def swayed(self, outline: Points) -> Points:
        """Return a turned head's outline: the lower half follows the nose, the skull moves the other way."""
        lower = np.clip((outline[:, 1] + 0.2) / 1.4, -0.4, 1)
        return outline + np.stack([lower * math.sin(self.yaw) * 0.5, np.zeros(len(outline))], axis=1)

    def turned(self, points: ArrayLike) -> Points:
        """Return points on the front of the face, as they appear on a turned head."""
        at = np.asarray(points, dtype=np.float64)
        radius = 1.25
        angle = np.arcsin(np.clip(at[:, 0] / radius, -1, 1)) + self.yaw
        return np.stack([radius * np.sin(angle), at[:, 1]], axis=1)

    def spot(self, x: float, y: float) -> tuple[float, float]:
        """Return one point of the face, turned."""
        at = self.turned([(x, y)])[0]
        return float(at[0]), float(at[1])

    # ---- skin

    def draw_ears(self) -> None:
        for side in SIDES:
            towards_us = side * math.sin(self.yaw)
            x = side * (1.0 * self.person.face_width - 0.02) - 0.3 * math.sin(self.yaw)
            if towards_us > 0.18:  # the far ear is behind the cheek
                continue
            skin = mix(self.person.skin, BLOOD, 0.12)
            self.canvas.fill(curve(oval(x, 0.1, 0.15, 0.27)[::4], closed=True), skin)
            self.canvas.brush(curve([(x + 0.04 * side, -0.06), (x + 0.08 * side, 0.1), (x, 0.24)]), self.shadow, 0.05)
            if self.person.earrings:
                self.canvas.fill(oval(x, 0.44, 0.075, 0.075), (222, 178, 72))
                self.canvas.fill(oval(x - 0.02, 0.42, 0.025, 0.025), (255, 238, 190))

    def draw_face(self) -> None:
        canvas, person = self.canvas, self.person
        canvas.fill(self.face, person.skin)
        with canvas.inside(self.face):
            dark = self.dark_side
            canvas.soft(oval(1.16 * dark, 0.1, 0.42, 1.5), self.shadow, 0.25 + 0.4 * abs(self.light_from), 0.26)
            canvas.soft(oval(-1.2 * dark, 0.2, 0.3, 1.3), self.shadow, 0.22, 0.2)
            canvas.soft(oval(0, 1.42, 0.9, 0.2), self.shadow, 0.45, 0.14)
            canvas.soft(self.turned(oval(-0.2 * dark, -0.66, 0.5, 0.2)), self.gleam, 0.32, 0.17)
            for side in SIDES:
                canvas.soft(self.turned(oval(side * 0.6, 0.34, 0.22, 0.15)), BLOOD, 0.26, 0.12)
                canvas.soft(self.turned(oval(side * 0.56, 0.16, 0.17, 0.06)), self.gleam, 0.28, 0.07)
                canvas.soft(self.turned(oval(side * 0.4, -0.06, 0.28, 0.17)), self.shadow, 0.2, 0.09)
            if person.freckles:
                self._draw_freckles()

    def _draw_freckles(self) -> None:
        chance = random.Random(7)  # noqa: S311 - the same freckles in every picture
        colour = mix(self.person.skin, (150, 72, 36), 0.55)
        for _ in range(46):
            x, y = self.spot(chance.gauss(0, 0.42), 0.24 + chance.gauss(0, 0.1))
            size = chance.uniform(0.009, 0.019)
            self.canvas.fill(oval(x, y, size, size), colour)

    def draw_nose(self) -> None:
        canvas, w = self.canvas, self.person.nose
        ahead = 0.16 * math.sin(self.yaw)  # the nose protrudes, so it moves more than the face

        def nose(points: ArrayLike) -> Points:
            at = self.turned(points)
            return at + np.stack([ahead * np.clip(at[:, 1] / 0.4, 0, 1.1), np.zeros(len(at))], axis=1)

        dark = self.dark_side
        canvas.soft(nose([(0.03 * dark, -0.1), (0.15 * dark, 0.0), (0.24 * dark * w, 0.44),
                          (0.05 * dark, 0.45)]),
                    self.shadow, 0.42, 0.055)  # fmt: skip
        canvas.soft(nose(oval(0, 0.53, 0.2 * w, 0.05)), self.shadow, 0.6, 0.05)
        canvas.soft(nose([(-0.045, -0.1), (0.045, -0.1), (0.05, 0.36), (-0.05, 0.36)]), self.gleam, 0.3, 0.04)
        canvas.soft(nose(oval(-0.03 * dark, 0.38, 0.07, 0.055)), self.gleam, 0.6, 0.035)
        for side in SIDES:
            wing = [
                (side * 0.13 * w, 0.34),
                (side * 0.22 * w, 0.42),
                (side * 0.19 * w, 0.495),
                (side * 0.1 * w, 0.49),
            ]
            canvas.brush(curve(nose(wing)), self.shadow, 0.035)
            canvas.fill(nose(oval(side * 0.095 * w, 0.487, 0.052 * w, 0.022)), mix(self.shadow, BLACK, 0.45))

    def draw_mouth(self) -> None:
        canvas, person = self.canvas, self.person
        smile = {"calm": 0.01, "smiling": 0.085, "laughing": 0.11}[self.scene.expression]
        wide = {"calm": 0.3, "smiling": 0.37, "laughing": 0.4}[self.scene.expression]
        gap = 0.17 if self.scene.expression == "laughing" else 0.0
        full = 0.05 + 0.055 * person.lips
        y = 0.8
        lip = mix(mix(person.skin, BLOOD, 0.5), (110, 40, 50), 0.15)
        left, right = (-wide, y - smile), (wide, y - smile)
        dip = y - 0.25 * gap
        seam = curve(
            self.turned(
                [
                    left,
                    (-0.5 * wide, dip - 0.2 * smile),
                    (0, dip + 0.012),
                    (0.5 * wide, dip - 0.2 * smile),
                    right,
                ]
            )
        )
        top = curve(self.turned([left, (-0.42 * wide, dip - full * 0.85 - 0.3 * smile), (-0.1, dip - full),
                                 (0, dip - full * 0.78),
                                 (0.1, dip - full),
                                 (0.42 * wide, dip - full * 0.85 - 0.3 * smile), right]))  # fmt: skip
        low = y + gap + 1.25 * full
        bottom = curve(self.turned([left, (-0.64 * wide, low - 0.07), (-0.26 * wide, low - 0.01),
                                    (0.26 * wide, low - 0.01),
                                    (0.64 * wide, low - 0.07), right]))  # fmt: skip
        canvas.soft(self.turned(oval(0, low + 0.07, 0.22, 0.04)), self.shadow, 0.5, 0.05)
        canvas.fill(np.concatenate([seam, bottom[::-1]]), mix(lip, WHITE, 0.08))
        if gap:
            inner = curve(self.turned([left, (-0.5 * wide, y + gap * 0.72), (0, y + gap),
                                       (0.5 * wide, y + gap * 0.72),
                                       right]))  # fmt: skip
            mouth = np.concatenate([seam, inner[::-1]])
            canvas.fill(mouth, (96, 32, 38))
            with canvas.inside(mouth):
                canvas.fill(self.turned(oval(0, y + gap, 0.2, 0.07)), (196, 88, 92))
                teeth = [(-0.8 * wide, y - 0.1), (0.8 * wide, y - 0.1), (0.8 * wide, y + 0.0),
                         (0.4 * wide, y + 0.075),
                         (-0.4 * wide, y + 0.075), (-0.8 * wide, y + 0.0)]  # fmt: skip
                canvas.fill(self.turned(teeth), (250, 247, 240))
        canvas.fill(np.concatenate([top, seam[::-1]]), mix(lip, BLACK, 0.1))
        canvas.soft(self.turned(oval(-0.04, y + gap + 0.6 * full, 0.12, 0.018)), WHITE, 0.35, 0.02)
        canvas.brush(seam, mix(lip, BLACK, 0.55), 0.03)
        for side in SIDES:
            if person.beard != "full":
                corner = self.turned(oval(side * (wide + 0.02), y - smile, 0.05, 0.05))
                canvas.soft(corner, self.shadow, 0.5, 0.035)
            if smile > 0.05:
                fold = [(side * 0.28, 0.5), (side * (wide + 0.07), 0.64), (side * (wide + 0.12), 0.8)]
                canvas.soft(ribbon(curve(self.turned(fold)), 0.025), self.shadow, 0.42, 0.03)

    # ---- eyes

    def draw_eyes(self) -> None:
        for side in SIDES:
            self._draw_eye(side)
            self._draw_brow(side)

    def _draw_eye(self, side: int) -> None:
        canvas, person = self.canvas, self.person
        squint = {"calm": 1.0, "smiling": 0.9, "laughing": 0.72}[self.scene.expression]
        x, half, high = side * 0.42, 0.215, 0.125 * squint

        def eye(points: list[tuple[float, float]]) -> Points:
            """Return points in the eye's own units: -1 is its inner corner, 1 its outer."""
            return curve(self.turned([(x + side * half * u, v) for u, v in points]))

        upper = eye([(-1, 0.045), (-0.5, -0.085 * squint), (0.1, -high), (0.65, -0.075 * squint), (1, 0.0)])
        lower = eye([(-1, 0.045), (-0.4, 0.092), (0.3, 0.098), (0.8, 0.055), (1, 0.0)])
        opening = np.concatenate([upper, lower[::-1]])
        canvas.fill(opening, (246, 243, 238))
        look_x, look_y = self.spot(x, -0.01)
        look_x += 0.03 * self.scene.turn
        with canvas.inside(opening):
            canvas.fill(oval(look_x, look_y, 0.116, 0.122), mix(person.eyes, BLACK, 0.55))
            canvas.fill(oval(look_x, look_y, 0.099, 0.105), person.eyes)
            canvas.soft(oval(look_x, look_y + 0.055, 0.06, 0.035), mix(person.eyes, WHITE, 0.6), 0.7, 0.02)
            canvas.fill(oval(look_x, look_y, 0.049, 0.052), (18, 16, 18))
            canvas.soft(moved(upper, 0, -0.01), (60, 40, 44), 0.6, 0.03)
            gleam = -self.dark_side
            canvas.fill(oval(look_x + 0.042 * gleam, look_y - 0.045, 0.026, 0.028), WHITE)
            canvas.fill(oval(look_x - 0.04 * gleam, look_y + 0.045, 0.012, 0.012), (225, 225, 230))
        lid = mix(person.skin, (40, 20, 22), 0.86)
        canvas.brush(upper, lid, 0.052 if person.lashes else 0.038)
        canvas.brush(lower, self.shadow, 0.014)
        canvas.brush(eye([(-0.9, -0.06), (-0.3, -0.185), (0.4, -0.19), (1.02, -0.1)]), self.shadow, 0.022)
        if person.lashes:
            for u, v in ((0.6, -0.05), (0.78, -0.02), (0.92, 0.01)):
                canvas.brush(eye([(u, v * squint), (u + 0.16, v * squint - 0.07), (u + 0.25, v - 0.13)]), lid, 0.032)

    def _draw_brow(self, side: int) -> None:
        lift = {"calm": 0.0, "smiling": 0.02, "laughing": 0.05}[self.scene.expression]
        thick = 0.052 * self.person.brows
        y = -0.3 - lift
        over = [(0.135, y + 0.02), (0.19, y - 0.045), (0.36, y - 0.08), (0.56, y - 0.075), (0.73, y + 0.015)]
        under = [
            (0.73, y + 0.03),
            (0.56, y - 0.055 + thick),
            (0.36, y - 0.05 + thick),
            (0.2, y + thick - 0.01),
        ]
        shape = np.concatenate([curve(over), curve(under)]) * (side, 1)
        hair = self.person.hair if self.person.hair_style != "bald" else (70, 50, 40)
        self.canvas.fill(self.turned(shape), mix(mix(hair, self.person.skin, 0.08), BLACK, 0.3))

    # ---- what is on the face

    def draw_temples(self) -> None:
        """Draw the arms of the glasses, which hair may cover."""
        if self.person.glasses is None:
            return
        for side in SIDES:
            hinge = self.spot(side * 0.79, -0.07)
            ear = (side * self.person.face_width - 0.2 * math.sin(self.yaw), -0.1)
            if side * (ear[0] - hinge[0]) > 0:
                self.canvas.line(np.array([hinge, ear]), mix(self.person.frame, BLACK, 0.2), 0.06)

    def draw_lenses(self) -> None:
        if self.person.glasses is None:
            return
        canvas, colour = self.canvas, self.person.frame
        for side in SIDES:
            if self.person.glasses == "round":
                lens = oval(side * 0.44, 0.02, 0.345, 0.335)
            else:
                corners = [(0.12, -0.2), (0.3, -0.235), (0.62, -0.235), (0.8, -0.2), (0.8, 0.05), (0.7, 0.25),
                           (0.45, 0.285), (0.24, 0.25), (0.13, 0.07)]  # fmt: skip
                lens = curve(np.array(corners) * (side, 1), closed=True)
            rim = self.turned(lens)
            with canvas.inside(rim):
                x = 0.44 * side
                gleam = [(x - 0.06, -0.4), (x + 0.16, -0.4), (x - 0.08, 0.4), (x - 0.3, 0.4)]
                canvas.soft(self.turned(gleam), WHITE, 0.22, 0.02)
            canvas.soft(ribbon(moved(np.concatenate([rim, rim[:1]]), 0, 0.05), 0.025), self.shadow, 0.5, 0.03)
            canvas.line(np.concatenate([rim, rim[:2]]), colour, 0.068)
            canvas.line(moved(curve(rim[22:31]), 0, -0.012), mix(colour, WHITE, 0.45), 0.014)
        canvas.line(curve(self.turned([(-0.11, -0.02), (0, -0.09), (0.11, -0.02)])), colour, 0.062)

    def draw_beard(self) -> None:
        beard = self.person.beard
        if beard is None:
            return
        moustache = [
            (0, 0.56),
            (0.14, 0.55),
            (0.32, 0.66),
            (0.47, 0.86),
            (0.4, 0.9),
            (0.26, 0.77),
            (0, 0.745),
        ]
        shapes = [curve(self.turned(mirrored(moustache)), closed=True)]
        if beard == "full":
            w, j = self.person.face_width, self.person.jaw
            side = [(0.84 * w, 0.2), (1.0 * w, 0.06), (0.98 * w, 0.5), ((0.79 + 0.12 * j) * w, 0.94),
                    ((0.4 + 0.16 * j) * w, 1.33), (0, 1.47)]  # fmt: skip
            cheek = [(0, 0.9), (0.2, 0.9), (0.3, 0.82), (0.46, 0.7), (0.68, 0.58)]
            outer, inner = self.swayed(np.array(side)), self.turned(cheek)
            left, far = self.swayed(np.array(side) * (-1, 1)), self.turned(np.array(cheek) * (-1, 1))
            shapes = [curve(np.concatenate([outer, inner]), closed=True),
                      curve(np.concatenate([left, far]), closed=True), *shapes]  # fmt: skip
        elif beard == "goatee":
            chin = [(0, 0.97), (0.2, 0.97), (0.36, 0.84), (0.46, 0.86), (0.4, 1.16), (0.22, 1.38), (0, 1.44)]
            shapes.append(curve(self.turned(mirrored(chin)), closed=True))
        self._draw_fur(shapes)

    def _draw_fur(self, shapes: list[Points]) -> None:
        canvas, hair = self.canvas, self.person.hair
        for shape in shapes:
            canvas.fill(shape, mix(hair, BLACK, 0.12))
        chance = random.Random(11)  # noqa: S311 - the same beard in every picture
        with canvas.inside(*shapes):
            for tone, count in ((mix(hair, WHITE, 0.16), 220), (mix(hair, BLACK, 0.4), 180)):
                for _ in range(count):
                    x, y = chance.uniform(-1.05, 1.05), chance.uniform(0.1, 1.5)
                    tuft = curve([(x, y), (x * 1.02, y + 0.06), (x * 0.97, y + 0.13)])
                    canvas.brush(moved(tuft, 0.3 * math.sin(self.yaw), 0), tone, 0.016)
