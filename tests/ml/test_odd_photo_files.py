"""Photo files that are cut off, or whose containers hold more than a picture."""

import io
import itertools
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.ml.test_photo_files import P3_SHOWN, chunk, cicp, left, plain, png, read
from worker.ml.photos.opening import UnusablePhoto

TIFF_TYPES = {3: "H", 4: "I"}


def jpeg(**options: object) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (160, 240, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG", **options)
    return file.getvalue()


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def places(content: bytes, marker: bytes) -> list[int]:
    return [at for at in range(len(content)) if content.startswith(marker, at)]


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}], ids=str)
def test_a_jpeg_whose_end_marker_is_cut_in_half_is_read(tmp_path: Path, options: dict[str, object]) -> None:
    whole = jpeg(**options)
    half = written(tmp_path / "half.jpg", whole[:-1])
    assert (read(half) == read(written(tmp_path / "whole.jpg", whole))).all()


def test_a_progressive_jpeg_that_ends_between_two_scans_is_cut_off(tmp_path: Path) -> None:
    """It decodes to the same picture whatever follows: one without its details."""
    whole = jpeg(progressive=True)
    scans = places(whole, b"\xff\xda")
    assert len(scans) > 5
    for before, scan in itertools.pairwise(scans):
        tables = whole.find(b"\xff\xc4", before, scan)
        with pytest.raises(UnusablePhoto, match=r"cut.jpg is damaged or cut off"):
            read(written(tmp_path / "cut.jpg", whole[: tables if tables > 0 else scan]))


def test_a_jpeg_that_ends_at_a_restart_marker_is_cut_off(tmp_path: Path) -> None:
    whole = jpeg(restart_marker_rows=1)
    restarts = [at for number in range(8) for at in places(whole, bytes([0xFF, 0xD0 + number]))]
    assert len(restarts) > 5
    for at in restarts:
        for end in (at, at + 1, at + 2):
            with pytest.raises(UnusablePhoto, match=r"cut.jpg is damaged or cut off"):
                read(written(tmp_path / "cut.jpg", whole[:end]))


def test_code_points_count_however_much_stands_before_them(tmp_path: Path) -> None:
    text = chunk(b"tEXt", b"Comment\0" + b"x" * 200_000)
    path = written(tmp_path / "p.png", png(plain((200, 90, 60)), text, cicp(12, 13)))
    np.testing.assert_allclose(left(path), P3_SHOWN, atol=2)


