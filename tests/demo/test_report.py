"""The contact sheet and the loss curve show their input, and cannot be empty."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from worker.demo.output.report import contact_sheet, loss_curve

ODD_TAGS = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 2) + struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
ODD_TAGS += struct.pack(">HHI4s", 0x011A, 2, 4, b"odd\0") + struct.pack(">I", 0)
"""An orientation beside a resolution in letters, which is a TypeError in Pillow."""
RED, GREEN, BLUE = (220, 20, 20), (20, 220, 20), (20, 20, 220)


def colours(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"), dtype=np.int64)


def extent(picture: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Return the box (left, top, right, bottom) around all pixels of about this colour."""
    rows, columns = np.nonzero(np.abs(picture - colour).max(axis=2) < 40)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def plain(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (90, 120), orientation: int = 1) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size, colour).save(path, exif=exif)
    return path


def test_pictures_of_equal_places_are_aligned(tmp_path: Path) -> None:
    first = [plain(tmp_path / "a.png", BLUE), plain(tmp_path / "b.png", RED)]
    second = [plain(tmp_path / "c.png", BLUE), plain(tmp_path / "d.jpg", GREEN)]
    contact_sheet([("without", first), ("with", second)], tmp_path / "sheet.png")
    sheet = colours(tmp_path / "sheet.png")
    red, green = extent(sheet, RED), extent(sheet, GREEN)
    assert (red[0], red[2]) == (green[0], green[2])
    assert red[3] < green[1]


def test_thumbnails_are_upright_and_keep_their_shape(tmp_path: Path) -> None:
    lying = plain(tmp_path / "a.jpg", RED, size=(1200, 900), orientation=6)
    contact_sheet([("photos", [lying])], tmp_path / "sheet.jpg")
    left, top, right, bottom = extent(colours(tmp_path / "sheet.jpg"), RED)
    assert (right - left) / (bottom - top) == pytest.approx(3 / 4, abs=0.03)


def test_a_long_row_is_wrapped(tmp_path: Path) -> None:
    many = [plain(tmp_path / f"{i}.png", BLUE, size=(50, 50)) for i in range(9)]
    many[8] = plain(tmp_path / "8.png", RED, size=(50, 50))
    contact_sheet([("photos", many)], tmp_path / "sheet.png")
    sheet = colours(tmp_path / "sheet.png")
    assert extent(sheet, RED)[0] == extent(sheet, BLUE)[0]
    assert extent(sheet, RED)[1] > extent(sheet, BLUE)[3]


def test_a_sheet_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="picture"):
        contact_sheet([("photos", [])], tmp_path / "sheet.png")


def test_a_row_without_pictures_keeps_its_label(tmp_path: Path) -> None:
    one = [plain(tmp_path / "a.png", RED)]
    contact_sheet([("photos", one)], tmp_path / "one.png")
    contact_sheet([("photos", one), ("with", [])], tmp_path / "two.png")
    assert colours(tmp_path / "two.png").shape[0] > colours(tmp_path / "one.png").shape[0]


@pytest.mark.parametrize("steps", [1, 200])
def test_the_loss_curve_is_drawn_from_the_first_step_on(tmp_path: Path, steps: int) -> None:
    losses = [(step, 1 / step) for step in range(1, steps + 1)]
    loss_curve(losses, tmp_path / "loss.png", {"base": 0.9, "with LoRA": 0.4})
    assert len(np.unique(colours(tmp_path / "loss.png").reshape(-1, 3), axis=0)) > 20


def test_held_out_losses_are_lines_in_the_curve(tmp_path: Path) -> None:
    losses = [(step, 1 / step) for step in range(1, 50)]
    loss_curve(losses, tmp_path / "without.png", {})
    loss_curve(losses, tmp_path / "with.png", {"with LoRA": 0.4})
    assert (colours(tmp_path / "without.png") != colours(tmp_path / "with.png")).any()


def test_a_curve_without_steps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="step"):
        loss_curve([], tmp_path / "loss.png", {})


def test_a_photo_whose_tags_cannot_be_read_is_shown_all_the_same(tmp_path: Path) -> None:
    Image.new("RGB", (90, 120), RED).save(tmp_path / "odd.jpg", exif=ODD_TAGS)
    contact_sheet([("photos", [tmp_path / "odd.jpg"])], tmp_path / "sheet.png")
    assert (np.abs(colours(tmp_path / "sheet.png") - RED).max(axis=2) < 40).any()
