"""Draws the setting behind a person."""

from __future__ import annotations

import random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from worker.demo.drawing.canvas import BLACK, WHITE, Colour, gradient, mix
from worker.demo.drawing.person import Scene

SMALL = (252, 336)  # the size at which backgrounds are painted, because they are out of focus


def background(scene: Scene) -> Image.Image:
    """Draw the scene's setting, out of focus as behind a portrait: a small picture, to be enlarged."""
    chance = random.Random(scene.variation)  # noqa: S311 - drawing, not secrets
    painters = {
        "studio": _studio, "park": _park, "beach": _beach, "street": _street, "city at night": _night,
        "library": _library, "kitchen": _kitchen, "mountains": _mountains, "autumn wood": _autumn,
        "brick wall": _bricks,
    }  # fmt: skip
    picture = painters[scene.setting](chance)
    blur = {"studio": 1.0, "brick wall": 1.6, "city at night": 1.8}.get(scene.setting, 2.6)
    return picture.filter(ImageFilter.GaussianBlur(blur))


def _disc(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, colour: Colour) -> None:
    draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)


def _studio(chance: random.Random) -> Image.Image:
    wall = chance.choice(
        [(198, 206, 214), (226, 204, 184), (176, 196, 186), (206, 188, 208), (158, 176, 204), (232, 216, 170)]
    )
    return gradient(SMALL, [mix(wall, WHITE, 0.25), wall, mix(wall, BLACK, 0.22)])


def _leaves(
    draw: ImageDraw.ImageDraw,
    chance: random.Random,
    tones: list[Colour],
    top: float,
    bottom: float,
    count: int,
) -> None:
    for _ in range(count):
        tone = mix(chance.choice(tones), chance.choice([WHITE, BLACK]), chance.uniform(0, 0.18))
        _disc(draw, chance.uniform(-10, SMALL[0] + 10), chance.uniform(top, bottom), chance.uniform(7, 20), tone)


def _park(chance: random.Random) -> Image.Image:
    picture = gradient(SMALL, [(150, 200, 240), (214, 234, 246), (220, 236, 236)])
    draw = ImageDraw.Draw(picture)
    for x in range(-10, SMALL[0], 46):
        draw.rectangle((x + chance.uniform(0, 20), 110, x + 10 + chance.uniform(12, 22), 240), fill=(92, 70, 52))
    _leaves(draw, chance, [(70, 132, 64), (98, 158, 74), (54, 108, 66)], 40, 170, 90)
    draw.rectangle((0, 205, *SMALL), fill=(128, 178, 88))
    draw.rectangle((0, 205, SMALL[0], 222), fill=(104, 156, 78))
    for _ in range(14):
        _disc(draw, chance.uniform(0, SMALL[0]), chance.uniform(20, 150), chance.uniform(3, 8), (226, 240, 190))
    return picture


def _beach(chance: random.Random) -> Image.Image:
    picture = gradient(SMALL, [(92, 170, 232), (168, 214, 244), (226, 240, 248), (226, 240, 248)])
    draw = ImageDraw.Draw(picture)
    for _ in range(3):
        x, y = chance.uniform(0, SMALL[0]), chance.uniform(20, 90)
        for dx in (-22, -8, 8, 22):
            _disc(draw, x + dx, y + chance.uniform(-4, 4), chance.uniform(8, 13), (250, 252, 255))
    draw.rectangle((0, 158, *SMALL), fill=(44, 128, 176))
    draw.rectangle((0, 176, *SMALL), fill=(58, 158, 188))
    draw.rectangle((0, 205, SMALL[0], 212), fill=(236, 246, 246))
    draw.rectangle((0, 212, *SMALL), fill=(232, 208, 160))
    return picture


def _street(chance: random.Random) -> Image.Image:
    picture = gradient(SMALL, [(186, 206, 226), (226, 230, 234), (232, 228, 222)])
    draw = ImageDraw.Draw(picture)
    x = -12.0
    while x < SMALL[0]:
        wide, top = chance.uniform(34, 62), chance.uniform(10, 90)
        wall = chance.choice([(196, 152, 128), (212, 196, 170), (158, 166, 178), (178, 134, 118), (206, 208, 206)])
        draw.rectangle((x, top, x + wide, 262), fill=wall)
        for wx in np.arange(x + 6, x + wide - 8, 13):
            for wy in np.arange(top + 10, 236, 21):
                draw.rectangle((wx, wy, wx + 7, wy + 12), fill=mix(wall, (40, 52, 74), 0.66))
        x += wide
    draw.rectangle((0, 256, *SMALL), fill=(148, 148, 152))
    return picture