def swapped_profile() -> bytes:
    """sRGB's profile with red and green in each other's place."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = (profile.index(tag, 128) + 4 for tag in (b"rXYZ", b"gXYZ"))
    profile[red : red + 8], profile[green : green + 8] = profile[green : green + 8], profile[red : red + 8]
    return bytes(profile)


@pytest.mark.parametrize("method", [2, 3])
def test_the_profile_of_a_jpeg_2000_counts(tmp_path: Path, method: int) -> None:
    file = io.BytesIO()
    plain((200, 80, 60)).save(file, "JPEG2000")
    plainly, at = file.getvalue(), file.getvalue().index(b"colr") - 4
    content = bytes([method, 0, 0]) + swapped_profile()
    colr = struct.pack(">I4s", 8 + len(content), b"colr") + content
    (old,) = struct.unpack_from(">I", plainly, at)
    changed = bytearray(plainly[:at] + colr + plainly[at + old :])
    header = changed.index(b"jp2h") - 4
    struct.pack_into(">I", changed, header, struct.unpack_from(">I", plainly, header)[0] + len(colr) - old)
    np.testing.assert_allclose(left(written(tmp_path / "p.jp2", bytes(changed))), [80, 200, 60], atol=2)


def tiff(*pages: tuple[dict[int, list[int]], bytes], last_link: int = 0) -> bytes:
    """Return a TIFF of pages, each its tags and its one strip."""
    content = bytearray(b"II*\0" + bytes(4))
    link = 4
    for given, data in pages:
        width, height, bits = given[256][0], given[257][0], given[258]
        tags = {254: [0], 259: [1], 273: [len(content)], 277: [len(bits)], 278: [height], 279: [len(data)], **given}
        assert len(data) == width * height * sum(bits) // 8
        assert len(data) % 2 == 0
        content += data
        entries = b""
        for tag in sorted(tags):
            kind = 4 if tag in (254, 256, 257, 273, 278, 279) else 3
            packed = struct.pack(f"<{len(tags[tag])}{TIFF_TYPES[kind]}", *tags[tag])
            if len(packed) > 4:
                packed, at = struct.pack("<I", len(content)), packed
                content += at + bytes(len(at) % 2)
            entries += struct.pack("<HHI", tag, kind, len(tags[tag])) + packed.ljust(4, b"\0")
        struct.pack_into("<I", content, link, len(content))
        content += struct.pack("<H", len(entries) // 12) + entries
        link = len(content)
        content += struct.pack("<I", last_link)
    return bytes(content)


def colour_page(size: tuple[int, int], colour: tuple[int, int, int]) -> tuple[dict[int, list[int]], bytes]:
    given = {256: [size[0]], 257: [size[1]], 258: [8, 8, 8], 262: [2]}
    return given, bytes(colour) * (size[0] * size[1])


def other_page(size: tuple[int, int], bits: int, photometric: int, **tags: int) -> tuple[dict[int, list[int]], bytes]:
    given = {256: [size[0]], 257: [size[1]], 258: [bits], 262: [photometric]}
    return given | {int(name[1:]): [value] for name, value in tags.items()}, bytes(size[0] * size[1] * bits // 8)


BLUE = colour_page((240, 160), (0, 0, 200))
BESIDES = {
    "a transparency mask": other_page((240, 160), 8, 4, t254=4),
    "a larger mask": other_page((480, 320), 8, 4, t254=4),
    "a depth map": other_page((240, 160), 64, 1, t339=3),
    "an unknown compression": other_page((120, 80), 8, 1, t259=34933),
}


class TestTiff:
    @pytest.mark.parametrize("besides", BESIDES)
    def test_a_page_that_cannot_be_read_spoils_no_other(self, tmp_path: Path, besides: str) -> None:
        path = written(tmp_path / "p.tif", tiff(BLUE, BESIDES[besides]))
        np.testing.assert_allclose(left(path), [0, 0, 200], atol=2)

    @pytest.mark.parametrize("link", [2**30, 8])
    def test_nor_does_a_link_to_no_page(self, tmp_path: Path, link: int) -> None:
        path = written(tmp_path / "p.tif", tiff(BLUE, last_link=link))
        np.testing.assert_allclose(left(path), [0, 0, 200], atol=2)

    def test_the_pages_after_the_hundredth_are_not_looked_at(self, tmp_path: Path) -> None:
        """A file of 2 MB may have 20,000, for which Pillow takes 20 seconds."""
        thumbnail, larger = colour_page((120, 80), (200, 0, 0)), colour_page((240, 160), (0, 200, 0))
        path = written(tmp_path / "p.tif", tiff(BLUE, *[thumbnail] * 99, larger))
        np.testing.assert_allclose(left(path), [0, 0, 200], atol=2)

    def test_a_thumbnail_does_not_stand_in_for_a_picture_that_cannot_be_read(self, tmp_path: Path) -> None:
        thumbnail, picture = colour_page((120, 80), (200, 0, 0)), other_page((240, 160), 8, 1, t259=34933)
        with pytest.raises(UnusablePhoto):
            read(written(tmp_path / "p.tif", tiff(thumbnail, picture)))

    def test_sixteen_bits_with_the_channels_apart_are_refused_by_name(self, tmp_path: Path) -> None:
        """Pillow reads one half of each channel, stretched."""
        tags, planes = {256: [240], 257: [160], 258: [16, 16, 16], 262: [2], 284: [2]}, bytes(240 * 160 * 6)
        step = len(planes) // 3
        content = tiff((tags | {273: [8, 8 + step, 8 + 2 * step], 279: [step] * 3}, planes))
        with pytest.raises(UnusablePhoto, match="a TIFF in an encoding that cannot be read: export a JPEG"):
            read(written(tmp_path / "p.tif", content))
