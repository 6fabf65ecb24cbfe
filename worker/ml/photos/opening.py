"""Open a photo file: choose the picture in a container with several, and tell damaged files from all others."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from worker.ml.errors import BadInput
from worker.ml.photos.files import DAMAGED

Image.MAX_IMAGE_PIXELS = None  # the caller has its own limits, which allow a phone's 200 megapixels
_MAX_PAGES = 100
"""Of a TIFF, which are looked at: Pillow takes longer for each one than for the last, and a file may have 100,000."""
_MAX_PNG_TEXT_BYTES = 64 * 2**20
# For text and colour profiles in a PNG, unpacked; Pillow's own limit is 1 MiB.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = _MAX_PNG_TEXT_BYTES

_FORMATS = ("JPEG", "PNG", "HEIF", "AVIF", "WEBP", "TIFF", "GIF", "BMP", "JPEG2000")
"""Never EPS, which starts another program."""
_RAW_MAGIC = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"\0MRM", b"FOVb")
"""First bytes of raw files that are not TIFFs: of Fujifilm, Olympus (3), Panasonic, Minolta, Sigma."""
_CFA, _LINEAR_RAW = 32803, 34892
"""PhotometricInterpretation of unprocessed sensor data: TIFF/EP, DNG."""
_NEW_SUBFILE_TYPE, _REDUCED, _MASK = 254, 1, 4
"""A TIFF's tag, and its bits for a smaller version and for a mask of another picture."""
_APART = 2
"""PlanarConfiguration of a TIFF whose channels are stored one after another."""
_TIFF_MAGIC, _BIGTIFF_MAGIC = (b"II*\0", b"MM\0*"), (b"II+\0", b"MM\0+")
_DNG_VERSION = 50706
_END_OF_JPEG = b"\xff\xd9"
_JPEG_SEGMENT = re.compile(rb"\xff([^\x00\x01\xd0-\xd9\xff])(..)", re.DOTALL)
"""A marker with its length; those without one are neither scans nor headers."""
_UNSUPPORTED = re.compile(r"unsupported|not supported|not available|unknown|unrecognized", re.IGNORECASE)
"""In the messages of Pillow and libheif for files that are in order, but in an encoding that they cannot read."""


