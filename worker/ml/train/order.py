"""Which samples a step trains on: every photo weighs the same, whatever the sizes of the photos and of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from worker.ml.train.seeds import seeded


def members_of_step(turns: Sequence[Sequence[Sequence[int]]], batch_size: int, seed: int, step: int) -> list[int]:
    """Return the samples of a step, counted from 0: `batch_size` of one group.

    Steps take turns: one for each resolution, and in each turn every photo has one sample. `turns` has each turn's
    groups: samples that fit into one batch, as pictures of one size. A turn goes by rounds: in a round each of its
    samples comes `batch_size` times, all batches are full, and those of all groups come in a shuffled order. At batch
    size 1 a round is an epoch. The order derives from the seed and the numbers of the turn and the round alone.
    """
    place_in_turn, turn = divmod(step, len(turns))
    round_length = sum(len(group) for group in turns[turn])
    round_number, place = divmod(place_in_turn, round_length)
    generator = seeded("order", seed, turn, round_number)
    batches = [batch for group in turns[turn] for batch in _full_batches(group, batch_size, generator)]
    return batches[int(torch.randperm(round_length, generator=generator)[place])]


def _full_batches(group: Sequence[int], batch_size: int, generator: torch.Generator) -> list[list[int]]:
    """Cut `batch_size` shuffles of a group of n, one after the other, into n batches."""
    shuffled = [group[i] for _ in range(batch_size) for i in torch.randperm(len(group), generator=generator).tolist()]
    return [shuffled[start : start + batch_size] for start in range(0, len(shuffled), batch_size)]
