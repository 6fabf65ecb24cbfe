"""Runs `worker.ml.single_files` in a process of its own: it reads foreign weights, and its memory is freed with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from worker.errors import CommandRefused

EXIT_REFUSED = 3
"""The process's exit code for a file that cannot be read."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1"}


def convert(request: dict[str, object]) -> None:
    """Make a model, or a part of one, of foreign files. Raises CommandRefused."""
    process = subprocess.run(
        [sys.executable, "-P", "-m", "worker.ml.single_files"],
        input=json.dumps(request),
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **OFFLINE},
    )
    if process.returncode == EXIT_REFUSED:
        raise CommandRefused(process.stderr.strip().splitlines()[-1])
    if process.returncode < 0:
        raise CommandRefused(f"the import was ended by signal {-process.returncode}; 9 often means too little memory")
    if process.returncode != 0:
        said = (process.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise CommandRefused(f"the import failed, which is a bug of the worker or of a library: {said[:500]}")
