"""Pictures of things as shops have them, and such as cannot be used."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, ImageDraw


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def mug(background: str | None = "white", size: tuple[int, int] = (160, 160)) -> Image.Image:
    """A red mug with a blue stripe in the middle of a picture; None is a transparent background."""
    picture = Image.new("RGBA", size, background or (0, 0, 0, 0))
    drawing = ImageDraw.Draw(picture)
    x, y = size[0] // 2, size[1] // 2
    drawing.ellipse((x + 15, y - 25, x + 55, y + 25), outline="firebrick", width=10)
    drawing.rectangle((x - 35, y - 40, x + 30, y + 40), fill="firebrick")
    drawing.rectangle((x - 35, y - 10, x + 30, y + 10), fill="navy")
    return picture if background is None else picture.convert("RGB")


def unseen() -> Image.Image:
    """A thing of the grey that pictures are padded with, which the tiny network takes for background."""
    picture = Image.new("RGB", (160, 160), "white")
    ImageDraw.Draw(picture).rectangle((40, 40, 120, 120), fill=(127, 127, 127))
    return picture


def noise() -> Image.Image:
    """A picture with a background that only a network could remove."""
    pixels = np.random.default_rng(0).integers(0, 255, (160, 160, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def bomb(side: int = 60_000) -> bytes:
    """A PNG of a few kilobytes that unpacks to gigabytes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = zlib.compress(bytes(1 + side // 8) * 100)  # the first hundred, of one bit a pixel
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
