"""Bytes that an offloaded FLUX.1-dev moves for 1, 4 and 16 pictures, now and in the release before.

    python -m bench.bytes_moved

The real drawing loop places parts of the real sizes, on the meta device: copies are counted, not made. Writes
`results/bytes-moved.json`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from bench.trees import RESULTS, ROOT, checked_out, output

MODULE = "bench.bytes_moved"
PICTURES = (1, 4, 16)
FREE_GIB = (0.0, 24.5, 40.0)


def main() -> None:
    with checked_out() as before:
        found = {
            "before": json.loads(output(before, MODULE, "count")),
            "now": json.loads(output(ROOT, MODULE, "count")),
        }
    (RESULTS / "bytes-moved.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    for release, rows in found.items():
        for row in rows:
            print(release, row)


def count() -> list[dict[str, Any]]:
    """Return the GiB moved by two jobs, one after the other, for each number of pictures and memory that is free.

    With 40 GiB free, all parts fit at once. Before, the plan was made when a base was loaded, and all or nothing.
    """
    from bench import flux_on_meta
    from bench.release import BEFORE, parts_take_turns

    rows = []
    for free in (0.0,) if BEFORE else FREE_GIB:
        parts_take_turns(int(free * flux_on_meta.GIB))
        for pictures in PICTURES:
            base = flux_on_meta.build()
            moved = []
            with flux_on_meta.counted(base) as copies:
                for _ in ("first job", "second job"):
                    flux_on_meta.draw_pictures(base, pictures)
                    moved.append((copies.to_device / flux_on_meta.GIB, copies.to_host / flux_on_meta.GIB))
            rows.append({"free_gib": free, "pictures": pictures} | _jobs(moved))
    return rows


def _jobs(moved: Sequence[tuple[float, float]]) -> dict[str, Any]:
    (there, back), (there_after_both, back_after_both) = moved
    return {
        "first_job": {"to_device_gib": round(there, 1), "to_host_gib": round(back, 1)},
        "second_job": {
            "to_device_gib": round(there_after_both - there, 1),
            "to_host_gib": round(back_after_both - back, 1),
        },
    }


if __name__ == "__main__":
    if sys.argv[1:] == ["count"]:
        print(json.dumps(count()))
    else:
        main()
