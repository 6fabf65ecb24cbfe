"""LoKr and LoHa, as LyCORIS names them: layers whose change is a product of small matrices, as the pair of a LoRA.

A LoKr adds w1 ⊗ w2, each a whole matrix or a product a·b. As a·b ⊗ c·d = (a ⊗ c)·(b ⊗ d), that is a pair whose rank is
the product of theirs. A LoHa adds (w1_a·w1_b) ∘ (w2_a·w2_b), a pair whose rank is the product of theirs too. Both are
exact, and nothing is ever cut off. A DoRA is no such pair: it scales the base's own weights.

Sources: LyCORIS' modules, ComfyUI's weight adapters, AI Toolkit's lokr.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import reduce

import torch

from worker.ml.adapters.names import Pair, Shape
from worker.ml.adapters.spellings import Side
from worker.ml.errors import ModelUnreadable

MAX_RANK = 512
"""Of a LoRA that is converted."""

Dims = tuple[int, ...]

_W1: tuple[Side, Side, Side] = ("lokr_w1", "lokr_w1_a", "lokr_w1_b")
_W2: tuple[Side, Side, Side] = ("lokr_w2", "lokr_w2_a", "lokr_w2_b")
_LOKR: frozenset[Side] = frozenset((*_W1, *_W2, "alpha"))
_LOHA: frozenset[Side] = frozenset(("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "alpha"))

_INNER: tuple[Side, ...] = ("hada_w1_b", "lokr_w2_b", "lokr_w1_b")


def kind(sides: Collection[Side]) -> str | None:
    """Return what a layer with these tensors is; None for a plain LoRA."""
    if any(side.startswith("lokr_") for side in sides):
        return "LoKr"
    return "LoHa" if any(side.startswith("hada_") for side in sides) else None


def shape_and_rank(file: str, layer: str, shapes: Mapping[Side, Dims]) -> tuple[Shape, int]:
    """Return the shape of the layer that these tensors change, and the rank of its pair.

    Raises ModelUnreadable: tensors are missing or do not match, or the rank is above MAX_RANK.
    """
    name = kind(shapes)
    if "alpha" not in shapes and layer.startswith("base_model.model."):
        raise ModelUnreadable(f"{file} is a {name} of PEFT ({layer}), whose alpha is not in the file: unsupported")
    if not shapes.keys() <= (_LOKR if name == "LoKr" else _LOHA):
        raise ModelUnreadable(f"{file} holds several LoRAs: {layer} has {', '.join(sorted(shapes))}")
    try:
        shape, rank = _lokr_shape(shapes) if name == "LoKr" else _loha_shape(shapes)
    except ValueError as error:
        raise ModelUnreadable(f"{file} is incomplete: {layer}, a {name}, {error}") from error
    if rank > MAX_RANK:
        raise ModelUnreadable(
            f"{file} is a {name} of rank {rank} ({layer}), which no LoRA of a rank up to {MAX_RANK} equals: "
            "train it with a smaller rank and factor, or as a LoRA"
        )
    return shape, rank


def pair(tensors: Mapping[Side, torch.Tensor]) -> Pair:
    """Return the pair, without alpha and in their precision, of tensors that `shape_and_rank` accepts."""
    dtype = reduce(torch.promote_types, (tensor.dtype for side, tensor in tensors.items() if side != "alpha"))
    wide = {side: tensor.to(torch.promote_types(dtype, torch.float32)) for side, tensor in tensors.items()}
    a, b = _lokr_pair(wide) if kind(wide) == "LoKr" else _loha_pair(wide)
    return a.to(dtype), b.to(dtype)


def is_scaled(sides: Collection[Side]) -> bool:
    """Return True if alpha counts for a layer with these tensors. No program reads it of a LoKr of two whole matrices.

    AI Toolkit writes 9999999999 there, which is infinite in float16.
    """
    return not {"lokr_w1", "lokr_w2"} <= set(sides)


def alpha_divisor(tensors: Mapping[Side, torch.Tensor]) -> int:
    """Return the rank of the factors in the file, by which alpha is divided."""
    return next(len(tensors[side]) for side in _INNER if side in tensors)


def _lokr_shape(shapes: Mapping[Side, Dims]) -> tuple[Shape, int]:
    rows, columns, rank, kernel = _matrix(shapes, *_W1)
    other_rows, other_columns, other_rank, other_kernel = _matrix(shapes, *_W2)
    if kernel:
        raise ValueError(f"has a kernel in lokr_w1 {list(shapes['lokr_w1'])}")
    if "lokr_w1_b" in shapes and "lokr_w2_b" in shapes and rank != other_rank:
        # LyCORIS divides alpha by the one, ComfyUI by the other; no program writes such a file.
        raise ValueError(f"has factors of rank {rank} and {other_rank}")
    return (columns * other_columns, rows * other_rows, *other_kernel), rank * other_rank


def _matrix(shapes: Mapping[Side, Dims], whole: Side, left: Side, right: Side) -> tuple[int, int, int, Dims]:
    """Return rows, columns, rank and kernel of a matrix, whole or as a product. Raises ValueError."""
    if whole in shapes:
        dims = shapes[whole]
        if left in shapes or right in shapes:
            raise ValueError(f"has {whole} both whole and as a product")
        if len(dims) not in (2, 4) or 0 in dims:
            raise ValueError(f"has no matrix in {whole} {list(dims)}")
        return dims[0], dims[1], min(dims[:2]), dims[2:]
    rows, columns, rank = _product(shapes, left, right)
    return rows, columns, rank, ()


def _product(shapes: Mapping[Side, Dims], left: Side, right: Side) -> tuple[int, int, int]:
    """Return rows, columns and rank of a product of two matrices. Raises ValueError."""
    for side in (left, right):
        if side not in shapes:
            raise ValueError(f"lacks {side}")
    a, b = shapes[left], shapes[right]
    if len(a) != 2 or len(b) != 2 or a[1] != b[0] or 0 in a + b:
        raise ValueError(f"has {left} {list(a)} and {right} {list(b)}, which do not match")
    return a[0], b[1], a[1]


def _loha_shape(shapes: Mapping[Side, Dims]) -> tuple[Shape, int]:
    first = _product(shapes, "hada_w1_a", "hada_w1_b")
    second = _product(shapes, "hada_w2_a", "hada_w2_b")
    if first != second:
        raise ValueError(f"has factors of {list(first)} and {list(second)} rows, columns and rank")
    rows, columns, rank = first
    return (columns, rows), rank**2


def _lokr_pair(tensors: Mapping[Side, torch.Tensor]) -> Pair:
    (left, right), (other_left, other_right) = _factors(tensors, *_W1), _factors(tensors, *_W2)
    kernel = tensors["lokr_w2"].shape[2:] if "lokr_w2" in tensors else ()  # of one pixel, if it has one
    a, b = torch.kron(right, other_right), torch.kron(left, other_left)
    return a.reshape(*a.shape, *kernel), b.reshape(*b.shape, *kernel)


def _factors(tensors: Mapping[Side, torch.Tensor], whole: Side, left: Side, right: Side) -> Pair:
    """Return a matrix as a product of two, (rows, rank) and (rank, columns)."""
    if whole not in tensors:
        return tensors[left], tensors[right]
    matrix = tensors[whole].flatten(1)
    one = torch.eye(min(matrix.shape), dtype=matrix.dtype)
    return (matrix, one) if len(matrix) > len(one) else (one, matrix)


def _loha_pair(tensors: Mapping[Side, torch.Tensor]) -> Pair:
    """Return A, whose rows are all products of a row of w1_b and one of w2_b, and B, of columns of w1_a and w2_a."""
    a = (tensors["hada_w1_b"][:, None] * tensors["hada_w2_b"][None]).flatten(0, 1)
    b = (tensors["hada_w1_a"][:, :, None] * tensors["hada_w2_a"][:, None]).flatten(1)
    return a, b
