"""Host memory of a process with two bases that take turns on the device, now and in the release before.

    python -m bench.host_memory

Writes `results/host-memory.json`. `turns.py` is the process that is measured.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from bench.trees import RESULTS, ROOT, checked_out, output

MIB = 2**20
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""Freed tensors go back to the system at once, so that RssAnon is what is held, not what the heap keeps for later."""
HEADS = 38
"""302 MB of transformer in float32."""
ROUNDS = 3


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch, checked_out() as before:
        folders = [Path(scratch) / name for name in ("a", "b")]
        for seed, folder in enumerate(folders):
            build_wide_base(folder, HEADS, seed)
        found = {name: measure(tree, ROUNDS, folders) for name, tree in (("before", before), ("now", ROOT))}
    (RESULTS / "host-memory.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    for release, rows in found.items():
        for row in rows:
            sizes = ", ".join(f"{name} {row[name] / MIB:.0f} MiB" for name in ("anonymous", "mapped", "on_device"))
            print(f"{release}, after {row['after']}: {sizes}")


def measure(tree: Path, rounds: int, folders: list[Path]) -> list[dict[str, Any]]:
    """Return the memory of a process of this tree after each turn, in bytes."""
    return [json.loads(line) for line in output(tree, "bench.turns", str(rounds), *folders, **MALLOC).splitlines()]


def build_wide_base(folder: Path, heads: int, seed: int, dtype: str = "float32") -> None:
    """Write a tiny FLUX base whose transformer is wide, 209 kB in float32 times the square of its heads.

    A CPU computes in float32: weights in another dtype are cast when they are loaded, and are then anonymous memory.
    """
    import torch
    from diffusers import FluxTransformer2DModel

    from worker.ml.families.tiny.flux1 import build_tiny

    build_tiny(folder, seed)
    config = FluxTransformer2DModel.load_config(folder / "transformer")
    torch.manual_seed(seed)
    wide = FluxTransformer2DModel.from_config(config, num_layers=1, num_single_layers=1, num_attention_heads=heads)
    wide.to(getattr(torch, dtype)).save_pretrained(folder / "transformer")


if __name__ == "__main__":
    main()
