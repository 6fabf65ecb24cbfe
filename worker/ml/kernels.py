"""3x3 kernels that let tiny random networks pass a picture through, so that a person recognises it.

Weights are (outputs, inputs, 3, 3), as in a convolution.
"""

from __future__ import annotations

import torch

SAME = torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]])
BETWEEN = torch.outer(torch.tensor([0.25, 0.5, 0.25]), torch.tensor([0.25, 0.5, 0.25]))
"""Linear interpolation of pixels that were doubled before."""
SHARPER = torch.tensor([[0.0, -0.1, 0], [-0.1, 1.4, -0.1], [0, -0.1, 0]])
MEAN_OF_CELL = torch.tensor([[0.25, 0.25, 0], [0.25, 0.25, 0], [0, 0, 0]])
"""Mean of 2x2 pixels, for a convolution of stride 2 padded below and to the right."""


def each(channels: int, kernel: torch.Tensor) -> torch.Tensor:
    """Map every channel to itself, through one kernel."""
    return torch.eye(channels)[:, :, None, None] * kernel


def fold() -> torch.Tensor:
    """Fold 2x2 pixels of 3 colours into 12 channels (colour, row, column), at stride 2 as MEAN_OF_CELL."""
    weight = torch.zeros(3, 2, 2, 3, 3, 3)
    for colour, i, j in _places():
        weight[colour, i, j, colour, i, j] = 1
    return weight.reshape(12, 3, 3, 3)


def unfold() -> torch.Tensor:
    """Turn the 12 channels of `fold` (or of `pixel_unshuffle`), doubled in size, back into 3 colours.

    A kernel does not know where in its 2x2 cell it is, but its left and right taps fall into that cell on different
    sides: with these weights a cell's left pixel comes out at its left place and cancels at the right one, but for
    half a difference to the next cell.
    """
    taps = torch.tensor([[-0.5, 0.5, 0.5], [0.5, 0.5, -0.5]])
    weight = torch.zeros(3, 3, 2, 2, 3, 3)
    for colour, i, j in _places():
        weight[colour, colour, i, j] = torch.outer(taps[i], taps[j])
    return weight.reshape(3, 12, 3, 3)


def _places() -> list[tuple[int, int, int]]:
    return [(colour, i, j) for colour in range(3) for i in (0, 1) for j in (0, 1)]