def _night(chance: random.Random) -> Image.Image:
    picture = gradient(SMALL, [(16, 20, 46), (34, 34, 70), (58, 44, 72), (30, 28, 44)])
    draw = ImageDraw.Draw(picture, "RGBA")
    lamps = [
        (255, 196, 92),
        (255, 140, 84),
        (250, 236, 190),
        (116, 190, 255),
        (255, 92, 110),
        (128, 240, 190),
    ]
    for _ in range(60):
        x, y, r = chance.uniform(0, SMALL[0]), chance.gauss(165, 70), chance.uniform(4, 15)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(*chance.choice(lamps), chance.randrange(70, 190)))
    return picture


def _library(chance: random.Random) -> Image.Image:
    picture = Image.new("RGB", SMALL, (70, 46, 34))
    draw = ImageDraw.Draw(picture)
    spines = [
        (150, 52, 46),
        (52, 78, 116),
        (62, 104, 78),
        (196, 160, 92),
        (108, 72, 50),
        (168, 150, 130),
        (88, 62, 98),
    ]
    for shelf in range(-8, SMALL[1], 56):
        x = 0.0
        while x < SMALL[0]:
            wide, high = chance.uniform(7, 15), chance.uniform(36, 47)
            draw.rectangle((x, shelf + 50 - high, x + wide - 1, shelf + 50), fill=chance.choice(spines))
            x += wide
        draw.rectangle((0, shelf + 50, SMALL[0], shelf + 56), fill=(124, 84, 54))
    return picture


def _kitchen(chance: random.Random) -> Image.Image:
    wall = chance.choice([(232, 226, 212), (204, 220, 214), (236, 214, 196)])
    picture = gradient(SMALL, [wall, mix(wall, BLACK, 0.08)])
    draw = ImageDraw.Draw(picture)
    x = chance.choice([14, 128])
    draw.rectangle((x, 26, x + 106, 168), fill=(250, 250, 246))
    draw.rectangle((x + 7, 33, x + 99, 161), fill=(196, 226, 246))
    draw.rectangle((x + 7, 110, x + 99, 161), fill=(150, 192, 132))
    draw.rectangle((x + 50, 33, x + 56, 161), fill=(250, 250, 246))
    other = 190 if x < 100 else 20
    draw.rectangle((other - 30, 96, other + 60, 102), fill=(150, 108, 72))
    for i, cup in enumerate([(196, 84, 62), (74, 124, 140), (228, 186, 92), (236, 236, 230)]):
        draw.rectangle((other - 24 + i * 20, 78, other - 11 + i * 20, 96), fill=cup)
    draw.rectangle((0, 214, SMALL[0], 226), fill=(168, 122, 82))
    draw.rectangle((0, 226, *SMALL), fill=(222, 222, 216))
    return picture


def _mountains(chance: random.Random) -> Image.Image:
    picture = gradient(SMALL, [(104, 160, 222), (186, 214, 240), (226, 236, 244)])
    draw = ImageDraw.Draw(picture)
    for base, colour, snow in (
        (170, (132, 148, 178), True),
        (215, (88, 112, 128), False),
        (262, (70, 110, 84), False),
    ):
        x = -40.0
        while x < SMALL[0]:
            peak, wide = base - chance.uniform(60, 110), chance.uniform(80, 140)
            draw.polygon([(x, base + 40), (x + wide / 2, peak), (x + wide, base + 40)], fill=colour)
            if snow:
                draw.polygon(
                    [(x + wide * 0.36, peak + 40), (x + wide / 2, peak), (x + wide * 0.64, peak + 40)],
                    fill=(244, 247, 252),
                )
            x += wide * 0.55
        draw.rectangle((0, base + 30, *SMALL), fill=colour)
    return picture


def _autumn(chance: random.Random) -> Image.Image:
    picture = gradient(SMALL, [(236, 220, 188), (228, 190, 130), (190, 130, 74)])
    draw = ImageDraw.Draw(picture)
    for _ in range(7):
        x = chance.uniform(0, SMALL[0])
        draw.rectangle((x, 40, x + chance.uniform(6, 14), 290), fill=(84, 60, 46))
    _leaves(draw, chance, [(216, 120, 40), (196, 78, 40), (232, 176, 62), (160, 84, 44)], 0, 190, 120)
    draw.rectangle((0, 262, *SMALL), fill=(170, 104, 56))
    return picture


def _bricks(chance: random.Random) -> Image.Image:
    picture = Image.new("RGB", SMALL, (206, 192, 178))
    draw = ImageDraw.Draw(picture)
    for row, y in enumerate(range(0, SMALL[1], 17)):
        for x in range(-40 + 20 * (row % 2), SMALL[0], 40):
            tone = mix((166, 84, 66), chance.choice([(196, 112, 84), (128, 62, 54)]), chance.uniform(0, 0.7))
            draw.rectangle((x, y, x + 37, y + 14), fill=tone)
    return picture
