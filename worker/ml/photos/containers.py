"""What Pillow does not tell of photo files: code points in PNG and AVIF, JPEG 2000's profile, the bits of a PNG."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

CodePoints = tuple[int, int]
"""Of primaries and transfer, as in ITU-T H.273; 2 is unspecified."""
_AVIF_HEADER_BYTES = 2**16
_RESTRICTED_PROFILE, _ANY_PROFILE = 2, 3
"""Methods of JPEG 2000's `colr` box (ISO/IEC 15444-1, I.5.3.3; 15444-2)."""


def code_points(path: Path, image_format: str | None) -> CodePoints | None:
    """Return the code points in a PNG's cICP or an AVIF's nclx, None if there are none. Raises OSError."""
    with path.open("rb") as file:
        if image_format == "PNG":
            content = _png_chunk(file, b"cICP")
            return (content[0], content[1]) if len(content) == 4 else None
        if image_format == "AVIF":
            header = file.read(_AVIF_HEADER_BYTES)
            at = header.find(b"colrnclx")
            return struct.unpack_from(">HH", header, at + 8) if at >= 0 else None
    return None


def png_bits(path: Path) -> int:
    """Return the bits of a channel in a PNG, of which Pillow makes at least 8. Raises OSError."""
    with path.open("rb") as file:
        return _png_chunk(file, b"IHDR")[8]


def jpeg_2000_profile(path: Path) -> bytes | None:
    """Return the ICC profile of a JPEG 2000 file, None if it has none. Raises OSError and struct.error."""
    with path.open("rb") as file:
        header = next((file.read(size) for kind, size in _boxes(file) if kind == b"jp2h"), b"")
    inside = io.BytesIO(header)
    for kind, size in _boxes(inside):
        content = inside.read(size) if kind == b"colr" else b""
        if content and content[0] in (_RESTRICTED_PROFILE, _ANY_PROFILE):
            return content[3:]
    return None


def _png_chunk(file: BinaryIO, kind: bytes) -> bytes:
    """Return the content of the first chunk of a kind before the picture, nothing if there is none."""
    return next((file.read(length) for one, length in _png_chunks(file) if one == kind), b"")


def _png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yield kind and length of each chunk before the picture, with the file at its content."""
    at = 8
    while True:
        file.seek(at)
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IDAT":
            return
        (length,) = struct.unpack(">I", head[:4])
        yield head[4:], length
        at += 12 + length


def _boxes(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yield kind and size of each box, with the file at its content. A size of zero means all of the rest."""
    at = 0
    while True:
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head)
        begin = 8
        if length == 1:
            (length,) = struct.unpack(">Q", file.read(8))
            begin = 16
        if 0 < length < begin:
            return
        yield kind, length - begin if length else -1
        if not length:
            return
        at += length
