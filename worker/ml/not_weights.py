"""What people have instead of a safetensors file: told by its beginning, for a message."""

from __future__ import annotations

from pathlib import Path

PICKLES = (".bin", ".pt", ".pth", ".ckpt")
"""How files end that are pickles, which are never loaded."""

_BEGINNINGS = (
    (b"version https://git-lfs", "a Git LFS pointer: run `git lfs pull` where it came from"),
    (b"GGUF", "a GGUF file, which is quantised"),
    (b"PK\x03\x04", "a pickle or another archive under this name"),
    (b"\x80\x02", "a pickle under this name"),
    (b"\x80\x04", "a pickle under this name"),
    (b"\x1f\x8b", "a compressed file: unpack it first"),
    (b"<", "a web page: the download needs a login, or another address"),
    (b"{", "a JSON file, such as an index of weights or an error"),
)

_LARGEST_HEADER = 100_000_000
"""In bytes, of a safetensors file."""


def kind_of(path: Path) -> str | None:
    """Return what a file is that cannot be weights, None if its beginning does not tell. Raises OSError."""
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        return "empty: fetch it again"
    size, announced = path.stat().st_size, int.from_bytes(start[:8], "little")
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start[8:9] == b"{" and size < announced + 8 < _LARGEST_HEADER:  # whatever its length looks like as text
        return "incomplete: fetch it again"
    return next((kind for begins, kind in _BEGINNINGS if text.startswith(begins)), None)
