"""Host memory of a real process in which bases take turns. `bench/host_memory.py` measures larger ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

from bench.host_memory import MALLOC, MIB, build_wide_base

HEADS = 16
BASE_BYTES = 53 * MIB
LIMIT_BYTES = 75 * MIB
TURNS = f"""
import gc, os, sys
from pathlib import Path
from bench import turns
from worker.ml import memory

gc.freeze()  # so that no collection in a child writes to, and so copies, all that was imported
mapped, cast = ([*Path(folder).iterdir()] for folder in sys.argv[1:])
for folders in (mapped, cast):
    child = os.fork()
    if child == 0:
        if folders is cast:
            memory.HOST_SHARE, memory.host_limit_bytes = 1, lambda: {LIMIT_BYTES}
        turns.main(2, sorted(folders))
        sys.stderr.flush()
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        sys.exit(1)
"""
"""Bases that stay mapped take turns in a process, and those that are cast and unloaded at a limit in another; both are
forked from one that has imported what they need."""


@dataclass(frozen=True)
class Turn:
    anonymous: int
    mapped: int
    on_device: int
    bases: int
    after: str


Taken = tuple[list[Turn], list[Turn], str]


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Taken:
    """Return the memory of both processes at the start and after each turn, and what they say on stderr."""
    folders = []
    for dtype in ("float32", "bfloat16"):
        folders.append(tmp_path_factory.mktemp(dtype))
        for seed, name in enumerate(("a", "b")):
            build_wide_base(folders[-1] / name, HEADS, seed, dtype)
    done = subprocess.run(
        [sys.executable, "-c", TURNS, *folders],
        env=os.environ | MALLOC | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    turns = [Turn(**json.loads(line)) for line in done.stdout.splitlines()]
    return turns[:5], turns[5:], done.stderr


def test_two_bases_that_take_turns_stay_mapped(taken: Taken) -> None:
    start, *turns = taken[0]
    assert [turn.bases for turn in turns] == [1, 2, 2, 2]
    assert max(turn.anonymous for turn in turns) < start.anonymous + 0.4 * BASE_BYTES
    assert turns[-1].mapped > start.mapped + 2 * BASE_BYTES


def test_a_base_over_the_limit_is_unloaded_and_its_memory_freed(taken: Taken) -> None:
    """The bases are cast when they are loaded, so that none of their weights stays mapped."""
    _, (start, *turns), said = taken
    assert [turn.bases for turn in turns] == [1, 1, 1, 1]
    assert all(0.9 * BASE_BYTES < turn.anonymous - start.anonymous < 1.4 * BASE_BYTES for turn in turns)
    assert "unloaded a to load b: loaded models hold 0.1 GiB, it may need 0.0, and the limit is 0.1" in said
