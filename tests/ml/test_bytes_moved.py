"""What an offloaded FLUX.1-dev moves at its real geometry: the real loop, with copies counted on the meta device.

`bench/bytes_moved.py` counts the same in the release before.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench import flux_on_meta
from bench.flux_on_meta import GIB, counted, draw_pictures
from worker.ml.masters import Masters
from worker.ml.models import Base

TRANSFORMER_GIB, T5_GIB, CLIP_GIB, AUTOENCODER_GIB = 22.17, 8.87, 0.23, 0.16
ALL_PARTS_GIB = TRANSFORMER_GIB + T5_GIB + CLIP_GIB + AUTOENCODER_GIB


@pytest.fixture
def flux() -> Base:
    return flux_on_meta.build()


@pytest.mark.parametrize("pictures", [1, 4])
def test_a_job_moves_each_part_once_and_nothing_back(
    flux: Base, device_of_its_own: Callable[[int], None], pictures: int
) -> None:
    device_of_its_own(0)
    with counted(flux) as copies:
        draw_pictures(flux, pictures)
    assert copies.to_device / GIB == pytest.approx(ALL_PARTS_GIB, abs=0.02)
    assert copies.to_host == 0


@pytest.mark.parametrize(
    ("free_gib", "moved_gib"),
    [(0, ALL_PARTS_GIB), (25, TRANSFORMER_GIB + T5_GIB), (40, 0)],
)
def test_the_next_job_moves_what_could_not_stay(
    flux: Base, device_of_its_own: Callable[[int], None], free_gib: float, moved_gib: float
) -> None:
    device_of_its_own(int(free_gib * GIB))
    with counted(flux) as copies:
        draw_pictures(flux, 4)
        first_job = copies.to_device
        draw_pictures(flux, 4)
    assert (copies.to_device - first_job) / GIB == pytest.approx(moved_gib, abs=0.02)
    assert copies.to_host == 0


def test_a_copy_back_would_be_counted(
    flux: Base, device_of_its_own: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The figures above are worth something only if this one is not 0."""

    def copy_back(masters: Masters) -> None:
        if masters.on_device:
            for tensor in masters._module.parameters():
                tensor.data = tensor.data.to("cpu", copy=True)
            masters.on_device = False

    monkeypatch.setattr(Masters, "to_host", copy_back)
    device_of_its_own(0)
    with counted(flux) as copies:
        draw_pictures(flux, 1)
    assert copies.to_host / GIB == pytest.approx(ALL_PARTS_GIB - AUTOENCODER_GIB, abs=0.02)  # which is still there
