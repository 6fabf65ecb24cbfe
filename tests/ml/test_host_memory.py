"""Host memory of a real process in which bases take turns. `bench/host_memory.py` measures larger ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.host_memory import MALLOC, MIB, build_wide_base

HEADS = 16
BASE_BYTES = 53 * MIB
TURNS = "import sys; from pathlib import Path; from bench import turns; turns.main(2, [*map(Path, sys.argv[1:])])"


@dataclass(frozen=True)
class Turn:
    anonymous: int
    mapped: int
    on_device: int
    bases: int
    after: str


def take_turns(*folders: Path, first: str = "") -> tuple[list[Turn], str]:
    """Return the process's memory at its start and after each turn, and what it says on stderr."""
    done = subprocess.run(
        [sys.executable, "-c", f"{first}\n{TURNS}", *folders],
        env=os.environ | MALLOC | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return [Turn(**json.loads(line)) for line in done.stdout.splitlines()], done.stderr


def two_bases(folder: Path, dtype: str) -> list[Path]:
    folders = [folder / name for name in ("a", "b")]
    for seed, base in enumerate(folders):
        build_wide_base(base, HEADS, seed, dtype)
    return folders


def test_two_bases_that_take_turns_stay_mapped(tmp_path: Path) -> None:
    (start, *turns), _ = take_turns(*two_bases(tmp_path, "float32"))
    assert [turn.bases for turn in turns] == [1, 2, 2, 2]
    assert max(turn.anonymous for turn in turns) < start.anonymous + 0.4 * BASE_BYTES
    assert turns[-1].mapped > start.mapped + 2 * BASE_BYTES


def test_a_base_over_the_limit_is_unloaded_and_its_memory_freed(tmp_path: Path) -> None:
    """The bases are cast when they are loaded, so that none of their weights stays mapped."""
    limit = f"from worker.ml import memory; memory.HOST_SHARE, memory.host_limit_bytes = 1, lambda: {75 * MIB}"
    (start, *turns), said = take_turns(*two_bases(tmp_path, "bfloat16"), first=limit)
    assert [turn.bases for turn in turns] == [1, 1, 1, 1]
    assert all(0.9 * BASE_BYTES < turn.anonymous - start.anonymous < 1.4 * BASE_BYTES for turn in turns)
    assert "unloaded a to load b: loaded models hold 0.1 GiB, it may need 0.0, and the limit is 0.1" in said
