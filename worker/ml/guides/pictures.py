"""What a reference or control picture must be, the same for every family."""

from __future__ import annotations

from collections.abc import Sequence

from worker.ml.errors import BadInput
from worker.ml.protocol import Pixels

MIN_SIDE_PX = 64
MAX_RATIO = 8
"""Limits of diffusers for pictures in the context (`check_image_input`). An image encoder, which
looks at the middle square of 224 pixels, sees nothing of use beyond them either."""


def check_unscaled(scale: float, readers: str) -> None:
    """Raise BadInput unless the scale of references is 1, for readers of tokens, of which nothing can be read less."""
    if scale != 1:
        raise BadInput(
            f"the scale of reference pictures is {scale:g}, and {readers} read them or do not: use 1, or 0 for no "
            "references"
        )


def check_references(pictures: Sequence[Pixels]) -> None:
    """Raise BadInput, saying which, for a reference picture (H, W, 3) that is too small or too narrow, or for none."""
    if not pictures:
        raise BadInput("a reference needs at least one picture")
    for number, picture in enumerate(pictures, 1):
        height, width = picture.shape[:2]
        if min(height, width) < MIN_SIDE_PX:
            raise BadInput(f"reference {number} is {width} x {height} pixels: each side must be at least {MIN_SIDE_PX}")
        if max(height, width) > MAX_RATIO * min(height, width):
            raise BadInput(
                f"reference {number} is {width} x {height} pixels: one side must be at most {MAX_RATIO} times the other"
            )