class UnusablePhoto(BadInput):
    """A photo that cannot be trained on. The message names the file and never its folder."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path.name} is {reason}")
        self.path = path
        self.reason = reason
        """Why, to follow "is": "empty", "damaged or cut off"."""


@contextmanager
def open_photo(path: Path) -> Iterator[Image.Image]:
    """Open a photo without decoding it; errors while it is in use become UnusablePhoto.

    Of a TIFF with several pictures the largest is chosen, of all others the first.
    """
    try:
        if _is_raw(path):
            raise UnusablePhoto(path, "a raw file: export a JPEG")
        with Image.open(path, formats=_FORMATS) as file:
            if isinstance(file, TiffImagePlugin.TiffImageFile):
                file.seek(_largest_page(path))
                _check_layout(path, file)
            yield file
    except UnusablePhoto:
        raise
    except FileNotFoundError as error:
        raise UnusablePhoto(path, "missing") from error
    except UnidentifiedImageError as error:
        raise UnusablePhoto(path, _why_unidentified(path)) from error
    except DAMAGED as error:
        raise UnusablePhoto(path, _why_unreadable(error)) from error


def load(path: Path, photo: Image.Image, enough: tuple[int, int]) -> Image.Image:
    """Decode an opened photo, a JPEG no smaller than `enough` (width, height) but not much larger, and return it.

    Raises OSError for one that is cut off, unless nothing but the end marker of a JPEG is missing.
    """
    photo.draft(None, enough)
    try:
        photo.load()
    except OSError:
        whole = _without_end_marker(path, enough) if photo.format in ("JPEG", "MPO") else None
        if whole is None:
            raise
        return whole
    return photo


def _without_end_marker(path: Path, enough: tuple[int, int]) -> Image.Image | None:
    """Return a JPEG without an end marker, or with half of one; None if more is missing.

    The decoder fills what is missing from whatever follows, also after a restart marker. So the picture is whole if it
    has all scans, and does not depend on that.
    """
    content = path.read_bytes().rstrip(b"\xff")
    if not _has_all_scans(content):
        return None
    pictures = []
    for filler in (b"", b"\x55" * 64, b"\xaa" * 64):
        tail = filler + b"".join(bytes([0xFF, 0xD0 + number]) + filler for number in range(8) if filler)
        picture = Image.open(io.BytesIO(content + tail + _END_OF_JPEG), formats=["JPEG"])
        picture.draft(None, enough)
        picture.load()
        pictures.append(picture)
    return pictures[0] if pictures[0] == pictures[1] == pictures[2] else None


def _has_all_scans(content: bytes) -> bool:
    """Return True if the scans of a JPEG have every bit of every coefficient: a progressive one refines them."""
    missing: set[tuple[int, int]] = set()
    at = 2
    while segment := _JPEG_SEGMENT.search(content, at):
        kind, length = segment[1][0], int.from_bytes(segment[2], "big")
        inside = content[segment.end() : segment.start() + 2 + length]
        if kind in (0xC0, 0xC1, 0xC2):  # baseline, extended and progressive
            missing = {(component, place) for component in inside[6::3] for place in range(64)}
        elif kind == 0xDA:
            first, last, bits = inside[-3:]
            if not bits & 0xF:
                missing -= {(component, place) for component in inside[1:-3:2] for place in range(first, last + 1)}
        at = segment.start() + 2 + length
    return not missing


def _largest_page(path: Path) -> int:
    """Return the largest page of a TIFF: others are thumbnails and masks, and may be damaged."""
    sizes = []
    with Image.open(path, formats=["TIFF"]) as file:  # one of its own, because pages leave traces in `info`
        assert isinstance(file, TiffImagePlugin.TiffImageFile)
        for page in range(_MAX_PAGES):
            try:
                file.seek(page)
            except DAMAGED:
                if file.tell() != page:  # the page before was the last one, or the last one that can be found
                    break
            tags = file.tag_v2
            kind = tags.get(_NEW_SUBFILE_TYPE, 0)
            pixels = tags.get(TiffImagePlugin.IMAGEWIDTH, 0) * tags.get(TiffImagePlugin.IMAGELENGTH, 0)
            sizes.append((not kind & _MASK, not kind & _REDUCED, pixels))
    return sizes.index(max(sizes))


def _check_layout(path: Path, file: TiffImagePlugin.TiffImageFile) -> None:
    """Raise UnusablePhoto for a layout of which Pillow would read something else without a word."""
    tags = file.tag_v2
    bits = max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (8,)))
    apart = tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == _APART
    if apart and bits > 8 and file.info.get("compression") == "raw":
        raise UnusablePhoto(path, "a TIFF in an encoding that cannot be read: export a JPEG")


def _is_raw(path: Path) -> bool:
    """Return True for a camera's raw file. Most are TIFFs, whose first picture is often a thumbnail."""
    with path.open("rb") as file:
        start = file.read(16)
        if start.startswith(_RAW_MAGIC) or start[4:11] == b"ftypcrx" or start[8:10] == b"CR":
            return True
        if not start.startswith(_TIFF_MAGIC + _BIGTIFF_MAGIC):
            return False
        tags = TiffImagePlugin.ImageFileDirectory_v2(start[: 16 if start.startswith(_BIGTIFF_MAGIC) else 8])
        file.seek(tags.next)
        tags.load(file)
        reduced = bool(tags.get(_NEW_SUBFILE_TYPE, 0) & _REDUCED)
        return (
            _DNG_VERSION in tags
            or tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) in (_CFA, _LINEAR_RAW)
            or (reduced and TiffImagePlugin.SUBIFD in tags)
        )


def _why_unreadable(error: BaseException) -> str:
    if "MAX_TEXT" in str(error):
        return f"a PNG with too much text or too large a profile (at most {_MAX_PNG_TEXT_BYTES >> 20} MiB)"
    if _UNSUPPORTED.search(str(error)):
        return "in an encoding that cannot be read: export a JPEG"
    return "damaged or cut off"


def _why_unidentified(path: Path) -> str:
    if path.stat().st_size == 0:
        return "empty"
    with path.open("rb") as file:
        if file.read(4).startswith(_TIFF_MAGIC + _BIGTIFF_MAGIC):
            return "a TIFF in an encoding that cannot be read: export a JPEG"
    return "not a photo (JPEG, PNG, HEIC, AVIF, WebP, TIFF, GIF, BMP or JPEG 2000)"
