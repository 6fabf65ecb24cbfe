"""Whether the workers of this machine turn: each touches a file of its own while its loop runs.

Neither the database nor the store is asked: while one is away a worker keeps its running job and waits, and restarting
it would lose that job.
"""

from __future__ import annotations

import time
from pathlib import Path

from worker.storage.workspace import last_touches

STALE_AFTER_S = 60.0


def health_error(work_dir: Path) -> str | None:
    """Why this machine's workers are not well, or None: none runs, or one has stopped turning."""
    touches = last_touches(work_dir)
    if not touches:
        return f"no worker runs here with WORK_DIR={work_dir}; start one: worker run"
    silent_s = time.time() - min(touches)
    if silent_s > STALE_AFTER_S:
        return f"a worker has not turned for {silent_s:.0f} s; look at its log, then restart it"
    return None
