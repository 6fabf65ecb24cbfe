"""The pictures that a demo run leaves: a contact sheet and a loss curve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont, ImageOps

from worker.ml.photos.files import turn_upright

CELL = 256
GAP = 12
MARGIN = 32
HEADING = 34
WIDTH = 8 * CELL + 7 * GAP  # of the pictures on a full sheet
PAPER, INK, RULE = (250, 249, 246), (38, 40, 46), (214, 212, 206)
LEVELS = ("#3c8c50", "#8a8a8a", "#c8641e", "#8c5aa0")


def contact_sheet(rows: Sequence[tuple[str, Sequence[Path]]], path: Path) -> None:
    """Put pictures on one sheet, each row under its label.

    Pictures keep their shape and are turned upright as their EXIF says; a row that is too long is wrapped. In rows of
    pictures of one shape, equal places are aligned, so that seeds can be compared.

    Args:
        rows: label and picture files.
        path: the sheet to write, in the format of its suffix.

    Raises:
        ValueError: there are no pictures.
    """
    placed = [(label, _placed([_thumbnail(picture) for picture in pictures])) for label, pictures in rows]
    if not any(pictures for _, pictures in placed):
        raise ValueError("a contact sheet needs at least one picture")
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")), 17)
    edges = [x + picture.width for _, pictures in placed for picture, x, _ in pictures]
    width = max(*edges, *(math.ceil(font.getlength(label)) for label, _ in placed))
    heights = [HEADING + max((y for _, _, y in pictures), default=-GAP) + CELL for _, pictures in placed]
    size = width + 2 * MARGIN, sum(heights) + (len(rows) - 1) * 2 * GAP + 2 * MARGIN
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    top = MARGIN
    for (label, pictures), height in zip(placed, heights, strict=True):
        draw.text((MARGIN, top), label, fill=INK, font=font)
        end_of_label = MARGIN + draw.textlength(label, font=font) + GAP
        if end_of_label < MARGIN + width:
            draw.line((end_of_label, top + 11, MARGIN + width, top + 11), fill=RULE, width=2)
        for picture, x, y in pictures:
            sheet.paste(picture, (MARGIN + x, top + HEADING + y))
        top += height + 2 * GAP
    sheet.save(path)


def _placed(thumbnails: list[Image.Image]) -> list[tuple[Image.Image, int, int]]:
    """Place each picture in the row's block: cells as wide as the widest picture, as many per line as fit."""
    cell = max((picture.width for picture in thumbnails), default=CELL)
    columns = (WIDTH + GAP) // (cell + GAP)
    return [
        (picture, i % columns * (cell + GAP) + (cell - picture.width) // 2, i // columns * (CELL + GAP))
        for i, picture in enumerate(thumbnails)
    ]


def _thumbnail(path: Path) -> Image.Image:
    """Read a picture as RGB, upright, scaled up or down to fit a cell."""
    with Image.open(path) as picture:
        picture.draft("RGB", (2 * CELL, 2 * CELL))  # a JPEG is decoded no larger than needed
        turn_upright(picture)
        upright = picture.convert("RGB")
    return ImageOps.contain(upright, (CELL, CELL), Image.Resampling.LANCZOS)


def loss_curve(losses: Sequence[tuple[int, float]], path: Path, held_out: Mapping[str, float]) -> None:
    """Draw the training loss by step, its running mean, and losses on held-out photos as level lines.

    Args:
        losses: step and loss, in order.
        path: the picture to write, in the format of its suffix.
        held_out: label and loss.

    Raises:
        ValueError: there are no steps.
    """
    if not losses:
        raise ValueError("a loss curve needs at least one step")
    steps, values = np.array([step for step, _ in losses]), np.array([loss for _, loss in losses])
    window = max(1, len(values) // 12)
    figure = Figure(figsize=(9, 5), dpi=120, layout="constrained", facecolor="#faf9f6")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor="#faf9f6")
    axes.plot(steps, values, color="#2f6f9f", alpha=0.3, linewidth=1, label="each step")
    axes.plot(steps, _running_mean(values, window), color="#2f6f9f", linewidth=2.2, label=f"mean of {window} steps")
    for colour, (label, loss) in zip(cycle(LEVELS), held_out.items(), strict=False):
        axes.axhline(loss, color=colour, linestyle="--", linewidth=1.6, label=f"held out, {label}: {loss:.3f}")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_title("Training loss", loc="left")
    axes.set_ylim(bottom=0)
    axes.margins(x=0.01)
    axes.grid(axis="y", color="#d6d4ce", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path)


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Return the mean over a window around each value, shorter at both ends."""
    weights = np.ones(window)
    return np.convolve(values, weights, "same") / np.convolve(np.ones(len(values)), weights, "same")
