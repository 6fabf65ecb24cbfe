"""Run one import for `worker models import`: a JSON object on standard input, lines for a person on standard output.

What only base models need takes seconds to import, so networks do without it. Exit code 3: a file is of the wrong kind,
or the disk failed; the last line on standard error names it.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from worker.ml.cutout import network
from worker.ml.errors import ModelUnreadable
from worker.ml.single_files.mesh import import_mesh_model
from worker.ml.single_files.pickles import read_pickle

REFUSED = 3


def _upscaler(asked: dict[str, Any], files: Mapping[str, Path], target: Path) -> None:
    from worker.ml.single_files.upscalers import import_upscaler

    import_upscaler(files["upscaler"], target / asked["name"], asked["scale"])


def _remover(asked: dict[str, Any], files: Mapping[str, Path], target: Path) -> None:
    shutil.copyfile(files["remover"], target / asked["name"])
    network.load(target / asked["name"])


def _triposr(asked: dict[str, Any], files: Mapping[str, Path], target: Path) -> None:
    configs = Path(asked["configs"]) if asked["configs"] else files["triposr"].parent
    import_mesh_model(files["triposr"], configs / "config.yaml", target)


def _pickle(asked: dict[str, Any], files: Mapping[str, Path], target: Path) -> None:
    save_file(read_pickle(files["pickle"]), target)


NETWORKS: dict[str, Callable[[dict[str, Any], Mapping[str, Path], Path], None]] = {
    "upscaler": _upscaler,
    "remover": _remover,
    "triposr": _triposr,
    "pickle": _pickle,
}
"""Models that are one network, and a part of one: what makes them, by what `worker.models` asks for."""


def _base(asked: dict[str, Any], files: Mapping[str, Path], target: Path) -> None:
    import diffusers
    import transformers

    from worker.ml.families.single_files import IMPORTERS, family_of
    from worker.ml.single_files.parts import copy_tokenizers

    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    family = family_of(files, [*asked["families"]])
    copy_tokenizers(target, Path(asked["tokenizers"]), asked["families"][family])
    configs = Path(asked["configs"]) if asked["configs"] else None
    IMPORTERS[family](target, files, configs, _say)


def main() -> None:
    asked = json.load(sys.stdin)
    target = Path(asked["target"])
    files = {name: Path(path) for name, path in asked["files"].items()}
    try:
        (NETWORKS[asked["network"]] if asked["network"] else _base)(asked, files, target)
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
