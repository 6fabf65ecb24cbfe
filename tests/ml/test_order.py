"""Every photo weighs the same, whatever the sizes of the photos and of a batch."""

from __future__ import annotations

from collections import Counter
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from worker.ml.train.order import members_of_step

TURNS = st.integers(1, 9).flatmap(
    lambda photos: st.lists(
        st.lists(st.integers(0, 2), min_size=photos, max_size=photos),  # the picture size of each photo's sample
        min_size=1,
        max_size=3,
    )
)
SEEDS = st.integers(0, 2**32 - 1)


def grouped(turns: list[list[int]]) -> tuple[list[list[list[int]]], int]:
    """The turns' groups of samples, where sample = turn * photos + photo, and the number of photos."""
    photos = len(turns[0])
    groups = [
        [[turn * photos + i for i, other in enumerate(sizes) if other == size] for size in sorted(set(sizes))]
        for turn, sizes in enumerate(turns)
    ]
    return groups, photos


@given(turns=TURNS, batch_size=st.integers(1, 7), seed=SEEDS, round_number=st.integers(0, 3))
def test_in_a_round_all_batches_are_full_and_every_photo_comes_equally_often_at_every_resolution(
    turns: list[list[int]], batch_size: int, seed: int, round_number: int
) -> None:
    groups, photos = grouped(turns)
    length = len(turns) * photos
    steps = range(round_number * length, (round_number + 1) * length)
    batches = [members_of_step(groups, batch_size, seed, step) for step in steps]
    assert {len(batch) for batch in batches} == {batch_size}
    assert Counter(sample for batch in batches for sample in batch) == dict.fromkeys(range(length), batch_size)
    for step, batch in zip(steps, batches, strict=True):
        turn = groups[step % len(turns)]
        assert any(set(batch) <= set(group) for group in turn), "the resolutions take turns, and a batch has one size"


@given(turns=TURNS, seed=SEEDS)
def test_one_at_a_time_a_round_is_an_epoch(turns: list[list[int]], seed: int) -> None:
    groups, photos = grouped(turns)
    length = len(turns) * photos
    assert sorted(members_of_step(groups, 1, seed, step) for step in range(length)) == [[i] for i in range(length)]


def test_the_order_differs_by_seed_turn_and_round_and_by_nothing_else() -> None:
    groups, _ = grouped([[0] * 9 + [1] * 7] * 2)

    def order(seed: int, round_number: int, turn: int) -> list[list[int]]:
        steps = range(round_number * 32 + turn, (round_number + 1) * 32, 2)
        return [[i % 16 for i in members_of_step(groups, 2, seed, step)] for step in steps]

    assert order(0, 0, 0) == order(0, 0, 0)
    assert len({str(order(*key)) for key in product(range(3), range(3), range(2))}) == 18
