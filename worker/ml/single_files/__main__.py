"""Run one import for `worker models import`: a JSON object on standard input, lines for a person on standard output.

Exit code 3: a file is of the wrong kind, or the disk failed; the last line on standard error names it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import diffusers
import transformers

from worker.ml.errors import ModelUnreadable
from worker.ml.families.single_files import IMPORTERS, family_of
from worker.ml.single_files.mesh import import_mesh_model
from worker.ml.single_files.parts import copy_tokenizers
from worker.ml.single_files.upscalers import import_upscaler

REFUSED = 3


def main() -> None:
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    asked = json.load(sys.stdin)
    target = Path(asked["target"])
    files = {name: Path(path) for name, path in asked["files"].items()}
    try:
        if "mesh" in files:
            import_mesh_model(files["mesh"], files["config"], target)
            return
        if not asked["families"]:
            import_upscaler(files["upscaler"], target / asked["upscaler_file"], asked["scale"])
            return
        family = family_of(files, [*asked["families"]])
        copy_tokenizers(target, Path(asked["tokenizers"]), asked["families"][family])
        configs = Path(asked["configs"]) if asked["configs"] else None
        IMPORTERS[family](target, files, configs, _say)
    except (ModelUnreadable, OSError) as error:
        sys.exit(_refuse(error))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _refuse(error: Exception) -> int:
    sys.stderr.write(f"{error}\n")
    return REFUSED


if __name__ == "__main__":
    main()
