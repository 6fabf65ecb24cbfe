"""What a file is by its first bytes: pictures that a job may read, and what servers send instead of one."""

from __future__ import annotations

import re

READABLE = "JPEG, PNG, WebP, AVIF, HEIF, TIFF, GIF or BMP"

_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"GIF87a", b"GIF89a", b"BM")
_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
"""Of AVIF and HEIF, in the box at the start of the file."""
_MARKUP = re.compile(rb"<(svg|!doctype\s+html|html|head|body|script|title)[\s>]", re.IGNORECASE)
"""What a drawing and what a web page begin with, after comments."""


def why_not_a_picture(first_bytes: bytes) -> str | None:
    """Return what a file is that is not a picture, to follow "is"; None for a picture."""
    if _is_picture(first_bytes):
        return None
    markup = _MARKUP.search(first_bytes[:2000])
    if markup is None:
        return f"not a picture ({READABLE})"
    if markup[1].lower() == b"svg":
        return f"an SVG drawing: export it as {READABLE}"
    return "a web page, not a picture: use the URL of the picture itself"


def _is_picture(first_bytes: bytes) -> bool:
    if first_bytes.startswith(_MAGIC):
        return True
    if first_bytes[:4] == b"RIFF":
        return first_bytes[8:12] == b"WEBP"
    return first_bytes[4:8] == b"ftyp" and first_bytes[8:12] in _BRANDS
