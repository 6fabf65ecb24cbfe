"""Every photo weighs the same, whatever the sizes of the photos and of a batch."""

from __future__ import annotations

from collections import Counter
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from worker.ml.train.order import members_of_step

GROUPS = st.lists(st.integers(1, 5), min_size=1, max_size=4)
"""How many photos there are of each size."""


def numbered(sizes: list[int]) -> list[list[int]]:
    numbers = count()
    return [[next(numbers) for _ in range(size)] for size in sizes]


@given(sizes=GROUPS, batch_size=st.integers(1, 7), seed=st.integers(0, 2**32 - 1), first_round=st.integers(0, 3))
def test_in_a_round_all_batches_are_full_and_every_sample_comes_equally_often(
    sizes: list[int], batch_size: int, seed: int, first_round: int
) -> None:
    groups, length = numbered(sizes), sum(sizes)
    steps = range(first_round * length, (first_round + 1) * length)
    batches = [members_of_step(groups, batch_size, seed, step) for step in steps]
    assert {len(batch) for batch in batches} == {batch_size}
    assert all(any(set(batch) <= set(group) for group in groups) for batch in batches)
    assert Counter(member for batch in batches for member in batch) == dict.fromkeys(range(length), batch_size)


@given(sizes=GROUPS, seed=st.integers(0, 2**32 - 1))
def test_one_at_a_time_a_round_is_an_epoch(sizes: list[int], seed: int) -> None:
    steps = [members_of_step(numbered(sizes), 1, seed, step) for step in range(sum(sizes))]
    assert sorted(steps) == [[member] for member in range(sum(sizes))]


def test_the_order_differs_by_seed_and_round_and_by_nothing_else() -> None:
    groups = numbered([9, 7])

    def order(seed: int, round_number: int) -> list[list[int]]:
        return [members_of_step(groups, 2, seed, round_number * 16 + step) for step in range(16)]

    assert order(0, 0) == order(0, 0)
    assert len({str(order(seed, number)) for seed in range(3) for number in range(3)}) == 9
