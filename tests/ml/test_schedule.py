"""The learning rate warms up, stays, and decays over the last fifth."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ml.families import only_flux
from tests.ml.runs import lora_config
from worker.ml.models import Base
from worker.ml.train.batches import Photo
from worker.ml.train.schedule import learning_rate
from worker.ml.train.train_lora import Checkpoint, Run, Step, train


@given(total=st.integers(1, 12_000), peak=st.floats(1e-6, 1.0))
def test_the_rate_rises_stays_and_falls_and_is_never_zero(total: int, peak: float) -> None:
    rates = [learning_rate(step, total, peak) for step in range(total)]
    assert min(rates) > 0
    assert max(rates) == peak
    top = [step for step, rate in enumerate(rates) if rate == peak]
    first, last = top[0], top[-1]
    assert len(top) == last - first + 1
    assert all(a < b for a, b in pairwise(rates[: first + 1]))
    assert all(a > b for a, b in pairwise(rates[last:]))
    assert first <= min(20, 0.05 * total)
    assert total - 1 - last == int(0.2 * total)


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 1 / 21), (19, 20 / 21), (20, 1), (799, 1), (800, 200 / 201), (900, 100 / 201), (999, 1 / 201)],
)
def test_a_thousand_steps_warm_up_for_twenty_and_decay_over_two_hundred(step: int, rate: float) -> None:
    assert learning_rate(step, 1000, 1.0) == pytest.approx(rate)


@only_flux
def test_every_step_reports_its_rate_also_after_a_resume(base: Base, photos: list[Photo], tmp_path: Path) -> None:
    config = lora_config(steps=20, rank=2, learning_rate=1e-3, resolution=32)
    expected = [learning_rate(step, 20, 1e-3) for step in range(20)]
    half = tmp_path / "half.safetensors"
    rates = []
    for event in train(base, photos[:2], config, Run(tmp_path, checkpoint_every_s=0)):
        if isinstance(event, Step):
            rates.append(event.learning_rate)
        elif isinstance(event, Checkpoint) and event.step == 17:
            half.hardlink_to(event.path)
    assert rates == expected
    resumed = train(base, photos[:2], config, Run(tmp_path, resume_from=half))
    assert [event.learning_rate for event in resumed if isinstance(event, Step)] == expected[17:]
