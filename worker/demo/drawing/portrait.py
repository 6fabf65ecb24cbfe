"""Draws a person in a scene, and saves photographs as a phone would save them."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from worker.demo.drawing.background import background
from worker.demo.drawing.body import Body
from worker.demo.drawing.canvas import Canvas, Frame
from worker.demo.drawing.hair import Hair
from worker.demo.drawing.head import Head
from worker.demo.drawing.person import Light, Person, Scene, close_up, scenes

__all__ = ["Person", "PhotoTaken", "Scene", "draw", "scenes", "write_photos"]

DRAWN_SIZE = (882, 1176)
PHOTO_SIZE = (3024, 4032)
PHOTO_QUALITY = 90

# Per light: where it comes from (-1 left … 1 right), how much darker the far side is, its red, green, blue.
LIGHTING: dict[Light, tuple[float, float, tuple[float, float, float]]] = {
    "soft light": (-0.3, 0.1, (1.0, 1.0, 1.0)),
    "sun from the left": (-1.0, 0.34, (1.07, 1.04, 0.98)),
    "sun from the right": (1.0, 0.34, (1.07, 1.04, 0.98)),
    "evening sun": (0.9, 0.3, (1.1, 0.94, 0.76)),
    "shade": (-0.2, 0.12, (0.86, 0.92, 1.0)),
    "lamplight": (0.7, 0.4, (0.92, 0.82, 0.72)),
}

EXIF_MAKE, EXIF_MODEL, EXIF_ORIENTATION = 0x010F, 0x0110, 0x0112
# EXIF Orientation, and the counter-clockwise rotation of the stored pixels against the upright picture.
HELD = (
    (6, Image.Transpose.ROTATE_90),
    (1, None),
    (1, None),
    (8, Image.Transpose.ROTATE_270),
    (1, None),
    (1, None),
    (3, Image.Transpose.ROTATE_180),
    (1, None),
    (1, None),
)


@dataclass(frozen=True)
class PhotoTaken:
    """One photograph on disk.

    Attributes:
        caption: clothes, place, light and expression, but not the person.
    """

    path: Path
    caption: str


def draw(person: Person, scene: Scene, size: tuple[int, int] = DRAWN_SIZE) -> Image.Image:
    """Draw the person in the scene.

    Args:
        size: width and height in pixels, any shape; the person fits the width of a 3:4 portrait.
    """
    width, height = size
    light_from, contrast, tint = LIGHTING[scene.light]
    canvas = Canvas(background(scene), size, supersampling=2 if min(size) > 600 else 4)
    unit = 0.19 * min(width, 0.75 * height) * scene.zoom
    x, y = (0.5 + scene.offset) * width, (0.43 + scene.drop) * height
    upright = Frame(x, y, unit)
    tilted = Frame(x, y, unit, tilt=math.radians(scene.tilt), pivot=1.3)

    head = Head(canvas, person, scene, light_from)
    hair = Hair(canvas, head)
    body = Body(canvas, person, scene, light_from)
    canvas.frame = upright
    body.draw_behind()
    canvas.frame = tilted
    hair.draw_behind()
    canvas.frame = upright
    body.draw()
    canvas.frame = tilted
    head.draw_ears()
    head.draw_face()
    head.draw_beard()
    head.draw_mouth()
    head.draw_nose()
    head.draw_eyes()
    head.draw_temples()
    hair.draw_over()
    head.draw_lenses()
    return _lit(canvas.finished(), light_from, contrast, tint, scene.variation)


def _lit(
    picture: Image.Image, light_from: float, contrast: float, tint: tuple[float, float, float], seed: int
) -> Image.Image:
    """Add the scene's light, a lens's darker corners, and a sensor's grain."""
    width, height = picture.size
    across = np.linspace(-1, 1, width)[None, :]
    down = np.linspace(-1, 1, height)[:, None]
    brightness = 1 + contrast * (0.5 * across * light_from - 0.12 * down) - 0.13 * (across**2 + down**2) ** 1.5 / 2.8
    pixels = np.asarray(picture, dtype=np.float32) * brightness.astype(np.float32)[..., None]
    pixels *= np.array(tint, dtype=np.float32)
    grain = 2.2 * min(
        1.0, width / DRAWN_SIZE[0]
    )  # a small picture is a large one scaled down, which averages the grain
    pixels += np.random.default_rng(seed).normal(0, grain, (height, width, 1)).astype(np.float32)
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))


def write_photos(person: Person, folder: Path, count: int = 15, seed: int = 0) -> list[PhotoTaken]:
    """Take `count` photographs that differ in clothes, pose, background and light.

    Each is a JPEG of 12 megapixels in sRGB; the same arguments give the same files. Every third was taken with the
    phone held sideways or upside down: its pixels are stored rotated, as its EXIF Orientation says.

    Args:
        folder: created if missing; receives `photo-01.jpg` and so on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    profile = _srgb_profile()
    taken = []
    for number, scene in enumerate(scenes(count, seed), start=1):
        picture = draw(person, close_up(person, scene)).resize(PHOTO_SIZE, Image.Resampling.BICUBIC)
        orientation, turn = HELD[number % len(HELD)]
        exif = Image.Exif()
        exif[EXIF_MAKE], exif[EXIF_MODEL] = "Likeness", "Drawn Telephone"
        exif[EXIF_ORIENTATION] = orientation
        path = folder / f"photo-{number:02}.jpg"
        stored = picture.transpose(turn) if turn is not None else picture
        stored.save(path, quality=PHOTO_QUALITY, exif=exif, icc_profile=profile)
        taken.append(PhotoTaken(path, scene.caption))
    return taken


def _srgb_profile() -> bytes:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # Its header holds its time of creation, which would make every file different.
    return profile[:24] + struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + profile[36:]
