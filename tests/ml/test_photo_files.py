"""Photo files as people reported them: in the colours and at the size that a person sees, or refused by name."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from worker.ml.photos.fitting import read_fitted
from worker.ml.photos.opening import UnusablePhoto

CASES = Path(__file__).parents[1] / "data" / "photos"
LADDER = [[(80, 120), (120, 80), (96, 96)]]


def read(path: Path) -> np.ndarray:
    (pixels,) = read_fitted(path, LADDER).pixels
    return pixels.astype(int)


def left(path: Path) -> list[int]:
    """Return the colour in the middle of the left half."""
    pixels = read(path)
    return list(pixels[pixels.shape[0] // 2, pixels.shape[1] // 4])


def plain(colour: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (240, 160), colour)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(picture: Image.Image, *chunks: bytes, **options: object) -> bytes:
    """Return a PNG with chunks after its header."""
    file = io.BytesIO()
    picture.save(file, "PNG", **options)
    header = 8 + 25
    return file.getvalue()[:header] + b"".join(chunks) + file.getvalue()[header:]


def gama(gamma: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(gamma * 100_000)))


def chrm(*numbers: float) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *(round(number * 100_000) for number in numbers)))


def cicp(primaries: int, transfer: int) -> bytes:
    return chunk(b"cICP", bytes([primaries, transfer, 0, 1]))


P3 = (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
SRGB = (0.3127, 0.3290, 0.640, 0.330, 0.300, 0.600, 0.150, 0.060)
P3_SHOWN = [215, 81, 47]
"""What (199, 90, 59) in Display P3 is in sRGB."""


@pytest.mark.parametrize(
    ("name", "colour"),
    [
        ("nclx_p3.heic", P3_SHOWN),
        ("hdr_pq.heic", [222, 37, 39]),
        ("dcf_adobe_rgb.jpg", [81, 181, 83]),
    ],
)
def test_a_reported_photo_has_the_colours_that_a_person_sees(name: str, colour: list[int]) -> None:
    np.testing.assert_allclose(read(CASES / name)[10, 10], colour, atol=4)


@pytest.mark.parametrize(
    ("chunks", "colour"),
    [
        ([cicp(12, 13)], P3_SHOWN),
        ([cicp(1, 13)], [199, 90, 59]),
        ([cicp(2, 2)], [199, 90, 59]),  # unspecified
        ([cicp(12, 13), gama(1.0)], P3_SHOWN),  # gAMA is for programs that do not know cICP
        ([cicp(1, 8)], [229, 160, 132]),  # linear
        ([gama(1.0)], [229, 160, 132]),
        ([gama(1 / 2.2)], [199, 90, 59]),
        ([gama(1 / 2.2), chrm(*P3)], P3_SHOWN),
        ([chrm(*SRGB)], [199, 90, 59]),
        ([chrm(0.3127, 0, 0, 0, 0, 0, 0, 0)], [199, 90, 59]),  # not a colour space
        ([chunk(b"sRGB", b"\0"), gama(1.0), chrm(*P3)], [199, 90, 59]),  # sRGB overrides them
    ],
)
def test_a_png_has_the_colours_of_its_chunks(tmp_path: Path, chunks: list[bytes], colour: list[int]) -> None:
    (tmp_path / "p.png").write_bytes(png(plain((199, 90, 59)), *chunks))
    np.testing.assert_allclose(left(tmp_path / "p.png"), colour, atol=2)


def test_hlg_has_its_reference_white_at_three_quarters(tmp_path: Path) -> None:
    for number, shown in ((255 * 3 // 4, 255), (0, 0), (255, 255)):
        (tmp_path / "p.png").write_bytes(png(plain((number,) * 3), cicp(9, 18)))
        np.testing.assert_allclose(left(tmp_path / "p.png"), [shown] * 3, atol=3)
    darker = []
    for number in (40, 80, 120, 160):
        (tmp_path / "p.png").write_bytes(png(plain((number,) * 3), cicp(9, 18)))
        darker.append(left(tmp_path / "p.png")[0])
    assert darker == sorted(set(darker))


def test_an_avif_has_the_colours_of_its_code_points(tmp_path: Path) -> None:
    file = io.BytesIO()
    plain((199, 90, 59)).save(file, "AVIF", quality=100, subsampling="4:4:4")
    at = file.getvalue().index(b"colrnclx") + 8
    content = file.getvalue()[:at] + struct.pack(">HH", 12, 13) + file.getvalue()[at + 4 :]
    (tmp_path / "p.avif").write_bytes(content)
    np.testing.assert_allclose(left(tmp_path / "p.avif"), P3_SHOWN, atol=4)


def exif(colour_space: int | None, interoperability: str | None) -> Image.Exif:
    made = Image.Exif()
    if colour_space is not None:
        made.get_ifd(0x8769)[0xA001] = colour_space
    if interoperability is not None:
        made.get_ifd(0x8769)[0xA005] = {1: interoperability}
    return made


@pytest.mark.parametrize(
    ("colour_space", "interoperability", "is_adobe"),
    [
        (2, None, True),
        (0xFFFF, "R03", True),
        (None, "R03", True),
        (1, "R03", False),
        (0xFFFF, "R98", False),
        (1, None, False),
    ],
)
def test_exif_says_adobe_rgb_by_the_rules_of_dcf(
    tmp_path: Path, colour_space: int | None, interoperability: str | None, is_adobe: bool
) -> None:
    path = tmp_path / "p.jpg"
    plain((120, 180, 90)).save(path, quality=100, subsampling=0, exif=exif(colour_space, interoperability))
    np.testing.assert_allclose(left(path), [81, 181, 83] if is_adobe else [120, 180, 90], atol=2)


def test_a_profile_overrides_all_else(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = tmp_path / "p.jpg"
    plain((120, 180, 90)).save(path, quality=100, subsampling=0, exif=exif(2, None), icc_profile=srgb)
    np.testing.assert_allclose(left(path), [120, 180, 90], atol=2)
    path.with_suffix(".png").write_bytes(png(plain((120, 180, 90)), gama(1.0), icc_profile=srgb))
    np.testing.assert_allclose(left(path.with_suffix(".png")), [120, 180, 90], atol=2)


@pytest.mark.parametrize("name", ["large_iCCP.png", "large_iTXt.png", "large_zTXt.png", "photo.avif", "no_eoi.jpg"])
def test_a_reported_photo_that_was_refused_is_read(name: str) -> None:
    assert read(CASES / name).std() > 5


@pytest.mark.parametrize("extension", ["bmp", "jp2", "avif"])
def test_other_formats_that_programs_write_are_read(tmp_path: Path, extension: str) -> None:
    plain((200, 100, 50)).save(tmp_path / f"p.{extension}")
    np.testing.assert_allclose(left(tmp_path / f"p.{extension}"), [200, 100, 50], atol=6)


@pytest.mark.parametrize("bits", ["grey", "colour"])
def test_the_transparent_colour_of_sixteen_bits_is_white(tmp_path: Path, bits: str) -> None:
    if bits == "grey":
        path = CASES / "grey16_trns.png"
    else:
        path = tmp_path / "p.png"
        rows = np.zeros((160, 240, 3), ">u2")
        rows[:] = (0x1234, 0x5678, 0x9ABC)
        raw = b"".join(b"\0" + row.tobytes() for row in rows)
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", struct.pack(">2I5B", 240, 160, 16, 2, 0, 0, 0))
            + chunk(b"tRNS", struct.pack(">3H", 0x1234, 0x5678, 0x9ABC))
            + chunk(b"IDAT", zlib.compress(raw))
            + chunk(b"IEND", b"")
        )
    assert (read(path) == 255).all(axis=2).mean() > 0.3


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_transparent_grey_of_few_bits_is_white(tmp_path: Path, bits: int) -> None:
    """Black is left of the transparent grey; one bit has no other, so that black is transparent there."""
    grey = 2**bits // 3
    row = np.repeat([0, grey], 120)[:, None] >> np.arange(bits)[::-1] & 1
    path = tmp_path / "p.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">2I5B", 240, 160, bits, 0, 0, 0, 0))
        + chunk(b"tRNS", struct.pack(">H", grey))
        + chunk(b"IDAT", zlib.compress((b"\0" + np.packbits(row).tobytes()) * 160))
        + chunk(b"IEND", b"")
    )
    pixels = read(path)
    assert (pixels[:, -50:] == 255).all()
    assert (pixels[:, :50] == (0 if grey else 255)).all()


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_is_refused_if_more_than_its_end_marker_is_missing(tmp_path: Path, progressive: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (160, 240, 3)).astype(np.uint8)
    file, path = io.BytesIO(), tmp_path / "p.jpg"
    Image.fromarray(noise).save(file, "JPEG", progressive=progressive)
    whole = file.getvalue()
    path.write_bytes(whole[:-2])
    without = read(path)
    path.write_bytes(whole)
    assert (read(path) == without).all()
    for missing in (12, 200, len(whole) // 2, len(whole) * 9 // 10):
        path.write_bytes(whole[:-missing])
        with pytest.raises(UnusablePhoto, match="damaged or cut off"):
            read(path)


@pytest.mark.parametrize("size", [(4000, 500), (500, 4000), (410, 100)])
def test_a_photo_of_which_over_half_would_be_cut_away_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size).save(tmp_path / "p.png")
    with pytest.raises(UnusablePhoto, match=rf"p.png is too long \({size[0]} x {size[1]}\): .*crop it to the person"):
        read(tmp_path / "p.png")


RAW_TAGS: dict[str, dict[int, int | bytes]] = {
    "dng": {50706: b"\1\4\0\0"},
    "nef": {254: 1, 330: 8},
    "sensor data": {262: 32803},
    "linear": {262: 34892},
}


class TestContainers:
    def test_of_a_tiff_with_a_thumbnail_first_the_picture_is_read(self, tmp_path: Path) -> None:
        thumbnail, picture = Image.new("RGB", (80, 80), "red"), plain((0, 0, 200))
        for name, order in {"first": [thumbnail, picture], "last": [picture, thumbnail]}.items():
            path = tmp_path / f"{name}.tiff"
            order[0].save(path, save_all=True, append_images=order[1:])
            np.testing.assert_allclose(left(path), [0, 0, 200], atol=2)

    def test_a_smaller_version_that_is_larger_than_the_picture_is_not_read(self, tmp_path: Path) -> None:
        """Tag NewSubfileType 1 marks it."""
        pages = []
        for picture, reduced in ((Image.new("RGB", (400, 400), "red"), 1), (plain((0, 0, 200)), 0)):
            tags = TiffImagePlugin.ImageFileDirectory_v2()
            tags[254] = reduced
            picture.encoderinfo = {"tiffinfo": tags}
            pages.append(picture)
        pages[0].save(
            tmp_path / "p.tiff", save_all=True, append_images=pages[1:], tiffinfo=pages[0].encoderinfo["tiffinfo"]
        )
        np.testing.assert_allclose(left(tmp_path / "p.tiff"), [0, 0, 200], atol=2)

    @pytest.mark.parametrize("big", [False, True], ids=["TIFF", "BigTIFF"])
    @pytest.mark.parametrize("kind", RAW_TAGS)
    def test_a_raw_file_is_refused_by_name_and_its_thumbnail_never_read(
        self, tmp_path: Path, kind: str, big: bool
    ) -> None:
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        for tag, value in RAW_TAGS[kind].items():
            tags[tag] = value
            if tag == 50706:
                tags.tagtype[tag] = 1
        plain((0, 0, 200)).save(tmp_path / "p.nef", "TIFF", tiffinfo=tags, big_tiff=big)
        content = (tmp_path / "p.nef").read_bytes()
        if 262 in RAW_TAGS[kind]:  # Pillow writes its own
            entry = struct.pack("<HHQ" if big else "<HHI", 262, 3, 1)
            at = content.index(entry) + len(entry)
            content = content[:at] + struct.pack("<I", RAW_TAGS[kind][262]) + content[at + 4 :]
            (tmp_path / "p.nef").write_bytes(content)
        with pytest.raises(UnusablePhoto, match=r"p.nef is a raw file: export a JPEG$"):
            read(tmp_path / "p.nef")

    @pytest.mark.parametrize(
        "start",
        [
            b"FUJIFILMCCD-RAW 0201",
            b"IIRO\x08\0\0\0",
            b"IIU\0\x18\0\0\0",
            b"\0\0\0\x18ftypcrx \0\0\0\1",
            b"\0MRM\0\0",
            b"FOVb\0\0",
        ],
    )
    def test_a_raw_file_of_another_maker_is_refused_by_name(self, tmp_path: Path, start: bytes) -> None:
        (tmp_path / "p").write_bytes(start + bytes(1000))
        with pytest.raises(UnusablePhoto, match=r"p is a raw file: export a JPEG$"):
            read(tmp_path / "p")
