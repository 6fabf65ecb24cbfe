"""`python -m tools.gpu_check`: runs the checks and prints a JSON line of each, as soon as it is done."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tools.gpu_check.environment import open_bench
from tools.gpu_check.groups import CHECKS, GROUPS
from tools.gpu_check.runner import LIMIT_S, Line, run_checks

DESCRIPTION = """\
Check what works, what fits and how fast it is on this GPU, at real sizes and with random weights. Run it in the
repository. Nothing is downloaded.
"""
EPILOG = f"""\
groups:
{chr(10).join(f"  {name:<10} {about}" for name, about in GROUPS.items())}

It prints a JSON line for each check: group, check, ok, seconds, figures with their units in the keys, and error if it
is not ok. The first line has versions, the last one a summary. It exits with 1 unless every check is ok.

All groups take under {LIMIT_S / 60:.0f} minutes on an H200. They need about 64 GiB of host memory, 5 GiB for
temporary files, and a GPU that holds the transformer of FLUX.1; on a smaller one checks fail, and say why.

packages: torch, torchvision, diffusers, transformers, peft, accelerate, safetensors, sentencepiece, spandrel, einops,
numpy, pillow, pillow-heif, pydantic and bitsandbytes, in versions that pyproject.toml allows, and what they need. The
worker itself need not be installed.
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.gpu_check",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tiny", action="store_true", help="run every check at tiny size, in a minute, also on a CPU")
    parser.add_argument(
        "--only", metavar="GROUP", choices=GROUPS, action="append", help="run only this group; may be repeated"
    )
    parser.add_argument("--out", metavar="FILE", type=Path, help="write the lines to this file too")
    options = parser.parse_args()
    checks = [check for check in CHECKS if options.only is None or check.group in options.only]
    with ExitStack() as files:
        folder = files.enter_context(tempfile.TemporaryDirectory(prefix="gpu-check-"))
        outputs = [sys.stdout]
        if options.out:
            outputs.append(files.enter_context(options.out.open("w", encoding="utf-8")))

        def write(line: Line) -> None:
            for output in outputs:
                output.write(json.dumps(line) + "\n")
                output.flush()

        return 0 if run_checks(checks, partial(open_bench, Path(folder), options.tiny), write) else 1


if __name__ == "__main__":
    sys.exit(main())
