"""The colours that a photo's numbers mean, and their conversion to sRGB, which models are trained on.

A file says what its numbers mean in one of four ways; the first that is there decides: an ICC profile; code points of
ITU-T H.273 (nclx in HEIC and AVIF, cICP in PNG); Adobe RGB in EXIF, by the rules of DCF; gAMA and cHRM in PNG. Without
any they are sRGB.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageCms

from worker.ml.photos.containers import code_points, jpeg_2000_profile
from worker.ml.photos.files import DAMAGED

Floats: TypeAlias = npt.NDArray[np.float64]
Chromaticities: TypeAlias = tuple[float, float, float, float, float, float, float, float]
"""x and y of white, red, green and blue, as in PNG's cHRM."""

_D65 = (0.3127, 0.3290)
_SRGB: Chromaticities = (*_D65, 0.640, 0.330, 0.300, 0.600, 0.150, 0.060)
_ADOBE_RGB: Chromaticities = (*_D65, 0.640, 0.330, 0.210, 0.710, 0.150, 0.060)
_ADOBE_GAMMA = 563 / 256
_PRIMARIES: Mapping[int, Chromaticities] = {
    1: _SRGB,
    4: (0.310, 0.316, 0.670, 0.330, 0.210, 0.710, 0.140, 0.080),
    5: (*_D65, 0.640, 0.330, 0.290, 0.600, 0.150, 0.060),
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    8: (0.310, 0.316, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    22: (*_D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),
}
"""By code point: H.273, table 2. 10 (XYZ) is not used by photos."""

_REFERENCE_WHITE_NITS = 203
"""Of HDR pictures: ITU-R BT.2408. Brighter parts become white."""


@dataclass(frozen=True)
class ColourSpace:
    """RGB primaries, and the function from numbers in 0…1 to light, where 1 is white."""

    chromaticities: Chromaticities
    to_light: Callable[[Floats], Floats]


Colours: TypeAlias = ImageCms.ImageCmsProfile | ColourSpace | None
"""An ICC profile, a colour space, or None for sRGB."""


def colours_of(path: Path, photo: Image.Image) -> Colours:
    """Return what the colours of an opened photo mean."""
    profile = jpeg_2000_profile(path) if photo.format == "JPEG2000" else photo.info.get("icc_profile")
    with suppress(ImageCms.PyCMSError, OSError):  # a damaged profile says nothing
        if profile:
            return ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if photo.mode not in ("L", "RGB", "RGBA", "LA", "P", "PA", "I;16"):
        return None
    return _by_code_points(path, photo) or _by_exif(photo) or _by_gamma(photo)


def to_srgb(photo: Image.Image, colours: Colours) -> Image.Image:
    """Convert a photo of mode L, RGB or CMYK to sRGB, mode RGB."""
    if isinstance(colours, ImageCms.ImageCmsProfile):
        with suppress(ImageCms.PyCMSError, OSError):  # a profile for another mode is ignored
            converted = ImageCms.profileToProfile(photo, colours, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
    if not isinstance(colours, ColourSpace):
        return photo.convert("RGB")
    # One value for each of the 256 numbers: the photo's own are looked up.
    light = colours.to_light(np.arange(256) / 255)[np.asarray(photo.convert("RGB"))]
    light = light @ (np.linalg.inv(_to_xyz(_SRGB)) @ _to_xyz(colours.chromaticities)).T
    return Image.fromarray((srgb_from_light(light.clip(0, 1)) * 255 + 0.5).astype(np.uint8))


def _by_code_points(path: Path, photo: Image.Image) -> ColourSpace | None:
    points: Mapping[str, Any] = photo.info.get("nclx_profile") or {}
    primaries, transfer = points.get("color_primaries", 2), points.get("transfer_characteristics", 2)
    primaries, transfer = code_points(path, photo.format) or (primaries, transfer)
    if (primaries, transfer) == (2, 2):  # unspecified
        return None
    return ColourSpace(_PRIMARIES.get(primaries, _SRGB), _TO_LIGHT.get(transfer, light_from_srgb))


def _by_exif(photo: Image.Image) -> ColourSpace | None:
    """Return Adobe RGB if EXIF says so, by DCF 2.0: "uncalibrated" with interoperability R03. Some cameras write 2."""
    with suppress(*DAMAGED):
        exif = photo.getexif()
        space = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ColorSpace)
        interoperability = exif.get_ifd(ExifTags.IFD.Interop).get(ExifTags.Interop.InteropIndex)
        if space == 2 or (space != 1 and str(interoperability).strip("\0 ") == "R03"):
            return ColourSpace(_ADOBE_RGB, lambda numbers: numbers**_ADOBE_GAMMA)
    return None


def _by_gamma(photo: Image.Image) -> ColourSpace | None:
    gamma, chromaticities = photo.info.get("gamma"), photo.info.get("chromaticity")
    if photo.format != "PNG" or "srgb" in photo.info or (gamma is None and chromaticities is None):
        return None
    # 1/2.2 is what programs write that mean sRGB; so is none.
    exponent = 1 / gamma if gamma and abs(gamma - 1 / 2.2) > 0.01 else None
    to_light = light_from_srgb if exponent is None else lambda numbers: numbers**exponent
    return ColourSpace(_valid(chromaticities), to_light)


def _valid(chromaticities: Chromaticities | None) -> Chromaticities:
    """Return the chromaticities if they span a triangle, else sRGB's."""
    if chromaticities is None or min(chromaticities[1::2]) <= 0 or abs(np.linalg.det(_columns(chromaticities))) < 1e-6:
        return _SRGB
    return chromaticities


def _columns(chromaticities: Chromaticities) -> Floats:
    """Return XYZ of red, green and blue as columns, each with Y = 1."""
    pairs = np.reshape(chromaticities[2:], (3, 2))
    return np.stack([pairs[:, 0] / pairs[:, 1], np.ones(3), (1 - pairs.sum(1)) / pairs[:, 1]])


def _to_xyz(chromaticities: Chromaticities) -> Floats:
    """Return the matrix from linear RGB to XYZ, white adapted to D65 (Bradford, as in ICC profiles)."""
    columns = _columns(chromaticities)
    white = _white(chromaticities)
    matrix: Floats = columns * np.linalg.solve(columns, white)
    cone = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    adapted: Floats = np.linalg.inv(cone) @ np.diag((cone @ _white(_SRGB)) / (cone @ white)) @ cone @ matrix
    return adapted


def _white(chromaticities: Chromaticities) -> Floats:
    x, y = chromaticities[:2]
    return np.array([x / y, 1.0, (1 - x - y) / y])


def srgb_from_light(light: Floats) -> Floats:
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def light_from_srgb(numbers: Floats) -> Floats:
    return np.where(numbers <= 0.04045, numbers / 12.92, ((numbers + 0.055) / 1.055) ** 2.4)


def _light_from_pq(numbers: Floats) -> Floats:
    """SMPTE ST 2084."""
    c1, c2, c3 = 3424 / 4096, 2413 / 128, 2392 / 128
    root = numbers ** (4096 / (2523 * 128))
    nits: Floats = 10_000 * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (16384 / 2610)
    return nits / _REFERENCE_WHITE_NITS


def _light_from_hlg(numbers: Floats) -> Floats:
    """ITU-R BT.2100 for a screen of 1,000 nits, whose gamma of 1.2 is applied to each channel."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(numbers <= 0.5, numbers**2 / 3, (np.exp((numbers - c) / a) + b) / 12)
    screen: Floats = 1_000 * scene**1.2
    return screen / _REFERENCE_WHITE_NITS


_TO_LIGHT: Mapping[int, Callable[[Floats], Floats]] = {
    4: lambda numbers: numbers**2.2,
    5: lambda numbers: numbers**2.8,
    8: lambda numbers: numbers,
    16: _light_from_pq,
    17: lambda numbers: numbers**2.6 * 52.37 / 48,
    18: _light_from_hlg,
}
"""By code point: H.273, table 3. The others are made for the same screens as sRGB, and photo programs use its curve."""
